"""Caffe's lists: every listed image is read once with its label, or the list is refused in one line."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path

import pytest

from alexnet_infer.datasets import open_images
from alexnet_infer.errors import UsageError
from tests.datasets import mini
from tests.datasets.mini import WNIDS, refused

FIRST = "ILSVRC2012_val_00000001.JPEG"


@pytest.fixture
def caffe(tmp_path) -> Path:
    mini.write_caffe(tmp_path)
    return tmp_path


def test_caffes_images_may_be_in_root(caffe):
    for path in (caffe / "val").iterdir():
        path.rename(caffe / path.name)
    (caffe / "val").rmdir()
    assert len(open_images(caffe)) == 18


def test_a_table_with_only_ids_is_enough(caffe):
    (caffe / "synset_words.txt").unlink()
    (caffe / "synsets.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    images = open_images(caffe)
    assert [(c.wnid, c.name) for c in images.classes] == [(wnid, mini.SYNSETS[wnid]) for wnid in WNIDS]
    assert len(images) == 18


def test_only_listed_images_belong_to_the_set(caffe):
    path = caffe / "val.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]))
    assert [e.name for e in open_images(caffe)] == sorted(line.split()[0] for line in lines[:7])


def test_a_list_without_ids_is_refused_with_the_file_to_add(caffe):
    (caffe / "synset_words.txt").unlink()
    refused(lambda: open_images(caffe), f"{caffe / 'synset_words.txt'}: not found; expected the WordNet ids")


def test_ids_in_another_order_are_refused(caffe):
    path = caffe / "synset_words.txt"
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    refused(lambda: open_images(caffe), "synset_words.txt: not in order of WordNet ids")


@pytest.mark.parametrize("line", ["x.JPEG 6", "x.JPEG -1", "x.JPEG", "x.JPEG n01440764", " 3", "x.JPEG ٣"])
def test_a_line_without_a_label_is_refused(caffe, line):
    with (caffe / "val.txt").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n{line}\n")
    refused(
        lambda: open_images(caffe), "val.txt, line 19: ", "a label from 0 to 5 (2 lines are wrong; this is the first)"
    )


def test_an_image_that_is_listed_twice_is_refused(caffe):
    with (caffe / "val.txt").open("a") as file:
        file.write(f"{FIRST} 2\n")
    refused(lambda: open_images(caffe), f"val.txt, line 19: '{FIRST}': expected each image once")


def test_listed_images_that_are_missing_are_refused(caffe):
    for number in (4, 9):
        (caffe / "val" / f"ILSVRC2012_val_{number:08}.JPEG").unlink()
    refused(lambda: open_images(caffe), "18 labels for 16 images", "2 have no image", "ILSVRC2012_val_00000004.JPEG")


def test_a_list_cannot_refer_to_files_outside_its_folder(caffe):
    (caffe / "secret.JPEG").write_bytes(b"x")
    with (caffe / "val.txt").open("a") as file:
        file.write("../secret.JPEG 2\n")
    refused(lambda: open_images(caffe), "1 has no image; the first is ../secret.JPEG")


def test_a_list_that_is_not_text_is_refused(caffe):
    (caffe / "val.txt").write_bytes(b"\xff\xfe")
    refused(lambda: open_images(caffe), "val.txt, line 1: 'utf-8' codec can't decode")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_instead_of_a_list_is_refused_without_waiting(caffe):
    (caffe / "val.txt").unlink()
    os.mkfifo(caffe / "val.txt")
    refused(lambda: open_images(caffe), "no devkit here")
    refused(lambda: open_images(caffe, layout="caffe"), "no validation split here")


# Folders, links and accents in names.


def rewrite(caffe: Path, names: dict[str, str]) -> None:
    """Move the images to the names, in `val`, and change the list."""
    text = (caffe / "val.txt").read_text()
    for old, new in names.items():
        target = caffe / "val" / new
        target.parent.mkdir(parents=True, exist_ok=True)
        (caffe / "val" / old).rename(target)
        text = text.replace(old, new)
    (caffe / "val.txt").write_text(text)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_accents_are_found_however_they_are_stored(caffe, stored, listed):
    name = "café/blå_ü.JPEG"
    rewrite(caffe, {FIRST: unicodedata.normalize(stored, name)})
    text = unicodedata.normalize("NFC", (caffe / "val.txt").read_text())
    (caffe / "val.txt").write_text(text.replace(name, unicodedata.normalize(listed, name)))
    found = [hashlib.sha256(e.data).hexdigest() for e in open_images(caffe, layout="caffe")]
    assert sorted(found) == sorted(digest for *_, digest in mini.expected("validation"))


def test_two_files_whose_names_look_equal_are_two_images(caffe):
    composed, separate = (unicodedata.normalize(form, "é.JPEG") for form in ("NFC", "NFD"))
    second = "ILSVRC2012_val_00000002.JPEG"
    rewrite(caffe, {FIRST: composed, second: separate})
    found = {e.name: e.data for e in open_images(caffe)}
    assert (found[composed], found[separate]) == (mini.VALIDATION[FIRST][0], mini.VALIDATION[second][0])


@pytest.mark.parametrize(
    "again", ["./{0}", "val/../val/{0}", "a/{0}", "{1}/val/{0}", "{1}/val//{0}", "{1}/linked/{0}", ".//{0}"]
)
def test_two_names_of_one_file_are_refused_since_it_would_count_twice(caffe, again):
    (caffe / "linked").symlink_to("val")
    (caffe / "val" / "a").symlink_to(".")
    with (caffe / "val.txt").open("a") as file:
        file.write(f"{again.format(FIRST, caffe)} 2\n")
    if ".." in again:
        refused(lambda: open_images(caffe, layout="caffe"), "1 has no image")
    else:
        refused(lambda: open_images(caffe, layout="caffe"), "are the same file; expected each image once")


def test_one_file_listed_with_its_accent_in_two_forms_is_refused(caffe):
    rewrite(caffe, {FIRST: "é.JPEG"})
    with (caffe / "val.txt").open("a") as file:
        file.write(f"{unicodedata.normalize('NFD', 'é.JPEG')} 2\n")
    refused(lambda: open_images(caffe), "are the same file; expected each image once")


@pytest.mark.parametrize("folder", ["", "validation", "valid"])
def test_images_of_a_list_in_two_folders_are_refused_with_both(caffe, folder):
    (caffe / folder).mkdir(exist_ok=True)
    for path in (caffe / "val").iterdir():
        (caffe / folder / path.name).write_bytes(b"smaller")
    message = "the images of val.txt are in"
    refused(lambda: open_images(caffe, layout="caffe"), message, "/val", error=UsageError)
    refused(lambda: open_images(caffe), error=UsageError)


def test_a_list_beside_class_folders_is_refused_until_a_layout_is_named(caffe):
    """The two may disagree, and the list may have only some of the images."""
    for line in (caffe / "val.txt").read_text().splitlines():
        name, label = line.split()
        rewrite(caffe, {name: f"{WNIDS[int(label)]}/{name}"})
    refused(lambda: open_images(caffe), "several layouts (folders, caffe)", error=UsageError)
    found = [sorted((e.data, e.label) for e in open_images(caffe, layout=layout)) for layout in ("folders", "caffe")]
    assert found[0] == found[1]
    assert len(found[0]) == 18


def test_two_names_of_the_folder_of_images_are_one_folder(caffe):
    before = [e.data for e in open_images(caffe)]
    (caffe / "ILSVRC2012_img_val").symlink_to("val")
    assert [e.data for e in open_images(caffe)] == before


def test_a_listed_link_to_another_listed_image_is_refused(caffe):
    (caffe / "val" / "again.JPEG").symlink_to("ILSVRC2012_val_00000003.JPEG")
    assert "1 images" in open_images(caffe).notes[0]
    with (caffe / "val.txt").open("a") as file:
        file.write("again.JPEG 2\n")
    refused(lambda: open_images(caffe), "again.JPEG: a link to", "ILSVRC2012_val_00000003.JPEG", "would count twice")


def test_a_list_of_links_to_images_elsewhere_is_accepted(caffe, tmp_path):
    (caffe / "val").rename(tmp_path / "blobs")
    (caffe / "val").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (caffe / "val" / path.name).symlink_to(path)
    images = open_images(caffe)
    assert (len(images), images.notes) == (18, ())


@pytest.mark.parametrize("name", ["val.txt", "synset_words.txt"])
def test_blank_lines_at_the_end_of_a_file_change_nothing_and_others_are_refused(caffe, name):
    expected, lines = list(open_images(caffe)), (caffe / name).read_text()
    for end in ("\n", "\r\n\r\n", "  \n\t\r\n", " "):
        (caffe / name).write_bytes((lines + end).encode())
        assert list(open_images(caffe)) == expected
    (caffe / name).write_text(lines.replace("\n", "\n\n", 1))
    refused(lambda: open_images(caffe), f"{name}, line 2: '': expected")


def test_a_list_without_an_image_of_a_few_classes_is_noted_and_one_with_a_few_classes_is_not(caffe):
    path = caffe / "val.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.endswith(" 2\n")))
    assert open_images(caffe).notes[0] == (
        f"{path} has no image of 1 of the 6 classes (such as {WNIDS[2]}): the list may be incomplete"
    )
    path.write_text("".join(line for line in lines if line[-2] in "013"))
    assert not any("has no image of" in note for note in open_images(caffe).notes)


def test_images_that_are_not_listed_are_noted(caffe):
    path = caffe / "val.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-5]))
    (caffe / "val" / "notes.txt").write_text("no image")
    note = open_images(caffe).notes[-1]
    assert "5 images in" in note
    assert "are not in val.txt" in note


@pytest.mark.parametrize("separator", ["\t", "   ", " \t "])
def test_name_and_label_may_be_separated_by_any_space(caffe, separator):
    expected = list(open_images(caffe))
    path = caffe / "val.txt"
    path.write_text(path.read_text().replace(" ", separator) + "\n\n")
    assert list(open_images(caffe)) == expected
