"""Reading a packed set: its contents come back unchanged, and invalid sets are one line and exit code 4."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_infer.reading import Unreadable
from train.packed import FORMAT, MANIFEST, PackedSetError, is_packed, open_packed

SIZE = 4
COVARIANCE = [[9.0, 1.0, 0.5], [1.0, 8.0, 0.25], [0.5, 0.25, 7.0]]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images(split: str) -> np.ndarray:
    seed, count = {"train": (0, 5), "validation": (1, 2)}[split]
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture
def packed(tmp_path) -> Path:
    """A set written by hand: five training images in shards of three and two, and two validation images."""
    root = tmp_path / "packed"
    root.mkdir()
    np.save(root / "mean.npy", np.linspace(0, 255, SIZE * SIZE * 3, dtype=np.float32).reshape(SIZE, SIZE, 3))
    splits: dict[str, Any] = {}
    for split, labels, cuts in (("train", [0, 1, 1, 0, 1], (0, 3, 5)), ("validation", [1, 0], (0, 2))):
        shards = []
        for number, (start, end) in enumerate(pairwise(cuts)):
            path = root / f"{split}-0000{number}.bin"
            path.write_bytes(images(split)[start:end].tobytes())
            shards.append({"file": path.name, "images": end - start, "sha256": sha256(path)})
        path = root / f"{split}-labels.npy"
        np.save(path, np.array(labels, np.int32))
        splits[split] = {
            "listing": f"{len(labels):064x}",
            "images": len(labels),
            "shards": shards,
            "labels": {"file": path.name, "sha256": sha256(path)},
            "unreadable": [{"name": "a.png", "reason": "empty (0 bytes)"}] if split == "train" else [],
        }
    manifest = {
        "format": "alexnet-infer packed set",
        "version": 3,
        "size": SIZE,
        "resample": "bicubic",
        "classes": [{"wnid": "n1", "name": "cat"}, {"wnid": "n2", "name": "dog"}],
        "splits": splits,
        "mean": {"file": "mean.npy", "sha256": sha256(root / "mean.npy")},
        "covariance": COVARIANCE,
        "software": {"anything": "goes"},
    }
    (root / MANIFEST).write_text(json.dumps(manifest))
    return root


def edit(root: Path, *path: str | int, value: Any) -> None:
    """Replace a value in the manifest."""
    manifest = json.loads((root / MANIFEST).read_bytes())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (root / MANIFEST).write_text(json.dumps(manifest))


def save_array(root: Path, name: str, array: np.ndarray, *path: str) -> None:
    """Replace an array, with its hash in the manifest."""
    np.save(root / name, array)
    edit(root, *path, "sha256", value=sha256(root / name))


def refused(root: Path, match: str, action: Callable[[], object] | None = None) -> None:
    with pytest.raises(PackedSetError, match=match) as caught:
        (action or (lambda: open_packed(root)))()
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in message
    assert message.startswith(str(root))
    assert message.endswith("create it again with python -m train prepare")
    assert len(message) < len(str(root)) + 350


def test_the_contents_come_back_unchanged(packed):
    opened = open_packed(packed)
    for split, shapes in (("train", [3, 2]), ("validation", [2])):
        shards = opened.shards(split)
        assert [shard.shape for shard in shards] == [(n, SIZE, SIZE, 3) for n in shapes]
        assert all(isinstance(shard, np.memmap) and shard.mode == "r" and shard.dtype == np.uint8 for shard in shards)
        np.testing.assert_array_equal(np.concatenate(shards), images(split))
        assert opened.images(split) == sum(shapes)
    assert opened.labels("train").tolist() == [0, 1, 1, 0, 1]
    assert opened.labels("train").dtype == np.int64
    assert opened.labels("validation").tolist() == [1, 0]
    assert [(c.wnid, c.name) for c in opened.classes] == [("n1", "cat"), ("n2", "dog")]
    assert opened.size == SIZE
    np.testing.assert_array_equal(opened.mean, np.load(packed / "mean.npy"))
    assert opened.mean.dtype == np.float32
    assert opened.covariance.tolist() == COVARIANCE
    assert opened.digest == sha256(packed / MANIFEST)
    assert opened.unreadable("train") == (Unreadable(image="a.png", reason="empty (0 bytes)"),)
    assert opened.unreadable("validation") == ()
    assert (opened.listing("train"), opened.listing("validation")) == (f"{5:064x}", f"{2:064x}")


def test_a_set_of_the_previous_version_is_read(packed):
    current = open_packed(packed)
    for key, value in (("version", 2), ("eigenvalues", [6.0, 8.0, 10.0]), ("eigenvectors", np.eye(3).tolist())):
        edit(packed, key, value=value)
    previous = open_packed(packed)
    assert previous.digest == sha256(packed / MANIFEST), "so that runs on the set can resume"
    assert previous.covariance.tolist() == COVARIANCE
    assert previous.files == current.files


def test_arrays_are_read_only(packed):
    opened = open_packed(packed)
    for array in (opened.mean, opened.covariance, opened.labels("train"), opened.shards("train")[0]):
        assert not array.flags.writeable


def test_a_folder_is_packed_once_its_manifest_exists(packed, tmp_path):
    assert is_packed(packed)
    (packed / MANIFEST).unlink()
    assert not is_packed(packed)
    assert not is_packed(tmp_path / "nowhere")
    refused_as_foreign(packed)


def test_verify_reads_every_byte_and_finds_a_changed_one(packed):
    opened, read = open_packed(packed), []
    opened.verify(read.append)
    paths = [path for path in packed.iterdir() if path.name != MANIFEST]
    assert sum(read) == opened.bytes == sum(path.stat().st_size for path in paths)
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        refused(packed, rf"{path.name}: SHA-256: found '.*', expected '", opened.verify)
        path.write_bytes(data)
    opened.verify()


@pytest.mark.parametrize("name", ["train-00001.bin", "validation-00000.bin", "train-labels.npy", "mean.npy"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "gone", "folder", "pipe"])
def test_a_file_of_another_size_or_kind_is_refused(packed, name, damage):
    path = packed / name
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "folder":
            path.mkdir()
        case "pipe":
            if not hasattr(os, "mkfifo"):
                pytest.skip("needs named pipes")
            os.mkfifo(path)
        case "truncated" | "longer" | "empty":
            path.write_bytes({"truncated": data[:-1], "longer": data + b"\0", "empty": b""}[damage])
    refused(packed, rf"{name}: (size in bytes: found \d+, expected {len(data)}|found|can't be read \(No such file)")


def test_a_shard_truncated_after_opening_is_refused(packed):
    opened = open_packed(packed)
    (packed / "train-00000.bin").write_bytes(b"\0" * 7)
    refused(packed, r"train-00000\.bin: can't be read \(mmap ", lambda: opened.shards("train"))


@pytest.mark.parametrize("label", [-1, 2, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_is_refused_with_its_position(packed, label):
    save_array(packed, "train-labels.npy", np.array([0, 1, 1, label, 1], np.int32), "splits", "train", "labels")
    refused(packed, rf"train-labels\.npy: label of image 3: found {label}, expected 0 to 1")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5, np.float32), "found header"),
        (np.zeros(5, ">i4"), "found header"),
        (np.zeros((5, 1), np.int32), "found header"),
        (np.zeros(4, np.int32), "size in bytes"),
        (np.zeros(5, np.int64), "size in bytes"),
    ],
)
def test_labels_of_another_type_or_shape_are_refused(packed, array, reason):
    save_array(packed, "train-labels.npy", array, "splits", "train", "labels")
    refused(packed, rf"train-labels\.npy: .*{reason}")


def test_a_pickle_is_never_loaded(packed, tmp_path):
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    np.save(packed / "train-labels.npy", np.array([Trap()], object), allow_pickle=True)
    data = (packed / "train-labels.npy").read_bytes()
    (packed / "train-labels.npy").write_bytes(data.ljust(148, b"\0")[:148])  # the size that the manifest implies
    edit(packed, "splits", "train", "labels", "sha256", value=sha256(packed / "train-labels.npy"))
    refused(packed, "found header")
    assert not (tmp_path / "sprung").exists()


def test_changed_labels_are_found_on_opening(packed):
    data = (packed / "train-labels.npy").read_bytes()
    (packed / "train-labels.npy").write_bytes(data[:-4] + b"\0" * 4)  # 0 is a valid label
    refused(packed, r"train-labels\.npy: SHA-256")


@pytest.mark.parametrize("value", [-1.0, 255.5, np.nan, np.inf])
def test_a_mean_out_of_range_is_refused(packed, value):
    mean = np.full((SIZE, SIZE, 3), 7, np.float32)
    mean[1, 2, 0] = value
    save_array(packed, "mean.npy", mean, "mean")
    refused(packed, r"mean\.npy: found .* expected 0 to 255")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["version"], 1, r"manifest\.version=1: expected 2 or 3"),
        (["version"], 2.0, r"version=2\.0: expected 2 or 3"),
        (["version"], 4, r"version=4: expected 2 or 3"),
        (["version"], 2, r"manifest: missing fields: eigenvalues, eigenvectors; remove"),
        (["size"], 0, "size=0: expected a whole number from 1 to 4096"),
        (["size"], 10**30, "size=1000"),
        (["size"], 8, "size in bytes: found 144, expected 576"),
        (["size"], "4", "size='4'"),
        (["resample"], "nearest", "resample='nearest': expected bicubic"),
        (["classes"], [], "classes="),
        (["classes"], {"n1": "cat"}, "expected a list"),
        (["classes", 0], ["n1", "cat"], "expected an object"),
        (["classes", 0, "name"], "a\x1b[31m", "expected printable text"),
        (["classes", 0, "name"], "", "expected printable text"),
        (["classes", 0, "wnid"], "n2", "expected distinct WordNet ids in sorted order"),
        (["splits"], None, "splits=None: expected an object"),
        (["splits"], {"train": {}}, "splits: missing fields: validation; remove"),
        (["splits", "train", "listing"], "0" * 63, r"splits\.train: listing='0.*expected 64 hexadecimal digits"),
        (["splits", "train", "listing"], None, "listing=None"),
        (["splits", "train", "images"], 6, "total of images in the shards of train: found 5, expected 6"),
        (["splits", "train", "images"], 0, "images=0"),
        (["splits", "train", "images"], -5, "images=-5"),
        (["splits", "train", "images"], 10**18, r"train: images=1000"),
        (["splits", "train", "shards"], [], "total of images in the shards of train: found 0, expected 5"),
        (["splits", "train", "shards", 0, "images"], 10**18, r"shards\[0\]: images=1000"),
        (["splits", "train", "shards", 0, "images"], 2, "size in bytes: found 144, expected 96"),
        (["splits", "train", "shards", 0, "file"], "../train-00000.bin", "expected 'train-00000.bin'"),
        (["splits", "train", "shards", 0, "file"], "/etc/passwd", "expected 'train-00000.bin'"),
        (["splits", "train", "shards", 0, "file"], "train-00001.bin", "expected 'train-00000.bin'"),
        (["splits", "train", "shards", 0, "file"], ["train-00000.bin"], r"file=\['train-00000.bin'\]: expected"),
        (["splits", "train", "shards", 0, "sha256"], "0" * 63, "expected 64 hexadecimal digits"),
        (["splits", "train", "shards", 0, "sha256"], "é" * 64, "expected 64 hexadecimal digits"),
        (["splits", "train", "labels", "file"], "validation-labels.npy", "expected 'train-labels.npy'"),
        (["splits", "train", "unreadable"], ["a.png"], "expected an object"),
        (["splits", "train", "unreadable", 0, "name"], "two\nlines", "expected printable text"),
        (["splits", "train", "unreadable", 0, "reason"], "\ud800", "expected printable text"),
        (["mean"], [1, 2, 3], "mean="),
        (["mean", "file"], "..", "expected 'mean.npy'"),
        (["covariance"], [[1.0, 2.0, 3.0]] * 2, "covariance=.*expected 3 x 3 numbers"),
        (["covariance", 1], [1.0, 2.0], "covariance=.*expected 3 x 3 numbers"),
        (["covariance", 1, 1], float("nan"), "NaN is not a JSON number"),
        (["covariance", 1, 1], float("inf"), "Infinity is not a JSON number"),
        (["covariance", 1, 1], 10**400, "expected 3 x 3 numbers from"),
        (["covariance", 1, 1], True, "expected 3 x 3 numbers from"),
        (["covariance", 1, 1], "8", "expected 3 x 3 numbers from"),
        (["covariance"], 3, "expected a list"),
        (["eigenvalues"], [1.0, 2.0, 3.0], "manifest: unknown fields: eigenvalues; remove"),
        (["surplus"], 1, "manifest: unknown fields: surplus; remove"),
    ],
)
def test_a_hostile_manifest_is_refused(packed, path, value, expected):
    edit(packed, *path, value=value)
    refused(packed, expected)


def refused_as_foreign(root: Path) -> None:
    """Check that the message is one line and does not advise removing files of another program."""
    with pytest.raises(PackedSetError) as caught:
        open_packed(root)
    assert str(caught.value).startswith(f"{root / MANIFEST}: expected the manifest of a packed set")
    assert "remove" not in str(caught.value)
    assert "\n" not in str(caught.value)


FOREIGN = {
    "empty": b"",
    "not JSON": b"\xff\xfe\xfa",
    "another program's": b'{"name": "my images", "version": 2, "icons": []}',
    "another format": b'{"format": "alexnet-infer model"}',
    "a longer format": b'{"format": "alexnet-infer packed sets"}',
    "a list": f'["{FORMAT}"]'.encode(),
    "the format in another field": f'{{"made by": "{FORMAT}", "format": 1}}'.encode(),
    "the format in a nested object": f'{{"set": {{"format": "{FORMAT}"}}}}'.encode(),
    "null": b"null",
    "text": f'"{FORMAT}"'.encode(),
    "nested": b"[" * 100_000,
    "a number with thousands of digits": b'{"format": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_with_the_manifest_of_another_program_is_not_a_packed_set(packed, text):
    (packed / MANIFEST).write_bytes(text)
    assert not is_packed(packed)
    refused_as_foreign(packed)


@pytest.mark.parametrize("kind", ["folder", "link to itself", "dangling link", "pipe"])
def test_a_folder_whose_manifest_is_not_a_file_is_not_a_packed_set(packed, kind):
    path = packed / MANIFEST
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            if not hasattr(os, "mkfifo"):
                pytest.skip("needs named pipes")
            os.mkfifo(path)
        case _:
            path.symlink_to(path if kind == "link to itself" else packed / "gone")
    assert not is_packed(packed)
    refused_as_foreign(packed)


def test_a_folder_whose_manifest_cannot_be_read_is_not_a_packed_set(packed, monkeypatch):
    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("train.packed.open_regular", denied)
    assert not is_packed(packed)
    refused_as_foreign(packed)


def test_a_manifest_is_recognised_by_its_first_field_and_whatever_follows_is_not_read(packed):
    manifest = json.loads((packed / MANIFEST).read_bytes())
    (packed / MANIFEST).write_text("\n" + json.dumps(manifest, indent=2, separators=(" , ", " : ")))
    assert is_packed(packed)
    open_packed(packed)
    (packed / MANIFEST).write_bytes((packed / MANIFEST).read_bytes()[:60] + b"[]," * 10_000)
    assert is_packed(packed)
    (packed / MANIFEST).write_text(json.dumps(manifest, sort_keys=True))
    assert not is_packed(packed)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_damaged_manifest_of_a_packed_set_is_refused_as_damaged(packed, indent):
    text = json.dumps(json.loads((packed / MANIFEST).read_bytes()), indent=indent).encode()
    deep = text[:-1] + b', "deep": ' + b"[" * 100_000
    twice = text[:-1] + b', "format": 1}'
    cut = [text[:length] for length in (50, 60, len(text) // 2, len(text) - 1)]
    for damaged, expected in [
        *((data, "not JSON") for data in (*cut, text + b"}", text[:70] + b"\0" * 20 + text[90:], deep)),
        (twice, "the key 'format' occurs twice"),
    ]:
        (packed / MANIFEST).write_bytes(damaged)
        assert is_packed(packed)
        refused(packed, expected)


def test_a_folder_of_images_with_another_programs_manifest_is_read_as_images(tmp_path):
    from train.source import open_source

    for split in ("train", "val"):
        (tmp_path / split / "n00000001").mkdir(parents=True)
        (tmp_path / split / "n00000001" / "a.png").write_bytes(b"not read yet")
    (tmp_path / MANIFEST).write_bytes(FOREIGN["another program's"])
    splits = open_source(tmp_path, None, 8).splits
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 1, "validation": 1}


def test_a_huge_manifest_is_refused_without_reading_it(packed):
    with (packed / MANIFEST).open("r+b") as file:
        file.truncate(2**40)
    refused(packed, "has 1,099,511,627,776 bytes: expected at most")


def test_a_missing_field_is_named(packed):
    manifest = json.loads((packed / MANIFEST).read_bytes())
    del manifest["covariance"]
    (packed / MANIFEST).write_text(json.dumps(manifest))
    refused(packed, "manifest: missing fields: covariance; remove")
