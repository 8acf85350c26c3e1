"""The result: its stored weights, measured errors, provenance and summary."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import asdict

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.preprocess import patches
from tests.nets import random_artifact
from tests.program import PROGRAM
from tests.train.toys import BRIEF, CLASSES, TINY, finished, image_folder, images, names, trainer
from train import evaluate
from train import finish as module
from train.data import PackedImages
from train.evaluate import DivergedError, ModuleScorer, NetScorer
from train.feed import Feed
from train.finish import measure, stored
from train.recipe import Recipe


def feed(packed: PackedImages) -> Feed:
    return Feed(packed, torch.device("cpu"))


def expected_wrong(artifact: Artifact, packed, views: str, k: int) -> int:
    """Count wrong images with the NumPy reference: the probabilities of all views, their mean, a stable sort."""
    wrong = 0
    for square, label in zip(packed.shards[0].numpy(), packed.labels.tolist(), strict=True):
        probabilities = ReferenceBackend(artifact).infer(patches(square, artifact.manifest.preprocessing, views))
        wrong += label not in np.argsort(-probabilities.mean(0), kind="stable")[:k]
    return wrong


def test_measured_errors_match_the_reference():
    artifact = random_artifact(replace(TINY, classes=7), seed=3)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 7, 20))
    packed = replace(images(20, seed=4), labels=labels)
    counted = []
    (center, ten), wrong = measure(artifact, feed(packed), "toys", counted.append)
    assert (center.views, ten.views, center.data, ten.data) == ("center", "ten", "toys", "toys")
    assert center.images == ten.images == sum(counted) == 20
    for error in (center, ten):
        assert (error.top1, error.top5) == tuple(expected_wrong(artifact, packed, error.views, k) for k in (1, 5))
        assert 0 < error.top5 < error.top1 < 20, "extreme counts would hide mistakes"
        assert wrong[error.views].sum(0).tolist() == [error.top1, error.top5]


def test_weights_are_rounded_to_float16_before_they_are_measured(tmp_path):
    run = trainer(tmp_path, recipe=replace(BRIEF, epochs=1))
    run.run()
    done = finished(run, tmp_path / "net.safetensors")
    raw, loaded = run.model.artifact_tensors(), load_artifact(done.path)
    assert any(not np.array_equal(raw[name], loaded.tensors[name]) for name in raw)
    for name, tensor in loaded.tensors.items():
        np.testing.assert_array_equal(tensor, raw[name].astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(tensor, done.artifact.tensors[name])
    errors, _ = measure(loaded, run.validation, "toys, validation")
    assert errors == loaded.manifest.provenance.errors


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (1e6, SpecError, "too large for float16"),
        (np.nan, DivergedError, "that are NaN or infinite: the run diverged"),
        (-np.inf, DivergedError, "that are NaN or infinite: the run diverged"),
    ],
)
def test_a_weight_that_float16_cannot_represent_is_named(value, kind, message):
    with pytest.raises(kind, match=rf"conv1\.weight has weights {message}"):
        stored({"conv1.bias": np.ones(1, np.float32), "conv1.weight": np.array([1, value], np.float32)})


def test_a_diverged_net_is_reported_as_such_even_if_another_weight_is_too_large():
    with pytest.raises(DivergedError, match=r"fc8\.weight"):
        stored({"conv1.weight": np.full(1, 1e6, np.float32), "fc8.weight": np.full(1, np.nan, np.float32)})


@pytest.mark.parametrize("result", ["last", "best"])
def test_a_net_beyond_float16_can_be_made_from_its_checkpoint_as_the_message_says(tmp_path, result):
    run = trainer(tmp_path / "a run")
    run.run()
    with torch.no_grad():
        next(run.model.parameters()).mul_(1e6)
    run.save()
    run.saved.best.unlink(missing_ok=True)  # it may be a link to the last one
    shutil.copy(run.saved.last, run.saved.best)  # so that both have the large weights
    path = run.saved.last.with_name("net.safetensors")
    with pytest.raises(SpecError, match="too large for float16") as caught:
        finished(run, path, result=result)
    command = shlex.split(str(caught.value).partition("from the checkpoint: ")[2])
    assert command == ["alexnet-infer", "import", str(tmp_path / "a run" / f"{result}.safetensors"), "-o", str(path)]
    subprocess.run([*PROGRAM, *command[1:]], check=True)
    written, expected = load_artifact(path), run.saved.whole_model().artifact_tensors()
    assert written.manifest.name == "net"
    assert all(np.array_equal(written.tensors[name], tensor) for name, tensor in expected.items())


def test_the_model_file_records_its_provenance(tmp_path):
    run = trainer(tmp_path, seed=5)
    run.run()
    os.utime(run.saved.last, (86400 * 365, 86400 * 365))  # 1 January 1971
    done = finished(run, tmp_path / "my-net.safetensors")
    manifest = load_artifact(done.path).manifest
    provenance = manifest.provenance
    assert manifest.name == "my-net"
    assert manifest.classes == names(CLASSES)
    assert manifest.architecture == replace(TINY, dropout=BRIEF.dropout).build()
    preprocessing = manifest.preprocessing
    assert (preprocessing.size, preprocessing.patch, preprocessing.resample) == (64, 57, "bicubic")
    pixels = run.train.images.shards[0].double()
    np.testing.assert_allclose(preprocessing.mean, pixels.mean((0, 1, 2)).numpy(), rtol=1e-6)
    recipe = dict(provenance.recipe)
    assert (recipe.pop("trained_epochs"), recipe.pop("result")) == (2, "last")
    assert Recipe(**recipe) == BRIEF
    assert (provenance.seed, provenance.date, provenance.data) == (5, "1971-01-01", "toys, 12 training images")
    assert re.fullmatch(r"alexnet-infer \S+, PyTorch \S+, (bfloat16|float32) on cpu", provenance.software)
    assert [(e.data, e.views, e.images) for e in provenance.errors] == [
        ("toys, validation", "center", 6),
        ("toys, validation", "ten", 6),
    ]


def test_the_json_summary_has_the_file_and_its_errors(tmp_path):
    run = trainer(tmp_path)
    run.run()
    done = finished(run, tmp_path / "net.safetensors")
    summary = json.loads((tmp_path / "net.json").read_text())
    assert summary["model"] == "net.safetensors"
    assert summary["sha256"] == sha256(done.path)
    assert summary["bytes"] == done.path.stat().st_size
    assert summary["parameters"] == TINY.build().parameters
    assert (summary["seed"], summary["training_seconds"]) == (run.seed, round(run.state.seconds, 1))
    assert f"of {os.cpu_count()} cores" in summary["hardware"]
    assert torch.__version__ in summary["software"]
    assert summary["errors"] == [asdict(e) for e in done.artifact.manifest.provenance.errors]
    assert (summary["top1_error_by_epoch"], summary["top5_error_by_epoch"]) == (run.state.errors, run.state.top5)
    ten = done.artifact.manifest.provenance.errors[1]
    assert f"on 6 images of toys, validation, ten views: top-1 error {ten.top1 / 6:.2%}" in done.summary


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """A list that gets an entry for each net that is measured."""
    calls: list[str] = []

    def noted(artifact: Artifact, *arguments: object) -> object:
        calls.append(artifact.manifest.name)
        return measure(artifact, *arguments)

    monkeypatch.setattr(module, "measure", noted)
    return calls


def test_finishing_again_keeps_the_result_without_measuring(tmp_path, measured):
    run, path = trainer(tmp_path), tmp_path / "net.safetensors"
    run.run()
    first = finished(run, path)
    before = path.read_bytes()
    again = finished(trainer(tmp_path), path)
    assert measured == ["net"]
    assert path.read_bytes() == before
    assert again.summary == first.summary
    path.unlink()
    finished(trainer(tmp_path), path)
    assert measured == ["net", "net"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["weights", "validation images", "data's name", "file", "summary", "no summary"])
def test_a_result_of_another_net_or_of_other_images_is_measured_again(tmp_path, measured, change):
    run, path, data = trainer(tmp_path), tmp_path / "net.safetensors", "toys"
    run.run()
    expected = finished(run, path).artifact.manifest.provenance.errors
    summary = path.with_suffix(".json")
    if change == "weights":
        with torch.no_grad():
            run.model.fc8.bias += 1
    elif change == "validation images":  # of the same name and number
        shutil.copy(run.saved.last, tmp_path / "kept.safetensors")
        run.saved.last.unlink()
        run = trainer(tmp_path, validation=images(6, seed=9))
        run.run()
        os.utime(run.saved.last, (tmp_path / "kept.safetensors").stat()[7:9])
        expected, _ = measure(load_artifact(path), run.validation, "toys, validation")
    elif change == "data's name":
        data = "other toys"
    elif change == "file":
        load_artifact(path).save(path, np.float32)
    elif change == "summary":
        summary.write_text(summary.read_text().replace('"pixels of validation": "', '"pixels of validation": "0'))
    else:
        summary.unlink()
    done = finished(run, path, data)
    assert measured == ["net", "net"]
    errors = done.artifact.manifest.provenance.errors
    assert load_artifact(path).manifest.provenance.errors == errors
    if change not in ("weights", "data's name"):
        assert errors == expected
    assert json.loads(summary.read_text())["sha256"] == sha256(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1, "data": 2}', "null", "[" * 100_000])
def test_a_damaged_summary_is_replaced(tmp_path, measured, text):
    run, path = trainer(tmp_path), tmp_path / "net.safetensors"
    run.save()
    finished(run, path)
    path.with_suffix(".json").write_text(text)
    finished(run, path)
    assert measured == ["net", "net"]
    assert json.loads(path.with_suffix(".json").read_text())["sha256"] == sha256(path)


def test_the_errors_are_those_of_eval_with_an_unreadable_image(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    root, path = image_folder(tmp_path / "toys", 37), tmp_path / "net.safetensors"
    (root / "val" / "n00000001" / "004.png").write_bytes(b"not an image")
    run = trainer(tmp_path / "run", validation=PackedImages.pack(LabelledImages(root, "validation"), 64))
    run.run()
    errors = finished(run, path).artifact.manifest.provenance.errors
    assert [error.views for error in errors] == ["center", "ten"]
    for error in errors:
        command = ["eval", "--model", path, "--data", root, "--views", error.views, "--json", "--cache", tmp_path / "c"]
        ended = subprocess.run([*PROGRAM, *map(str, command)], capture_output=True, check=False)
        assert ended.returncode == 1, "an image can't be read"
        (net,) = json.loads(ended.stdout)["nets"]
        assert (error.images, error.top1, error.top5) == (37, net["top1"]["wrong"], net["top5"]["wrong"])
        assert 1 < error.top1 < 37


def test_without_onnx_runtime_and_on_a_gpu_the_module_is_measured(monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    artifact, packed = random_artifact(replace(TINY, classes=7), seed=3), images(20, seed=4)
    in_runtime, wrong = measure(artifact, feed(packed), "toys")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(NetScorer, "__call__", lambda *_: pytest.fail("a runtime"))
    in_module, same = measure(artifact, feed(packed), "toys")
    assert in_module == in_runtime
    assert all(np.array_equal(wrong[views], same[views]) for views in wrong)
    monkeypatch.undo()
    monkeypatch.setitem(evaluate.PATCHES_PER_CALL, "meta", 10)  # a device that is not the CPU
    assert isinstance(module.scorer_of(artifact, torch.device("meta")), ModuleScorer)
    assert isinstance(module.scorer_of(artifact, torch.device("cpu")), NetScorer)


def test_a_net_with_batch_norm_is_measured_with_its_statistics(tmp_path):
    artifact = random_artifact(replace(TINY, classes=7, normalization="batchnorm"), seed=1)
    packed = images(12, seed=4)
    (center, _), _ = measure(artifact, feed(packed), "toys")
    assert center.top1 == expected_wrong(artifact, packed, "center", 1)


def test_a_folder_that_cannot_be_written_is_a_one_line_error(tmp_path):
    run = trainer(tmp_path)
    run.run()
    with pytest.raises(UsageError, match=r"gone/net\.safetensors: can't be written"):
        finished(run, tmp_path / "gone" / "net.safetensors")
