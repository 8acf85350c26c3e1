"""One folder per class: read in order and completely, or refused in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from alexnet_infer.datasets import Example, LabelledImages, open_images, places
from alexnet_infer.errors import UnreadableInputError
from tests.datasets.mini import refused

WNIDS = ["n01443537", "n02123045", "n02504458"]
NAMES = ["goldfish, Carassius auratus", "tabby, tabby cat", "African elephant, Loxodonta africana"]
"""Their names in ILSVRC."""

BYTES = [b"first", b"second", b"third", b"fourth", b"fifth"]


def read(root: Path, split: str = "train") -> list[Example]:
    return list(LabelledImages(root, split))


# Folders.


@pytest.fixture
def folders(tmp_path) -> Path:
    """A set of three folders, with five images among other files."""
    for path, data in {
        "train/n02123045/b.JPEG": b"third",
        "train/n02123045/a.jpg": b"second",
        "train/n01443537/images/deep.png": b"first",
        "train/n02504458/x.webp": b"fourth",
        "train/n02504458/y.bmp": b"fifth",
        "train/n02504458/boxes.txt": b"no image",
        "train/n02504458/._y.bmp": b"no image",
        "train/.cache/z.jpg": b"no image",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def test_folders_are_classes_in_order_of_their_wordnet_ids(folders):
    images = LabelledImages(folders, "train")
    assert len(images) == 5
    assert [(example.data, example.label) for example in images] == list(zip(BYTES, [0, 1, 1, 2, 2], strict=True))
    assert [(c.wnid, c.name) for c in images.classes] == list(zip(WNIDS, NAMES, strict=True))
    assert next(iter(images)).name == str(folders / "train/n01443537/images/deep.png")


def test_folders_are_named_by_a_table_in_any_order(folders):
    (folders / "classes.tsv").write_text("n02504458\tAfrican elephant\nn01443537\tgoldfish\n")
    names = [c.name for c in LabelledImages(folders, "train").classes]
    assert names == ["goldfish", NAMES[1], "African elephant"]


@pytest.mark.parametrize("name", ["validation", "val"])
def test_the_validation_folder_may_have_either_name(folders, name):
    (folders / "train").rename(folders / name)
    assert len(LabelledImages(folders, "validation")) == 5
    refused(lambda: LabelledImages(folders, "train"), "no train split here", "train-*.parquet", "a folder train/")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_missing_split_is_refused_with_the_expected_layouts(tmp_path, split):
    refused(lambda: LabelledImages(tmp_path, split), f"no {split} split here", f"{split}-*.parquet")
    refused(lambda: LabelledImages(tmp_path / "absent", split), "absent: no such file or folder")


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "set.tar").write_bytes(b"x")
    refused(lambda: LabelledImages(tmp_path / "set.tar", "train"), "set.tar: neither a folder nor a zip or tar archive")


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "train" / "n01443537").mkdir(parents=True)
    refused(lambda: LabelledImages(tmp_path, "train"), "train: no images here")


def test_an_empty_class_keeps_its_position_among_the_labels(folders):
    (folders / "train" / "n02000000").mkdir()
    images = LabelledImages(folders, "train")
    assert [c.wnid for c in images.classes] == [WNIDS[0], "n02000000", *WNIDS[1:]]
    assert [example.label for example in images] == [0, 2, 2, 3, 3]


def test_an_unprintable_folder_name_is_refused(tmp_path):
    (tmp_path / "train" / "two\nlines").mkdir(parents=True)
    (tmp_path / "train" / "two\nlines" / "a.jpg").write_bytes(b"x")
    with pytest.raises(UnreadableInputError, match=r"class 'two\\nlines': wnid='two\\nlines': expected printable text"):
        LabelledImages(tmp_path, "train")


def test_an_image_that_vanishes_is_refused_with_its_name(folders):
    images = iter(LabelledImages(folders, "train"))
    next(images)
    (folders / "train/n02123045/b.JPEG").unlink()
    refused(lambda: list(images), "n02123045/b.JPEG: missing, or not a regular file")


def test_a_broken_link_is_refused_instead_of_left_out(folders):
    (folders / "train/n01443537/lost.jpg").symlink_to("nowhere")
    assert len(LabelledImages(folders, "train")) == 6
    refused(lambda: read(folders), "lost.jpg: missing, or not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting(folders):
    os.mkfifo(folders / "train/n01443537/pipe.jpg")
    refused(lambda: read(folders), "pipe.jpg: is not a regular file")


def test_a_folder_with_the_name_of_an_image_is_not_an_image(folders):
    (folders / "train/n01443537/folder.jpg").mkdir()
    assert len(read(folders)) == 5


def denied(path: object, *_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_an_image_without_read_permission_is_refused_with_its_name(folders, monkeypatch):
    monkeypatch.setattr(places, "read_limited", denied)  # changed permissions would not stop the superuser
    refused(lambda: read(folders), "deep.png: Permission denied")


def test_a_folder_without_read_permission_is_an_error_not_a_smaller_set(folders, monkeypatch):
    scandir = os.scandir
    locked = str(folders / "train/n02123045")
    monkeypatch.setattr(os, "scandir", lambda path: denied(path) if str(path) == locked else scandir(path))
    refused(lambda: LabelledImages(folders, "train"), f"{locked}: Permission denied")


def test_class_folders_in_root_are_a_validation_set_without_a_split_folder(folders):
    images = open_images(folders / "train")
    assert [c.wnid for c in images.classes] == WNIDS
    assert [example.data for example in images] == BYTES
    refused(lambda: LabelledImages(folders / "train", "train"), "no train split here")
    refused(lambda: open_images(folders), "no validation split here")  # its only folder is not a class


def test_an_unreadable_image_can_be_yielded_with_its_error_before_the_next_ones(folders):
    (folders / "train/n02123045/a.jpg").unlink()
    (folders / "train/n02123045/a.jpg").symlink_to("nowhere")
    if hasattr(os, "mkfifo"):
        (folders / "train/n02504458/x.webp").unlink()
        os.mkfifo(folders / "train/n02504458/x.webp")
    examples = list(LabelledImages(folders, "train").examples(on_error="yield"))
    assert [e.label for e in examples] == [0, 1, 1, 2, 2]
    broken = next(e for e in examples if e.error)
    assert (Path(broken.name).name, broken.data, broken.error) == ("a.jpg", b"", "missing, or not a regular file")
    assert [e.data for e in examples if not e.error] == [b for b in BYTES if b not in (b"second", b"fourth")]


def test_an_image_without_read_permission_does_not_affect_the_others(folders, monkeypatch):
    read = places.read_limited
    monkeypatch.setattr(places, "read_limited", lambda p, n: denied(p) if Path(p).name == "a.jpg" else read(p, n))
    examples = list(LabelledImages(folders, "train").examples(on_error="yield"))
    assert [e.error for e in examples] == [None, "Permission denied", None, None, None]
