"""The result: its stored weights, measured errors, provenance and summary."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import patches
from tests.nets import random_artifact
from tests.program import PROGRAM
from tests.train.toys import BRIEF, CLASSES, TINY, images, trainer
from train.data import PackedImages
from train.evaluate import DivergedError
from train.feed import Feed
from train.finish import Finished, finish, measure, stored
from train.loop import Trainer
from train.recipe import Recipe

NAMES = tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(CLASSES))


def feed(packed: PackedImages) -> Feed:
    return Feed(packed, torch.device("cpu"))


def finished(run: Trainer, path: Path, data: str) -> Finished:
    return finish(run, run.saved.whole_model(), NAMES, path, data, trained_epochs=run.trained_epochs)


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
    center, ten = measure(artifact, feed(packed), "toys", counted.append)
    assert (center.views, ten.views, center.data, ten.data) == ("center", "ten", "toys", "toys")
    assert center.images == ten.images == sum(counted) == 20
    for error in (center, ten):
        assert (error.top1, error.top5) == tuple(expected_wrong(artifact, packed, error.views, k) for k in (1, 5))
        assert 0 < error.top5 < error.top1 < 20, "extreme counts would hide mistakes"


def ten_view_guess(monkeypatch, logits: list[list[float]]) -> int:
    """Return the class, 0 or 1, that is predicted from ten views with these logits."""

    class Fixed(torch.nn.Module):
        def __init__(self, architecture):
            super().__init__()

        def load_state_dict(self, state, strict):
            pass

        def forward(self, x):
            return torch.tensor(logits)

    monkeypatch.setattr("train.finish.AlexNet", Fixed)
    data = replace(images(1), labels=torch.tensor([0]))
    return measure(random_artifact(replace(TINY, classes=2)), feed(data), "toys")[1].top1


def test_ten_views_average_probabilities_not_logits(monkeypatch):
    # One view strongly prefers 0, nine slightly prefer 1: the mean of the logits gives 0, that of the probabilities 1.
    assert ten_view_guess(monkeypatch, [[40.0, 0.0]] + [[0.0, 1.0]] * 9) == 1


@pytest.mark.parametrize("view", range(10))
def test_each_of_the_ten_views_counts(monkeypatch, view):
    # Nine views slightly prefer 1 (0.525), one strongly prefers 0 (0.993). The mean for 0 is 0.527; without this view,
    # it is below 0.5.
    logits = [[0.0, 0.1] for _ in range(10)]
    assert ten_view_guess(monkeypatch, logits) == 1
    logits[view] = [5.0, 0.0]
    assert ten_view_guess(monkeypatch, logits) == 0


def test_weights_are_rounded_to_float16_before_they_are_measured(tmp_path):
    run = trainer(tmp_path, recipe=replace(BRIEF, epochs=1))
    run.run()
    done = finished(run, tmp_path / "net.safetensors", "toys")
    raw, loaded = run.model.artifact_tensors(), load_artifact(done.path)
    assert any(not np.array_equal(raw[name], loaded.tensors[name]) for name in raw)
    for name, tensor in loaded.tensors.items():
        np.testing.assert_array_equal(tensor, raw[name].astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(tensor, done.artifact.tensors[name])
    assert measure(loaded, run.validation, "toys, validation") == loaded.manifest.provenance.errors


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
    run = trainer(tmp_path / "a run", classes=NAMES)
    run.run()
    with torch.no_grad():
        next(run.model.parameters()).mul_(1e6)
    run.save()
    run.saved.best.unlink(missing_ok=True)  # it may be a link to the last one
    shutil.copy(run.saved.last, run.saved.best)  # so that both have the large weights
    path = run.out / "net.safetensors"
    with pytest.raises(SpecError, match="too large for float16") as caught:
        finish(run, run.saved.whole_model(), NAMES, path, "toys", trained_epochs=2, result=result)
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
    done = finished(run, tmp_path / "my-net.safetensors", "toys")
    manifest = load_artifact(done.path).manifest
    provenance = manifest.provenance
    assert manifest.name == "my-net"
    assert manifest.classes == NAMES
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
    done = finished(run, tmp_path / "net.safetensors", "toys")
    summary = json.loads((tmp_path / "net.json").read_text())
    assert summary["model"] == "net.safetensors"
    assert summary["sha256"] == sha256(done.path)
    assert summary["bytes"] == done.path.stat().st_size
    assert summary["parameters"] == TINY.build().parameters
    assert (summary["seed"], summary["training_seconds"]) == (run.seed, round(run.state.seconds, 1))
    assert f"of {os.cpu_count()} cores" in summary["hardware"]
    assert torch.__version__ in summary["software"]
    assert summary["errors"] == [dataclasses.asdict(e) for e in done.artifact.manifest.provenance.errors]
    assert (summary["top1_error_by_epoch"], summary["top5_error_by_epoch"]) == (run.state.errors, run.state.top5)
    ten = done.artifact.manifest.provenance.errors[1]
    assert f"on 6 images of toys, validation, ten views: top-1 error {ten.top1 / 6:.2%}" in done.summary


def test_finishing_again_writes_the_same_bytes(tmp_path):
    run, path = trainer(tmp_path), tmp_path / "net.safetensors"
    run.run()
    finished(run, path, "toys")
    before = path.read_bytes()
    again = trainer(tmp_path)
    finished(again, path, "toys")
    assert path.read_bytes() == before


def test_a_net_with_batch_norm_is_measured_with_its_statistics(tmp_path):
    artifact = random_artifact(replace(TINY, classes=7, normalization="batchnorm"), seed=1)
    packed = images(12, seed=4)
    center, _ = measure(artifact, feed(packed), "toys")
    assert center.top1 == expected_wrong(artifact, packed, "center", 1)


def test_a_folder_that_cannot_be_written_is_a_one_line_error(tmp_path):
    run = trainer(tmp_path)
    run.run()
    with pytest.raises(UsageError, match=r"gone/net\.safetensors: can't be written"):
        finished(run, tmp_path / "gone" / "net.safetensors", "toys")
