"""The classes of Parquet shards: what a stored label means, from the shards' own names or from a table beside them.

Hugging Face's library stores the features in the schema's metadata. Among them are the names of a `ClassLabel`, which
may be WordNet ids or English. Names are trusted more than positions: if names and a table contradict each other, the
set is refused.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.datasets.classes import check_sorted, find_names, find_table, is_wordnet_id, sorted_classes
from alexnet_infer.datasets.ilsvrc import TABLE, ilsvrc_names
from alexnet_infer.datasets.tree import Folder
from alexnet_infer.errors import UnreadableInputError, listed, shown
from alexnet_infer.manifest import ClassName

_ALIKE = 0.95
"""Of names that all stand at their classes' positions, at least this share must be known. The others are then spelled
differently: Hugging Face's ILSVRC calls the second "crane" "crane2"."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a shard says about its labels."""

    shard: Path
    column: str
    """The column of the labels."""
    names: tuple[str, ...]
    """The names of the labels, in their order. Empty if the shard doesn't say."""
    texts: bool
    """Whether the labels themselves are WordNet ids, not numbers."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of a set of shards, and what each stored label means."""

    column: str
    classes: tuple[ClassName, ...]
    """In order of WordNet ids."""
    positions: Mapping[int | str | None, int]
    """Stored label -> position in `classes`."""
    expected: str
    """The stored labels in words."""
    notes: tuple[str, ...] = ()
    """How the classes were found, if it isn't certain."""

    @classmethod
    def of(cls, described: Sequence[Described], folders: Sequence[Folder]) -> Labels:
        """Return the classes of the shards. A table of classes may be in `folders`.

        Raises UnreadableInputError if shards contradict each other, or if the classes are unknown or ambiguous.
        """
        first = described[0]
        for other in described[1:]:
            if (other.column, other.names, other.texts) != (first.column, first.names, first.texts):
                raise UnreadableInputError(
                    f"{first.shard.name} and {other.shard.name} in {first.shard.parent} name their labels differently; "
                    "expected the shards of one upload"
                )
        notes = ()
        if first.names and all(map(is_wordnet_id, first.names)):  # then positions in a table don't matter
            table, names = folders[0], find_names(*folders)
        else:
            table, names = find_table(*folders)
            if first.names and not names:
                notes = (
                    f"the labels of {first.shard.parent} have names in English, which are looked up among ILSVRC's "
                    f"classes: {first.names[0]!r} is {_wnids(first, table, names)[0]}",
                )
        if first.texts:
            wnids = list(names) or list(ilsvrc_names())
            stored, expected = wnids, f"a WordNet id in {table}" if names else "a WordNet id of ILSVRC"
        else:
            wnids = _wnids(first, table, names)
            stored, expected = range(len(wnids)), f"0 to {len(wnids) - 1}"
        position = {wnid: i for i, wnid in enumerate(sorted(wnids))}
        return cls(
            column=first.column,
            classes=sorted_classes(table if names else first.shard, wnids, names),
            positions=dict(zip(stored, (position[wnid] for wnid in wnids), strict=True)),
            expected=expected,
            notes=notes,
        )


def describe(shard: Path, schema: Any) -> Described:
    """Describe a shard with a `pyarrow.Schema`. Raises UnreadableInputError if it has no images or no labels."""
    if len({*schema.names}) < len(schema.names):
        raise UnreadableInputError(
            f"{shard}: two columns have one name ({listed(schema.names)}); expected different ones"
        )
    names = _names(schema)
    column = _column(schema, names) if _has_images(schema) else None
    if column is None:
        columns = shown([f"{field.name} {field.type}" for field in schema])
        raise UnreadableInputError(
            f"{shard}: has columns {columns}: expected image (struct of bytes, path) and label (whole number or "
            "WordNet id)"
        )
    if column not in names and len(names) == 1 and not names.keys() & {*schema.names}:
        names = dict(zip([column], names.values(), strict=True))  # the column has been renamed
    return Described(shard=shard, column=column, names=names.get(column, ()), texts=_is_text(schema, column))


