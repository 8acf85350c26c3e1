"""Which files and folders belong to a set: no image is left out, none counts twice, and links are followed safely."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.datasets.tree import Walk, children, distinct, is_empty, is_image, is_picture, same_name, subfolders
from alexnet_infer.errors import UnreadableInputError, UsageError
from tests.datasets.mini import LITTER_FILES, LITTER_FOLDERS, WNIDS, refused, write

A, B, C = WNIDS[:3]


def make(root: Path, *paths: str) -> Path:
    """Write files that contain their own paths."""
    for path in paths:
        write(root / path, path.encode())
    return root


def content(root: Path) -> list[tuple[str, str]]:
    """(Class, content) of each image."""
    images = open_images(root)
    return [(images.classes[e.label].wnid, e.data.decode()) for e in images]


@pytest.fixture
def folders(tmp_path) -> Path:
    return make(tmp_path / "set", f"val/{A}/1.jpg", f"val/{A}/2.jpg", f"val/{B}/1.jpg", f"val/{C}/1.jpg")


# Names.


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


# Depth and order.


def test_images_are_in_order_of_their_paths_at_any_depth(tmp_path):
    paths = ["b.jpg", "a/z.jpg", "a/b/c/d.jpg", "a/b.jpg", "c/1.jpg", "Z.jpg"]
    make(tmp_path / A, *paths)
    found = [name for name, _ in Walk(tmp_path).below(tmp_path / A)]
    assert found == [f"{tmp_path / A}/{path}" for path in sorted(paths, key=lambda path: path.split("/"))]


def test_folders_nested_deeper_than_pythons_stack_are_read(tmp_path):
    folder, here = tmp_path / "val" / A, os.open(tmp_path, os.O_RDONLY)
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


@pytest.mark.parametrize("target", ["nowhere", "broken.jpg"])
def test_a_broken_link_counts_as_an_unreadable_image(folders, target):
    (folders / "val" / B / "broken.jpg").symlink_to(target)
    images = open_images(folders)
    assert [(e.label, e.error) for e in images.examples(on_error="yield") if e.error] == [
        (1, "missing, or not a regular file")
    ]
    assert len(images) == 5


# What is beside the classes.


@pytest.mark.parametrize("name", ["loose.jpg", "x.avif", "y.HEIC", "n02119789", "n02119789.tar", "n02119789.zip"])
def test_images_and_classes_beside_the_class_folders_are_refused(folders, name):
    make(folders, f"val/{name}")
    refused(lambda: open_images(folders), f"{folders / 'val'}: {name} in no class folder; expected every image in")


def test_a_class_folder_that_is_a_broken_link_is_refused(folders):
    (folders / "val" / "n02119789").symlink_to("nowhere")
    refused(lambda: open_images(folders), "val: n02119789 in no class folder")


@pytest.mark.parametrize(
    "name", ["README", "README.md", "list.txt", "meta.bin", ".loose.jpg", "labels.csv", "Thumbs.db"]
)
def test_other_files_beside_the_class_folders_are_no_part_of_the_set(folders, name):
    before = content(folders)
    make(folders, f"val/{name}", name)
    assert content(folders) == before


@pytest.mark.parametrize("name", ["thumbs", "unsorted", "images", "5", "N02119789", "n0211978"])
def test_folders_of_other_names_among_wordnet_ids_are_refused_if_they_have_images(folders, name):
    before = content(folders)
    (folders / "val" / name).mkdir()
    assert content(folders) == before
    make(folders, f"val/{name}/x.jpg")
    refused(lambda: open_images(folders), "has 3 folders named by WordNet ids, and others with images", name)


@pytest.mark.parametrize("nested", [f"val/{A}/{B}/x.jpg", f"val/{A}/deep/{B}/x.jpg", f"val/val/{A}/x.jpg"])
def test_a_class_inside_another_or_a_split_inside_a_split_is_refused(folders, nested):
    make(folders, nested)
    refused(lambda: open_images(folders), "a class inside", "expected one folder per class")


def test_a_class_inside_itself_is_one_class(tmp_path):
    make(tmp_path, f"val/{A}/{A}/1.jpg", f"val/{B}/{B}/1.jpg")
    assert [wnid for wnid, _ in content(tmp_path)] == [A, B]


# Which folder is the split.


@pytest.mark.parametrize(("first", "second"), [("val", "validation"), ("val", "valid"), ("validation", "valid")])
def test_two_folders_for_the_split_are_refused_with_both_names_unless_one_is_empty(tmp_path, first, second):
    make(tmp_path, f"{first}/{A}/1.jpg")
    (tmp_path / second).mkdir()
    (tmp_path / second / ".DS_Store").write_bytes(b"x")
    assert content(tmp_path) == [(A, f"{first}/{A}/1.jpg")]
    make(tmp_path, f"{second}/{A}/2.jpg")
    refused(lambda: open_images(tmp_path), f"{first}/", f"{second}/", "validation split", error=UsageError)


def test_two_names_of_one_folder_are_one_split(folders):
    before = content(folders)
    (folders / "validation").symlink_to("val")
    assert len(content(folders)) == len(before)


def test_plain_classes_need_no_split_folder(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.png", "dog/2.heic", "README.md")
    (tmp_path / "empty").mkdir()
    assert content(tmp_path) == [("cat", "cat/1.jpg"), ("dog", "dog/1.png"), ("dog", "dog/2.heic")]
    assert [c.wnid for c in open_images(tmp_path).classes] == ["cat", "dog", "empty"]


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/1.jpg",),
        ("cat/1.jpg", "dog/deep/1.jpg"),
        ("gaussian_noise/1/n01440764/1.jpg", "gaussian_noise/2/n0/1.jpg"),
    ],
    ids=["one folder", "images deeper", "ImageNet-C"],
)
def test_other_collections_of_folders_are_refused_with_what_is_there(tmp_path, paths):
    make(tmp_path, *paths)
    message = refused(lambda: open_images(tmp_path), f"{tmp_path}: no validation split here (it has the folders ")
    assert paths[0].split("/")[0] in message


def test_a_severity_of_imagenet_c_is_a_set(tmp_path):
    make(tmp_path, f"snow/3/{A}/1.JPEG", f"snow/5/{A}/2.JPEG", f"snow/5/{B}/1.JPEG")
    assert content(tmp_path / "snow" / "5") == [(A, f"snow/5/{A}/2.JPEG"), (B, f"snow/5/{B}/1.JPEG")]


# Numbered folders.


def test_folders_from_0_to_999_are_ilsvrcs_classes_sorted_as_numbers(tmp_path):
    from alexnet_infer.datasets.ilsvrc import ilsvrc_classes

    make(tmp_path, *(f"{i}/x.jpeg" for i in range(1000)))
    images = open_images(tmp_path)
    assert images.classes == ilsvrc_classes()
    assert not images.assumed
    assert [(e.label, e.data.decode()) for e in images] == [(i, f"{i}/x.jpeg") for i in range(1000)]


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["0", "1", "6"], "has a folder '6'; expected numbers from 0 to 5"),
        (["1", "2", "3", "4", "5", "6"], "If they count from 1, or are the devkit's, rename"),
        (["1", "01"], "two folders have the same number"),
        (["0", "0000"], "two folders have the same number"),
    ],
)
def test_numbers_that_are_no_positions_are_refused(tmp_path, names, part):
    from tests.datasets.mini import write_names

    make(tmp_path, *(f"{name}/x.jpeg" for name in names))
    write_names(tmp_path / "classes.tsv", "\t")
    refused(lambda: open_images(tmp_path), part)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_numbers_without_a_table_are_refused_with_the_file_to_add(tmp_path, split):
    make(tmp_path, *(f"{split}/{i}/x.jpeg" for i in range(10)))
    refused(lambda: LabelledImages(tmp_path, split), "its folders are numbered (0, 1, 2", "add classes.tsv")
