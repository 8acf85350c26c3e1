"""Training sets: identical arrays from all formats, and bad images are named."""

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
from tests.train.toys import image_folder, squares
from train import data as train_data
from train.data import PackedImages

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
    a, b = (PackedImages.decode(LabelledImages(root, "train"), 16) for root in roots)
    assert a.shards[0].shape == (7, 16, 16, 3)
    assert a.size == 16
    assert torch.equal(a.shards[0], b.shards[0])
    assert torch.equal(a.labels, b.labels)
    assert sorted(set(a.labels.tolist())) == [0, 1, 2]


def test_squares_are_those_of_prediction(tmp_path):
    images = encoded_images()
    packed = PackedImages.decode(LabelledImages(as_folder(tmp_path, images), "train"), 16)
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
    packed = PackedImages.decode(LabelledImages(tmp_path, "train"), 16)
    np.testing.assert_array_equal(packed.shards[0][0].numpy(), pixels)


def test_transparent_pixels_are_white_and_16_bits_keep_their_upper_8(tmp_path):
    (tmp_path / "train" / "n1").mkdir(parents=True)
    clear = np.zeros((16, 16, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "train" / "n1" / "0.png")
    deep = np.full((16, 16), 0x80FF, np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "n1" / "1.png")
    packed = PackedImages.decode(LabelledImages(tmp_path, "train"), 16)
    assert [set(square.flatten().tolist()) for square in packed.shards[0]] == [{255}, {0x80}]


def test_images_of_several_chunks_stay_in_order(tmp_path, monkeypatch):
    image_folder(tmp_path, 12)
    examples = LabelledImages(tmp_path, "train")
    whole = PackedImages.decode(examples, 16)
    chunks = train_data._chunks
    monkeypatch.setattr(train_data, "_chunks", lambda examples, size: chunks(examples, 5))
    in_parts = PackedImages.decode(examples, 16)
    assert torch.equal(whole.shards[0], in_parts.shards[0])
    assert torch.equal(whole.labels, in_parts.labels)


def test_the_callback_is_called_once_per_image(tmp_path):
    calls = []
    PackedImages.decode(LabelledImages(image_folder(tmp_path, 12), "train"), 16, lambda: calls.append(1))
    assert len(calls) == 12


@pytest.mark.parametrize(
    ("damage", "reason"), [(b"no image at all", "not an image"), (b"", "empty"), ("truncated", "damaged")]
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage, reason):
    images = encoded_images()
    as_folder(tmp_path, images)
    bad = tmp_path / "train" / WNIDS[1] / "004.png"
    bad.write_bytes(images[4][0][: len(images[4][0]) // 2] if damage == "truncated" else damage)
    with pytest.raises(UnreadableInputError, match=rf"n00000007/004\.png: {reason}") as caught:
        PackedImages.decode(LabelledImages(tmp_path, "train"), 16)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses more than twice as many
    with pytest.raises(UnreadableInputError, match=r"000\.png: too many pixels"):
        PackedImages.decode(LabelledImages(as_folder(tmp_path, encoded_images()), "train"), 16)


class Promised(LabelledImages):
    """A set with a given length and no images."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.split, self.count = root, "train", count

    def __len__(self) -> int:
        return self.count


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match="the train split has no images"):
        PackedImages.decode(Promised(tmp_path, 0), 16)


def test_a_set_larger_than_memory_is_refused_in_one_line(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"need 864691128 GB of memory; .* --image-size"):
        PackedImages.decode(Promised(tmp_path, 2**44), 128)


def test_statistics_equal_numpys():
    pixels, labels = squares(5, size=20)
    statistics = PackedImages((torch.from_numpy(pixels),), torch.from_numpy(labels)).statistics()
    flat, pca = pixels.reshape(-1, 3).astype(np.float64), statistics.pca
    np.testing.assert_allclose(statistics.mean, pixels.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.channel_mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.covariance, np.cov(flat.T, bias=True), rtol=1e-9)
    np.testing.assert_allclose((pca.axes * pca.scale * 255) @ pca.axes.T, np.cov(flat.T, bias=True), rtol=1e-3)
    assert statistics.mean.dtype == statistics.channel_mean.dtype == np.float32


def test_statistics_do_not_depend_on_the_number_of_threads():
    pixels, labels = squares(300, size=20)
    packed = PackedImages((torch.from_numpy(pixels),), torch.from_numpy(labels))
    one_thread = packed.statistics()
    torch.set_num_threads(2)
    two_threads = packed.statistics()
    np.testing.assert_array_equal(two_threads.mean, one_thread.mean)
    np.testing.assert_array_equal(two_threads.covariance, one_thread.covariance)


def cut(pixels: np.ndarray, labels: np.ndarray, cuts: list[int]) -> PackedImages:
    return PackedImages(torch.from_numpy(pixels).tensor_split(cuts), torch.from_numpy(labels))


CUTS = [[], [1], [2, 7, 8, 19], [4, 4, 4, 20, 20], [1, 21]]
"""Ways to cut 22 images into shards, some with empty shards."""


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_squares_are_those_of_the_concatenated_shards(cuts):
    pixels, labels = squares(22, size=6)
    packed, rng = cut(pixels, labels, cuts), np.random.default_rng(0)
    assert (len(packed), packed.bytes) == (22, pixels.size)
    for count in (0, 1, 5, 22, 300):
        rows = rng.integers(0, 22, count)
        selected = packed.squares(torch.from_numpy(rows))
        assert selected.dtype == torch.uint8
        np.testing.assert_array_equal(selected.numpy(), pixels[rows])
    np.testing.assert_array_equal(packed.squares(torch.arange(22)).numpy(), pixels)


def test_squares_are_a_copy():
    pixels, labels = squares(6, size=6)
    for cuts in ([], [2]):
        packed = cut(pixels.copy(), labels, cuts)
        packed.squares(torch.arange(6)).zero_()
        np.testing.assert_array_equal(packed.squares(torch.arange(6)).numpy(), pixels)


@pytest.mark.parametrize("cuts", CUTS[1:], ids=str)
def test_statistics_of_several_shards_are_bit_identical_to_those_of_one(cuts):
    pixels, labels = squares(22, size=20)
    single, several = cut(pixels, labels, []).statistics(), cut(pixels, labels, cuts).statistics()
    np.testing.assert_array_equal(several.mean, single.mean)  # sums of integers, exact in float64
    np.testing.assert_array_equal(several.covariance, single.covariance)


def test_known_statistics_are_not_computed():
    pixels, labels = squares(3, size=6)
    known = train_data.Statistics(np.full((6, 6, 3), 7, np.float32), np.eye(3))
    packed = PackedImages((torch.from_numpy(pixels),), torch.from_numpy(labels), known=known)
    assert packed.statistics() is known


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
    identities = [cut(*arrays, [2]).identity for arrays in sets]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[0] == cut(pixels, labels, []).identity
    assert replace(cut(pixels, labels, []), unreadable=1).identity != identities[0]
