"""Creating a packed set: its pixels and statistics, and the same result even if the run was killed."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.reading import Unreadable
from tests.train.packing import (
    ROOT,
    SIZE,
    TWO_IMAGES,
    WNIDS,
    Counted,
    contents,
    image_source,
    interrupt,
    job,
    killed,
    note_decoded,
    pixels,
    squares,
)
from train import prepare as module
from train.packed import MANIFEST, is_packed, open_packed
from train.parts import Sums
from train.prepare import prepare
from train.workfolder import PARTS

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def source(tmp_path) -> Path:
    return image_source(tmp_path / "source")


def test_squares_and_labels_are_the_sources_for_any_size_of_shards(source, tmp_path, monkeypatch):
    for shard_bytes in (1, TWO_IMAGES, 2**30):
        monkeypatch.setattr(module, "SHARD_BYTES", shard_bytes)
        out = tmp_path / str(shard_bytes)
        prepared = prepare(job(source, out=out), Counted())
        packed = prepared.packed
        packed.verify()
        for split, count in (("train", 7), ("validation", 3)):
            np.testing.assert_array_equal(pixels(packed, split), squares(source, split))
            assert packed.labels(split).tolist() == [e.label for e in LabelledImages(source, split)]
            assert packed.images(split) == count
        assert [c.name for c in packed.classes] == ["cat, house cat", "dog"]
        assert f"{sum(map(len, contents(out).values())) / 1e9:.3g} GB" in prepared.summary
    assert len(contents(tmp_path / "1")) == 4 + 10
    assert len(contents(tmp_path / str(2**30))) == 4 + 2


def test_statistics_equal_numpys_over_the_training_split(source):
    prepare(job(source), Counted())
    packed, train = open_packed(source.parent / "packed"), squares(source, "train").astype(np.float64)
    np.testing.assert_allclose(packed.mean, train.mean(axis=0), rtol=1e-6)
    covariance = np.cov(train.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(packed.covariance, covariance, rtol=1e-12)
    assert np.abs(np.corrcoef(train.reshape(-1, 3).T) - np.eye(3)).max() > 0.05  # so that a swapped axis is noticed


def test_sums_are_exact_for_extreme_values_and_for_any_parts():
    rng = np.random.default_rng(0)
    images = np.full((40, 64, 64, 3), 255, np.uint8)
    images[:, :, ::2] = rng.integers(254, 256, (40, 64, 32, 3))
    whole, in_parts = Sums.empty(64), Sums.empty(64)
    whole.add(Sums.of(images))
    for start in range(0, 40, 7):
        in_parts.add(Sums.of(images[start : start + 7]))
    flat = images.reshape(-1, 3).astype(object)  # Python's integers
    for sums in (whole, in_parts):
        assert sums.products.tolist() == (flat.T @ flat).tolist()
        assert sums.pixels.tolist() == images.sum(axis=0, dtype=int).tolist()
        assert sums.images == 40
    a = flat.astype(np.longdouble) - flat.astype(np.longdouble).mean(axis=0)
    np.testing.assert_allclose(whole.covariance, (a.T @ a / len(a)).astype(float), rtol=1e-9)


def test_every_image_is_counted_once_including_those_of_an_earlier_run(source, monkeypatch):
    whole = [["packing the train split", 7, 7], ["packing the validation split", 3, 3]]
    display = Counted()
    with monkeypatch.context() as patch:
        patch.setattr(module._Maker, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source), display)
    assert display.calls == whole
    display = Counted()
    prepare(job(source), display)
    assert display.calls == whole


@pytest.fixture
def undisturbed(source, tmp_path) -> dict[str, bytes]:
    prepare(job(source, out=tmp_path / "undisturbed"), Counted())
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    return note_decoded(monkeypatch)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("where", "after"),
    [
        *(("decode", k) for k in (0, 1, 4, 9)),
        # of 21 renames: one for the settings, two for each of six shards, two for each of three arrays and the manifest
        *(("rename", k) for k in (0, 1, 2, 3, 12, 14, 20)),
        *(("fsync", k) for k in (1, 2, 16)),
    ],
)
def test_a_killed_and_resumed_run_gives_the_bytes_of_an_uninterrupted_one(source, undisturbed, where, after):
    out = source.parent / "packed"
    killed(source, where, after)
    assert not (out / MANIFEST).exists()
    prepare(job(source), Counted())
    assert contents(out) == undisturbed
    assert not (out / PARTS).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_killed_twice_does_not_decode_complete_shards_again(source, undisturbed, decoded):
    out, before = source.parent / "packed", 0
    for _ in range(2):
        killed(source, "decode", 5)  # in the third shard of those that are left; the first is complete by then
        names = {path.name.removesuffix(".npz") for path in (out / PARTS).glob("*.npz")}
        assert len(names) > before
        before = len(names)
    prepare(job(source), Counted())
    assert len(decoded) == 10 - sum(len((out / name).read_bytes()) // (TWO_IMAGES // 2) for name in names)
    assert contents(out) == undisturbed


def interrupted(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job that ends after its last shard."""
    with monkeypatch.context() as patch:
        patch.setattr(module._Maker, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source), Counted())


