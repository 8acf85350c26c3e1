"""Training sets: identical arrays from all formats, in memory and on disk, and unreadable images are named."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.preprocess import central_square
from alexnet_infer.reading import Unreadable
from tests.train.packing import Counted
from tests.train.toys import image_folder, in_memory, squares
from train import parts
from train.augment import ColorPCA
from train.data import PackedImages
from train.packed import SPLITS, open_packed
from train.prepare import Preparation, prepare

WNIDS = ["n00000001", "n00000007", "n00000020"]


def encoded_images(count: int = 7) -> list[tuple[bytes, int]]:
    """Return PNG and JPEG images of several shapes and modes. Labels ascend, as in a folder."""
    rng, images = np.random.default_rng(0), []
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + 3 * i, 31 - 2 * i, 3), np.uint8)
        image = Image.fromarray(pixels).convert(["RGB", "L", "P"][i % 3])
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if i % 3 else "JPEG")
        images.append((buffer.getvalue(), i * 3 // count))
    return images


def as_folder(root: Path, images: list[tuple[bytes, int]]) -> Path:
    for i, (data, label) in enumerate(images):
        folder = root / "train" / WNIDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(data)
    return root


def as_parquet(root: Path, images: list[tuple[bytes, int]]) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install pyarrow")
    root.mkdir()
    (root / "classes.tsv").write_text("".join(f"{wnid}\tname of {wnid}\n" for wnid in WNIDS))
    for shard in range(2):
        part = images[: len(images) // 2] if shard == 0 else images[len(images) // 2 :]
        rows = [{"bytes": data, "path": f"{shard}-{i}.png"} for i, (data, _) in enumerate(part)]
        table = pa.table({"image": rows, "label": [label for _, label in part]})
        parquet.write_table(table, root / f"train-{shard:05}-of-00002.parquet")
    return root


def test_parquet_and_folder_give_identical_arrays(tmp_path):
    images = encoded_images()
    roots = as_folder(tmp_path / "folder", images), as_parquet(tmp_path / "parquet", images)
    a, b = (PackedImages.pack(LabelledImages(root, "train"), 16) for root in roots)
    assert a.shards[0].shape == (7, 16, 16, 3)
    assert a.size == 16
    assert torch.equal(a.shards[0], b.shards[0])
    assert torch.equal(a.labels, b.labels)
    assert sorted(set(a.labels.tolist())) == [0, 1, 2]


def test_squares_are_those_of_prediction(tmp_path):
    images = encoded_images()
    packed = PackedImages.pack(LabelledImages(as_folder(tmp_path, images), "train"), 16)
    for (data, _), square in zip(images, packed.shards[0], strict=True):
        expected = central_square(Image.open(io.BytesIO(data)).convert("RGB"), 16)
        np.testing.assert_array_equal(square.numpy(), expected)


def test_exif_orientation_is_ignored(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "train" / "n1").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train" / "n1" / "0.png", exif=exif)
    packed = PackedImages.pack(LabelledImages(tmp_path, "train"), 16)
    np.testing.assert_array_equal(packed.shards[0][0].numpy(), pixels)


def test_transparent_pixels_are_white_and_16_bits_keep_their_upper_8(tmp_path):
    (tmp_path / "train" / "n1").mkdir(parents=True)
    clear = np.zeros((16, 16, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "train" / "n1" / "0.png")
    deep = np.full((16, 16), 0x80FF, np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "n1" / "1.png")
    packed = PackedImages.pack(LabelledImages(tmp_path, "train"), 16)
    assert [set(square.flatten().tolist()) for square in packed.shards[0]] == [{255}, {0x80}]


@pytest.mark.parametrize("images", [1, 5, 11, 12])
def test_images_of_several_parts_stay_in_order_and_are_counted_once(tmp_path, monkeypatch, images):
    image_folder(tmp_path, 12)
    examples = LabelledImages(tmp_path, "train")
    whole = PackedImages.pack(examples, 16)
    monkeypatch.setattr(parts, "_IMAGES", images)
    calls: list[int] = []
    in_parts = PackedImages.pack(examples, 16, calls.append)
    assert torch.equal(whole.shards[0], in_parts.shards[0])
    assert torch.equal(whole.labels, in_parts.labels)
    assert whole.identity == in_parts.identity
    np.testing.assert_array_equal(whole.mean, in_parts.mean)
    np.testing.assert_array_equal(whole.covariance, in_parts.covariance)
    assert (sum(calls), max(calls)) == (12, images)


def test_a_set_in_memory_is_the_same_as_a_packed_one_with_unreadable_images_in_both_splits(tmp_path):
    root = image_folder(tmp_path / "set", 12)
    for path, content in (("train/n00000001/004.png", b"no image at all"), ("val/n00000000/000.png", b"")):
        (root / path).write_bytes(content)
    prepare(Preparation(source=root, out=tmp_path / "packed", size=16), Counted())
    packed = open_packed(tmp_path / "packed")
    for split in SPLITS:
        a, b = PackedImages.pack(LabelledImages(root, split), 16), PackedImages.mapped_from(packed, split)
        assert (len(a), a.total, len(b), b.total) == (11, 12, 11, 12)
        assert torch.equal(a.shards[0], torch.cat(b.shards))
        assert torch.equal(a.labels, b.labels)
        assert a.unreadable == b.unreadable
        if split == "train":
            np.testing.assert_array_equal(a.mean, b.mean)
            np.testing.assert_array_equal(a.covariance, b.covariance)
    assert [item.image for item in a.unreadable] == ["val/n00000000/000.png"]


@pytest.mark.parametrize(
    ("damage", "reason"), [(b"no image at all", "not an image"), (b"", "empty"), ("truncated", "damaged")]
)
def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path, damage, reason):
    images = encoded_images()
    as_folder(tmp_path, images)
    whole = PackedImages.pack(LabelledImages(tmp_path, "train"), 16)
    bad = tmp_path / "train" / WNIDS[1] / "004.png"
    bad.write_bytes(images[4][0][: len(images[4][0]) // 2] if damage == "truncated" else damage)
    packed = PackedImages.pack(LabelledImages(tmp_path, "train"), 16)
    (item,) = packed.unreadable
    assert item.image == "train/n00000007/004.png"
    assert item.reason.startswith(reason)
    assert "\n" not in item.reason
    kept = [i for i in range(7) if i != 4]
    assert torch.equal(packed.shards[0], whole.shards[0][kept])
    assert torch.equal(packed.labels, whole.labels[kept])
    np.testing.assert_allclose(packed.mean, packed.shards[0].double().mean(0), rtol=1e-6)


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses more than twice as many
    with pytest.raises(UnreadableInputError, match=r"no image of the train split .*000\.png: too many pixels"):
        PackedImages.pack(LabelledImages(as_folder(tmp_path, encoded_images()), "train"), 16)


class Promised(LabelledImages):
    """A set with a given length and no images."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.split, self.count = root, "train", count

    def __len__(self) -> int:
        return self.count

    def examples(self, *_: object, **__: object):
        return iter(())


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"no image of the train split can be read \(it is empty\)"):
        PackedImages.pack(Promised(tmp_path, 0), 16)


