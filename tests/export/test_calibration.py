"""Which images int8 is calibrated on, their digests, and the inputs that are made from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.calibration import Calibration, CalibrationImages, inputs_of
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.preprocess import patches
from tests.datasets.mini import SYNSETS, WNIDS, write_names
from tests.nets import random_artifact

PREPROCESSING = random_artifact().manifest.preprocessing
SIZE = PREPROCESSING.size


def grey(path: Path, level: int) -> None:
    """Save a photo of a single grey, which identifies it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (level,) * 3).save(path)


def levels(source: Path, count: int) -> list[int]:
    """The grey of each image that is used."""
    images = CalibrationImages(source, count)
    squares = np.stack([image.square for image in images.read(PREPROCESSING.rescaling)])
    assert len(squares) <= len(images) <= count
    assert squares.dtype == np.uint8
    assert squares.shape[1:] == (SIZE, SIZE, 3)
    assert (squares == squares[:, :1, :1]).all()
    return squares[:, 0, 0, 0].tolist()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for i in range(11):
        grey(folder / f"{i:02}.png", 10 * i)
    return folder


def test_photos_are_spread_evenly_over_the_folder_in_order(photos):
    assert levels(photos, 300) == list(range(0, 110, 10))
    assert levels(photos, 3) == [0, 50, 100]
    assert levels(photos, 6) == [0, 20, 40, 60, 80, 100]
    assert levels(photos, 1) == [0]


def test_a_labelled_set_gives_a_sample_of_its_training_split_with_every_class(tmp_path):
    for split, offset in (("train", 0), ("val", 100)):
        for c, wnid in enumerate(WNIDS):
            for i in range(4):
                grey(tmp_path / split / wnid / f"{wnid}_{i}.png", offset + 10 * c + i)
    write_names(tmp_path / "classes.tsv", "\t")
    taken = levels(tmp_path, 2 * len(WNIDS))
    assert {level // 10 for level in taken} == set(range(len(SYNSETS)))
    assert len(taken) == 2 * len(WNIDS)


def test_without_a_training_split_the_validation_split_is_used(tmp_path):
    for c, wnid in enumerate(WNIDS):
        grey(tmp_path / "val" / wnid / f"{c}.png", 100 + c)
    write_names(tmp_path / "classes.tsv", "\t")
    assert levels(tmp_path, 300) == [100 + c for c in range(len(WNIDS))]


@pytest.mark.parametrize("views", ["none", "center", "ten"])
def test_a_file_that_takes_patches_is_calibrated_on_the_ten_views_of_each_image(tmp_path, views):
    squares = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    for i, square in enumerate(squares):
        Image.fromarray(square).save(tmp_path / f"{i}.png")
    images = list(CalibrationImages(tmp_path, 5).read(PREPROCESSING.rescaling))
    info = ExportInfo(members=(Member(name="net", sha256="0" * 64),), views=views)
    expected = squares
    if views == "none":
        expected = np.concatenate([patches(square, PREPROCESSING, "ten") for square in squares])
    np.testing.assert_array_equal(inputs_of(images, PREPROCESSING, info), expected)


def test_digests_are_those_of_the_files_that_were_read(photos):
    (photos / "03.png").write_bytes(b"not an image")
    (photos / "05.png").write_bytes((photos / "06.png").read_bytes())
    expected = [
        hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(photos.iterdir()) if path.stem != "03"
    ]
    unreadable: list[UnreadableInputError] = []
    images = list(CalibrationImages(photos, 300).read(PREPROCESSING.rescaling, unreadable.append))
    assert [image.digest for image in images] == expected
    assert [error.name for error in unreadable] == [str(photos / "03.png")]
    assert {image.label for image in images} == {None}


def test_images_of_a_labelled_set_have_their_labels_and_the_digests_of_their_bytes(tmp_path):
    for c, wnid in enumerate(WNIDS):
        grey(tmp_path / "train" / wnid / f"{c}.png", 10 * c)
    write_names(tmp_path / "classes.tsv", "\t")
    images = CalibrationImages(tmp_path, 300)
    read = list(images.read(PREPROCESSING.rescaling))
    assert [c.wnid for c in images.classes] == list(WNIDS)
    assert [(image.label, int(image.square[0, 0, 0])) for image in read] == [(c, 10 * c) for c in range(len(WNIDS))]
    files = [tmp_path / "train" / wnid / f"{c}.png" for c, wnid in enumerate(WNIDS)]
    assert [image.digest for image in read] == [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]


def test_each_reading_gives_the_same_images_again(photos):
    images = CalibrationImages(photos, 4)
    first, second = ([image.digest for image in images.read(PREPROCESSING.rescaling)] for _ in range(2))
    assert first == second
    assert len(first) == len(images) == 4


def test_the_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (SIZE, SIZE), "black")
    image.paste("white", (0, 0, SIZE // 2, SIZE))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    image.save(tmp_path / "a.png", exif=exif)
    (read,) = CalibrationImages(tmp_path, 1).read(PREPROCESSING.rescaling)
    assert read.square[0].min() == 255
    assert read.square[-1].max() == 0


def test_photos_that_cannot_be_read_are_skipped(photos):
    (photos / "03.png").write_bytes(b"not an image")
    (photos / "04.png").write_bytes((photos / "05.png").read_bytes()[:60])
    assert levels(photos, 300) == [0, 10, 20, *range(50, 110, 10)]


def test_a_folder_without_a_readable_image_is_an_error_that_names_it(tmp_path):
    for path in (tmp_path / "empty", tmp_path / "broken"):
        path.mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"not an image")
    for name in ("empty", "broken"):
        with pytest.raises(UnreadableInputError, match=f"{name}: no image can be read"):
            list(CalibrationImages(tmp_path / name, 5).read(PREPROCESSING.rescaling))


def test_a_source_that_is_not_a_folder_is_an_error(photos):
    for path in (photos / "absent", photos / "00.png"):
        with pytest.raises(UnreadableInputError, match="expected a labelled set or a folder of photos"):
            CalibrationImages(path, 5)


@pytest.mark.parametrize("images", [0, -1, 100_001])
def test_a_number_of_images_out_of_range_is_refused(images):
    with pytest.raises(UsageError, match=f"--calibration-images {images}: expected 1 to 100,000"):
        Calibration(source=Path(), images=images)
