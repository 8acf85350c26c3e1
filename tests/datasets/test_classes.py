"""Tables of classes, and the mapping of a set's classes to a net's."""

from __future__ import annotations

import random

import pytest

from alexnet_infer.datasets import map_classes
from alexnet_infer.datasets.classes import find_names, find_table, is_wordnet_id, read_table
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from tests.datasets.mini import refused


def classes(**names: str) -> list[ClassName]:
    return [ClassName(wnid=wnid, name=name) for wnid, name in names.items()]


NET = classes(n01440764="tench", n02012849="crane", n03126707="crane", n04522168="vase")


def test_classes_are_mapped_by_wordnet_id_not_by_position_or_name():
    data = classes(n03126707="a machine that lifts", n01440764="tench", n01443537="goldfish", n02012849="crane")
    assert map_classes(data, NET) == (2, 0, -1, 1)


def test_a_permutation_of_the_nets_classes_maps_to_that_permutation():
    order = random.Random(0).sample(range(4), 4)
    assert map_classes([NET[i] for i in order], NET) == tuple(order)


def test_classes_without_wordnet_ids_are_mapped_if_their_names_agree():
    assert map_classes(classes(cat="cat", dog="dog"), classes(bird="bird", dog="dog")) == (-1, 1)


def test_a_shared_id_that_is_not_a_wordnet_id_and_has_two_names_is_refused():
    refused(
        lambda: map_classes(classes(c0="cat", c1="dog"), classes(c0="cat", c1="bird")),
        "class 'c1' is 'dog' in the data set and 'bird' in the net; expected classes identified by WordNet ids",
        error=UsageError,
    )


@pytest.mark.parametrize("side", ["data set", "net"])
def test_an_id_that_occurs_twice_is_refused(side):
    twice = [*NET, NET[1]]
    pair = (twice, NET) if side == "data set" else (NET, twice)
    refused(lambda: map_classes(*pair), f"the {side} has two classes 'n02012849'", error=UsageError)


@pytest.mark.parametrize("data", [classes(tench="tench"), []])
def test_a_set_that_shares_no_class_with_the_net_is_refused(data):
    refused(lambda: map_classes(data, NET), "share no class", "the net's 'n01440764')", error=UsageError)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("n01440764", True),
        ("n0144076", False),
        ("n014407640", False),
        ("n01440764\n", False),
        ("n\N{ARABIC-INDIC DIGIT ONE}1440764", False),
    ],
)
def test_a_wordnet_id_is_n_and_eight_digits(text, right):
    assert is_wordnet_id(text) == right


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "synset_words.txt"])
def test_a_table_with_spaces_is_split_at_the_first_space(tmp_path, name):
    (tmp_path / name).write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert find_table(tmp_path) == (tmp_path / name, {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"})


def test_a_table_with_only_ids_uses_them_as_names(tmp_path):
    (tmp_path / "synsets.txt").write_text("n01440764\r\nn01443537\r\n")
    assert find_table(tmp_path)[1] == {"n01440764": "n01440764", "n01443537": "n01443537"}


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("synset_words.txt", "n01440764 tench\nn1 fish\n", "line 2: 'n1 fish': expected WordNet id, space, class name"),
        ("synset_words.txt", "n01440764\n", "line 1: 'n01440764': expected WordNet id, space, class name"),
        ("synsets.txt", "n01440764\n\nn01443537\n", "line 2: '': expected a WordNet id"),
        ("synsets.txt", "n01440764\nn01440764\n", "line 2: 'n01440764' occurs twice"),
        ("LOC_synset_mapping.txt", "\x1b[2J\n", r"line 1: '\x1b[2J'"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, name, text, part):
    (tmp_path / name).write_text(text)
    refused(lambda: find_table(tmp_path), f"{name}, {part}")


@pytest.mark.parametrize("header", ["id\tname", "class\tname", "WNID\twords", "wnid\tname", "#wnid\tname"])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_header_among_wordnet_ids_is_refused_since_it_would_shift_the_labels(tmp_path, header, at_the_end):
    lines = ["n01440764\ttench", "n01443537\tgoldfish"]
    (tmp_path / "classes.tsv").write_text("\n".join([*lines, header] if at_the_end else [header, *lines]))
    refused(lambda: read_table(tmp_path / "classes.tsv"), repr(header.split("\t")[0]), "Remove headers")


def test_a_table_of_ones_own_ids_is_accepted(tmp_path):
    (tmp_path / "classes.tsv").write_text("cat\tmy cat\ndog\tmy dog\n\n")
    assert read_table(tmp_path / "classes.tsv") == {"cat": "my cat", "dog": "my dog"}


def test_tables_that_list_different_classes_are_refused_where_positions_count(tmp_path):
    (tmp_path / "classes.tsv").write_text("n01440764\ttench\nn01443537\tgoldfish\n")
    (tmp_path / "synset_words.txt").write_text("n01440764 Tench\nn01443537 Goldfish\n")
    assert find_table(tmp_path)[1] == {"n01440764": "tench", "n01443537": "goldfish"}
    (tmp_path / "synset_words.txt").write_text("n01440764 Tench\nn01484850 shark\n")
    refused(lambda: find_table(tmp_path), "classes.tsv", "synset_words.txt", "list different classes")
    assert find_names(tmp_path) == {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "shark"}


def test_tables_are_looked_for_in_several_folders(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "classes.tsv").write_text("n01440764\ttench\n")
    assert find_table(tmp_path / "val", tmp_path)[0] == tmp_path / "val" / "classes.tsv"
    (tmp_path / "classes.tsv").write_text("n01443537\tgoldfish\n")
    refused(lambda: find_table(tmp_path / "val", tmp_path), "list different classes")
