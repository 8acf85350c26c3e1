"""The classes of a set: tables of WordNet ids and names, and the mapping to a net's classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from alexnet_infer.datasets.ilsvrc import ilsvrc_names
from alexnet_infer.datasets.texts import MAX_TABLE_BYTES, read_lines
from alexnet_infer.datasets.tree import Folder, is_wordnet_id
from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError, shown
from alexnet_infer.manifest import ClassName

TABLES = {"classes.tsv": "\t", "LOC_synset_mapping.txt": " ", "synset_words.txt": " ", "synsets.txt": ""}
"""Files that list the classes -> the separator between WordNet id and name. The last file lists only ids."""

_EXPECTED = {"\t": "WordNet id, tab, class name", " ": "WordNet id, space, class name", "": "a WordNet id"}


def class_name(where: Folder, wnid: str, name: str | None = None) -> ClassName:
    """Return the class. Without a name other than its WordNet id, it gets the name that ILSVRC gives it.

    Raises UnreadableInputError, naming the file `where`, if the id or name is not printable.
    """
    try:
        return ClassName(wnid=wnid, name=ilsvrc_names().get(wnid, wnid) if name in (None, wnid) else name)
    except SpecError as error:
        raise UnreadableInputError(f"{where}: class {shown(wnid)}: {error}") from None


def read_table(path: Folder) -> dict[str, str]:
    """Return WordNet id -> name in the file's order, or {} if the file doesn't exist.

    A file whose name is not in TABLES lists only ids; then the names are the ids. Raises UnreadableInputError if a line
    is malformed or an id occurs twice.
    """
    try:
        lines = read_lines(path, MAX_TABLE_BYTES)
    except FileNotFoundError:
        return {}
    separator = TABLES.get(path.name, "")
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        wnid, _, name = line.partition(separator) if separator else (line, "", line)
        if not wnid or not name or (separator != "\t" and not is_wordnet_id(wnid)):
            expected = _EXPECTED[separator]
            raise UnreadableInputError(f"{path}, line {number}: {shown(line)}: expected {expected}")
        if wnid in names:
            raise UnreadableInputError(f"{path}, line {number}: {shown(wnid)} occurs twice; expected each id once")
        names[wnid] = name
    own = next((wnid for wnid in names if not is_wordnet_id(wnid)), None)
    if own is not None and any(map(is_wordnet_id, names)):  # most likely a header, which would shift the labels
        raise UnreadableInputError(
            f"{path}: has a line {shown(own)} among lines of WordNet ids; expected a WordNet id in each. Remove headers"
        )
    return names


def find_table(*folders: Folder) -> tuple[Folder, dict[str, str]]:
    """The path and content of the table in `folders`, or (path of classes.tsv in the first, {}) if there is none.

    Raises UnreadableInputError if there are several that list different classes, since positions would be unclear.
    """
    tables = find_tables(folders)
    for table, names in tables[1:]:
        if list(names) != list(tables[0][1]):
            raise UnreadableInputError(
                f"{tables[0][0]} and {table} list different classes; expected one table. Move the other elsewhere"
            )
    return tables[0] if tables else (folders[0] / "classes.tsv", {})


def find_names(*folders: Folder) -> dict[str, str]:
    """WordNet id -> name, from the tables in `folders` or WordNet's `words.txt`, which lists more than the classes."""
    names: dict[str, str] = {}
    for _, table in find_tables(folders):
        names = {**table, **{wnid: name for wnid, name in names.items() if name != wnid}}
    for folder in folders if not names else ():
        with suppress(FileNotFoundError):
            lines = (line.partition("\t") for line in read_lines(folder / "words.txt", MAX_TABLE_BYTES))
            names = {wnid: name for wnid, _, name in lines if is_wordnet_id(wnid) and name}
    return names


def find_tables(folders: Iterable[Folder]) -> list[tuple[Folder, dict[str, str]]]:
    """The path and content of each of TABLES that is in one of `folders`."""
    paths = dict.fromkeys(folder / table for folder in folders for table in TABLES)
    return [(path, names) for path in paths if (names := read_table(path))]