def _names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Feature -> the names of its labels, from the metadata of Hugging Face's library."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))["info"]["features"]
        names = {feature: tuple(about["names"]) for feature, about in features.items() if "names" in about}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # missing or unexpected metadata
        return {}
    return {feature: own for feature, own in names.items() if own and all(isinstance(name, str) for name in own)}


def _column(schema: Any, names: Mapping[str, Sequence[str]]) -> str | None:
    """The column of the labels: one with WordNet ids, or else `label`, or else the only one whose labels have names."""
    from pyarrow import types

    whole = [field.name for field in schema if types.is_integer(field.type)]
    with_ids = [name for name in whole if all(map(is_wordnet_id, names.get(name, [""])))]
    texts = [name for name in ("label", "wnid", "synset") if name in schema.names and _is_text(schema, name)]
    named = [name for name in whole if name in names]
    for columns in (
        ["label"] if "label" in with_ids else with_ids,
        texts[:1],
        ["label"] if "label" in whole else named,
    ):
        if len(columns) == 1:
            return columns[0]
    return None


def _is_text(schema: Any, name: str) -> bool:
    from pyarrow import types

    kind = schema.field(name).type
    return types.is_string(kind) or types.is_large_string(kind)


def _has_images(schema: Any) -> bool:
    from pyarrow import types

    image = schema.get_field_index("image")
    if image < 0 or not types.is_struct(schema.types[image]):
        return False
    data = schema.types[image].get_field_index("bytes")
    kind = schema.types[image][data].type if data >= 0 else None
    return kind is not None and (types.is_binary(kind) or types.is_large_binary(kind))


def _wnids(shard: Described, table: Folder, names: Mapping[str, str]) -> list[str]:
    """The WordNet id of each label, 0, 1, ... Raises UnreadableInputError if they are unknown or ambiguous."""
    if not shard.names and not names:
        raise UnreadableInputError(f"{table}: not found; expected lines of WordNet id, tab, class name")
    if not shard.names:
        check_sorted(table, names)
        return list(names)
    if len({*shard.names}) < len(shard.names):
        raise UnreadableInputError(f"{shard.shard}: two labels have one name; expected different names")
    if all(map(is_wordnet_id, shard.names)):
        return list(shard.names)
    known, where = (names, table) if names else (ilsvrc_names(), TABLE.name)
    found = _identified(shard.names, known)
    if None not in found and len({*found}) == len(found):
        return found
    at_their_positions = [a == b for a, b in zip(found, sorted(known), strict=False) if a is not None]
    if len(found) == len(known) and all(at_their_positions) and len(at_their_positions) >= _ALIKE * len(found):
        return sorted(known)
    unclear = [name for name, wnid in zip(shard.names, found, strict=True) if wnid is None or found.count(wnid) > 1]
    raise UnreadableInputError(
        f"{shard.shard}: calls its labels {listed(unclear[:3])}, which {where} doesn't have, or has for several "
        "classes; expected WordNet ids, or a classes.tsv beside the shards with the same names"
    )


def _identified(names: Iterable[str], known: Mapping[str, str]) -> list[str | None]:
    """The WordNet id of the only class that has a name, for each of `names`, or None.

    A name is the id itself, all of a class's names ("tench, Tinca tinca"), or the first of them ("tench").
    """
    whole, first = defaultdict(set), defaultdict(set)
    for wnid, name in known.items():
        whole[_plain(name)].add(wnid)
        whole[_plain(wnid)].add(wnid)
        first[_plain(name.split(",")[0])].add(wnid)
    found = []
    for name in map(_plain, names):
        wnids = whole.get(name) or first.get(name) or ()
        found.append(next(iter(wnids)) if len(wnids) == 1 and len(first.get(name, wnids)) == 1 else None)
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
