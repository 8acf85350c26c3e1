"""What a net achieves on the validation data of its own training."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from alexnet_infer.artifact import Artifact, load_manifest, sha256
from alexnet_infer.doctor import achieved as module
from alexnet_infer.doctor.achieved import ClassResults, achieved, class_results, from_counts
from alexnet_infer.errors import ModelFileError, SpecError
from alexnet_infer.manifest import MeasuredError
from alexnet_infer.nets import load, nets_at_hand
from tests.nets import random_artifact

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("path", nets_at_hand(), ids=lambda path: path.stem)
def test_the_bundled_results_add_up_to_the_error_on_each_nets_card(path):
    card = json.loads(path.with_suffix(".json").read_text())
    (error,) = [error for error in card["errors"] if error["views"] == "center"]
    results = class_results()[sha256(path)]
    assert (results.net, results.views) == (path.stem, "center")
    assert sum(results.images) == error["images"]
    # A runtime may round the last digit differently, and two nearly equal scores then change places.
    assert sum(results.right) == pytest.approx(error["images"] - error["top1"], abs=5)
    assert len(results.right) == len(load_manifest(path).classes)


def test_expectation_and_deviation_are_those_of_a_sum_of_uncertain_bernoullis():
    known = from_counts([20, 0, 10], [20, 20, 20], "x")
    random = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [40, 10, 60])
    rates = random.beta([21, 1, 11], [1, 21, 11], size=(20_000, 3))  # pulled towards the mean, as _PRIOR does
    simulated = (random.random((20_000, len(classes))) < rates[:, classes]).sum(1)
    mean, deviation = known.expect(classes)
    assert mean == pytest.approx(simulated.mean(), rel=0.01)
    assert deviation == pytest.approx(simulated.std(), rel=0.05)


@pytest.mark.parametrize(
    ("errors", "recipe", "rate"),
    [
        ((MeasuredError(data="d", views="center", images=10, top1=3, top5=1),), {}, 0.7),
        ((), {"published_error": {"top1": 42.9, "top5": 19.8}}, 0.571),
        ((), {"published_error": {"top1": "42"}}, None),
        ((), {"published_error": {"top1": 420}}, None),
        ((), {"published_error": 42.9}, None),
        ((), {}, None),
    ],
)
def test_other_nets_are_known_by_the_error_in_their_file(tmp_path, errors, recipe, rate):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    artifact = random_artifact()
    provenance = msgspec.structs.replace(artifact.manifest.provenance, errors=errors, recipe=recipe)
    manifest = msgspec.structs.replace(artifact.manifest, provenance=provenance)
    Artifact(manifest, artifact.tensors).save(tmp_path / "net.safetensors")
    known = achieved(load(tmp_path / "net.safetensors", device="cpu", views="center"))
    if rate is None:
        assert known is None
    else:
        assert known.rates == pytest.approx(rate)
        assert not known.calibrated
        assert len(known.rates) == len(manifest.classes)


def test_a_bundled_net_is_known_by_its_content_and_also_after_an_export(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(nets_at_hand()[1].read_bytes())
    assert run("export", copy, "-o", tmp_path / "out", "--views", "none", "--no-verify")[0] == 0
    (exported,) = (tmp_path / "out").glob("*.onnx")
    expected = class_results()[sha256(copy)].right
    for path in (copy, exported):
        known = achieved(load(path, device="cpu"))
        assert known.calibrated
        assert known.rates == pytest.approx(from_counts(expected, [25] * 200, "x").rates)


def test_damaged_results_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "along", lambda name: tmp_path / name)
    class_results.cache_clear()
    try:
        for content in (None, "{", '{"format": 2}', '{"format": 1, "nets": [{"net": "a"}]}'):
            if content is not None:
                (tmp_path / "recognition.json").write_text(content)
            with pytest.raises(ModelFileError, match=r"recognition\.json: .*reinstall alexnet-infer$") as error:
                class_results()
            assert "\n" not in str(error.value)
    finally:
        class_results.cache_clear()


@pytest.mark.parametrize(
    ("images", "right"), [((2, 2), (1,)), ((2, 2), (3, 0)), ((0, 0), (0, 0)), ((2, -1), (1, -1)), ((2.5,), (1,))]
)
def test_impossible_counts_are_refused(images, right):
    with pytest.raises(SpecError):
        ClassResults(net="a", sha256="0" * 64, data="d", views="center", images=images, right=right)
