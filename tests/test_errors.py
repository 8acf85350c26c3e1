"""Messages are one line, whatever values they show."""

from __future__ import annotations

import pytest

from alexnet_infer import errors
from alexnet_infer.errors import (
    AlexNetInferError,
    listed,
    meant,
    one_line,
    shown,
    wrong_names,
)

DEEP: object = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        "two\nlines\x1b[31m",
        "\ud800",
        10**5000,
        -(10**300),
        ["x" * 100] * 100,
        {"x" * 100: "\n" * 100, "y": ["z" * 100] * 9},
        {1: "mixed", "keys": 2},
        object(),
        b"\xff" * 1000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_in_one_short_line(value):
    assert shown(value).isprintable()
    assert 0 < len(shown(value)) <= 100


def test_a_value_nested_deeper_than_python_can_print_is_shown():
    with pytest.raises(RecursionError):
        repr(DEEP)
    assert shown(DEEP) == "[[[...]]]"


@pytest.mark.parametrize("value", [0, -1.5, True, None, "bicubic", [3], {}, 2**64])
def test_an_ordinary_value_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


def test_the_message_of_a_library_is_shortened_to_one_line():
    message = one_line(OSError("Couldn't read: \x0f\n  page header\tfailed.\n"))
    assert message == r"Couldn't read: \x0f page header failed."
    assert len(one_line(ValueError("x" * 10_000))) == len(one_line("\0" * 10_000)) == 300


def test_many_and_unprintable_names_are_listed_in_one_line():
    assert listed([]) == "none"
    assert listed(["a", b"\xff", "two\nlines"]) == r"a, b'\xff', two\nlines"
    assert listed("x" * 1000 for _ in range(14)) == ", ".join(["x" * 40] * 12) + " and 2 more"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], ""),
        ([], "missing fields: a, b"),
        (["a"], "missing fields: b"),
        (["b", "d", "a", "c"], "unknown fields: c, d"),
        (["a", "new\npart"], "missing fields: b; unknown fields: new\\npart"),
        (["a", "b", "", "x, y"], "unknown fields: '', 'x, y'"),
    ],
)
def test_missing_and_unknown_fields_are_told_apart(names, message):
    assert wrong_names("fields", names, ["b", "a"]) == message


def test_every_error_class_has_its_exit_code():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AlexNetInferError)]
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "AlexNetInferError": 1,
        "UsageError": 2,
        "SpecError": 2,
        "UnreadableInputError": 3,
        "ModelFileError": 4,
        "BackendError": 5,
        "StoppedError": 130,
    }


def test_a_similar_name_is_suggested_and_a_different_one_is_not():
    assert meant("cafe-net", ["owt", "caffenet"]) == " (did you mean caffenet?)"
    assert meant("x" * 300, ["owt", "caffenet"]) == ""
    assert meant("owt", []) == ""