def incomplete(where: Folder, have: Collection[str], tables: Sequence[tuple[Folder, Collection[str]]]) -> Iterator[str]:
    """Yield a note for each of `tables`, given as (path, WordNet ids), that has classes which the set in `where` lacks.

    A set that has most of a table's classes is an incomplete copy: raises UnreadableInputError. A set that has few is a
    part that somebody made, such as Imagenette. Without tables, ILSVRC's classes are those that a set may be a copy of.
    """
    for table, wnids in tables:
        if lacking := {*wnids} - {*have}:
            lack = f"{len(lacking):,} of the {len(wnids):,} classes in {table}"
            if 2 * len(lacking) < len(wnids):
                raise UnreadableInputError(
                    f"{where}: lacks {lack} (such as {shown(min(lacking))}), so the copy is incomplete; copy the rest. "
                    "If a class has no images, take it out of the table, or keep its empty folder (which git drops)"
                )
            yield f"{where} lacks {lack} (such as {shown(min(lacking))}): they don't count"
    names = ilsvrc_names()
    lacking = names.keys() - {*have}
    if not tables and 0 < 2 * len(lacking) < len(names) and names.keys() >= {*have}:
        first = min(lacking)
        yield (
            f"{where} lacks {len(lacking):,} of ILSVRC's {len(names):,} classes (such as {first}, {names[first]}): the "
            "copy may be incomplete, and its errors are those of the other classes"
        )


def without_images(source: Folder, classes: Sequence[ClassName], labels: Iterable[int]) -> tuple[str, ...]:
    """Return a note if the list `source` has no image of some classes, but images of most of them."""
    lacking = {*range(len(classes))}.difference(labels)
    if not 0 < 2 * len(lacking) < len(classes):
        return ()
    return (
        f"{source} has no image of {len(lacking):,} of the {len(classes):,} classes (such as "
        f"{classes[min(lacking)].wnid}): the list may be incomplete",
    )


def sorted_classes(where: Folder, wnids: Iterable[str], names: Mapping[str, str]) -> tuple[ClassName, ...]:
    """The classes in order of WordNet ids, which is the order of labels."""
    return tuple(class_name(where, wnid, names.get(wnid)) for wnid in sorted(wnids))


def check_sorted(where: Folder, names: Mapping[str, str]) -> None:
    """Raise UnreadableInputError unless the ids are in order, so that positions in the file are labels."""
    if any(a > b for a, b in pairwise(names)):
        raise UnreadableInputError(f"{where}: not in order of WordNet ids; labels are positions in that order")


def map_classes(data_classes: Sequence[ClassName], net_classes: Sequence[ClassName]) -> tuple[int, ...]:
    """Return, for each label of a data set, the index of the net's class with the same WordNet id, or -1.

    The net may have additional classes. Raises UsageError if an id occurs twice on one side or if no class is shared.
    Also raises it if a shared id is not a WordNet id and the names differ, since the id may then mean two things.
    """
    for side, classes in (("data set", data_classes), ("net", net_classes)):
        seen: set[str] = set()
        for c in classes:
            if c.wnid in seen:
                raise UsageError(f"the {side} has two classes {shown(c.wnid)}; expected each WordNet id once")
            seen.add(c.wnid)
    index = {c.wnid: i for i, c in enumerate(net_classes)}
    mapped = tuple(index.get(c.wnid, -1) for c in data_classes)
    for c, i in zip(data_classes, mapped, strict=True):
        if i >= 0 and not is_wordnet_id(c.wnid) and c.name != net_classes[i].name:
            raise UsageError(
                f"class {shown(c.wnid)} is {shown(c.name)} in the data set and {shown(net_classes[i].name)} in the "
                "net; expected classes identified by WordNet ids, such as n02123045"
            )
    if max(mapped, default=-1) < 0:
        in_data, in_net = (shown(classes[0].wnid) if classes else "none" for classes in (data_classes, net_classes))
        raise UsageError(
            f"the data set and the net share no class (the data set's first is {in_data}, the net's {in_net}); "
            "expected classes with the same WordNet ids"
        )
    return mapped


def different_classes(root: Path, train: Sequence[ClassName], validation: Sequence[ClassName]) -> UnreadableInputError:
    """Return the error for the set in `root` whose splits have different classes. It names the first three."""
    differing = sorted({c.wnid for c in train} ^ {c.wnid for c in validation})
    return UnreadableInputError(
        f"{root}: the train and validation splits must have the same classes, but {len(differing)} are in only one of "
        f"them ({', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''})"
    )
