"""Which folders are classes: what is beside them, below them, and which split they are; folders named by numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from tests.datasets.mini import WNIDS, A, B, content, make, refused, write_names

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
    assert not images.notes
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
    make(tmp_path, *(f"{name}/x.jpeg" for name in names))
    write_names(tmp_path / "classes.tsv", "\t")
    refused(lambda: open_images(tmp_path), part)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_numbers_without_a_table_are_names_as_in_training(tmp_path, split):
    make(tmp_path, *(f"{split}/{i}/x.jpeg" for i in range(12)))
    images = LabelledImages(tmp_path, split)
    assert [c.wnid for c in images.classes] == sorted(map(str, range(12)))
    assert all(images.classes[e.label].wnid == Path(e.name).parent.name for e in images)
    assert not images.notes


def test_numbers_are_names_for_a_net_whose_classes_have_these_names(tmp_path):
    make(tmp_path, *(f"{i}/x.jpeg" for i in range(12)))
    own = LabelledImages(tmp_path, "validation").classes
    images = LabelledImages(tmp_path, "validation", numbered=own)
    assert images.classes == own  # "10" is the third of these classes, not the eleventh
    assert not images.notes


def test_a_split_folder_without_images_is_refused_with_what_it_has(tmp_path):
    make(tmp_path, "validation/0000.parquet", "validation/0001.parquet")
    refused(lambda: open_images(tmp_path), "validation: no images here (it has 0000.parquet, 0001.parquet); expected")
    make(tmp_path / "flat", "val/a.jpg", "val/b.jpg")
    refused(lambda: open_images(tmp_path / "flat"), "val: a.jpg, b.jpg in no class folder; expected every image in")


NUMBERS = tuple(ClassName(wnid=str(i), name=f"my class {i}") for i in sorted(range(12), key=str))
"""The classes of a net that was trained on folders 0 to 11: "10" and "11" come before "2"."""


@pytest.mark.parametrize("form", ["{}", "{:03}"])
@pytest.mark.parametrize("numbers", [range(12), [2, 10], [3, 99]])
def test_numbers_are_never_positions_among_classes_that_are_named_by_numbers(tmp_path, form, numbers):
    make(tmp_path, *(f"{form.format(i)}/x.jpeg" for i in numbers))
    images = LabelledImages(tmp_path, "validation", numbered=NUMBERS)
    found = {int(Path(e.name).parent.name): images.classes[e.label] for e in images}
    known = {int(c.wnid): c for c in NUMBERS}
    assert found == {i: known.get(i, ClassName(wnid=form.format(i), name=form.format(i))) for i in numbers}
    assert not images.notes


def test_numbers_that_a_table_lists_as_ids_are_these_ids_not_its_lines(tmp_path):
    make(tmp_path, *(f"{i}/x.jpeg" for i in range(1, 6)))
    (tmp_path / "classes.tsv").write_text("".join(f"{i}\tclass {i}\n" for i in range(1, 6)))
    images = open_images(tmp_path)
    assert [(Path(e.name).parent.name, images.classes[e.label].name) for e in images] == [
        (f"{i}", f"class {i}") for i in range(1, 6)
    ]


def test_a_table_beside_the_class_folders_is_used(tmp_path):
    make(tmp_path, *(f"val/{i}/x.jpeg" for i in range(6)))
    write_names(tmp_path / "val" / "classes.tsv", "\t")
    assert [c.wnid for c in open_images(tmp_path).classes] == WNIDS


def test_numbers_are_the_lines_of_wnids_if_they_are_sorted(tmp_path):
    make(tmp_path, *(f"{i}/x.jpeg" for i in range(6)))
    (tmp_path / "wnids.txt").write_text("\n".join(WNIDS))
    assert [c.wnid for c in open_images(tmp_path).classes] == WNIDS
    (tmp_path / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    refused(lambda: open_images(tmp_path), "wnids.txt: not in order of WordNet ids")


@pytest.mark.parametrize("table", ["classes.tsv", "val/synset_words.txt", "wnids.txt"])
@pytest.mark.parametrize("numbered", [False, True])
def test_a_set_without_a_few_classes_of_its_table_is_refused_as_incomplete(tmp_path, table, numbered):
    names = [*map(str, range(6))] if numbered else WNIDS
    make(tmp_path, *(f"val/{name}/x.jpeg" for name in names[:-1]))
    write_table(tmp_path / table)
    refused(
        lambda: open_images(tmp_path),
        f"val: lacks 1 of the 6 classes in {tmp_path / table} (such as 'n04522168'), so the copy is incomplete",
    )
    (tmp_path / "val" / names[-1]).mkdir()  # the user says that it has no images
    images = open_images(tmp_path)
    assert ([c.wnid for c in images.classes], images.notes) == (WNIDS, ())


def test_a_set_with_a_few_classes_of_a_table_is_a_part_that_is_noted(tmp_path):
    make(tmp_path, *(f"val/{wnid}/x.jpeg" for wnid in WNIDS[:3]))
    write_table(tmp_path / "classes.tsv")
    (note,) = open_images(tmp_path).notes
    assert note.endswith("classes.tsv (such as 'n02119789'): they don't count")
    assert "val lacks 3 of the 6 classes in" in note


@pytest.mark.parametrize(("count", "noted"), [(1000, False), (999, True), (600, True), (400, False)])
def test_a_set_without_a_table_that_has_most_of_ilsvrcs_classes_is_noted_with_a_class_that_it_lacks(
    tmp_path, count, noted
):
    wnids = [c.wnid for c in ilsvrc_classes()]
    make(tmp_path, *(f"val/{wnid}/x.jpeg" for wnid in wnids[1000 - count :]))
    notes = open_images(tmp_path).notes
    lacks = f"val lacks {1000 - count} of ILSVRC's 1,000 classes (such as n01440764, tench, Tinca tinca): the copy may"
    assert [lacks in note for note in notes] == [True] * noted


def test_a_class_of_another_set_beside_ilsvrcs_is_no_incomplete_copy(tmp_path):
    make(tmp_path, *(f"val/{c.wnid}/x.jpeg" for c in ilsvrc_classes()[1:]), "val/n00000001/x.jpeg")
    assert open_images(tmp_path).notes == ()


def write_table(path: Path) -> None:
    if path.name == "wnids.txt":
        path.write_text("\n".join(WNIDS))
    else:
        write_names(path, {".tsv": "\t", ".txt": " "}[path.suffix])


def test_an_image_without_a_suffix_beside_the_class_folders_is_refused(tmp_path):
    make(tmp_path, *(f"val/{wnid}/x.jpeg" for wnid in WNIDS), "val/LICENSE", "val/notes.txt")
    assert len(open_images(tmp_path)) == 6
    make(tmp_path, "val/stray")
    refused(lambda: open_images(tmp_path), "stray in no class folder")
