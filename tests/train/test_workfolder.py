"""The folder of a packed set: its job continues, other jobs are refused, and other files are left unchanged."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UsageError
from alexnet_infer.files import lock
from tests.train.packing import WNIDS, Counted, contents, encoded, image_source, interrupt, job, killed, note_decoded
from train import prepare as module
from train.packed import MANIFEST, PackedSetError
from train.prepare import Preparation, prepare
from train.workfolder import PARTS

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def source(tmp_path) -> Path:
    return image_source(tmp_path / "source")


@pytest.fixture
def undisturbed(source, tmp_path) -> dict[str, bytes]:
    prepare(job(source, out=tmp_path / "undisturbed"), Counted())
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    return note_decoded(monkeypatch)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("after", [0, 3, 6])  # of 8: six shards' descriptions, the record, the lock
def test_the_next_run_completes_a_clean_up_that_was_killed(source, undisturbed, after):
    killed(source, "unlink", after)
    out = source.parent / "packed"
    assert {name for name in contents(out) if not name.startswith(PARTS)} == undisturbed.keys()
    assert (out / PARTS).exists()
    assert prepare(job(source), Counted()).already
    assert contents(out) == undisturbed
    assert not (out / PARTS).exists()


def test_a_complete_set_is_not_changed_by_its_job_and_refused_to_others(source, undisturbed, decoded):
    first = prepare(job(source), Counted())
    decoded.clear()
    again = prepare(job(source), Counted())
    assert not decoded
    assert again.summary == f"{first.summary}; already complete"
    assert "7 train + 3 validation images of 8 x 8" in first.summary
    with pytest.raises(UsageError, match=r"contains another packed set \(8 x 8, 7 \+ 3 images, 2 classes\); choose"):
        prepare(job(source, size=9), Counted())
    assert contents(first.packed.root) == undisturbed


def other_content(source: Path, split: str) -> None:
    """Change the size of an image file, but no number, name, label or class."""
    path = source / split / WNIDS[0] / "0.png"
    path.write_bytes(path.read_bytes() + b"\0")


def other_names(source: Path, split: str) -> None:
    path = source / split / WNIDS[0] / "0.png"
    path.rename(path.with_name("00.png"))


def other_labels(source: Path, split: str) -> None:
    """Swap the classes of the first two images, so that the number of images per class does not change."""
    paths = [source / split / wnid / f"{i}.png" for i, wnid in enumerate(WNIDS)]
    for path, wnid in zip(paths, reversed(WNIDS), strict=True):
        path.rename(source / split / wnid / path.name)


OTHERS = [(change, split) for change in (other_content, other_names, other_labels) for split in ("train", "val")]


@pytest.mark.parametrize(("change", "split"), OTHERS)
def test_a_complete_set_of_another_source_with_the_same_number_of_images_is_refused(source, undisturbed, change, split):
    out = prepare(job(source), Counted()).packed.root
    change(source, split)
    name = {"val": "validation"}.get(split, split)
    with pytest.raises(UsageError, match=rf"different source than .* of {name} images\); choose another fol") as caught:
        prepare(job(source), Counted())
    assert "\n" not in str(caught.value)
    assert contents(out) == undisturbed


def test_a_complete_set_is_recognised_after_its_source_was_moved(source, tmp_path, undisturbed):
    out = prepare(job(source), Counted()).packed.root
    source.rename(tmp_path / "moved")
    assert prepare(job(tmp_path / "moved", out=out), Counted()).already
    manifest = json.loads((out / MANIFEST).read_bytes())
    assert next(iter(manifest)) == "format"
    for split in ("train", "validation"):
        assert manifest["splits"][split]["listing"] == LabelledImages(tmp_path / "moved", split).listing
    assert contents(out) == undisturbed


def one_more_image(source: Path) -> Preparation:
    (source / "train" / WNIDS[0] / "more.png").write_bytes(encoded(np.random.default_rng(1), 1))
    return job(source)


def other_name(source: Path) -> Preparation:
    (source / "classes.tsv").write_text("n00000001\tcat\nn00000002\tdog\n")
    return job(source)


def larger_shards(source: Path) -> Preparation:
    module.SHARD_BYTES = 2**20  # `small_shards` restores it
    return job(source)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda source: job(source, size=9), r"image size \(8, now 9\)"),
        (one_more_image, r"number of train images \(7, now 8\)"),
        (other_name, r"list of classes \("),
        *(
            (lambda source, change=change, split=split: change(source, split) or job(source), rf"listing .* of {split}")
            for change, split in OTHERS
        ),
        (larger_shards, r"number of images per shard \(2, now 5461\)"),
    ],
)
def test_resuming_with_other_settings_is_refused_with_the_first_difference(source, monkeypatch, change, named):
    with monkeypatch.context() as patch:
        patch.setattr(module._Maker, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source), Counted())
    before = contents(source.parent / "packed")
    with pytest.raises(UsageError, match=f"was started with a different {named}") as caught:
        prepare(change(source), Counted())
    assert "\n" not in str(caught.value)
    assert contents(source.parent / "packed") == before


def test_too_little_space_is_refused_before_images_are_decoded(source, decoded, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1919}))
    with pytest.raises(UsageError, match=r"the set needs 0\.0 GB more, but only 0\.0 GB are free"):
        prepare(job(source), Counted())
    assert not decoded
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1920}))
    prepare(job(source), Counted())


def test_a_folder_with_other_files_is_refused_and_not_changed(source, tmp_path):
    before = contents(source)
    with pytest.raises(UsageError, match="is not empty; choose a new folder"):
        prepare(job(source, out=source), Counted())
    assert contents(source) == before
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UsageError, match="can't be created"):
            prepare(job(source, out=out), Counted())


@pytest.mark.parametrize("manifest", [b'{"name": "mine"}', b"", None])
@pytest.mark.parametrize("record", [b'{"name": "mine"}', b"", None])
def test_another_programs_manifest_and_parts_are_refused_and_not_changed(source, tmp_path, manifest, record):
    out = tmp_path / "mine"
    (out / PARTS).mkdir(parents=True)
    (out / PARTS / "chapter").write_text("one")
    for path, text in ((out / MANIFEST, manifest), (out / PARTS / "job.json", record)):
        if text is not None:
            path.write_bytes(text)
    before = contents(out)
    with pytest.raises(UsageError, match="is not empty; choose a new folder") as caught:
        prepare(job(source, out=out), Counted())
    assert "remove" not in str(caught.value)
    assert contents(out) == before


def test_another_programs_parts_in_a_complete_set_are_not_changed(source):
    out = prepare(job(source), Counted()).packed.root
    (out / PARTS).mkdir()
    (out / PARTS / "job.json").write_text('{"name": "mine"}')
    before = contents(out)
    assert prepare(job(source), Counted()).already
    assert contents(out) == before


@pytest.mark.parametrize("damage", ["manifest", "shard", "another source"])
def test_nothing_is_cleaned_up_before_the_set_was_checked(source, monkeypatch, damage):
    out = source.parent / "packed"
    with monkeypatch.context() as patch:
        patch.setattr(module, "clean_up", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source), Counted())
    if damage == "another source":
        other_content(source, "train")
    else:
        path = out / (MANIFEST if damage == "manifest" else "train-00001.bin")
        path.write_bytes(path.read_bytes()[:-1])
    before = contents(out)
    assert any(name.startswith(PARTS) for name in before)
    with pytest.raises(UsageError if damage == "another source" else PackedSetError):
        prepare(job(source), Counted())
    assert contents(out) == before


def test_nothing_is_cleaned_up_while_another_process_uses_the_folder(source, monkeypatch):
    pytest.importorskip("fcntl", reason="needs file locks")
    out = source.parent / "packed"
    with monkeypatch.context() as patch:
        patch.setattr(module, "clean_up", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source), Counted())
    before = contents(out)
    with lock(out / PARTS / "lock"):
        assert prepare(job(source), Counted()).already
        assert contents(out) == before
    prepare(job(source), Counted())
    assert not (out / PARTS).exists()


def test_a_second_process_on_the_same_folder_is_refused(source):
    pytest.importorskip("fcntl", reason="needs file locks")

    class Meanwhile(Counted):
        @contextmanager
        def counting(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
            with pytest.raises(UsageError, match="another process is using it"):
                prepare(job(source), Counted())
            yield lambda count: None

    prepare(job(source), Meanwhile())