def test_after_ctrl_c_the_next_run_continues(source, undisturbed, decoded, monkeypatch):
    interrupted(source, monkeypatch)
    assert len(decoded) == 10
    prepare(job(source), Counted())
    assert len(decoded) == 10
    assert contents(source.parent / "packed") == undisturbed


def not_regular(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def sparse(path: Path) -> None:
    os.truncate(path, 2**43)


def described(**changes: object) -> Callable[[Path], None]:
    """Return a function that changes arrays of a shard's description or, for other names, its JSON."""

    def change(path: Path) -> None:
        arrays = dict(np.load(path))
        fields = json.loads(arrays["json"].tobytes())
        for name, value in changes.items():
            (arrays if name in arrays else fields)[name] = value
        if "json" not in changes:
            arrays["json"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
        np.savez(path, **arrays)

    return change


def text(value: bytes) -> np.ndarray:
    return np.frombuffer(value, np.uint8)


WRONG = {
    "sparse": sparse,
    "bomb": lambda path: np.savez_compressed(path, json=np.zeros(2**27, np.uint8)),
    "encrypted": lambda path: path.write_bytes(
        path.read_bytes().replace(b"PK\1\2\x2d\3\x2d\0\0", b"PK\1\2\x2d\3\x2d\0\1")
    ),
    "no archive but an array": lambda path: path.write_bytes(npy(np.zeros(3))),
    "a pickle": lambda path: np.savez(path, json=np.array([{}], object)),
    "no object": described(json=text(b"[]")),
    "deep": described(json=text(b"[" * 100_000)),
    "5,000 digits": described(json=text(b'{"labels": [' + b"1" * 5000 + b"]}")),
    "labels as text": described(labels=["0", "1"]),
    "negative labels": described(labels=[-1, 0]),
    "labels in a dict": described(labels={"0": 1, "1": 2}),
    "hash": described(sha256=3),
    "unreadable": described(unreadable=[["a", "b", "c"]]),
    "pixels of another shape": described(pixels=np.zeros((1, 1, 3), np.uint64)),
    "pixels as text": described(pixels=np.full((8, 8, 3), "1")),
    "products of another type": described(products=np.full((3, 3), np.nan)),
}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG)
def test_a_description_that_the_program_never_writes_is_made_again(source, undisturbed, monkeypatch, decoded, damage):
    interrupted(source, monkeypatch)
    decoded.clear()
    out = source.parent / "packed"
    damage(out / PARTS / "train-00001.bin.npz")
    prepare(job(source), Counted())
    assert len(decoded) == 2
    assert contents(out) == undisturbed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_shard_is_never_written_through_a_link_or_into_a_pipe(source, undisturbed, tmp_path, monkeypatch, kind):
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    interrupted(source, monkeypatch)
    out = source.parent / "packed"
    (out / "train-00000.bin").unlink()
    path = out / PARTS / "train-00000.bin"
    {"pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(other), "folder": path.mkdir}[kind]()
    if kind == "folder":
        with pytest.raises(UsageError, match=r"train-00000\.bin'\); finished shards are kept"):
            prepare(job(source), Counted())
        return
    prepare(job(source), Counted())
    assert contents(out) == undisturbed
    assert other.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize(
    ("name", "damage"),
    [("job.json", "pipe"), ("job.json", "sparse"), ("lock", "pipe"), ("train-00001.bin.npz", "pipe")],
)
def test_a_file_that_the_program_never_writes_is_refused_in_one_line(source, monkeypatch, name, damage):
    interrupted(source, monkeypatch)
    {"pipe": not_regular, "sparse": sparse}[damage](source.parent / "packed" / PARTS / name)
    with pytest.raises(UsageError) as caught:
        prepare(job(source), Counted())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("damage", ["shard gone", "shard truncated", "description truncated", "description no archive"])
def test_damaged_files_of_an_earlier_run_are_made_again(source, undisturbed, monkeypatch, decoded, damage):
    interrupted(source, monkeypatch)
    decoded.clear()
    out = source.parent / "packed"
    path = out / PARTS / "train-00001.bin.npz" if "description" in damage else out / "train-00001.bin"
    if damage == "shard gone":
        path.unlink()
    else:
        path.write_bytes(b"no" if "archive" in damage else path.read_bytes()[:-7])
    prepare(job(source), Counted())
    assert len(decoded) == 2
    assert contents(out) == undisturbed


@pytest.mark.parametrize("call", [0, 1, 2, 5, 13, 16])
def test_a_full_disk_is_a_one_line_error_and_the_next_run_continues(source, undisturbed, monkeypatch, call):
    synced, left = os.fsync, [call]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match="No space left on device; finished shards are kept") as caught:
            prepare(job(source), Counted())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    out = source.parent / "packed"
    assert all(data == undisturbed[name] for name, data in contents(out).items() if not name.startswith(PARTS))
    assert not list((out / PARTS).glob("*.bin"))  # an incomplete shard would only take space
    prepare(job(source), Counted())
    assert contents(out) == undisturbed


def test_a_manifest_that_could_not_be_read_is_not_written(source, monkeypatch):
    (source / "val" / WNIDS[0] / "0.png").write_bytes(b"")
    monkeypatch.setattr("train.prepare.MAX_MANIFEST", 2000)
    with pytest.raises(UnreadableInputError, match="1 images can't be read, too many to list; repair the data set"):
        prepare(job(source), Counted())
    assert not is_packed(job(source).out)


def test_unreadable_images_are_left_out_of_both_splits_and_listed(source):
    (source / "train" / WNIDS[1] / "3.png").write_bytes(b"no image at all")
    (source / "val" / WNIDS[0] / "0.png").write_bytes(b"")
    prepared = prepare(job(source), Counted())
    packed = prepared.packed
    assert (packed.images("train"), packed.images("validation")) == (6, 2)
    expected = {"train": f"train/{WNIDS[1]}/3.png", "validation": f"val/{WNIDS[0]}/0.png"}
    for split, name in expected.items():
        (image,) = packed.unreadable(split)
        assert image == Unreadable(image=name, reason=image.reason)
        assert name not in image.reason
    assert packed.unreadable("train")[0].reason.startswith("not an image")
    assert packed.unreadable("validation")[0].reason.startswith("empty")
    assert prepared.unreadable == {split: packed.unreadable(split) for split in expected}
    assert "; 2 unreadable, left out" in prepared.summary
    (source / "train" / WNIDS[1] / "3.png").unlink()
    np.testing.assert_array_equal(pixels(packed, "train"), squares(source, "train"))
    assert packed.labels("train").tolist() == [e.label for e in LabelledImages(source, "train")]
    np.testing.assert_allclose(packed.mean, squares(source, "train").mean(axis=0), rtol=1e-6)


def test_missing_images_are_left_out_of_both_splits_and_listed(source, monkeypatch):
    dangling = source / "train" / WNIDS[1] / "3.png"
    dangling.unlink()
    dangling.symlink_to(source / "nowhere.png")
    vanishing = source / "val" / WNIDS[0] / "0.png"

    class Vanish(Counted):
        def counting(self, description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
            vanishing.unlink(missing_ok=True)  # after the images were listed
            return super().counting(description, total)

    display = Vanish()
    packed = prepare(job(source), display).packed
    assert [call[1:] for call in display.calls] == [[7, 7], [3, 3]]
    for split, name in (("train", f"train/{WNIDS[1]}/3.png"), ("validation", f"val/{WNIDS[0]}/0.png")):
        assert packed.unreadable(split) == (Unreadable(image=name, reason="missing, or not a regular file"),)
    dangling.unlink()
    for split in ("train", "validation"):
        np.testing.assert_array_equal(pixels(packed, split), squares(source, split))
        assert packed.labels(split).tolist() == [e.label for e in LabelledImages(source, split)]


def test_a_row_without_image_is_listed_and_one_without_label_ends_the_run(source):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet sets need pyarrow")

    def write(labels: list[int | None]) -> None:
        data = [(source / "train" / WNIDS[0] / "0.png").read_bytes(), None]
        images = pyarrow.array([{"bytes": encoded, "path": None} for encoded in data])
        for split in ("train", "validation"):
            table = pyarrow.table({"image": images, "label": pyarrow.array(labels, pyarrow.int64())})
            parquet.write_table(table, rows / f"{split}-00000-of-00001.parquet")

    rows = source.parent / "rows"
    rows.mkdir()
    (source / "classes.tsv").rename(rows / "classes.tsv")
    write([1, 0])
    packed = prepare(job(rows), Counted()).packed
    assert packed.labels("train").tolist() == [1]
    (missing,) = packed.unreadable("train")
    assert missing.reason == "no image in this row"
    for label in (None, 2, -1):
        write([1, label])
        with pytest.raises(UnreadableInputError, match=rf"row 1: label {label}: expected 0 to 1"):
            prepare(job(rows, out=source.parent / str(label)), Counted())


def test_a_shard_may_have_no_readable_image(source):
    for name in ("0", "2"):  # all images of the first shard
        (source / "train" / WNIDS[0] / f"{name}.png").write_bytes(b"no image")
    packed = prepare(job(source), Counted()).packed
    packed.verify()
    assert [len(shard) for shard in packed.shards("train")] == [2, 2, 1]
    assert (packed.root / "train-00000.bin").read_bytes() == b""


def test_a_split_without_a_readable_image_is_refused_with_the_first_reason(source):
    for path in (source / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableInputError, match=rf"no image of the validation split .*{WNIDS[0]}/0\.png: not an im"):
        prepare(job(source), Counted())


def test_exif_orientation_is_ignored(source):
    upright = np.zeros((SIZE, SIZE, 3), np.uint8)
    upright[: SIZE // 2] = 200
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(upright).save(source / "train" / WNIDS[0] / "0.png", exif=exif)
    packed = prepare(job(source), Counted()).packed
    np.testing.assert_array_equal(packed.shards("train")[0][0], upright)


def test_the_validation_split_may_come_from_another_source(source, tmp_path):
    (source / "val").rename(tmp_path / "moved")
    (tmp_path / "other").mkdir()
    (tmp_path / "moved").rename(tmp_path / "other" / "val")
    packed = prepare(job(source, validation=tmp_path / "other"), Counted()).packed
    np.testing.assert_array_equal(pixels(packed, "validation"), squares(tmp_path / "other", "validation"))


def test_splits_with_different_classes_are_refused(source):
    (source / "val" / WNIDS[0]).rename(source / "val" / "n00000009")
    with pytest.raises(UnreadableInputError, match=r"2 are in only one of them \(n00000001, n00000009\)"):
        prepare(job(source), Counted())
    assert not (source.parent / "packed").exists()


def test_a_source_that_ends_early_is_refused(source, monkeypatch):
    monkeypatch.setattr(LabelledImages, "__len__", lambda self: 9)
    with pytest.raises(UnreadableInputError, match="the train split ends after 7 images of 9"):
        prepare(job(source), Counted())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 4097),
        ("size", 64.0),
        ("size", True),
        ("workers", 0),
        ("workers", 1025),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, field, value):
    with pytest.raises(UsageError, match=rf"{value}: expected a whole number from 1 to"):
        job(tmp_path, **{field: value})


def test_packing_does_not_import_torch():
    code = "import sys, train.packed, train.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
