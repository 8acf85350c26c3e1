"""What the labels of Parquet shards mean: names are trusted more than positions, and contradictions are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_infer.datasets import open_images
from alexnet_infer.datasets.ilsvrc import ilsvrc_names
from tests.datasets.mini import SYNSETS, WNIDS, refused, write_names, write_shard

pyarrow = pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet sets need pyarrow")

ILSVRC = list(ilsvrc_names().items())
"""(WordNet id, name) in label order."""


def shard(path: Path, labels: Sequence[object], features: object = None, **columns: Sequence[object]) -> Path:
    """Write a shard whose images are named 0, 1, ..., with `labels` unless other columns are given."""
    count = len(labels) or len(next(iter(columns.values())))
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": b"x%d" % i, "path": f"{i}"} for i in range(count)], kind)
    table = pyarrow.table({"image": images, **({"label": labels} if len(labels) else {}), **columns})
    if features is not None:
        about = {name: {"names": names, "_type": "ClassLabel"} for name, names in features.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def wnids(root: Path) -> list[str]:
    """The WordNet id of each image, in order."""
    images = open_images(root)
    assert [c.wnid for c in images.classes] == sorted(c.wnid for c in images.classes)
    assert images.labels == [e.label for e in images]
    return [images.classes[label].wnid for label in images.labels]


# Names in the shards.


@pytest.mark.parametrize("order", [WNIDS, WNIDS[::-1], list(SYNSETS)])
@pytest.mark.parametrize("table", [None, "sorted", "longer", "shorter", "another"])
def test_wordnet_ids_in_the_shards_decide_whatever_table_is_beside_them(tmp_path, order, table):
    shard(tmp_path / "validation.parquet", range(6), {"label": order})
    lines = {"sorted": WNIDS, "longer": [*WNIDS, "n15075141"], "shorter": WNIDS[2:], "another": ["n15075141"]}.get(
        table
    )
    if lines:
        text = "".join(f"{wnid}\t{ilsvrc_names()[wnid]}\n" for wnid in lines)
        (tmp_path / "classes.tsv").write_text(text)
    assert wnids(tmp_path) == order
    assert [c.name for c in open_images(tmp_path).classes] == [SYNSETS[wnid] for wnid in WNIDS]


@pytest.mark.parametrize("form", ["whole", "first", "upper", "underscores"])
def test_english_names_are_recognised_without_a_table(tmp_path, form):
    chosen = [ILSVRC[i] for i in (900, 1, 388, 65, 207)]
    change = {
        "whole": str,
        "first": lambda name: name.split(",")[0],
        "upper": str.upper,
        "underscores": lambda name: name.replace(" ", "_"),
    }[form]
    shard(tmp_path / "validation.parquet", range(5), {"label": [change(name) for _, name in chosen]})
    assert wnids(tmp_path) == [wnid for wnid, _ in chosen]


def test_all_of_ilsvrcs_names_with_two_cranes_are_recognised(tmp_path):
    names = [name for _, name in ILSVRC]
    assert names.count("crane") == 2
    names[names.index("crane", names.index("crane") + 1)] = "crane2"
    shard(tmp_path / "data" / "validation-00000-of-00001.parquet", range(1000), {"label": names})
    assert wnids(tmp_path) == [wnid for wnid, _ in ILSVRC]


@pytest.mark.parametrize("at", [(0, 1), (5, 900), (998, 999)])
def test_all_of_ilsvrcs_names_in_another_order_are_not_taken_by_position(tmp_path, at):
    names = [name for _, name in ILSVRC]
    names[names.index("crane", names.index("crane") + 1)] = "crane2"
    first, second = at
    names[first], names[second] = names[second], names[first]
    shard(tmp_path / "validation.parquet", range(1000), {"label": names})
    refused(lambda: open_images(tmp_path), "calls its labels", "crane")


@pytest.mark.parametrize(
    "names",
    [
        ["tench", "goldfish", "crane"],  # two classes have the name
        ["tench", "goldfish", "crane2"],
        ["tench", "goldfish", "no such thing"],
        ["n01440764", "n01443537", "no such thing"],
        ["tench", "n01440764", "goldfish"],  # one class twice
        ["tench", "tench, Tinca tinca", "goldfish"],
        ["0", "1", "2"],
        ["a", "b", "c"],
    ],
)
@pytest.mark.parametrize("table", [False, True])
def test_names_that_are_unknown_or_ambiguous_are_refused(tmp_path, names, table):
    shard(tmp_path / "validation.parquet", range(3), {"label": names})
    if table:
        write_names(tmp_path / "classes.tsv", "\t")
    refused(lambda: open_images(tmp_path), "calls its labels", "expected WordNet ids, or a classes.tsv")


def test_two_labels_of_one_name_are_refused(tmp_path):
    shard(tmp_path / "validation.parquet", range(3), {"label": ["tench", "crane", "crane"]})
    refused(lambda: open_images(tmp_path), "two labels have one name; expected different names")


def test_a_table_with_the_shards_own_names_makes_any_names_known(tmp_path):
    shard(tmp_path / "validation.parquet", range(3), {"label": ["big fish", "small fish", "bird"]})
    table = "n01440764\tsmall fish\nn01443537\tbird\nn02012849\tbig fish\n"
    (tmp_path / "classes.tsv").write_text(table)
    assert wnids(tmp_path) == ["n02012849", "n01440764", "n01443537"]


# Tables.


def test_without_names_labels_are_positions_in_the_table(tmp_path):
    shard(tmp_path / "data" / "validation.parquet", [5, 0, 3])
    write_names(tmp_path / "classes.tsv", "\t")
    assert wnids(tmp_path) == [WNIDS[i] for i in (5, 0, 3)]


@pytest.mark.parametrize("length", [1, 3, 5])
def test_without_names_a_shorter_table_is_refused(tmp_path, length):
    shard(tmp_path / "validation.parquet", range(6))
    (tmp_path / "classes.tsv").write_text("".join(f"{wnid}\tname\n" for wnid in WNIDS[:length]))
    refused(lambda: open_images(tmp_path).labels, f"row {length}: label {length}: expected 0 to {length - 1}")
    refused(lambda: open_images(tmp_path).listing, f"label {length}: expected 0 to {length - 1}")


def test_without_names_and_table_the_set_is_refused(tmp_path):
    shard(tmp_path / "validation.parquet", [0, 1])
    refused(lambda: open_images(tmp_path), "classes.tsv: not found")


# The column.


@pytest.mark.parametrize("name", ["wnid", "synset", "class", "fine_label"])
def test_wordnet_ids_in_a_feature_of_another_name_decide(tmp_path, name):
    features = {"label": ["fish", "bird"], name: ["n01443537", "n01440764"]}
    shard(tmp_path / "validation.parquet", [0, 0, 1], features, **{name: [1, 0, 0]})
    assert wnids(tmp_path) == ["n01440764", "n01443537", "n01443537"]


@pytest.mark.parametrize("name", ["label", "wnid", "synset"])
@pytest.mark.parametrize("table", [False, True])
def test_labels_that_are_wordnet_ids_themselves_are_read(tmp_path, name, table):
    stored = [WNIDS[5], WNIDS[0], WNIDS[3]]
    shard(
        tmp_path / "validation.parquet",
        stored if name == "label" else [],
        **({} if name == "label" else {name: stored}),
    )
    if table:
        write_names(tmp_path / "classes.tsv", "\t")
    assert wnids(tmp_path) == stored
    assert len(open_images(tmp_path).classes) == (6 if table else 1000)


@pytest.mark.parametrize("text", ["tench", "", "n99999999", None])
def test_a_text_that_is_no_wordnet_id_is_refused_with_its_row(tmp_path, text):
    shard(tmp_path / "validation.parquet", [WNIDS[0], text])
    refused(lambda: open_images(tmp_path).labels, "validation.parquet, row 1: label", "a WordNet id of ILSVRC")


def test_a_column_that_was_renamed_keeps_its_names(tmp_path):
    shard(tmp_path / "validation.parquet", [1, 0], {"labels": ["n01443537", "n01440764"]})
    assert wnids(tmp_path) == ["n01440764", "n01443537"]


def test_two_columns_of_wordnet_ids_are_refused(tmp_path):
    features = {"a": ["n01443537", "n01440764"], "b": ["n01440764", "n01443537"]}
    shard(tmp_path / "validation.parquet", [], features, a=[0, 1], b=[0, 1])
    refused(lambda: open_images(tmp_path), "has columns [", "expected image (struct of bytes, path) and label")


# Shards that belong together.


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"label": WNIDS}, {"label": WNIDS[::-1]}),
        ({"label": WNIDS}, {"label": WNIDS[:5]}),
        ({"label": WNIDS}, None),
        (None, {"label": WNIDS}),
        ({"label": WNIDS}, {"label": [name.split(",")[0] + str(i) for i, name in enumerate(SYNSETS.values())]}),
    ],
)
def test_shards_that_name_their_labels_differently_are_refused(tmp_path, first, second):
    write_names(tmp_path / "classes.tsv", "\t")
    for i, features in enumerate((first, second)):
        shard(tmp_path / f"validation-{i:05}-of-00002.parquet", [0, 1], features)
    message = "validation-00000-of-00002.parquet and validation-00001-of-00002.parquet in"
    refused(lambda: open_images(tmp_path), message, "name their labels differently; expected the shards of one upload")


UPLOADS = {
    "a shard is missing": (["{s}-00000-of-00002"], "shard 1 of 2 is missing"),
    "the first is missing": (["{s}-00001-of-00002"], "shard 0 of 2 is missing"),
    "a shard with a hash is missing": (["{s}-00000-of-00002-0123456789abcdef"], "shard 1 of 2 is missing"),
    "two uploads": (["{s}-00000-of-00001", "{s}-00000-of-00002", "{s}-00001-of-00002"], "not of one upload"),
    "two uploads of one length": (
        ["{s}-00000-of-00002-aaaa", "{s}-00001-of-00002-bbbb", "{s}-00000-of-00002-cccc", "{s}-00001-of-00002-dddd"],
        "have one number",
    ),
    "with and without a hash": (["{s}-00000-of-00002", "{s}-00001-of-00002-0123456789abcdef"], "not of one upload"),
    "downloaded again": (["{s}-00000-of-00001", "{s}-00000-of-00001 (1)"], "is not the name of a shard"),
    "only the copy": (["{s}-00000-of-00002 (1)"], "is not the name of a shard"),
    "a copy by Windows": (["{s}-00000-of-00001", "{s}-00000-of-00001 - Copy"], "is not the name of a shard"),
    "a copy": (["{s}-00000-of-00001", "{s}-00000-of-00001-copy"], "not of one upload"),
    "a backup": (["{s}-00000-of-00001", "{s}-00000-of-00001.1"], "is not the name of a shard"),
    "whole and in parts": (["{s}", "{s}-00000-of-00001"], "is not the name of a shard"),
    "whole and numbered": (["{s}", "{s}-0"], "is not the name of a shard"),
    "two names": (["{s}-old", "{s}-new"], "is not the name of a shard"),
    "a gap": (["{s}-0", "{s}-2"], "shard 1 is missing"),
    "one number twice": (["{s}-1", "{s}-01"], "have one number"),
    "a number too large": (["{s}-00000-of-00001", "{s}-00001-of-00001"], "expected numbers below 1"),
}


@pytest.mark.parametrize("split", ["validation", "val", "valid"])
@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("case", UPLOADS)
def test_shards_that_are_missing_or_present_twice_are_refused(tmp_path, case, folder, split):
    names, part = UPLOADS[case]
    for name in names:
        write_shard(tmp_path / folder / f"{name.format(s=split)}.parquet", [(b"x", "x", 0)], WNIDS)
    refused(lambda: open_images(tmp_path), part)


COMPLETE = [
    ["{s}-00000-of-00001"],
    ["{s}-00000-of-00002", "{s}-00001-of-00002"],
    ["{s}-00000-of-00002-a3ecf92756993583", "{s}-00001-of-00002-0a1804bcb6ae68c6"],  # each shard has its own hash
    ["{s}"],
    ["{s}-0", "{s}-1"],
    ["{s}-1", "{s}-2", "{s}-3"],
    ["{s}-whole"],
]


@pytest.mark.parametrize("split", ["validation", "val", "valid"])
@pytest.mark.parametrize("names", COMPLETE, ids=lambda names: names[0])
def test_complete_shards_are_read_in_order(tmp_path, names, split):
    for i, name in enumerate(names):
        write_shard(tmp_path / "data" / f"{name.format(s=split)}.parquet", [(b"%d" % i, "x", i)], WNIDS)
    write_shard(tmp_path / "data" / "test-00000-of-00005.parquet", [(b"x", "x", 0)], WNIDS)
    assert [e.data for e in open_images(tmp_path)] == [b"%d" % i for i in range(len(names))]


@pytest.mark.parametrize(
    ("first", "second"), [("validation", "data/validation"), ("val", "validation"), ("data/val", "data/valid")]
)
def test_shards_in_two_places_or_of_two_names_are_refused_with_both(tmp_path, first, second):
    from alexnet_infer.errors import UsageError

    for name in (first, second):
        write_shard(tmp_path / f"{name}-00000-of-00001.parquet", [(b"x", "x", 0)], WNIDS)
    refused(lambda: open_images(tmp_path), f"{first}-*", f"{second}-*", "Move the others", error=UsageError)


def test_shards_without_rows_are_refused(tmp_path):
    write_shard(tmp_path / "validation.parquet", [(b"x", "x", 0)], WNIDS)
    table = parquet.read_table(tmp_path / "validation.parquet")
    parquet.write_table(table.slice(0, 0), tmp_path / "validation.parquet")
    refused(lambda: open_images(tmp_path), f"{tmp_path}: the validation split has no images")


def test_the_listing_tells_labels_of_different_meaning_apart(tmp_path):
    """The files have equal sizes and stored labels: only the order of the names differs."""
    sets = [tmp_path / "a", tmp_path / "b"]
    for root, names in zip(sets, (WNIDS, WNIDS[::-1]), strict=True):
        shard(root / "validation.parquet", range(6), {"label": names})
    assert len({(root / "validation.parquet").stat().st_size for root in sets}) == 1
    assert len({open_images(root).listing for root in sets}) == 2
