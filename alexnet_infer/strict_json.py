"""JSON that anyone may have edited, read into msgspec's structs, whose field types state what is accepted.

The types are Python's, with ranges and patterns in `Annotated`. msgspec checks values against them. Added here: every
field must be present, even one with a default, and no other may be; no key may occur twice; text must be printable; an
error names the place, the value and what was expected. A constructor in Python checks the same.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from alexnet_infer.errors import SpecError, one_line, shown, wrong_names

T = TypeVar("T")
Reader = Callable[[Any, str], Any]
"""Turns a JSON value, at a place such as "net.classes[3]", into a field's value. Raises SpecError."""


def whole(low: int, high: int) -> Meta:
    return Meta(ge=low, le=high, description=f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Meta:
    return Meta(ge=low, le=high, description=f"a number from {low:g} to {high:g}")


def matching(pattern: str, description: str) -> Meta:
    return Meta(pattern=rf"^(?:{pattern})\Z", description=description)


Text = Annotated[str, Meta(min_length=1, description="printable text")]
Date = Annotated[str, Meta(description="an ISO 8601 date")]
Sha256 = Annotated[str, matching("[0-9a-f]{64}", "64 hexadecimal digits")]


class Record(Struct, frozen=True):
    """An immutable record. Its constructor raises SpecError unless each value is of its field's type, see `check`."""

    def __post_init__(self) -> None:
        check(self)


def parse(text: str | bytes, what: str) -> Any:
    """Return the value of a JSON text. Raises SpecError if it is not JSON, which has no NaN, or has a duplicate key."""
    if not isinstance(text, str | bytes):
        raise SpecError(f"{what}={shown(text)}: expected JSON as text")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SpecError(f"{what}: not JSON ({one_line(error) or 'not enough memory for it'})") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {shown(key)} occurs twice")
        data[key] = value
    return data


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def parse_format(text: str | bytes, what: str, newest: int, oldest: int | None = None) -> tuple[int, dict[str, Any]]:
    """Return the format number and the other fields of a JSON object. Raises SpecError for other formats."""
    data = parse(text, what)
    if not isinstance(data, dict):
        raise SpecError(f"{what}={shown(data)}: expected an object")
    found = data.pop("format", None)
    if type(found) is not int or not (oldest or newest) <= found <= newest:
        known = f"format {newest}" if oldest is None else f"formats {oldest} to {newest}"
        raise SpecError(f"{what}: format {shown(found)}: this version reads {known}")
    return found, data


def build(data: Any, kind: type[T], where: str, **readers: Reader) -> T:
    """Return the struct `kind` from an object with exactly its fields.

    Nested structs and tuples of them are built in the same way, unless `readers` has a function for the field; in a
    tuple, it reads each item. Other values go to the constructor, which checks them, as they are.

    Raises SpecError, with `where` in the message, also for a ValueError of the constructor.
    """
    if not isinstance(data, dict):
        raise SpecError(f"{where}={shown(data)}: expected an object")
    fields = {field.encode_name: field for field in _fields(kind)}
    if data.keys() != fields.keys():
        raise SpecError(f"{where}: {wrong_names('fields', data, fields)}")
    values = {
        field.name: convert(data[key], field.type, f"{where}.{key}", readers.get(field.name))
        for key, field in fields.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise SpecError(f"{where}: {error}") from None


def convert(data: Any, kind: Any, where: str, reader: Reader | None = None) -> Any:
    """Return `data` as a value of the type `kind`, as `build` does for a field. Raises SpecError."""
    item = _item(kind)
    if item is not None:
        if not isinstance(data, list):
            raise SpecError(f"{where}={shown(data)}: expected a list")
        return tuple([convert(value, item, f"{where}[{i}]", reader) for i, value in enumerate(data)])
    if reader is not None:
        return reader(data, where)
    return build(data, kind, where) if isinstance(kind, msgspec.StructMeta) else data


def check(value: Any, where: str = "") -> None:
    """Raise SpecError unless every field of a struct has a value of the field's type, and texts are printable.

    `where` begins the message.
    """
    for field in _fields(type(value)):
        check_value(getattr(value, field.name), field.type, f"{where}{field.encode_name}")


def check_value(value: Any, kind: Any, where: str) -> None:
    """Raise SpecError unless `value` fits the type `kind`."""
    if not fits(value, kind):
        raise SpecError(f"{where}={shown(value)}: expected {_expected(kind)}")


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of the type `kind` and, if it is text, printable. A whole number is also a float."""
    try:
        msgspec.convert(value, kind)
    except (ValueError, RecursionError):  # msgspec's ValidationError is a ValueError
        return False
    return not isinstance(value, str) or value.isprintable()


def check_date(value: str | None) -> None:
    """Raise SpecError unless the value of a field `date` is a date in ISO 8601 or None."""
    try:
        if value is not None:
            date.fromisoformat(value)
    except ValueError:
        raise SpecError(f"date={shown(value)}: expected {_expected(Date | None)}") from None


_fields = functools.cache(msgspec.structs.fields)


@functools.cache
def _item(kind: Any) -> Any:
    """The type of the items of a tuple, or None if `kind` is no tuple."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _expected(kind: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return parts[1].description
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, parts))
    words = {str: "printable text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
    return words.get(kind) or ("an object" if origin is Mapping else kind.__name__)
