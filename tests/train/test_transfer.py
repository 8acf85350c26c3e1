"""Starting from a trained net: which weights are taken, which are drawn, and which nets are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec import structs
from PIL import Image

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.manifest import ClassName
from alexnet_infer.presets import PRESETS, Variant, variant
from tests.nets import random_artifact
from tests.train.toys import BRIEF, CLASSES, TINY, images, silent, trainer
from train.data import PackedImages
from train.finish import Finished
from train.job import Job
from train.launch import launch
from train.model import AlexNet, initialise
from train.transfer import Initial, initial_variant, initial_weights

SWITCHES = {
    "LRN": TINY,
    "batch norm": replace(TINY, normalization="batchnorm"),
    "sixth convolution": replace(TINY, sixth_conv=16),
}


@pytest.mark.parametrize(
    ("name", "unit"), [*((name, 1.0) for name in SWITCHES), ("LRN", 16.0), ("LRN", 0.25), ("sixth convolution", 16.0)]
)
def test_take_is_the_exact_inverse_of_artifact_tensors(name, unit):
    tensors = random_artifact(SWITCHES[name]).tensors
    model = AlexNet(SWITCHES[name].build(), unit)
    model.take(tensors)
    converted = model.artifact_tensors()
    assert converted.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(converted[key], tensor, key)
    assert (model.fc8.weight.detach().numpy() == tensors["fc8.weight"] * unit).all()
    assert (model.conv2.bias.detach().numpy() == tensors["conv2.bias"] / unit).all()


def test_a_net_takes_the_weights_of_another():
    torch.manual_seed(0)
    first, second = (AlexNet(TINY.build(), 16.0) for _ in range(2))
    initialise(first, "paper")
    second.take(first.artifact_tensors())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_net_can_take_single_tensors_and_keeps_its_layout():
    model = AlexNet(TINY.build()).to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.take({"conv3.weight": np.ones((16, 16, 3, 3), np.float32)})
    assert (model.conv3.weight == 1).all()
    assert model.conv3.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items() if name != "conv3.weight")


def names(*numbers: int) -> list[ClassName]:
    return [ClassName(wnid=f"n{i:08}", name=f"another name of {i}") for i in numbers]


def artifact_file(path: Path, net: Variant = TINY) -> Path:
    """Write a net with the classes n00000000, n00000001 and so on, in float16 as the trainer does."""
    random_artifact(net).save(path)
    return path


@pytest.mark.parametrize("unit", [1.0, 16.0])
def test_the_same_classes_keep_every_layer_bit_for_bit(tmp_path, unit):
    path = artifact_file(tmp_path / "a.safetensors")
    initial = initial_weights(path, TINY.build(), names(0, 1, 2))
    assert initial.origin == f"random-alexnet-64, SHA-256 {sha256(path)}"
    run = trainer(tmp_path / "run", recipe=replace(BRIEF, unit=unit), initial=initial)
    stored, taken = load_artifact(path).tensors, run.model.artifact_tensors()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(taken[name], tensor, name)
        np.testing.assert_array_equal(tensor, tensor.astype(np.float16), name)


def test_the_recipe_sets_the_dropout_rate_whatever_the_rate_of_the_net_to_start_from(tmp_path):
    path = artifact_file(tmp_path / "a.safetensors", replace(TINY, dropout=0.9))
    initial = initial_weights(path, TINY.build(), names(0, 1, 2))
    run = trainer(tmp_path / "run", recipe=replace(BRIEF, dropout=0.3), initial=initial)
    assert run.model.architecture == replace(TINY, dropout=0.3).build()


@pytest.mark.parametrize("classes", [(0, 1, 3), (5, 6, 7), (0, 1), (0, 1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("init", ["he", "paper"])
def test_with_other_classes_only_the_last_layer_is_drawn_from_the_seed(tmp_path, classes, init):
    path, seed, recipe = artifact_file(tmp_path / "a.safetensors"), 7, replace(BRIEF, init=init)
    architecture = replace(TINY, classes=len(classes)).build()
    initial = initial_weights(path, architecture, names(*classes))
    assert initial.origin.endswith(f"SHA-256 {sha256(path)}, without fc8")
    data = {} if len(classes) >= CLASSES else {"train": two_classes(), "validation": two_classes()}
    run = trainer(tmp_path / "run", architecture, recipe, seed=seed, initial=initial, **data)
    taken, stored = run.model.artifact_tensors(), load_artifact(path).tensors
    torch.manual_seed(seed)
    fresh = AlexNet(architecture, recipe.unit)
    initialise(fresh, init)
    drawn = fresh.artifact_tensors()
    for name, tensor in taken.items():
        np.testing.assert_array_equal(tensor, (drawn if name.startswith("fc8.") else stored)[name], name)
    assert not np.array_equal(drawn["conv1.weight"], stored["conv1.weight"])


def two_classes() -> PackedImages:
    packed = images(12)
    return replace(packed, labels=packed.labels % 2)


def test_without_a_net_to_start_from_all_weights_are_drawn(tmp_path):
    run = trainer(tmp_path, seed=3)
    torch.manual_seed(3)
    fresh = AlexNet(TINY.build(), BRIEF.unit)
    initialise(fresh, BRIEF.init)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), fresh.parameters(), strict=True))
    assert run.initial == Initial()
    assert run.config["init_from"] == ""


@pytest.mark.parametrize(
    ("net", "part"),
    [
        (replace(TINY, hidden=24), r"fc6\.weight has shape \(24, 576\): expected \(16, 576\)"),
        (replace(TINY, kernels=(16, 16, 32, 16, 16)), r"conv3\.weight has shape \(32, 16, 3, 3\): expected \(16, 16,"),
        (replace(TINY, columns=1), r"conv2\.weight has shape \(16, 16, 5, 5\): expected \(16, 8, 5, 5\)"),
        (replace(TINY, conv1=(5, 1, 0), patch=59), r"conv1\.weight has shape \(16, 3, 5, 5\): expected \(16, 3, 3, 3"),
    ],
)
def test_a_net_with_other_shapes_is_refused_with_the_tensor_and_the_options(tmp_path, net, part):
    path = artifact_file(tmp_path / "a.safetensors", net)
    match = f"--init-from .*a.safetensors: {part}.*; leave out the options that change the net, .* then alexnet-64"
    for classes in (names(0, 1, 2), names(5, 6, 7)):
        with pytest.raises(UsageError, match=match) as caught:
            initial_weights(path, TINY.build(), classes)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"channel_order": "BGR"}, "expects BGR in 0-255"), ({"value_range": "0-1", "mean": np.zeros(3)}, "RGB in 0-1,")],
)
def test_a_net_with_another_preprocessing_is_refused(tmp_path, change, named):
    artifact = load_artifact(artifact_file(tmp_path / "a.safetensors"))
    manifest = structs.replace(
        artifact.manifest, preprocessing=structs.replace(artifact.manifest.preprocessing, **change)
    )
    Artifact(manifest, artifact.tensors).save(tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match=named):
        initial_weights(tmp_path / "b.safetensors", TINY.build(), names(0, 1, 2))


def test_a_net_without_a_layer_is_refused(tmp_path):
    path = artifact_file(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"conv6\.weight is missing: expected \(16, 16, 3, 3\); leave out"):
        initial_weights(path, replace(TINY, sixth_conv=16).build(), names(0, 1, 2))


@pytest.mark.parametrize("damage", ["truncated", "no net", "missing", "folder"])
def test_a_damaged_file_is_a_one_line_error_and_exits_4(tmp_path, damage):
    path = artifact_file(tmp_path / "a.safetensors")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content[:-5] if damage == "truncated" else b"hello" * 100)
    with pytest.raises(ModelFileError, match=r"a\.safetensors: ") as caught:
        initial_weights(path, TINY.build(), names(0, 1, 2))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


VARIANTS = {
    "as it is": {},
    "switches": {"columns": 1, "activation": "tanh", "normalization": "batchnorm", "pool_size": 2, "dropout": 0.25},
    "no normalization": {"normalization": "none"},
    "narrow": {"width": 0.25, "hidden": 24},
    "no hidden units": {"hidden": 0},
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_net_to_train_is_that_of_the_file(tmp_path, preset, changes):
    net = replace(variant(preset), **({"hidden": 16, "width": 0.1, "classes": 3} | changes))
    path = artifact_file(tmp_path / "a.safetensors", net)
    for given in (None, preset):
        assert initial_variant(path, given, {}).build() == net.build()
    own = {"width": net.width, "hidden": net.hidden, "columns": net.columns}
    assert initial_variant(path, None, own).build() == net.build()


def test_switches_without_an_effect_on_the_shapes_of_weights_change_the_net(tmp_path):
    path = artifact_file(tmp_path / "a.safetensors")
    for switches in ({"activation": "tanh"}, {"normalization": "none"}, {"pool_size": 2}):
        assert initial_variant(path, None, switches).build() == replace(TINY, **switches).build()


def test_a_net_that_options_cannot_describe_needs_a_preset(tmp_path):
    path = artifact_file(tmp_path / "a.safetensors", replace(TINY, lrn_constants=(2e-5, 1.0)))
    with pytest.raises(UsageError, match=r"a\.safetensors is not alexnet-64 with other switches; .* --preset"):
        initial_variant(path, None, {})
    assert initial_variant(path, "alexnet-64", {}).build() == TINY.build()
    artifact = random_artifact(TINY)
    operations = artifact.manifest.architecture.operations
    renamed = tuple(structs.replace(o, name="relu1") if o.name == "act1" else o for o in operations)
    architecture = structs.replace(artifact.manifest.architecture, operations=renamed)
    Artifact(structs.replace(artifact.manifest, architecture=architecture), artifact.tensors).save(path)
    with pytest.raises(UsageError, match=r"a\.safetensors does not have the layers of a preset; expected another net"):
        initial_variant(path, None, {})
    other = artifact_file(tmp_path / "b.safetensors", replace(TINY, name="my own"))
    with pytest.raises(
        UsageError, match=r"b\.safetensors is called my own, which is no preset; name one with --preset"
    ):
        initial_variant(other, None, {})


def test_other_numbers_of_kernels_are_refused(tmp_path):
    path = artifact_file(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"--kernels: the net of --init-from .* has \(.*\) kernels; leave the option"):
        initial_variant(path, None, {"kernels": (1, 2, 3, 4, 5), "sixth_conv": 0})


def test_an_exported_file_is_refused_with_the_names_of_its_nets(tmp_path):
    artifact_file(tmp_path / "a.safetensors")
    random_artifact(TINY, seed=1).save(tmp_path / "b.safetensors")
    for nets, names in (("a", "random-alexnet-64$"), ("ab", "random-alexnet-64 or random-alexnet-64$")):
        models = tuple(tmp_path / f"{name}.safetensors" for name in nets)
        exported = export(ExportRequest(models=models, out=tmp_path / nets)).onnx
        with pytest.raises(UsageError, match=rf"onnx: is an exported file; .*: {names}"):
            initial_variant(exported, None, {})


def test_a_foreign_onnx_file_is_refused_with_the_command_that_imports_it(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "a", [], [])).SerializeToString())
    with pytest.raises(ModelFileError, match=r"a\.onnx: .* `alexnet-infer import` converts files of other programs"):
        initial_variant(path, None, {})


def test_a_checkpoint_is_refused_with_the_command_that_imports_it(tmp_path):
    run = trainer(tmp_path)
    run.save()
    with pytest.raises(
        ModelFileError, match=r"is a checkpoint of the trainer: .* `alexnet-infer import .*last\.safetensors`"
    ):
        initial_variant(run.saved.last, None, {})


def image_set(root: Path, wnids: list[str]) -> Path:
    """Create train/ and val/ with four PNG files per class; each class has its own brightness."""
    rng = np.random.default_rng(len(wnids))
    for split in ("train", "val"):
        for label, wnid in enumerate(wnids):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 60, (80, 80, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


SIX = replace(variant("alexnet-6conv"), patch=67, kernels=(16,) * 5, sixth_conv=16, hidden=16)
"""The paper's "1 CNN*" on small images: its maps are 15, 7, 3 and 1 pixels wide."""


