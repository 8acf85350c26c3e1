"""The same set in every layout: the same classes, labels and bytes. The layout is detected or refused in one line."""

from __future__ import annotations

import hashlib
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from alexnet_infer.datasets import LAYOUTS, LabelledImages, open_images
from alexnet_infer.datasets.ilsvrc import ilsvrc_names
from alexnet_infer.errors import UnreadableInputError, UsageError
from tests.datasets import mini
from tests.datasets.mini import FORMS, MORE_WRITERS, SYNSETS, TRAINING_WRITERS, WNIDS, WRITERS, refused, write_form


def summary(images: LabelledImages) -> list[tuple[str, int, str]]:
    """(file name, label, SHA-256), sorted by name."""
    return sorted((Path(e.name).name, e.label, hashlib.sha256(e.data).hexdigest()) for e in images)


def layout_of(split: str, form: str) -> str:
    return (WRITERS if split == "validation" else TRAINING_WRITERS)[form][0]


def test_the_miniature_is_not_trivial():
    assert list(SYNSETS) != WNIDS == sorted(WNIDS)
    labels = [label for _, label, _ in mini.expected("validation")]
    assert [labels.count(i) for i in range(6)] == [3] * 6
    assert labels != sorted(labels)
    assert {layout for layout, _ in WRITERS.values()} == set(LAYOUTS)
    assert {**ilsvrc_names(), **SYNSETS} == ilsvrc_names()  # so that a set with and a set without names are equal


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_every_form_gives_the_same_images_labels_and_classes(roots, split, form):
    images = LabelledImages(roots[form], split)
    assert summary(images) == mini.expected(split)
    assert [(c.wnid, c.name) for c in images.classes] == [(wnid, SYNSETS[wnid]) for wnid in WNIDS]
    assert len(images) == len(mini.IMAGES[split])
    assert images.layout == layout_of(split, form)


@pytest.mark.parametrize("form", MORE_WRITERS)
def test_every_other_form_gives_the_same_images_labels_and_classes(tmp_path, form):
    images = open_images(write_form(form, tmp_path / "ilsvrc"))
    assert summary(images) == mini.expected("validation")
    assert [(c.wnid, c.name) for c in images.classes] == [(wnid, SYNSETS[wnid]) for wnid in WNIDS]
    assert images.layout == MORE_WRITERS[form][0]
    examples = list(images)
    assert [e.label for e in examples] == images.labels
    assert list(images.at([0, 7, 17])) == [examples[i] for i in (0, 7, 17)]


def test_english_names_with_a_second_crane_are_recognised_by_their_positions(tmp_path):
    mini.write_parquet_english(tmp_path)
    images = open_images(tmp_path)
    assert [(c.wnid, c.name) for c in images.classes] == list(ilsvrc_names().items())
    assert sorted((e.name, images.classes[e.label].wnid) for e in images) == sorted(
        (name, wnid) for name, (_, wnid) in mini.VALIDATION.items()
    )


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_the_layout_can_be_named(roots, split, form):
    layout = layout_of(split, form)
    assert list(open_images(roots[form], split, layout)) == list(LabelledImages(roots[form], split))


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_reading_from_a_position_gives_the_rest(roots, split, form):
    images = LabelledImages(roots[form], split)
    examples = list(images)
    for start in range(len(examples) + 1):
        assert list(images.examples(start)) == examples[start:]


@pytest.mark.parametrize("start", [-1, 19])
def test_a_position_outside_the_set_is_refused_at_once(roots, start):
    refused(lambda: open_images(roots["flat"]).examples(start), f"start={start}: expected 0 to 18", error=UsageError)


@pytest.mark.parametrize("form", ["tar", "flat", "flat in root", "kaggle", "caffe"])
def test_listed_images_are_sorted_by_name(roots, form):
    names = [Path(example.name).name for example in open_images(roots[form])]
    assert names == sorted(mini.VALIDATION)


# The listing, which identifies the data.


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_the_listing_does_not_depend_on_the_sets_location(roots, split, form, tmp_path):
    shutil.copytree(roots[form], tmp_path / "copy")
    listing = LabelledImages(tmp_path / "copy", split).listing
    assert listing == LabelledImages(roots[form], split).listing
    assert len(bytes.fromhex(listing)) == 32


def test_the_listing_is_the_same_in_all_layouts_with_a_list(roots):
    assert len({open_images(roots[f]).listing for f in ("tar", "flat", "flat in root", "kaggle", "caffe")}) == 1
    assert open_images(roots["tar"]).listing != LabelledImages(roots["tar"], "train").listing


def test_the_listing_changes_with_a_name_a_size_a_label_and_a_class(tmp_path):
    mini.write_caffe(tmp_path)
    seen = {open_images(tmp_path).listing}
    name = "ILSVRC2012_val_00000001.JPEG"
    labels, words = tmp_path / "val.txt", tmp_path / "synset_words.txt"

    def relabel() -> None:
        line = next(line for line in labels.read_text().splitlines() if line.startswith(name))
        label = int(line.split()[1])
        labels.write_text(labels.read_text().replace(line, f"{name} {(label + 1) % 6}"))

    def rename() -> None:
        (tmp_path / "val" / name).rename(tmp_path / "val" / "other.JPEG")
        labels.write_text(labels.read_text().replace(name, "other.JPEG"))

    for change in (
        relabel,
        lambda: (tmp_path / "val" / name).write_bytes(b"longer than it was" * 99),
        rename,
        lambda: words.write_text(words.read_text().replace("n01440764", "n01440765")),
    ):
        change()
        seen.add(open_images(tmp_path).listing)
    assert len(seen) == 5


