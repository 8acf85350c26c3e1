"""One reader of JSON: whatever a file has in it, a record or one line with the place, the value and the expectation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.strict_json import Date, Record, Sha256, Text, matching, number, whole


class Leaf(Record, kw_only=True):
    name: Text
    count: Annotated[int, whole(0, 9)] = 3
    share: Annotated[float, number(0, 1)] = 0.5
    kind: Literal["a", "b"] = "a"
    on: bool = True
    note: Text | None = None


class Tree(Record, kw_only=True):
    first: Leaf
    leaves: tuple[Leaf, ...] = ()
    words: Annotated[tuple[Text, ...], Meta(max_length=2, description="at most two words")] = ()
    free: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.leaves) > 2:
            raise UsageError(f"--leaves {len(self.leaves)}: expected at most 2")


LEAF = {"name": "x", "count": 1, "share": 0, "kind": "b", "on": False, "note": None}
TREE = {"first": LEAF, "leaves": [LEAF, {**LEAF, "count": 9}], "words": ["u", "v"], "free": {"k": [1, None]}}


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """TREE with one value replaced (or, with `...`, removed)."""
    data = json.loads(json.dumps(TREE))
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return data


def refused(call: Callable[[], Any], *parts: str) -> None:
    """Check that `call` raises SpecError in one short printable line that has `parts`."""
    with pytest.raises(SpecError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 400, message
    assert [part for part in parts if part not in message] == [], message


def build(data: Any) -> Tree:
    return strict_json.build(data, Tree, "tree")


def test_an_object_becomes_records_and_tuples():
    tree = build(TREE)
    leaf = {"name": "x", "share": 0, "kind": "b", "on": False}
    assert tree == Tree(
        first=Leaf(**leaf, count=1),
        leaves=(Leaf(**leaf, count=1), Leaf(**leaf, count=9)),
        words=("u", "v"),
        free={"k": [1, None]},
    )
    assert type(tree.first.share) is int  # a number is kept as it is written


# Text that is not JSON.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('{"a": 1} x', "Extra data"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' occurs twice"),
        ('{"\\n": 1, "\\n": 1}', r"the key '\n' occurs twice"),
        ("NaN", "NaN is not a JSON number"),
        ("[Infinity]", "Infinity is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
        ("1" * 5000, "integer string conversion"),
        (b'"\xff"', "utf-8"),
        (b"\xff\xfe", ""),
        (b"\x80\x04", "utf-8"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_text_that_is_not_json_is_refused_with_the_reason(text, reason):
    refused(lambda: strict_json.parse(text, "thing"), "thing: not JSON (", reason)


@pytest.mark.parametrize("text", [None, {}, 3])
def test_a_value_that_is_not_text_is_refused(text):
    refused(lambda: strict_json.parse(text, "thing"), f"thing={text!r}: expected JSON as text")


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "\\u00e9"]}', b'\xef\xbb\xbf{"a": [1, 2.5, null, "\xc3\xa9"]}'])
def test_json_is_read_from_text_and_from_bytes_with_or_without_a_mark(text):
    assert strict_json.parse(text, "thing") == {"a": [1, 2.5, None, "é"]}


@pytest.mark.parametrize("text", ["null", "[]", "3", '"format"', "true"])
def test_a_file_that_is_not_an_object_is_refused(text):
    refused(lambda: strict_json.parse_format(text, "thing", 2), f"thing={json.loads(text)!r}: expected an object")


@pytest.mark.parametrize("found", ["3", "0", "1", "true", "2.0", '"2"', "null", "[2]", "1" * 4000])
def test_another_format_is_refused(found):
    text = f'{{"format": {found}, "a": 1}}'
    refused(lambda: strict_json.parse_format(text, "thing", 2), "thing: format ", ": this version reads format 2")


def test_the_formats_that_are_read_are_a_range():
    assert strict_json.parse_format('{"format": 2, "a": 1}', "thing", 2) == (2, {"a": 1})
    assert strict_json.parse_format('{"format": 1, "a": 1}', "thing", 2, oldest=1) == (1, {"a": 1})
    refused(
        lambda: strict_json.parse_format("{}", "thing", 2, oldest=1), "format None: this version reads formats 1 to 2"
    )


# Objects that are not the record.


@pytest.mark.parametrize("data", [None, [], "x", 3, True, [[]]])
def test_a_value_that_is_not_an_object_is_refused_at_any_depth(data):
    refused(lambda: build(data), f"tree={data!r}: expected an object")
    refused(lambda: build(changed("first", to=data)), f"tree.first={data!r}: expected an object")
    refused(lambda: build(changed("leaves", 1, to=data)), f"tree.leaves[1]={data!r}: expected an object")


@pytest.mark.parametrize("field", LEAF)
def test_every_field_is_required_even_one_with_a_default(field):
    refused(lambda: build(changed("leaves", 1, field, to=...)), f"tree.leaves[1]: missing fields: {field}")


@pytest.mark.parametrize("key", ["more", "", "x" * 10_000, "new\nline", "\ud800", "\x1b[31m"])
def test_an_unknown_field_is_refused_at_any_depth(key):
    refused(lambda: build({**TREE, key: 1}), "tree: unknown fields: ")
    refused(lambda: build(changed("leaves", 0, key, to=1)), "tree.leaves[0]: unknown fields: ")


def test_missing_and_unknown_fields_are_named_together():
    data = changed("first", "more", to=1)
    del data["first"]["name"]
    refused(lambda: build(data), "tree.first: missing fields: name; unknown fields: more")


# Values of another type or out of range.

WRONG = [
    ("name", 3, "name=3: expected printable text"),
    ("name", "", "name='': expected printable text"),
    ("name", None, "name=None: expected printable text"),
    ("name", "two\nlines", r"name='two\nlines': expected printable text"),
    ("name", "\x1b[2J", r"name='\x1b[2J': expected printable text"),
    ("name", "\ud800", r"name='\ud800': expected printable text"),
    ("name", "\u202e", r"name='\u202e': expected printable text"),
    ("name", "\n" * 10_000, "expected printable text"),
    ("count", 10, "count=10: expected a whole number from 0 to 9"),
    ("count", -1, "count=-1: expected a whole number from 0 to 9"),
    ("count", 1.0, "count=1.0: expected a whole number from 0 to 9"),
    ("count", True, "count=True: expected a whole number"),
    ("count", "1", "count='1': expected a whole number"),
    ("count", 2**64, "count=18446744073709551616: expected a whole number"),
    ("count", 10**5000, "count=a number with thousands of digits: expected a whole number"),
    ("share", 1.5, "share=1.5: expected a number from 0 to 1"),
    ("share", 1e308, "share=1e+308: expected a number from 0 to 1"),
    ("share", math.inf, "share=inf: expected a number from 0 to 1"),
    ("share", math.nan, "share=nan: expected a number from 0 to 1"),
    ("share", 10**400, "share=1000"),
    ("share", 10**5000, "share=a number with thousands of digits: expected a number"),
    ("share", False, "share=False: expected a number from 0 to 1"),
    ("share", "0.5", "share='0.5': expected a number from 0 to 1"),
    ("kind", "c", "kind='c': expected a or b"),
    ("kind", "\ud800", r"kind='\ud800': expected a or b"),
    ("kind", ["a"], "kind=['a']: expected a or b"),
    ("kind", None, "kind=None: expected a or b"),
    ("on", 1, "on=1: expected true or false"),
    ("on", "true", "on='true': expected true or false"),
    ("note", 3, "note=3: expected printable text or null"),
    ("note", "", "note='': expected printable text or null"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG, ids=lambda part: shown(part)[:40])
def test_a_wrong_value_is_refused_with_its_place_and_what_was_expected(field, value, message):
    refused(lambda: build({**TREE, "leaves": [LEAF, {**LEAF, field: value}]}), "tree.leaves[1]: ", message)


@pytest.mark.parametrize(("field", "value", "message"), WRONG, ids=lambda part: shown(part)[:40])
def test_a_constructor_refuses_the_same_values(field, value, message):
    refused(lambda: Leaf(**{**LEAF, field: value}), message)


@pytest.mark.parametrize("value", [None, {}, "ab", 3, True, pytest.param(10**5000, id="5,000 digits")])
def test_a_list_is_expected_where_the_record_has_a_tuple(value):
    refused(lambda: build(changed("leaves", to=value)), "tree.leaves=", "expected a list")
    refused(lambda: build(changed("words", to=value)), "tree.words=", "expected a list")


@pytest.mark.parametrize("words", [["a", 3], ["a", ""], ["a", "b", "c"]])
def test_a_list_of_other_values_is_refused(words):
    refused(lambda: build(changed("words", to=words)), "tree: words=", "expected at most two words")


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_free_field_is_an_object(value):
    refused(lambda: build(changed("free", to=value)), f"tree: free={value!r}: expected an object")


def test_a_free_field_nested_almost_as_deeply_as_python_can_is_read_or_refused():
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    with suppress(SpecError):
        build({**TREE, "free": {"deep": deep}})


def test_an_error_of_a_constructor_is_a_spec_error_with_its_place():
    refused(lambda: build({**TREE, "leaves": [LEAF] * 3}), "tree: --leaves 3: expected at most 2")


def test_a_reader_turns_another_form_into_the_field():
    def named(value: Any, where: str) -> Leaf:
        if not isinstance(value, str):
            raise SpecError(f"{where}={value}: expected a name")
        return Leaf(name=value)

    data = {**TREE, "leaves": ["a", "b"]}
    assert strict_json.build(data, Tree, "tree", leaves=named).leaves == (Leaf(name="a"), Leaf(name="b"))
    data["leaves"][1] = 3
    refused(lambda: strict_json.build(data, Tree, "tree", leaves=named), "tree.leaves[1]=3: expected a name")


@pytest.mark.parametrize(
    ("kind", "good", "bad", "expected"),
    [
        (Sha256, ["0" * 64, "9f" * 32], ["0" * 63, "F" * 64, "0" * 64 + "\n", None, "\u0660" * 64], "64 hexadecimal"),
        (Annotated[str, matching("a|bc", "a or bc")], ["a", "bc"], ["", "b", "ab", "a\n", "xa", "ac"], "a or bc"),
        (Annotated[int, whole(-1, 2**60)], [-1, 0, 2**53], [-2, 0.0], "a whole number from -1 to"),
        (tuple[float, float] | None, [(1, 2.5), None], [(1,), (1, 2, 3), (1, "2"), 3], "or null"),
    ],
    ids=["sha256", "pattern", "whole", "tuple"],
)  # fmt: skip
def test_a_value_fits_its_type_or_the_message_says_what_was_expected(kind, good, bad, expected):
    assert all(strict_json.fits(value, kind) for value in good)
    for value in bad:
        assert not strict_json.fits(value, kind)
        refused(lambda value=value: strict_json.check_value(value, kind, "place"), "place=", expected)


@pytest.mark.parametrize("value", ["2026-02-30", "yesterday", "2026-13-01", "\n", "\ud800"])
def test_a_day_that_does_not_exist_is_refused(value):
    refused(lambda: strict_json.check_date(value), "date=", "expected an ISO 8601 date or null")


def test_a_date_or_none_is_accepted():
    for value in ("2026-01-31", None):
        strict_json.check_date(value)
        assert strict_json.fits(value, Date | None)


HOSTILE = [..., None, True, -1, 0, 2**63, 10**400, 1e308, "", "x", "\n", "\ud800", [], [[]], {}, {"x": 1}]


def paths(data: Any, here: tuple = ()) -> list[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for key, value in items for path in ((*here, key), *paths(value, (*here, key)))]


def test_any_value_at_any_place_gives_a_record_or_one_line():
    messages = []
    for path in paths(TREE):
        for value in HOSTILE:
            try:
                build(changed(*path, to=value))
            except SpecError as error:
                messages.append(str(error))
    assert len(messages) > 250
    assert [message for message in messages if not message.isprintable() or len(message) > 400] == []
