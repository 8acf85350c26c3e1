"""Requests, samples and shards. Nothing is computed twice, and nothing is reused for another evaluation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends import onnxruntime
from alexnet_infer.backends.opening import Opened
from alexnet_infer.datasets.sampling import stratified
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation import compute as module
from alexnet_infer.evaluation.compute import EvaluationRequest, compute, data_folder
from alexnet_infer.evaluation.predictions import Predictions
from alexnet_infer.pipeline import Clock
from tests.datasets.mini import WNIDS, jpeg, refused
from tests.evaluation.toys import OTHER_WNIDS, lookup_net, save_net, save_nets, write_greys, write_set

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 18


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Write a set, which tests must not change."""
    return write_set(tmp_path_factory.mktemp("set"), IMAGES)


@pytest.fixture
def request_(models, images, tmp_path) -> EvaluationRequest:
    return EvaluationRequest(
        models=(models[0],), data=images, cache=tmp_path / "cache", batch=4, views="center", device="cpu"
    )


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Return a list that collects the number of patches in each call of a net."""
    sizes: list[int] = []
    infer = onnxruntime.OnnxRuntimeBackend.infer

    def counting(self, patches_nchw):
        sizes.append(len(patches_nchw))
        return infer(self, patches_nchw)

    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", counting)
    return sizes


# Requests.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch": 0}, "--batch 0: expected 1 to 1024"),
        ({"workers": 0}, "--workers 0: expected at least 1"),
        ({"limit": -3}, "--limit -3: expected at least 1"),
        ({"shard": -1}, "--shard 0/1: expected I/N with I from 1 to N"),
        ({"shard": 3, "shards": 3}, "--shard 4/3: expected I/N with I from 1 to N"),
        ({"shards": 0}, "--shard 1/0: expected I/N"),
    ],
)
def test_values_out_of_range_are_refused(request_, fields, words):
    refused(lambda: replace(request_, **fields), words, error=UsageError)


def test_the_set_is_the_given_folder_or_the_one_in_the_environment(monkeypatch):
    monkeypatch.setenv("ALEXNET_INFER_DATA", "/elsewhere")
    assert data_folder(Path("here")) == Path("here")
    assert data_folder(None) == Path("/elsewhere")


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_set_the_message_says_how_to_get_a_free_one_and_ilsvrc(monkeypatch, value):
    monkeypatch.delenv("ALEXNET_INFER_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("ALEXNET_INFER_DATA", value)
    refused(
        lambda: data_folder(None),
        "$ALEXNET_INFER_DATA",
        "`alexnet-infer data get tiny-imagenet` gets a free one",
        "ILSVRC2012_img_val.tar",
        "ILSVRC2012_devkit_t12.tar.gz",
        "https://image-net.org",
        error=UsageError,
    )


# Samples.


def test_a_sample_of_more_than_the_set_is_refused(request_, calls):
    refused(lambda: compute(replace(request_, limit=19)), "--limit 19: the set has 18 images", error=UsageError)
    assert calls == []


def test_only_the_samples_images_are_read(request_, tmp_path, calls):
    root = tmp_path / "set"
    shutil.copytree(request_.data, root)
    request = replace(request_, data=root, limit=6)
    computed = compute(request)
    chosen = stratified(computed.data.labels, 6)
    ((rows, _),) = computed.predictions[0].chunks()
    assert [row.label for row in rows] == [computed.data.labels[i] for i in chosen] == list(range(6))
    assert computed.predictions[0].about.data.sample == 6
    assert computed.predictions[0].about.data.images == IMAGES
    assert len(calls) == 2


# Shards.


@pytest.fixture
def lookup(monkeypatch, tmp_path, models) -> EvaluationRequest:
    """A request that takes no time: 30 grey images and a net that looks them up."""
    net = lookup_net(np.full((30, 6), 1 / 6), "center")
    net.opened = Opened(manifest=net.manifest, backend=net.backend, files=(models[0],))
    monkeypatch.setattr(module, "load", lambda *_, **__: net)
    root = write_greys(tmp_path / "greys", [i % 6 for i in range(30)])
    return EvaluationRequest(models=(models[0],), data=root, cache=tmp_path / "cache", views="center")


@pytest.mark.parametrize("batch", [1, 4, 7, 16, 99])
def test_shards_have_nearly_equal_numbers_of_whole_batches_and_cover_the_set(lookup, batch):
    batches = -(-30 // batch)
    for shards in {1, 2, 3, batches}:
        if shards > batches:
            continue
        parts = []
        for shard in range(shards):
            (predictions,) = compute(replace(lookup, batch=batch, shard=shard, shards=shards)).predictions
            parts.append((predictions.about.begin, predictions.about.end))
            assert len(next(predictions.chunks())[0]) == predictions.about.end - predictions.about.begin
        assert [begin for begin, _ in parts] + [30] == [0] + [end for _, end in parts]
        assert all(begin % batch == 0 for begin, _ in parts)
        sizes = [-(-(end - begin) // batch) for begin, end in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_shard_without_images_is_refused(lookup):
    refused(
        lambda: [compute(replace(lookup, batch=16, shard=i, shards=3)) for i in range(3)],
        "/3: has no images; use fewer shards",
        error=UsageError,
    )


def test_a_sample_is_divided_into_shards(lookup):
    parts = [compute(replace(lookup, batch=4, limit=12, shard=i, shards=2)).predictions[0] for i in range(2)]
    assert [(part.about.begin, part.about.end) for part in parts] == [(0, 4), (4, 12)]
    assert sorted(row.label for part in parts for rows, _ in part.chunks() for row in rows) == sorted([*range(6)] * 2)


# Nothing is computed twice.


def test_a_second_run_computes_nothing(request_, calls):
    first = compute(request_)
    assert calls == [4] * 5
    second = compute(request_, Clock())
    assert calls == [4] * 5
    assert [part.folder for part in first.predictions] == [part.folder for part in second.predictions]


def test_other_ensembles_of_the_same_nets_compute_nothing(request_, models, monkeypatch):
    compute(replace(request_, models=tuple(models)))

    def fail(self, patches_nchw):
        pytest.fail("a net was run")

    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", fail)
    for chosen in (models, models[::-1], models[1:], models[:2], models[2:]):
        computed = compute(replace(request_, models=tuple(chosen)))
        assert [net.manifest.name for net in computed.nets] == sorted(path.stem for path in chosen)
        assert all(part.complete for part in computed.predictions)


def test_an_added_net_computes_only_its_own_predictions(request_, models, calls):
    compute(replace(request_, models=tuple(models[:2])))
    calls.clear()
    compute(replace(request_, models=tuple(models)))
    assert calls == [4] * 5


def set_change(change: str, root: Path) -> None:
    image = root / "val" / WNIDS[0] / "0000.jpg"
    match change:
        case "an extra image":
            image.with_name("new.jpg").write_bytes(jpeg(99))
        case "a missing image":
            image.unlink()
        case "relabelled":
            image.rename(root / "val" / WNIDS[1] / image.name)
        case "renamed":
            image.rename(image.with_name("other.jpg"))
        case "replaced":
            data = jpeg(99)
            assert len(data) != image.stat().st_size
            image.write_bytes(data)
        case "an extra class":
            (root / "val" / "n09999999").mkdir()


SET_CHANGES = ["an extra image", "a missing image", "relabelled", "renamed", "replaced", "an extra class"]


@pytest.mark.parametrize("change", SET_CHANGES)
def test_nothing_is_reused_for_another_set(request_, tmp_path, calls, change):
    root = tmp_path / "set"
    shutil.copytree(request_.data, root)
    request = replace(request_, data=root)
    compute(request)
    calls.clear()
    set_change(change, root)
    compute(request)
    assert len(calls) == 5


NET_CHANGES = {
    "weights": {"seed": 1},
    "preprocessing": {"seed": 0, "resample": "nearest"},
    "name": {"seed": 0, "name": "other"},
}


@pytest.mark.parametrize("change", NET_CHANGES)
def test_nothing_is_reused_for_another_net(request_, tmp_path, calls, change):
    path = save_net(tmp_path / "net.safetensors", 0)
    request = replace(request_, models=(path,))
    compute(request)
    calls.clear()
    save_net(path, **NET_CHANGES[change])
    compute(request)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("fields", "batches"),
    [({"views": "ten"}, 5), ({"batch": 5}, 4), ({"limit": 17}, 5), ({"split": "train"}, 5), ({"shards": 2}, 2)],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nothing_is_reused_for_other_settings(request_, tmp_path, calls, fields, batches):
    root = tmp_path / "set"
    shutil.copytree(request_.data, root)
    shutil.copytree(root / "val", root / "train")
    request = replace(request_, data=root)
    compute(request)
    calls.clear()
    compute(replace(request, **fields))
    assert len(calls) == batches


def test_a_set_that_was_moved_is_the_same(request_, tmp_path, models, calls):
    """Paths are not part of the key, so predictions from both places make an ensemble."""
    moved = tmp_path / "elsewhere" / request_.data.name
    shutil.copytree(request_.data, moved)
    compute(request_)
    calls.clear()
    computed = compute(replace(request_, data=moved, models=tuple(models[:2])))
    assert len(calls) == 5
    names = [[row.name for rows, _ in part.chunks() for row in rows] for part in computed.predictions]
    assert names[0] == names[1]
    assert not any(name.startswith("/") for name in names[0])


def test_an_interrupted_run_continues(request_, monkeypatch):
    whole = compute(replace(request_, cache=request_.cache.with_name("whole"))).predictions[0]
    infer, calls = onnxruntime.OnnxRuntimeBackend.infer, []

    def interrupted(self, patches_nchw):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return infer(self, patches_nchw)

    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(request_)
    assert len(calls) == 3
    resumed = compute(request_).predictions[0]
    assert len(calls) == 3 + 3
    for name in ("images.jsonl", "rows.f32"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


# Nets that can't be averaged.


def test_the_same_net_in_two_files_is_refused(request_, models, tmp_path, calls):
    copy = tmp_path / "copy.safetensors"
    shutil.copy(models[0], copy)
    request = replace(request_, models=(models[0], copy))
    refused(lambda: compute(request), "the same net as", "an ensemble needs different nets", error=UsageError)
    assert calls == []


def test_nets_with_other_classes_are_refused(request_, models, tmp_path, calls):
    other = save_net(tmp_path / "other.safetensors", 5, wnids=OTHER_WNIDS)
    request = replace(request_, models=(models[0], other))
    refused(lambda: compute(request), f"{other}: has different classes from {models[0]}", error=UsageError)
    more = save_net(tmp_path / "other.safetensors", 5, wnids=[*WNIDS, "n09999999"])
    request = replace(request_, models=(models[0], more))
    refused(lambda: compute(request), "(7 and 6); only nets with the same classes", error=UsageError)
    assert calls == []


def test_a_net_that_shares_no_class_with_the_set_is_refused_before_it_runs(request_, tmp_path, calls):
    other = save_net(tmp_path / "other.safetensors", wnids=[f"n0999999{i}" for i in range(6)])
    refused(lambda: compute(replace(request_, models=(other,))), "share no class", error=UsageError)
    assert calls == []
    assert not request_.cache.exists()


def test_a_refusal_leaves_no_lock(request_, models, tmp_path, monkeypatch):
    """The second net's predictions can't be written. The lock on those of the first is released."""
    two_nets = replace(request_, models=tuple(models[:2]))
    locked = Predictions._hold

    def hold(self, *, shared):
        if self.about.net.name != "net-0":
            raise OSError("a failure")
        locked(self, shared=shared)

    monkeypatch.setattr(Predictions, "_hold", hold)
    refused(lambda: compute(two_nets), "can't be written", error=UsageError)
    monkeypatch.undo()
    assert len(compute(two_nets).predictions) == 2
