"""Checkpoints are written completely or not at all, and those of other runs are refused."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import safetensors.torch
import torch

from alexnet_infer.errors import ModelFileError, UsageError
from tests.train.toys import assert_bit_identical
from train import checkpoint
from train.checkpoint import RunState

CONFIG = {
    "architecture": {"operations": [{"op": "conv", "name": "conv1", "kernels": 96}, {"op": "dense", "name": "fc8"}]},
    "recipe": {"epochs": 22, "lr": 0.04},
    "seed": 0,
    "data": {"size": 64, "mean": [1.5, 2.5, 3.5]},
}
STATE = RunState(epoch=3, step=17, errors=[0.9, 0.8, 0.1 + 0.2], seconds=12.5)
TENSORS = {
    "model.conv1.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "model.bn1.num_batches_tracked": torch.tensor(7),
    "velocity.conv1.weight": torch.randn(4, 3, 2, 2),
}
NET = {"preprocessing": {}, "classes": []}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, CONFIG, STATE, TENSORS, NET)
    return path


def test_a_loaded_checkpoint_is_bit_identical_to_the_saved_one(saved):
    state, tensors = checkpoint.load(saved, CONFIG, SHAPES)
    assert state == STATE
    assert_bit_identical(tensors, TENSORS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["recipe"].update(epochs=10), r"recipe\.epochs \(22, now 10\)"),
        (lambda c: c.update(seed=1), r"seed \(0, now 1\)"),
        (lambda c: c["data"].update(size=80), r"data\.size \(64, now 80\)"),
        (
            lambda c: c["architecture"]["operations"][0].update(kernels=48),
            r"architecture\.operations\.conv1\.kernels \(96, now 48\)",
        ),
        (
            lambda c: c["architecture"]["operations"].pop(),
            r"architecture\.operations \(2 entries, now 1 entries\)",
        ),
    ],
)
def test_a_run_with_other_settings_is_refused_naming_the_first(saved, change, named):
    config = copy.deepcopy(CONFIG)
    change(config)
    with pytest.raises(ModelFileError, match=f"a different {named}; repeat that run's options") as caught:
        checkpoint.load(saved, config, SHAPES)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "config",
    [
        CONFIG | {"new setting": 1},
        CONFIG | {"recipe": CONFIG["recipe"] | {"dropout": 0.2}},
    ],
    ids=["top level", "recipe"],
)
def test_a_checkpoint_from_before_a_setting_was_recorded_is_accepted(saved, config):
    assert checkpoint.load(saved, config, SHAPES)[0] == STATE
    checkpoint.check(saved, config)


def test_a_checkpoint_that_lacks_another_recipe_setting_is_refused(saved):
    config = CONFIG | {"recipe": CONFIG["recipe"] | {"validation_views": "ten"}}
    for read in (partial(checkpoint.load, shapes=SHAPES), checkpoint.check):
        with pytest.raises(ModelFileError, match=r"a different recipe\.validation_views \(None, now 'ten'\)"):
            read(saved, config)


@pytest.mark.parametrize("name", ["epochs", "lr"])
def test_a_checkpoint_with_a_recipe_setting_that_is_unknown_here_is_refused(saved, name):
    recipe = {key: value for key, value in CONFIG["recipe"].items() if key != name}
    with pytest.raises(ModelFileError, match=rf"a different recipe\.{name} \(.*, now None\)"):
        checkpoint.load(saved, CONFIG | {"recipe": recipe}, SHAPES)


def test_a_checkpoint_with_a_setting_that_is_unknown_here_is_refused(saved):
    config = {key: value for key, value in CONFIG.items() if key != "seed"}
    with pytest.raises(ModelFileError, match="a different seed") as caught:
        checkpoint.load(saved, config | {}, SHAPES)
    assert caught.value.exit_code == 4


def rewritten(path: Path, **metadata: str) -> None:
    """Replace parts of the metadata of a checkpoint."""
    with safetensors.safe_open(path, "pt") as file:
        before = file.metadata()
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, before | metadata)


NOT_STATES = {
    "list": "[]",
    "null": "null",
    "number": "3",
    "not JSON": "{",
    "NaN": '{"seconds": NaN}',
    "infinite": '{"seconds": 1e999}',
    "5,000 digits": '{"epoch": ' + "9" * 5000 + "}",
    "deep": "[" * 100_000,
    "deep field": '{"errors": ' + "[" * 900 + "]" * 900 + "}",
    "number as text": '{"epoch": "3"}',
    "negative": '{"epoch": -1}',
    "fraction": '{"step": 1.5}',
    "bool": '{"epoch": true}',
    "error above 1": '{"errors": [2]}',
    "no list": '{"errors": 0.5}',
    "unknown": '{"epoch": 1, "\\u001b[31m": 1}',
    "twice": '{"epoch": 1, "epoch": 2}',
}


NO_OBJECTS = ("list", "null", "number", "not JSON", "NaN", "5,000 digits", "deep", "twice")


@pytest.mark.parametrize(
    ("key", "kind"), [*(("state", kind) for kind in NOT_STATES), *(("config", kind) for kind in NO_OBJECTS)]
)
def test_metadata_that_the_trainer_never_writes_is_refused_in_one_line(saved, key, kind):
    rewritten(saved, **{key: NOT_STATES[kind]})
    for read in (partial(checkpoint.load, config=CONFIG, shapes=SHAPES), partial(checkpoint.check, config=CONFIG)):
        with pytest.raises(ModelFileError, match="not a checkpoint of this trainer") as caught:
            read(saved)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600


def test_hostile_names_of_settings_and_tensors_are_escaped_and_shortened(saved):
    rewritten(saved, config=json.dumps({"\x1b[31m" * 1000: 1}))
    with pytest.raises(ModelFileError, match="from a run with a different") as caught:
        checkpoint.load(saved, CONFIG, SHAPES)
    many = {f"\x1b[31m{i}": torch.zeros(1) for i in range(1000)}
    safetensors.torch.save_file(many, saved, {"config": json.dumps(CONFIG), "state": "{}"})
    with pytest.raises(ModelFileError, match="missing, unknown or wrongly shaped tensors") as also:
        checkpoint.load(saved, CONFIG, SHAPES)
    for message in (str(caught.value), str(also.value)):
        assert message.isprintable()
        assert len(message) < 600


@pytest.mark.parametrize("places", ["top", "metadata", "tensor"])
def test_a_header_in_which_a_name_occurs_twice_is_refused(saved, places):
    content = saved.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].decode().rstrip()
    twice = {
        "top": header[:-1] + ', "model.conv1.weight": {}}',
        "metadata": header.replace('"config":', '"config":"{}","config":', 1),
        "tensor": header.replace('"dtype":', '"dtype": "I64", "dtype":', 1),
    }[places].encode()
    saved.write_bytes(len(twice).to_bytes(8, "little") + twice + content[8 + size :])
    with pytest.raises(ModelFileError, match=r"occurs twice|duplicate field|missing field"):
        checkpoint.load(saved, CONFIG, SHAPES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "sparse", "huge header"])
def test_only_a_regular_file_of_the_right_size_is_read(saved, kind):
    content = saved.read_bytes()
    saved.unlink()
    if kind == "pipe":
        os.mkfifo(saved)
    elif kind == "folder":
        saved.mkdir()
    elif kind == "link":
        saved.with_name("other").write_bytes(content)
        saved.symlink_to("other")
    else:
        saved.write_bytes(content if kind == "sparse" else b"\xff" * 7 + b"\0")
        os.truncate(saved, 2**43)
    for read in (partial(checkpoint.load, config=CONFIG, shapes=SHAPES), partial(checkpoint.check, config=CONFIG)):
        with pytest.raises(ModelFileError, match=r"not a checkpoint of this trainer \(.*\); remove it"):
            read(saved)


def test_a_checkpoint_is_a_safetensors_file_as_the_library_writes_it(saved):
    with safetensors.safe_open(saved, "pt") as file:
        metadata = file.metadata()
    library = safetensors.torch.save({name: tensor.contiguous() for name, tensor in TENSORS.items()}, metadata)
    size = int.from_bytes(library[:8], "little")
    content = saved.read_bytes()
    own = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + own]) == json.loads(library[8 : 8 + size])
    assert content[8 + own :] == library[8 + size :]
    assert own % 8 == 0


def test_a_checkpoint_is_written_under_a_name_that_the_next_one_removes_if_the_run_is_killed(saved, monkeypatch):
    content, seen = checkpoint._content, []

    def watched(*arguments: object) -> Iterator[bytes | memoryview]:
        for part in content(*arguments):
            yield part
            seen.extend(set(files(saved.parent)) - {saved.name})

    monkeypatch.setattr(checkpoint, "_content", watched)
    checkpoint.save(saved, CONFIG, STATE, TENSORS, NET)
    (temporary,) = set(seen)
    saved.with_name(temporary).write_bytes(b"half a file")
    checkpoint.save(saved, CONFIG, STATE, TENSORS, NET)
    assert files(saved.parent) == [saved.name]


@pytest.mark.parametrize("damage", ["truncated", "empty", "not safetensors", "no metadata", "folder"])
def test_a_damaged_file_is_refused_in_one_line(saved, damage):
    content = saved.read_bytes()
    if damage == "folder":
        saved.unlink()
        saved.mkdir()
    elif damage == "no metadata":
        saved.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    else:
        saved.write_bytes({"truncated": content[:-5], "empty": b"", "not safetensors": b"hello" * 100}[damage])
    with pytest.raises(ModelFileError, match=r"not a checkpoint of this trainer .* remove it") as caught:
        checkpoint.load(saved, CONFIG, SHAPES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("velocity.conv1.weight", None), ("velocity.conv1.weight", (4, 3, 2, 3)), ("model.more", (1,))],
)
def test_missing_wrongly_shaped_and_unknown_tensors_are_named(saved, name, shape):
    shapes = {n: s for n, s in (SHAPES | {name: shape}).items() if s is not None}
    with pytest.raises(ModelFileError, match=f"missing, unknown or wrongly shaped tensors: {name}; remove"):
        checkpoint.load(saved, CONFIG, shapes)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_other_file(saved, monkeypatch, call):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(UsageError, match=r"last\.safetensors: can't be written \(No space left on device\)"):
        checkpoint.save(saved, CONFIG, RunState(epoch=9), TENSORS, NET)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


CHANGED = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
NO_SPACE = r"best\.safetensors: can't be written \(No space left on device\); free some space"


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_hard_links(*arguments: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["hard link", "copy"])
def way(request, monkeypatch) -> str:
    """How a checkpoint is kept: by a link, or by a copy on file systems without hard links."""
    if request.param == "copy":
        monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
    return request.param


def test_a_kept_checkpoint_does_not_change_when_the_next_is_saved(saved, way):
    kept, before = saved.with_name("best.safetensors"), saved.read_bytes()
    checkpoint.keep(saved, kept)
    assert kept.samefile(saved) == (way == "hard link"), "a link takes no space"
    assert kept.read_bytes() == saved.read_bytes() == before
    checkpoint.save(saved, CONFIG, RunState(epoch=4), CHANGED, NET)
    assert saved.read_bytes() != before
    assert kept.read_bytes() == before
    assert files(saved.parent) == ["best.safetensors", "last.safetensors"]


def test_keeping_a_later_checkpoint_replaces_the_kept_one(saved, way):
    kept = saved.with_name("best.safetensors")
    checkpoint.keep(saved, kept)
    checkpoint.save(saved, CONFIG, RunState(epoch=4), CHANGED, NET)
    checkpoint.keep(saved, kept)
    state, tensors = checkpoint.load(kept, CONFIG, SHAPES)
    assert state == RunState(epoch=4)
    assert_bit_identical(tensors, CHANGED)
    assert files(saved.parent) == ["best.safetensors", "last.safetensors"]


def test_keeping_twice_changes_nothing_and_leaves_no_other_file(saved, way):
    kept, before = saved.with_name("best.safetensors"), saved.read_bytes()
    for _ in range(3):
        checkpoint.keep(saved, kept)
        assert kept.read_bytes() == saved.read_bytes() == before
        assert files(saved.parent) == ["best.safetensors", "last.safetensors"]


def test_the_temporary_file_of_a_killed_run_is_replaced(saved, way):
    kept = saved.with_name("best.safetensors")
    saved.with_name(".best.safetensors.0123abcd.tmp").write_bytes(b"half a file")
    checkpoint.keep(saved, kept)
    assert kept.read_bytes() == saved.read_bytes()
    assert files(saved.parent) == ["best.safetensors", "last.safetensors"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_without_space_for_a_copy_the_old_kept_one_is_unchanged(saved, monkeypatch, call):
    kept = saved.with_name("best.safetensors")
    checkpoint.keep(saved, kept)
    before = kept.read_bytes()
    checkpoint.save(saved, CONFIG, RunState(epoch=4), CHANGED, NET)
    monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(UsageError, match=NO_SPACE) as caught:
        checkpoint.keep(saved, kept)
    assert "\n" not in str(caught.value)
    assert kept.read_bytes() == before
    assert files(saved.parent) == ["best.safetensors", "last.safetensors"]


def test_if_a_link_cannot_be_renamed_the_old_kept_checkpoint_stays(saved, monkeypatch):
    kept = saved.with_name("best.safetensors")
    checkpoint.keep(saved, kept)
    before = kept.read_bytes()
    checkpoint.save(saved, CONFIG, RunState(epoch=4), CHANGED, NET)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=NO_SPACE):
        checkpoint.keep(saved, kept)
    assert kept.read_bytes() == before


def test_a_check_compares_only_the_given_settings(saved):
    for part in ({}, CONFIG, {"seed": 0}, {"recipe": CONFIG["recipe"]}, {"seed": 0, "unknown to the file": 1}):
        checkpoint.check(saved, part)
    for wrong, named in (
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"seed": 0, "recipe": CONFIG["recipe"] | {"lr": 0.01}}, r"recipe\.lr \(0\.04, now 0\.01\)"),
    ):
        with pytest.raises(ModelFileError, match=f"a different {named}; repeat that run's options") as caught:
            checkpoint.check(saved, wrong)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("content", [b"", b"hello" * 100])
def test_a_check_refuses_a_damaged_file(saved, content):
    saved.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a checkpoint of this trainer"):
        checkpoint.check(saved, {})


def test_a_check_reads_no_weights(saved, monkeypatch):
    opened = checkpoint.open_tensors

    @contextmanager
    def without_weights(*arguments: object, **options: object) -> Iterator[SimpleNamespace]:
        with opened(*arguments, **options) as file:
            yield SimpleNamespace(metadata=file.metadata)

    monkeypatch.setattr(checkpoint, "open_tensors", without_weights)
    checkpoint.check(saved, CONFIG)
    with pytest.raises(AttributeError):  # because it reads tensors
        checkpoint.load(saved, CONFIG, SHAPES)
