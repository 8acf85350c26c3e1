"""Which files and folders belong to a set, by their names."""

from __future__ import annotations

import unicodedata

import pytest

from alexnet_infer.datasets.tree import children, distinct, is_empty, is_image, is_picture, same_name, subfolders
from tests.datasets.mini import LITTER_FILES, LITTER_FOLDERS, A, B, content, make


@pytest.mark.parametrize("name", LITTER_FILES)
def test_litter_and_companions_are_no_images(name):
    assert not is_image(name)
    assert not is_picture(name)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPEG", "a.avif", "a.HEIC", "a.jp2", "a.jxl", "a", "a.", "n01_1", "a.b.c", "é"]
)
def test_any_other_file_counts_so_that_none_is_left_out(name):
    assert is_image(name)


@pytest.mark.parametrize("name", LITTER_FOLDERS)
@pytest.mark.parametrize("where", ["", "val", f"val/{A}", f"val/{A}/deep"])
def test_folders_of_litter_are_passed_over_at_any_depth(folders, name, where):
    before = content(folders)
    make(folders / where / name, "1.jpg", f"{B}/2.jpg", "val/x.jpg")
    assert content(folders) == before


def test_names_that_look_equal_are_equal():
    composed = "café ü.jpg"
    assert unicodedata.normalize("NFD", composed) != composed
    assert same_name(unicodedata.normalize("NFD", composed)) == same_name(composed) == composed
    assert same_name("plain.jpg") == "plain.jpg"


def test_children_are_sorted_and_tell_folders_from_files(folders):
    make(folders, ".hidden", "b.txt", "a")
    (folders / "link").symlink_to("val")
    (folders / "broken").symlink_to("nowhere")
    assert children(folders) == {"a": False, "b.txt": False, "broken": False, "link": True, "val": True}
    assert list(children(folders)) == ["a", "b.txt", "broken", "link", "val"]
    assert [path.name for path in subfolders(folders)] == ["link", "val"]
    assert distinct([folders / "val", folders / "link", folders]) == [folders / "val", folders]
    assert not is_empty(folders)
    (folders / "litter").mkdir()
    make(folders / "litter", ".DS_Store", "@eaDir/x.jpg")
    assert is_empty(folders / "litter")
