"""Pictures of neighbours: each is certainly the image that was found, or a reason."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.features import gallery, open_features
from alexnet_infer.features.gallery import Picture, find_place, pictures_of
from alexnet_infer.features.search import rows_of
from alexnet_infer.features.similar import ImageFeatures, Index, SimilarRequest, find_similar, open_index
from alexnet_infer.photos import named
from tests.datasets.mini import WNIDS, jpeg, write_names
from tests.evaluation.toys import save_net, write_set
from tests.features.indexed import index_of_photos, index_of_set

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 12
CPU = {"backend": "onnxruntime", "device": "cpu"}


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    room = tmp_path_factory.mktemp("gallery")
    save_net(room / "net.safetensors")
    (room / "query.jpg").write_bytes(jpeg(1000))
    return room


@pytest.fixture
def labelled(tmp_path) -> Path:
    return write_set(tmp_path / "set", IMAGES)


@pytest.fixture
def opened(room, labelled, tmp_path) -> Index:
    """The features of the labelled set."""
    return open_up(room, index_of_set(labelled, tmp_path / "set.npy", room / "net.safetensors", **CPU))


def open_up(room: Path, file: Path) -> Index:
    """Open a file of features, to find all images."""
    count = len(open_features(file))
    return open_index(SimilarRequest(index=file, n=count, model=room / "net.safetensors", **CPU))


def pictures(room: Path, index: Index, data: Path | None = None) -> dict[str, Picture]:
    """Name -> picture of all images, the nearest first."""
    (answer,) = answers = [*find_similar(index, [named(room / "query.jpg")])]
    found = pictures_of(index, answers, find_place(index, data))
    assert {*found} == {near.row for near in answer.neighbours}
    return {near.name: found[near.row] for near in answer.neighbours}


def square(index: Index, path: Path) -> np.ndarray:
    return named(path).square(index.net.rescaling)


def test_each_picture_is_that_of_its_row(room, labelled, opened):
    found = pictures(room, opened)
    assert len(found) == IMAGES
    squares = {name: square(opened, labelled / name) for name in found}
    assert len({one.tobytes() for one in squares.values()}) == IMAGES
    for name, picture in found.items():
        assert picture.reason == ""
        np.testing.assert_array_equal(picture.square, squares[name])


def test_a_picture_that_has_changed_is_not_shown(room, labelled, opened):
    first, second, third, *others = pictures(room, opened)
    shutil.copy(labelled / others[0], labelled / first)
    (labelled / second).write_text("not an image")
    (labelled / third).unlink()
    (labelled / third).with_name("new.jpg").write_bytes(jpeg(77))
    found = pictures(room, opened)
    assert found[first].reason == "another image than the one whose features were computed"
    assert found[second].reason.startswith("not an image")
    assert found[third].reason == "not in the set, or not once"
    for name in others:
        np.testing.assert_array_equal(found[name].square, square(opened, labelled / name))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_another_image_at_the_same_distance_is_not_shown(room, labelled, tmp_path, suffix):
    """The features on the other side of the query are as far from it as those of the neighbour."""
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    paths = sorted(labelled.rglob("*.jpg"))[:4]
    index = open_up(room, index_of_photos(paths, tmp_path / f"photos{suffix}", room / "net.safetensors", **CPU))
    (answer,) = answers = [*find_similar(index, [named(paths[0])], keep=True)]
    near = answer.neighbours[1]
    stored = rows_of(index.features, "fc7", [near.row])[near.row]
    other = 2 * answer.query.values - stored
    assert np.isclose(np.linalg.norm(other - answer.query.values), near.distance)
    for values, shown in ((other, False), (stored, True)):
        image = ImageFeatures(name="x", values=values, square=answer.query.square)
        assert (gallery._checked(image, stored).square is not None) == shown
    assert all(picture.square is not None for picture in pictures_of(index, answers, find_place(index, None)).values())


def test_photos_whose_names_are_not_utf8_are_found(room, labelled, tmp_path, monkeypatch):
    folder = tmp_path / "odd"
    folder.mkdir()
    path = os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.jpg")
    shutil.copy(next(labelled.rglob("*.jpg")), path)
    index = open_up(room, index_of_photos([path], tmp_path / "photos.npy", room / "net.safetensors", **CPU))
    (picture,) = pictures(room, index).values()
    np.testing.assert_array_equal(picture.square, square(index, Path(path)))


def test_a_picture_of_another_class_is_not_shown(room, labelled, opened):
    """The images keep their names in another layout, where each has another class."""
    other = labelled.parent / "other"
    for i in range(IMAGES):
        path = other / "val" / WNIDS[(i + 1) % 6] / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    write_names(other / "classes.tsv", "\t")
    found = pictures(room, opened, other)
    assert {picture.reason for picture in found.values()} == {"not in the set, or not once"}


def test_a_set_that_has_moved_is_found_with_data(room, labelled, opened):
    moved = labelled.rename(labelled.parent / "moved")
    found = pictures(room, opened)
    assert all(picture.reason.startswith("the images were not found: ") for picture in found.values())
    assert str(labelled) in next(iter(found.values())).reason
    for name, picture in pictures(room, opened, moved).items():
        np.testing.assert_array_equal(picture.square, square(opened, moved / name))
    with pytest.raises(UnreadableInputError, match="no such file"):
        find_place(opened, labelled)


def test_images_of_a_sample_are_found_by_their_names(room, labelled, tmp_path):
    """Rows 0 to 11 of the file are not at the positions 0 to 11 of a set with more images."""
    file = index_of_set(labelled, tmp_path / "set.npy", room / "net.safetensors", **CPU)
    write_set(labelled, 2 * IMAGES)
    index = open_up(room, file)
    for name, picture in pictures(room, index).items():
        np.testing.assert_array_equal(picture.square, square(index, labelled / name))


def test_the_exif_orientation_counts_for_photos_only(room, labelled, tmp_path):
    path = labelled / "val" / WNIDS[0] / "0000.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter, clockwise
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=turned)
    index = open_up(room, index_of_set(labelled, tmp_path / "set.npy", room / "net.safetensors", **CPU))
    as_photo = square(index, path)
    in_set = pictures(room, index)[f"val/{WNIDS[0]}/0000.jpg"].square
    np.testing.assert_array_equal(np.rot90(in_set, -1), as_photo)
    assert (in_set != as_photo).any()
    photos = open_up(room, index_of_photos([path], tmp_path / "photos.npy", room / "net.safetensors", **CPU))
    np.testing.assert_array_equal(pictures(room, photos)[str(path)].square, as_photo)


def test_photos_are_found_by_their_paths_and_nothing_is_fetched(room, labelled, tmp_path, monkeypatch):
    monkeypatch.chdir(labelled)
    paths = [Path("val") / WNIDS[i] / f"{i:04}.jpg" for i in range(3)]
    index = open_up(room, index_of_photos(paths, tmp_path / "photos.npz", room / "net.safetensors", **CPU))
    names = index.features.names
    monkeypatch.setattr(index.features, "names", ["http://127.0.0.1:9/x.jpg", "-", *names[2:]])
    monkeypatch.setattr("alexnet_infer.photos.Fetch", None)  # would raise an error
    found = pictures(room, index)
    assert found["http://127.0.0.1:9/x.jpg"].reason == "from the web, so not fetched again"
    assert found["-"].reason == "from standard input"
    np.testing.assert_array_equal(found[str(paths[2])].square, square(index, paths[2]))


def test_photos_are_found_from_another_folder_with_data(room, labelled, tmp_path, monkeypatch):
    paths = [Path("val") / WNIDS[i] / f"{i:04}.jpg" for i in range(3)]
    monkeypatch.chdir(labelled)
    index = open_up(room, index_of_photos(paths, tmp_path / "photos.npz", room / "net.safetensors", **CPU))
    monkeypatch.chdir(tmp_path)
    reasons = {picture.reason for picture in pictures(room, index).values()}
    assert reasons == {"can't be read (No such file or directory)"}
    for path, picture in pictures(room, index, labelled).items():
        np.testing.assert_array_equal(picture.square, square(index, labelled / path))
    with pytest.raises(UsageError, match="--data missing: expected the folder in which `features` was run"):
        find_place(index, Path("missing"))


def test_a_file_does_not_make_a_picture_of_any_path(room, labelled, tmp_path):
    """A file from somebody else names a photo of this user: the net sees another image, so it is not shown."""
    paths = [labelled / "val" / WNIDS[i] / f"{i:04}.jpg" for i in range(3)]
    index = open_up(room, index_of_photos(paths[:2], tmp_path / "photos.npz", room / "net.safetensors", **CPU))
    index.features.names[0] = str(paths[2])
    found = pictures(room, index)
    assert found[str(paths[2])].square is None
    assert found[str(paths[1])].square is not None