@pytest.mark.parametrize("form", ["tar", "flat", "folders", "kaggle", "caffe"])
def test_the_listing_reads_no_image(roots, form, monkeypatch):
    images = open_images(roots[form])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(Path, "open", lambda path, mode: pytest.fail(f"{path} was opened"))
    assert images.listing


def test_the_listing_is_known_after_an_image_vanished(tmp_path):
    mini.write_flat(tmp_path)
    images, complete = open_images(tmp_path), open_images(tmp_path).listing
    (tmp_path / "val" / "ILSVRC2012_val_00000007.JPEG").unlink()
    assert images.listing != complete


# Choice of the layout.


def test_two_layouts_in_one_folder_are_refused_until_one_is_named(tmp_path):
    mini.write_tar(tmp_path)
    mini.write_folders(tmp_path)
    for split in ("validation", "train"):
        message = refused(lambda split=split: LabelledImages(tmp_path, split), "(tar, folders)", error=UsageError)
        assert "--format tar" in message
        for layout in ("tar", "folders"):
            assert summary(open_images(tmp_path, split, layout)) == mini.expected(split)


# Without "folders in root", which is detected only if there is no other folder for the split.
PAIRS = list(combinations([form for form in WRITERS if form != "folders in root"], 2))


SAME_IMAGES = {("flat in root", "caffe"), ("flat in root", "tiny-imagenet")}
"""Pairs with the images of `flat` in two folders, which is refused even if `flat` is named."""


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a, b in PAIRS if WRITERS[a][0] != WRITERS[b][0] and (a, b) not in SAME_IMAGES]
)
def test_any_two_layouts_are_refused_until_one_is_named(tmp_path, first, second):
    layouts = [WRITERS[form][0] for form in (first, second)]
    for form in (first, second):
        WRITERS[form][1](tmp_path)
    refused(lambda: open_images(tmp_path), "several layouts", *layouts, error=UsageError)
    for layout in layouts:
        if layout == "folders" and not {"flat", "caffe"}.isdisjoint(
            (first, second)
        ):  # their images are beside the classes
            refused(lambda: open_images(tmp_path, layout="folders"), "15 more in no class folder")
        else:
            assert summary(open_images(tmp_path, layout=layout)) == mini.expected("validation")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cat/1.jpg", "(it has the folders cat)"),
        ("train/n01440764/1.jpg", "(it has the folders train)"),
        ("val.zip", "(it has the archives val.zip; name one, or unpack it)"),
        ("1.jpg", "(it has images without labels)"),
        ("notes.txt", "no validation split here; expected one of"),
    ],
)
def test_a_folder_that_is_no_set_is_refused_with_what_it_has(tmp_path, name, words):
    mini.write(tmp_path / name, b"x")
    refused(lambda: open_images(tmp_path), f"{tmp_path}: no validation split here", words)


@pytest.mark.parametrize("split", ["validation", "train"])
def test_an_empty_folder_is_refused_with_all_accepted_layouts(tmp_path, split):
    refused(
        lambda: LabelledImages(tmp_path, split),
        f"{tmp_path}: no {split} split here; expected one of: ",
        *(source.accepts[split] for source in LAYOUTS.values() if split in source.accepts),
    )


@pytest.mark.parametrize("split", ["validation", "train"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_named_layout_that_is_missing_is_refused_with_its_description(tmp_path, layout, split):
    if split not in LAYOUTS[layout].accepts:
        build, error = (lambda: open_images(tmp_path, split, layout)), UsageError
        refused(build, f"--format {layout}: has no train split; expected one of tar, folders,", error=error)
    else:
        accepts = LAYOUTS[layout].accepts[split]
        for root in (tmp_path, tmp_path / "absent"):
            refused(lambda root=root: open_images(root, split, layout), f"{root}: no {split} split here", accepts)


@pytest.mark.parametrize("layout", ["", "zip", "two\nlines"])
def test_an_unknown_layout_is_refused_with_the_known_layouts(tmp_path, layout):
    refused(
        lambda: open_images(tmp_path, layout=layout),
        f"--format {layout!r}: expected one of tar, flat, folders, kaggle, parquet, caffe, tiny-imagenet",
        error=UsageError,
    )


def test_a_name_that_is_too_long_is_refused(tmp_path):
    refused(lambda: open_images(tmp_path / ("x" * 300)), "File name too long")


@pytest.mark.parametrize("form", ["flat", "caffe", "kaggle"])
def test_a_broken_link_among_listed_images_is_yielded_with_its_error_or_raised(roots, form, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(roots[form], root)
    (path,) = root.rglob("ILSVRC2012_val_00000003.JPEG")
    path.unlink()
    path.symlink_to("nowhere")
    intact, images = list(open_images(roots[form])), open_images(root)
    examples = list(images.examples(on_error="yield"))
    assert [e.label for e in examples] == [e.label for e in intact]
    assert [(e.error, e.data == i.data) for e, i in zip(examples, intact, strict=True)] == [
        ("missing, or not a regular file", False) if i == 2 else (None, True) for i in range(18)
    ]
    with pytest.raises(UnreadableInputError, match=r"00000003\.JPEG: missing, or not a regular file"):
        list(images)