def job(out: Path, data: Path, init_from: Path | None = None, **options) -> Job:
    recipe = replace(BRIEF, batch=4, epochs=1)
    settings = {"variant": SIX, "recipe": recipe, "size": 72, "device": "cpu", "init_from": init_from} | options
    return Job(data=data, out=out, name="net", **settings)


def run(job: Job) -> Finished:
    finished = launch(job, silent())
    assert finished is not None
    return finished


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A net with six convolutions, trained for a few steps on five classes."""
    root = tmp_path_factory.mktemp("pretrained")
    return run(job(root / "run", image_set(root / "five", [f"n{i:08}" for i in range(5)]))).path


@pytest.fixture
def three(tmp_path) -> Path:
    return image_set(tmp_path / "three", ["n00000001", "n00000003", "n00000009"])


def test_the_papers_pretrained_net_is_fine_tuned_on_other_classes_from_end_to_end(pretrained, three, tmp_path):
    before = load_artifact(pretrained)
    assert before.manifest.architecture.classes == 5
    assert "init_from" not in before.manifest.provenance.recipe
    artifact: Artifact = load_artifact(run(job(tmp_path / "run", three, pretrained)).path)
    manifest = artifact.manifest
    assert [c.wnid for c in manifest.classes] == ["n00000001", "n00000003", "n00000009"]
    assert manifest.architecture.name == "alexnet-6conv"
    assert manifest.provenance.recipe["init_from"] == f"net, SHA-256 {sha256(pretrained)}, without fc8"
    # The weights are three small steps from the pre-trained ones, so they do not start from random ones.
    moved = np.abs(artifact.tensors["conv6.weight"] - before.tensors["conv6.weight"])
    assert 0 < moved.mean() < 0.2 * np.abs(before.tensors["conv6.weight"]).mean()


def test_with_a_tiny_learning_rate_the_result_equals_the_net_it_started_from(pretrained, three, tmp_path):
    still = replace(BRIEF, batch=4, epochs=1, lr=1e-12)
    artifact = load_artifact(run(job(tmp_path / "run", three, pretrained, recipe=still)).path)
    for name, tensor in load_artifact(pretrained).tensors.items():
        if not name.startswith("fc8."):
            np.testing.assert_array_equal(artifact.tensors[name], tensor, name)


@pytest.mark.parametrize("then", ["another net", "none"])
def test_resuming_with_another_net_to_start_from_is_refused(pretrained, three, tmp_path, then):
    run(job(tmp_path / "run", three, pretrained))
    last = tmp_path / "run" / "last.safetensors"
    before = last.read_bytes()
    init_from = artifact_file(tmp_path / "other.safetensors", SIX) if then == "another net" else None
    with pytest.raises(ModelFileError, match=r"last\.safetensors: from a run with a different init_from") as caught:
        run(job(tmp_path / "run", three, init_from))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert last.read_bytes() == before
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(pretrained.read_bytes())
    run(job(tmp_path / "run", three, moved))  # the same net in another file


def test_a_run_from_random_weights_cannot_resume_with_a_net_to_start_from(pretrained, three, tmp_path):
    run(job(tmp_path / "run", three))
    with pytest.raises(ModelFileError, match="a different init_from"):
        run(job(tmp_path / "run", three, pretrained))
