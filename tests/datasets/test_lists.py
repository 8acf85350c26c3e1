"""Lists of labels with a flat folder of images: read completely, or refused with the first problem and the count."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, open_images
from tests.datasets import mini
from tests.datasets.mini import WNIDS, refused

FIRST = "ILSVRC2012_val_00000001.JPEG"


@pytest.fixture
def flat(tmp_path) -> Path:
    pytest.importorskip("scipy", reason="the devkit needs scipy")
    mini.write_flat(tmp_path)
    return tmp_path


@pytest.fixture
def kaggle(tmp_path) -> Path:
    mini.write_kaggle(tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# Flat.


@pytest.mark.parametrize("folder", ["validation", "ILSVRC2012_img_val"])
def test_the_flat_folder_may_have_several_names(flat, folder):
    (flat / "val").rename(flat / folder)
    assert len(open_images(flat)) == 18


def test_a_missing_image_is_refused(flat):
    (flat / "val" / FIRST).unlink()
    refused(
        lambda: open_images(flat), f"18 labels for 17 images in {flat / 'val'}: 1 has no image; the first is {FIRST}"
    )


def test_an_image_beyond_the_ground_truth_is_refused(flat):
    (flat / "val" / "ILSVRC2012_val_00000019.JPEG").write_bytes(b"x")
    refused(lambda: open_images(flat), "18 labels for 19 images", "1 has no label", "ILSVRC2012_val_00000019.JPEG")


def test_other_files_in_the_folder_are_ignored(flat):
    (flat / "val" / "valprep.sh").write_bytes(b"x")
    (flat / "val" / "thumbnail.JPEG").write_bytes(b"x")
    assert len(open_images(flat)) == 18


def test_images_without_a_devkit_are_refused_with_its_name(flat):
    (flat / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused(lambda: open_images(flat), f"{flat}: no devkit here", "ILSVRC2012_devkit_t12.tar.gz")


def test_two_names_of_the_flat_folder_are_one_folder(flat):
    (flat / "val").rename(flat / "ILSVRC2012_img_val")
    (flat / "val").symlink_to("ILSVRC2012_img_val")
    assert len(open_images(flat)) == 18


def test_a_flat_folder_without_labels_is_refused_with_the_devkit_as_the_cause(flat):
    (flat / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused(lambda: open_images(flat), f"{flat}: no devkit here, so the labels are unknown; expected")
    refused(lambda: open_images(flat / "val"), "no devkit here, so the labels are unknown; expected")


def test_images_that_are_named_with_their_wordnet_ids_need_no_devkit(flat):
    """As in Hugging Face's archive of the validation images."""
    expected = [(e.data, e.label) for e in open_images(flat)]
    (flat / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    for name, (_, wnid) in mini.VALIDATION.items():
        path = flat / "val" / name
        path.rename(path.with_name(f"{path.stem}_{wnid}.JPEG"))
    images = open_images(flat)
    assert [(e.data, e.label) for e in images] == expected
    assert [c.wnid for c in images.classes] == WNIDS
    path = next((flat / "val").iterdir())
    path.rename(path.with_name(f"{path.stem[:23]}.JPEG"))
    refused(lambda: open_images(flat), "no devkit here")


# Kaggle.


def test_kaggles_validation_images_may_be_sorted_into_class_folders(kaggle):
    expected = sorted((e.data, e.label) for e in open_images(kaggle))
    folder = kaggle / "ILSVRC/Data/CLS-LOC/val"
    for name, (_, wnid) in mini.VALIDATION.items():
        (folder / wnid).mkdir(exist_ok=True)
        (folder / name).rename(folder / wnid / name)
    assert sorted((e.data, e.label) for e in open_images(kaggle)) == expected


@pytest.mark.parametrize("folder", ["ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_lists_may_be_in_any_folder_on_the_path(kaggle, folder):
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        (kaggle / name).rename(kaggle / folder / name)
    assert len(open_images(kaggle)) == 18


@pytest.mark.parametrize("name", ["LOC_val_solution.csv", "LOC_synset_mapping.txt"])
def test_a_missing_kaggle_list_is_refused_with_its_name(kaggle, name):
    (kaggle / name).unlink()
    refused(lambda: open_images(kaggle), f"{kaggle / name}: not found")


def test_kaggles_mapping_may_be_in_any_order(kaggle):
    expected = list(open_images(kaggle))
    path = kaggle / "LOC_synset_mapping.txt"
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    assert list(open_images(kaggle)) == expected


@pytest.mark.parametrize(
    "row",
    [
        "ILSVRC2012_val_00000001",
        "ILSVRC2012_val_00000001,",
        "ILSVRC2012_val_00000001,n00000001 1 2 3 4",
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01443537 1 2 3 4",
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4,more",
        "",
        "\x1b[2J,tench",
    ],
)
def test_a_row_without_exactly_one_known_class_is_refused(kaggle, row):
    path = kaggle / "LOC_val_solution.csv"
    lines = path.read_text().splitlines()
    lines[4] = row
    path.write_text("\n".join(lines))
    refused(lambda: open_images(kaggle), "LOC_val_solution.csv, line 5: ", "one class of LOC_synset_mapping.txt")
    lines[9:11] = [row, row]
    path.write_text("\n".join(lines))
    refused(lambda: open_images(kaggle), "line 5: ", "(3 lines are wrong; this is the first)")


def test_an_image_with_two_rows_is_refused(kaggle):
    with (kaggle / "LOC_val_solution.csv").open("a") as file:
        file.write("ILSVRC2012_val_00000002,n01440764 1 2 3 4\nILSVRC2012_val_00000003,n01440764 1 2 3 4\n")
    refused(lambda: open_images(kaggle), "line 20: 'ILSVRC2012_val_00000002': expected each ImageId once (2 lines")


@pytest.mark.parametrize("text", ["", "Id,Label\n", "\x00\n", '"' + "x" * 200_000])
def test_a_table_of_another_kind_is_refused(kaggle, text):
    (kaggle / "LOC_val_solution.csv").write_text(text)
    refused(lambda: open_images(kaggle), "LOC_val_solution.csv")


def test_a_missing_kaggle_image_or_row_is_refused(kaggle):
    image = kaggle / "ILSVRC/Data/CLS-LOC/val" / FIRST
    image.rename(image.with_name("ILSVRC2012_val_00000099.JPEG"))
    refused(lambda: open_images(kaggle), f"1 has no image; the first is {FIRST}")
    image.with_name("ILSVRC2012_val_00000099.JPEG").rename(image)
    image.with_name("ILSVRC2012_val_00000099.JPEG").write_bytes(b"x")
    refused(lambda: open_images(kaggle), "1 has no label; the first is ILSVRC2012_val_00000099.JPEG")


def test_missing_or_unknown_kaggle_training_folders_are_refused(kaggle):
    folder = kaggle / "ILSVRC/Data/CLS-LOC/train"
    (folder / WNIDS[1]).rename(folder / "n99999999")
    refused(lambda: LabelledImages(kaggle, "train"), f"differ in 2 classes; the first is '{WNIDS[1]}'")


# Accents.


@pytest.mark.parametrize("layout", ["tiny-imagenet", "kaggle"])
def test_one_image_labelled_with_its_accent_in_two_forms_is_refused(tmp_path, layout):
    composed, separate = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    if layout == "kaggle":
        mini.write_kaggle(tmp_path)
        change(tmp_path / "LOC_val_solution.csv", Path(FIRST).stem, composed)
        (image,) = tmp_path.rglob(FIRST)
        with (tmp_path / "LOC_val_solution.csv").open("a") as file:
            file.write(f"{separate},{WNIDS[0]} 1 1 2 2\n")
    else:
        mini.write_tiny_imagenet(tmp_path)
        change(tmp_path / "val" / "val_annotations.txt", FIRST, f"{composed}.JPEG")
        (image,) = tmp_path.rglob(FIRST)
        with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
            file.write(f"{separate}.JPEG\t{WNIDS[0]}\t1\t1\t2\t2\n")
    image.rename(image.with_name(f"{separate}.JPEG"))
    refused(lambda: open_images(tmp_path), "two names differ only in how their accents are stored")
