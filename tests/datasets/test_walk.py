"""The images below class folders: in order, at any depth, through links, and each once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from alexnet_infer.datasets import open_images
from alexnet_infer.datasets.walk import Walk
from alexnet_infer.errors import UnreadableInputError
from tests.datasets.mini import A, B, C, content, make, refused

# Depth and order.


def test_images_are_in_order_of_their_paths_at_any_depth(tmp_path):
    paths = ["b.jpg", "a/z.jpg", "a/b/c/d.jpg", "a/b.jpg", "c/1.jpg", "Z.jpg"]
    make(tmp_path / A, *paths)
    found = [name for name, _ in Walk(tmp_path).below(tmp_path / A)]
    assert found == [f"{tmp_path / A}/{path}" for path in sorted(paths, key=lambda path: path.split("/"))]


def test_folders_nested_deeper_than_pythons_stack_are_read(tmp_path):
    folder, here = tmp_path / "val" / A, os.open(".", os.O_RDONLY)
    folder.mkdir(parents=True)
    deep = sys.getrecursionlimit() + 100
    try:
        os.chdir(folder)
        for _ in range(deep):
            os.mkdir("d")  # noqa: PTH102 (the path is too long for one call from elsewhere)
            os.chdir("d")
        Path("x.jpg").write_bytes(b"deep")
        assert [place.read() for _, place in Walk(tmp_path).below(folder)] == [b"deep"]
    finally:
        Path("x.jpg").unlink()  # pytest can't remove such folders
        for _ in range(deep):
            os.chdir("..")
            os.rmdir("d")  # noqa: PTH106
        os.chdir(here)
        os.close(here)


# Links.


def test_links_to_folders_files_and_class_folders_are_followed(folders, tmp_path):
    store = make(tmp_path / "store", "more/3.jpg", "more/deep/4.jpg", "5.jpg")
    (folders / "val" / A / "more").symlink_to(store / "more")
    (folders / "val" / A / "5.jpg").symlink_to(store / "5.jpg")
    (folders / "val" / "n02119789").symlink_to(store / "more" / "deep")
    with pytest.raises(UnreadableInputError, match="links lead to this folder from"):
        open_images(folders)
    (folders / "val" / "n02119789").unlink()
    assert content(folders) == [
        *((A, path) for path in (f"val/{A}/1.jpg", f"val/{A}/2.jpg", "5.jpg", "more/3.jpg", "more/deep/4.jpg")),
        (B, f"val/{B}/1.jpg"),
        (C, f"val/{C}/1.jpg"),
    ]


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "loop", f"../{A}"])
def test_a_link_to_itself_or_to_a_folder_above_does_not_loop_or_count_twice(folders, target):
    before = content(folders)
    (folders / "val" / A / "loop").symlink_to(target)
    if target == "loop":  # it leads nowhere, like a broken link
        assert [e.error for e in open_images(folders).examples(on_error="yield") if e.error] == [
            "missing, or not a regular file"
        ]
    else:
        assert content(folders) == before


def test_two_links_to_one_folder_in_a_class_count_once(folders, tmp_path):
    store = make(tmp_path / "store", "3.jpg")
    for name in ("x", "y"):
        (folders / "val" / A / name).symlink_to(store)
    assert [data for _, data in content(folders)].count("3.jpg") == 1


@pytest.mark.parametrize(
    ("link", "target"),
    [(f"val/{B}/more", f"../{A}"), (f"val/{C}/x", f"../{B}"), ("val/n02119789", A), ("val/n02119789/all", f"../{A}")],
)
def test_a_folder_in_two_classes_is_refused(folders, link, target):
    (folders / link).parent.mkdir(exist_ok=True)
    (folders / link).symlink_to(target)
    refused(lambda: open_images(folders), "links lead to this folder from", "expected one label per image")


@pytest.mark.parametrize(
    ("link", "target"),
    [(f"val/{A}/copy.jpg", "1.jpg"), (f"val/{B}/copy.jpg", f"../{A}/1.jpg"), (f"val/{A}/deep/copy", "../2.jpg")],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_to_another_image_of_the_set_is_refused_since_it_would_count_twice(folders, link, target, absolute):
    path = folders / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to((path.parent / target).resolve() if absolute else target)
    refused(lambda: open_images(folders), f"{path}: a link to", "another image of the set", "remove the link")


def test_links_to_one_image_elsewhere_are_images_of_their_own(folders, tmp_path):
    """As in stores that name files by their content: ILSVRC has equal images."""
    make(tmp_path, "blob")
    for wnid in (A, B):
        (folders / "val" / wnid / "same.jpg").symlink_to(tmp_path / "blob")
    assert [data for _, data in content(folders)].count("blob") == 2


def test_folders_whose_path_is_too_long_for_the_system_are_refused(folders, nested):
    nested(folders / "val" / B, 30, "d" * 200)
    with pytest.raises(UnreadableInputError, match="File name too long"):
        open_images(folders)


def test_a_chain_of_folders_without_anything_else_ends(tmp_path, nested):
    nested(tmp_path, 100)
    for split in ("train", "validation"):
        refused(lambda split=split: open_images(tmp_path, split), f"no {split} split here (it has the folders d)")


@pytest.mark.parametrize("target", ["nowhere", "broken.jpg"])
def test_a_broken_link_counts_as_an_unreadable_image(folders, target):
    (folders / "val" / B / "broken.jpg").symlink_to(target)
    images = open_images(folders)
    assert [(e.label, e.error) for e in images.examples(on_error="yield") if e.error] == [
        (1, "missing, or not a regular file")
    ]
    assert len(images) == 5
