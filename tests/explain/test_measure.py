"""What is measured is what the net computes, by other ways to compute it."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.backends.reference import ReferenceBackend, softmax
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.explain.measure import CENTRAL, measure, subject
from alexnet_infer.explain.stages import values
from alexnet_infer.nets import load
from alexnet_infer.preprocess import patches
from tests.explain.explained import BACKEND, PREPROCESSINGS, VARIANTS, explained, net, square


def test_votes_and_mean_are_those_of_the_net_to_the_last_digit(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.safetensors"
    net().save(path)
    found = measure(subject(path, "ten", 40, 40, None), square(), device="cpu", backend="onnxruntime")
    loaded = load(path, device="cpu", backend="onnxruntime")
    assert np.array_equal(found.mean, loaded.probabilities([square()])[0])
    labels = loaded.classify(square(side=64))
    assert found.top(found.mean) == [label.index for label in labels]
    assert [float(found.mean[label.index]) for label in labels] == [label.probability for label in labels]
    assert found.mean == pytest.approx(found.votes.astype(float).mean(0), abs=1e-7)
    center = load(path, device="cpu", backend="onnxruntime", views="center").probabilities([square()])[0]
    assert found.votes[CENTRAL] == pytest.approx(center, abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_values_of_each_operation_are_those_of_the_reference_for_the_central_patch(of_variant, variant):
    artifact, found = net(variant), of_variant(variant)
    given = artifact.manifest.preprocessing
    central = patches(square(), given, "center")
    assert np.array_equal(found.patch, central[0])
    names = values(artifact.manifest.architecture)
    assert [*found.values] == [*names]
    expected = ReferenceBackend(artifact, tuple(dict.fromkeys(names.values()))).activations(central)
    for operation, layer in names.items():
        peak = np.abs(expected[layer]).max()
        assert peak > 0
        assert np.abs(found.values[operation] - expected[layer][0]).max() < 1e-5 * peak
    assert softmax(found.values["fc8"].astype(float)) == pytest.approx(found.votes[CENTRAL], abs=1e-5)


@pytest.mark.parametrize("given", PREPROCESSINGS.values(), ids=list(PREPROCESSINGS))
def test_every_preprocessing_is_measured_and_kernels_are_in_rgb_order(tmp_path, given):
    artifact = net(preprocessing=given)
    found = explained(tmp_path, artifact)
    weights = artifact.tensors["conv1.weight"]
    assert np.array_equal(found.kernels.weights, weights[:, ::-1] if given.channel_order == "BGR" else weights)


def test_the_label_is_the_first_of_the_answer_or_the_one_asked_for(tmp_path):
    artifact = net(classes=("tabby, tabby cat", "Egyptian cat", "3"))
    first = explained(tmp_path, artifact)
    assert first.occlusion.label == int(first.mean.argmax())
    for label, index in (
        ("n00000004", 4),
        ("5", 5),
        ("tabby", 0),
        ("Tabby Cat", 0),
        ("tabby, tabby cat", 0),
        ("EGYPTIAN CAT", 1),
        ("3", 3),
        ("class 6", 6),
    ):
        assert subject(tmp_path / "net.safetensors", "ten", None, None, label).label == index


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("7", "--label '7': expected 0 to 6, the classes of random-alexnet-64"),
        ("9" * 5000, "expected 0 to 6"),
        ("clas 3", "doesn't know this class .did you mean class 3"),
        ("", "doesn't know this class"),
        ("\x1b[31m", "doesn't know this class"),
        ("\N{SUPERSCRIPT TWO}", "doesn't know this class"),
    ],
    ids=["too high", "many digits", "misspelt", "empty", "control", "superscript"],
)
def test_an_unknown_label_is_refused_in_a_short_line(tmp_path, label, message):
    path = tmp_path / "net.safetensors"
    net().save(path)
    with pytest.raises(UsageError, match=message) as raised:
        subject(path, "ten", None, None, label)
    assert len(str(raised.value)) < 600
    assert str(raised.value).isprintable()


def test_a_missing_file_and_a_file_that_is_no_net_are_refused(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"\0" * 100)
    for name in ("absent.safetensors", "other.safetensors"):
        with pytest.raises(ModelFileError, match=name):
            subject(tmp_path / name, "ten", None, None, None)


NAMES = ("crane", "crane", "Cardigan, Cardigan Welsh corgi", "cardigan", "jersey, cardigan", "tank, crane")


@pytest.mark.parametrize(
    ("label", "index"),
    [("cardigan", 3), ("Cardigan, Cardigan Welsh corgi", 2), ("cardigan welsh CORGI", 2), ("n00000001", 1), ("0", 0)],
)
def test_a_label_is_the_class_that_has_it_as_its_full_name_then_first_name_then_any(tmp_path, label, index):
    net(classes=NAMES).save(tmp_path / "net.safetensors")
    assert subject(tmp_path / "net.safetensors", "center", None, None, label).label == index


def test_a_label_that_several_classes_have_is_refused_with_their_indices(tmp_path):
    net(classes=NAMES).save(tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match=r"several classes .*: .*0 \(n00000000\).*1 \(n00000001\)") as refused:
        subject(tmp_path / "net.safetensors", "center", None, None, "crane")
    assert len(str(refused.value)) <= 600


def test_classes_of_the_same_short_name_are_told_apart(tmp_path):
    found = explained(tmp_path, net(classes=NAMES))
    assert len({found.named(i).short.casefold() for i in range(len(found.classes))}) == len(found.classes)
    assert found.named(4) == found.classes[4]


def test_a_file_that_is_replaced_in_the_meantime_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    net().save(path)
    asked = subject(path, "center", 40, 40, None)
    net("tanh").save(path)
    with pytest.raises(ModelFileError, match="has changed while it was read"):
        measure(asked, square(), device="cpu", backend=BACKEND)
