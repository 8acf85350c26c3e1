"""The classes of a set: tables of WordNet ids and names, and which class of a net each one is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets.base import read_lines
from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError, shown

TABLES = {"classes.tsv": "\t", "LOC_synset_mapping.txt": " ", "synset_words.txt": " ", "synsets.txt": ""}
"""Files that give the classes, and what stands between WordNet id and name. The last gives ids alone."""

_EXPECTED = {"\t": "WordNet id, tab, class name", " ": "WordNet id, space, class name", "": "a WordNet id"}


def is_wordnet_id(text: str) -> bool:
    return re.fullmatch(r"n[0-9]{8}", text) is not None


def class_name(where: Path, wnid: str, name: str) -> ClassName:
    """Raises UnreadableInputError naming the file they come from unless both can be printed."""
    try:
        return ClassName(wnid=wnid, name=name)
    except SpecError as error:
        raise UnreadableInputError(f"{where}: {error}") from None


def read_table(path: Path) -> dict[str, str]:
    """WordNet id -> name, in the file's order; empty when there is no such file. The file is one of TABLES.

    Raises UnreadableInputError on a line of another form and on an id that stands there twice.
    """
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        return {}
    separator = TABLES[path.name]
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        wnid, _, name = line.partition(separator) if separator else (line, "", line)
        if not wnid or not name or (separator != "\t" and not is_wordnet_id(wnid)):
            expected = _EXPECTED[separator]
            raise UnreadableInputError(f"{path}, line {number}: {shown(line)}: expected {expected}")
        if wnid in names:
            raise UnreadableInputError(f"{path}, line {number}: {shown(wnid)} stands here for the second time")
        names[wnid] = name
    return names


def find_table(folder: Path) -> tuple[Path, dict[str, str]]:
    """The first of TABLES that is in `folder`, and what it says; (path of a classes.tsv, {}) when there is none."""
    for table in TABLES:
        if names := read_table(folder / table):
            return folder / table, names
    return folder / "classes.tsv", {}


def sorted_classes(where: Path, names: Mapping[str, str]) -> tuple[ClassName, ...]:
    """The classes in order of WordNet ids, which is the order of labels."""
    return tuple(class_name(where, wnid, names[wnid]) for wnid in sorted(names))


def check_sorted(where: Path, names: Mapping[str, str]) -> None:
    """Raises UnreadableInputError unless positions in the file are labels."""
    if any(a > b for a, b in pairwise(names)):
        raise UnreadableInputError(f"{where}: not in order of WordNet ids; labels are positions in that order")


def map_classes(data_classes: Sequence[ClassName], net_classes: Sequence[ClassName]) -> tuple[int, ...]:
    """For each label of a data set, the index of the net's class with the same WordNet id, or -1 when it has none.

    The net may have other classes, too. Raises UsageError when an id stands on one side twice, when no class is
    shared, and when an id that both have is no WordNet id and their names differ: the same word for two things.
    """
    for whose, classes in (("data set", data_classes), ("net", net_classes)):
        seen: set[str] = set()
        for one in classes:
            if one.wnid in seen:
                raise UsageError(f"the {whose} has two classes {shown(one.wnid)}; expected each WordNet id once")
            seen.add(one.wnid)
    index = {one.wnid: i for i, one in enumerate(net_classes)}
    mapped = tuple(index.get(one.wnid, -1) for one in data_classes)
    for one, i in zip(data_classes, mapped, strict=True):
        if i >= 0 and not is_wordnet_id(one.wnid) and one.name != net_classes[i].name:
            raise UsageError(
                f"class {shown(one.wnid)} is {shown(one.name)} in the data set and {shown(net_classes[i].name)} in the "
                "net; expected classes called by WordNet ids, such as n02123045"
            )
    if max(mapped, default=-1) < 0:
        ours, theirs = (shown(c[0].wnid) if c else "none" for c in (data_classes, net_classes))
        raise UsageError(
            f"the data set and the net share no class (the first is {ours} here and {theirs} there); expected classes "
            "called by the same WordNet ids"
        )
    return mapped