def test_a_split_that_ends_early_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match="the train split ends after 0 images of 3"):
        PackedImages.pack(Promised(tmp_path, 3), 16)


def test_a_set_larger_than_memory_is_refused_in_one_line(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"need 864691128 GB of memory; .* --image-size"):
        PackedImages.pack(Promised(tmp_path, 2**44), 128)


def test_statistics_equal_numpys(tmp_path):
    packed = PackedImages.pack(LabelledImages(image_folder(tmp_path, 5), "train"), 20)
    pixels = packed.shards[0].numpy()
    flat, pca = pixels.reshape(-1, 3).astype(np.float64), ColorPCA.from_covariance(packed.covariance)
    np.testing.assert_allclose(packed.mean, pixels.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(packed.covariance, np.cov(flat.T, bias=True), rtol=1e-9)
    np.testing.assert_allclose((pca.axes * pca.scale * 255) @ pca.axes.T, np.cov(flat.T, bias=True), rtol=1e-3)
    assert packed.mean.dtype == np.float32


def cut(pixels: np.ndarray, labels: np.ndarray, cuts: list[int]) -> PackedImages:
    return replace(in_memory(pixels, labels), shards=torch.from_numpy(pixels).tensor_split(cuts))


CUTS = [[], [1], [2, 7, 8, 19], [4, 4, 4, 20, 20], [1, 21]]
"""Ways to cut 22 images into shards, some with empty shards."""


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_images_that_are_read_are_those_of_the_concatenated_shards(cuts):
    pixels, labels = squares(22, size=6)
    packed, rng = cut(pixels.copy(), labels, cuts), np.random.default_rng(0)
    assert (len(packed), packed.bytes) == (22, pixels.size)
    for rows in (*(rng.integers(0, 22, count) for count in (0, 1, 5, 22, 300)), np.arange(22)):
        out = torch.empty((len(rows), 6, 6, 3), dtype=torch.uint8)
        packed.read(torch.from_numpy(rows), out)
        np.testing.assert_array_equal(out.numpy(), pixels[rows])
        out.zero_()  # a copy


def test_the_identity_depends_only_on_number_order_labels_and_pixels():
    pixels, labels = squares(6, size=6)
    swapped = pixels[[3, 1, 2, 0, 4, 5]]  # two images of one class
    sets = [
        (pixels, labels),
        (pixels, labels[::-1].copy()),
        (pixels[:5], labels[:5]),
        (pixels, np.zeros_like(labels)),
        (swapped, labels),
    ]
    identities = [in_memory(*arrays).identity for arrays in sets]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    missing = replace(in_memory(pixels, labels), unreadable=(Unreadable(image="a.png", reason="empty"),))
    assert missing.identity != identities[0]


def test_the_identity_is_that_of_earlier_versions_so_that_their_runs_can_resume():
    pixels, labels = squares(6, size=6)
    assert in_memory(pixels, labels).identity == {
        "images": 6,
        "labels": "8a813d53c6ae983e",
        "pixels": "6199ae6477ac1f48",
    }
