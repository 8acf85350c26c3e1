"""Parquet shards: read in order and completely, or refused in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.datasets import Example, LabelledImages, open_images
from alexnet_infer.errors import BackendError, UnreadableInputError
from tests.datasets import mini
from tests.datasets.mini import refused

TINY_IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet"

CLASSES = "n01443537\tgoldfish, Carassius auratus\nn02123045\ttabby, tabby cat\nn02504458\tAfrican elephant\n"
WNIDS = ["n01443537", "n02123045", "n02504458"]

BYTES = [b"first", b"second", b"third", b"fourth", b"fifth"]
LABELS = [2, 0, 1, 1, 0]


def read(root: Path, split: str = "train") -> list[Example]:
    return list(LabelledImages(root, split))


# Parquet.


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="Parquet sets need pyarrow")


def write_shard(path: Path, data: list | None = None, labels: list | None = None, **columns: object) -> None:
    """A shard of `data` and `labels`, or of other `columns`."""
    import pyarrow
    from pyarrow import parquet

    if not columns:
        data = BYTES if data is None else data
        images = [None if b is None else {"bytes": b, "path": f"train/{i}.JPEG"} for i, b in enumerate(data)]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        columns = {"image": pyarrow.array(images, kind), "label": LABELS if labels is None else labels}
    parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def shards(tmp_path, parquet) -> Path:
    """A set of two shards, three and two images."""
    (tmp_path / "classes.tsv").write_text(CLASSES)
    write_shard(tmp_path / "train-00000-of-00002.parquet", BYTES[:3], LABELS[:3])
    write_shard(tmp_path / "train-00001-of-00002.parquet", BYTES[3:], LABELS[3:])
    return tmp_path


def test_shards_are_read_in_sequence_in_their_own_order(shards):
    images = LabelledImages(shards, "train")
    assert len(images) == 5
    assert [(example.data, example.label) for example in images] == list(zip(BYTES, LABELS, strict=True))
    assert [c.wnid for c in images.classes] == WNIDS
    assert images.classes[1].short == "tabby"


def test_a_set_can_be_read_twice_and_partly(shards):
    images = LabelledImages(shards, "train")
    assert next(iter(images)).data == b"first"
    assert list(images) == list(images)


def test_an_example_is_named_by_its_path_or_else_by_its_row(shards):
    import pyarrow

    assert [example.name for example in read(shards)][:2] == ["train/0.JPEG", "train/1.JPEG"]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": b"x", "path": path} for path in (None, "", "two\nlines", "a.png")]
    path = shards / "validation-00000-of-00001.parquet"
    write_shard(path, image=pyarrow.array(rows, kind), label=[0] * 4)
    assert [e.name for e in read(shards, "validation")] == [*(f"{path.name}, row {i}" for i in range(3)), "a.png"]


def test_more_rows_than_a_batch_keep_their_order_and_numbers(tmp_path, parquet):
    (tmp_path / "classes.tsv").write_text(CLASSES)
    data = [str(i).encode() for i in range(1100)]
    write_shard(tmp_path / "train-00000-of-00001.parquet", data, [0] * 1100)
    assert [example.data for example in read(tmp_path)] == data
    write_shard(tmp_path / "train-00000-of-00001.parquet", data, [0] * 1000 + [3] + [0] * 99)
    refused(lambda: read(tmp_path), "row 1000: label 3: expected 0 to 2")


def test_splits_are_read_separately(shards):
    write_shard(shards / "validation-00000-of-00001.parquet", [b"other"], [1])
    assert [example.data for example in read(shards, "validation")] == [b"other"]
    assert len(read(shards)) == 5


@pytest.mark.parametrize("label", [-1, 3, 2**40, None])
def test_a_label_out_of_range_is_refused_with_its_row_and_value(shards, label):
    write_shard(shards / "train-00001-of-00002.parquet", BYTES[3:], [0, label])
    assert len(LabelledImages(shards, "train")) == 5
    refused(lambda: read(shards), f"train-00001-of-00002.parquet, row 1: label {label}: expected 0 to 2")


@pytest.mark.parametrize("missing", [None, b""])
def test_a_row_without_an_image_is_refused(shards, missing):
    write_shard(shards / "train-00001-of-00002.parquet", [b"fourth", missing], [0, 0])
    refused(lambda: read(shards), "train-00001-of-00002.parquet, row 1: no image in this row")


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b"x"], "label": [0]},
        {"image": [{"path": "x"}], "label": [0]},
        {"image": [{"bytes": "text", "path": "x"}], "label": [0]},
        {"image": [{"bytes": b"x", "path": "x"}], "label": [0.0]},
        {"image": [{"bytes": b"x", "path": "x"}], "labels": [0]},
        {"picture": [{"bytes": b"x", "path": "x"}], "label": [0]},
        {"two\nlines": [0]},
    ],
    ids=str,
)
def test_other_columns_are_refused_with_their_names(shards, columns):
    write_shard(shards / "train-00001-of-00002.parquet", **columns)
    refused(
        lambda: LabelledImages(shards, "train"),
        "train-00001-of-00002.parquet: has columns [",
        "expected image (struct of bytes, path) and label (",
    )


def test_additional_columns_are_ignored(shards):
    import pyarrow

    rows = pyarrow.array([{"path": "p", "bytes": b"x"}])
    write_shard(shards / "train-00001-of-00002.parquet", extra=["?"], label=pyarrow.array([2], "uint8"), image=rows)
    assert read(shards)[-1] == Example(name="p", data=b"x", label=2)


def test_a_missing_shard_is_an_error_not_a_smaller_set(shards):
    (shards / "train-00000-of-00002.parquet").unlink()
    refused(lambda: LabelledImages(shards, "train"), "train shard 0 of 2 is missing")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"PAR1",
        lambda content: b"not Parquet at all, but long enough to have a footer",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda content: content[:4] + bytes(len(content) - 12) + content[-8:],
    ],
    ids=["empty", "magic only", "text", "last byte lost", "half", "wrong footer length", "zeros"],
)
def test_a_damaged_shard_is_refused_with_its_name(shards, damage):
    path = shards / "train-00001-of-00002.parquet"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: read(shards), str(path), "can't be read as Parquet (")


def test_a_shard_with_any_damaged_byte_is_read_or_refused(shards):
    path = shards / "train-00001-of-00002.parquet"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for position in rng.choice(len(content), 250, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read(shards)
        except UnreadableInputError as error:
            refusals += str(error).isprintable()
    assert refusals > 25


def test_a_folder_instead_of_a_shard_is_refused(shards):
    (shards / "train-00001-of-00002.parquet").unlink()
    (shards / "train-00001-of-00002.parquet").mkdir()
    refused(lambda: LabelledImages(shards, "train"), "train-00001-of-00002.parquet: can't be read as Parquet")


def test_a_shard_that_vanishes_while_the_set_is_read_is_refused(shards):
    images = iter(LabelledImages(shards, "train"))
    next(images)
    (shards / "train-00001-of-00002.parquet").unlink()
    refused(lambda: list(images), "train-00001-of-00002.parquet")


def test_without_pyarrow_parquet_data_is_refused_with_the_install_command(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendError, match="pip install pyarrow"):
        LabelledImages(shards, "train")


# classes.tsv.


def test_shards_without_class_names_are_refused(shards):
    (shards / "classes.tsv").unlink()
    refused(lambda: LabelledImages(shards, "train"), "classes.tsv: not found; expected lines of WordNet id, tab")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("line 1: ''",)),
        ("n01443537 goldfish\n", ("line 1: 'n01443537 goldfish'", "expected WordNet id, tab, class name")),
        (CLASSES.replace("\n", "\n\n", 1), ("line 2: ''",)),
        (CLASSES.replace("\ttabby, tabby cat", "\t"), ("line 2: 'n02123045\\t'",)),
        ("\tgoldfish\n", ("line 1: '\\tgoldfish'",)),
        (CLASSES + "n02123045\tanother cat\n", ("line 4: 'n02123045' occurs twice",)),
        ("".join(reversed(CLASSES.splitlines(keepends=True))), ("not in order of WordNet ids",)),
        ("n01443537\tgold\x1b[2Jfish\n", (r"class 'n01443537': name='gold\x1b[2Jfish'", "expected printable text")),
        ("n01443537\tgold\tfish\n", (r"'gold\tfish'",)),
    ],
    ids=["empty", "no tab", "blank line", "no name", "no id", "twice", "unsorted", "escape", "two tabs"],
)
def test_class_names_that_would_shift_or_corrupt_the_labels_are_refused(shards, text, parts):
    (shards / "classes.tsv").write_text(text)
    refused(lambda: LabelledImages(shards, "train"), "classes.tsv", *parts)


def test_class_names_that_are_not_utf8_are_refused(shards):
    (shards / "classes.tsv").write_bytes(b"n01443537\tgold\xe9fish\n")
    refused(lambda: LabelledImages(shards, "train"), "classes.tsv, line 1: 'utf-8' codec can't decode")


def test_a_folder_instead_of_class_names_is_refused(shards):
    (shards / "classes.tsv").unlink()
    (shards / "classes.tsv").mkdir()
    refused(lambda: LabelledImages(shards, "train"), "classes.tsv: Is a directory")


@pytest.mark.parametrize(
    "content",
    [CLASSES.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + CLASSES.encode(), CLASSES.rstrip("\n").encode()],
    ids=["Windows line endings", "byte order mark", "no final newline"],
)
def test_class_names_are_read_with_other_line_endings_and_byte_order_marks(shards, content):
    (shards / "classes.tsv").write_bytes(content)
    classes = LabelledImages(shards, "train").classes
    assert [c.wnid for c in classes] == WNIDS
    assert classes[0].name == "goldfish, Carassius auratus"
    assert classes[2].name == "African elephant"


# Positions, and classes from other sources.


def test_starting_at_a_position_skips_earlier_shards_and_row_groups(tmp_path, parquet):
    (tmp_path / "classes.tsv").write_text(CLASSES)
    for shard in range(3):
        rows = [(b"%d" % i * 500, f"{i}.JPEG", i % 3) for i in range(10 * shard, 10 * shard + 10)]
        mini.write_shard(tmp_path / f"train-{shard:05}-of-00003.parquet", rows)
    images = LabelledImages(tmp_path, "train")
    examples = list(images)
    for name in ("train-00000-of-00003.parquet", "train-00001-of-00003.parquet"):
        content = bytearray((tmp_path / name).read_bytes())
        groups = parquet.ParquetFile(tmp_path / name).metadata
        end = groups.row_group(1).column(0).dictionary_page_offset or groups.row_group(1).column(0).data_page_offset
        content[4:end] = bytes(end - 4)  # everything before row 4, the first of the second group
        (tmp_path / name).write_bytes(content)
    refused(lambda: list(images), "can't be read as Parquet")
    for start in (14, 15, 19, 20, 29, 30):
        assert list(images.examples(start)) == examples[start:]


def test_a_row_without_an_image_can_be_yielded_with_its_error(shards):
    write_shard(shards / "train-00001-of-00002.parquet", [None, b"fifth"], [1, 2])
    fourth, fifth = LabelledImages(shards, "train").examples(3, on_error="yield")
    assert (fourth.data, fourth.label, fourth.error) == (b"", 1, "no image in this row")
    assert (fifth.data, fifth.label, fifth.error) == (b"fifth", 2, None)


def test_a_row_without_a_label_is_never_yielded(shards):
    write_shard(shards / "train-00001-of-00002.parquet", [b"fourth"], [3])
    refused(lambda: list(LabelledImages(shards, "train").examples(on_error="yield")), "row 0: label 3: expected 0 to 2")


def test_the_listing_depends_on_labels_names_and_sizes(shards):
    path = shards / "train-00001-of-00002.parquet"
    seen = {LabelledImages(shards, "train").listing}
    for data, labels in (([b"fourth", b"fifth"], [1, 2]), ([b"fourth" * 99, b"fifth"], [1, 0]), ([b"fourth"], [1])):
        write_shard(path, data, labels)
        seen.add(LabelledImages(shards, "train").listing)
    assert len(seen) == 4


ROWS = [(b"fish", "a.JPEG", 0), (b"cat", "b.JPEG", 1), (b"elephant", "c.JPEG", 2)]


def test_shards_with_wordnet_ids_need_no_table_and_are_mapped_to_sorted_order(tmp_path, parquet):
    mini.write_shard(tmp_path / "validation-0.parquet", ROWS, names=["n02504458", "n01443537", "n02123045"])
    images = open_images(tmp_path)
    assert [c.wnid for c in images.classes] == WNIDS
    assert [(e.data, images.classes[e.label].wnid) for e in images] == [
        (b"fish", "n02504458"),
        (b"cat", "n01443537"),
        (b"elephant", "n02123045"),
    ]


@pytest.mark.parametrize(
    "names",
    [
        [1, 2, 3],
        [],
        7,
        None,
    ],
    ids=str,
)
def test_shards_without_names_are_refused_with_the_file_to_add(tmp_path, parquet, names):
    mini.write_shard(tmp_path / "data" / "validation-0.parquet", ROWS, names=names)
    refused(lambda: open_images(tmp_path), "classes.tsv: not found; expected lines of WordNet id, tab, class name")


def test_metadata_that_is_not_json_is_ignored(tmp_path, parquet):
    path = tmp_path / "validation-0.parquet"
    mini.write_shard(path, ROWS)
    table = parquet.read_table(path).replace_schema_metadata({"huggingface": "[" * 100_000})
    parquet.write_table(table, path)
    refused(lambda: open_images(tmp_path), "classes.tsv: not found")


@pytest.mark.parametrize("table", ["LOC_synset_mapping.txt", "synset_words.txt"])
def test_the_tables_of_ilsvrc_are_accepted(tmp_path, parquet, table):
    mini.write_shard(tmp_path / "data" / "validation-0.parquet", ROWS)
    (tmp_path / table).write_text(CLASSES.replace("\t", " "))
    assert open_images(tmp_path).classes[0].name == "goldfish, Carassius auratus"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_instead_of_a_shard_or_a_table_is_refused_without_waiting(shards):
    os.mkfifo(shards / "validation-b.parquet")
    message = "validation-b.parquet: can't be read as Parquet (missing, or not a regular file)"
    refused(lambda: LabelledImages(shards, "validation"), message)
    (shards / "classes.tsv").unlink()
    os.mkfifo(shards / "classes.tsv")
    refused(lambda: LabelledImages(shards, "train"), "classes.tsv: is not a regular file")


# The set on which the bundled nets are trained.


@pytest.mark.skipif(not TINY_IMAGENET.is_dir(), reason="needs Tiny ImageNet beside this checkout")
def test_tiny_imagenets_validation_images_are_five_thousand_jpegs_of_two_hundred_classes(parquet):
    images = LabelledImages(TINY_IMAGENET, "validation")
    assert len(images) == 5000
    assert len(images.classes) == 200
    first = next(iter(images))
    assert first.data.startswith(b"\xff\xd8")
    # Its path names its class: val/n03444034/val_0.JPEG
    assert images.classes[first.label].wnid in first.name


def test_shards_that_are_links_to_or_copies_of_one_another_are_refused(tmp_path, parquet):
    (tmp_path / "classes.tsv").write_text(CLASSES)
    first, second = (tmp_path / f"train-{i:05}-of-00002.parquet" for i in range(2))
    write_shard(first, BYTES[:3], LABELS[:3])
    second.symlink_to(first.name)
    refused(lambda: LabelledImages(tmp_path, "train"), f"{first.name} and {second.name} have the same content")
    second.unlink()
    second.write_bytes(first.read_bytes())
    refused(lambda: LabelledImages(tmp_path, "train"), f"{first.name} and {second.name} have the same content")
    write_shard(second, BYTES[:3], LABELS[1:4])
    assert len(LabelledImages(tmp_path, "train")) == 6


def test_two_columns_of_one_name_are_refused(tmp_path, parquet):
    import pyarrow

    (tmp_path / "classes.tsv").write_text(CLASSES)
    image = pyarrow.array([{"bytes": b"x", "path": "x"}])
    label = pyarrow.array([0])
    table = pyarrow.Table.from_arrays([image, label, label], names=["image", "label", "label"])
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    refused(lambda: LabelledImages(tmp_path, "train"), "two columns have one name")


def test_tables_in_both_folders_of_shards_must_list_the_same_classes(tmp_path, parquet):
    mini.write_shard(tmp_path / "data" / "validation-00000-of-00001.parquet", ROWS)
    for folder in (tmp_path, tmp_path / "data"):
        (folder / "classes.tsv").write_text(CLASSES)
    assert [c.wnid for c in open_images(tmp_path).classes] == WNIDS
    (tmp_path / "classes.tsv").write_text("n01440764\ttench\n" + CLASSES)
    refused(lambda: open_images(tmp_path), "list different classes")


def test_english_names_that_are_looked_up_in_ilsvrc_are_noted(tmp_path, parquet):
    mini.write_shard(tmp_path / "validation-00000-of-00001.parquet", ROWS, names=["goldfish", "tabby", "vase"])
    (note,) = open_images(tmp_path).notes
    assert "looked up among ILSVRC's classes: 'goldfish' is n01443537" in note


def test_one_shard_instead_of_the_folder_is_refused_with_the_advice(shards):
    refused(lambda: LabelledImages(shards / "train-00000-of-00002.parquet", "train"), "give the folder with all shards")
