"""The description in an exported file: read back as it was written, and refused if it is invalid."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.graph.info import Batch, CalibrationRecord, ExportInfo, Member

MEMBERS = (Member(name="a", sha256="0" * 64), Member(name="b, c", sha256="f" * 64))


@pytest.mark.parametrize(
    ("text", "batch", "fixed"),
    [
        ("1,8,64", Batch(), False),
        ("3", Batch(min=3, opt=3, max=3), True),
        ("2,2,2", Batch(min=2, opt=2, max=2), True),
        ("1,1,65536", Batch(min=1, opt=1, max=65536), False),
    ],
)
def test_a_batch_is_three_numbers_or_one_fixed_number(text, batch, fixed):
    assert Batch.parse(text) == batch
    assert batch.fixed == fixed


@pytest.mark.parametrize("text", ["0", "0,1,2", "2,1,3", "1,3,2", "1,2,65537", "999999999"])
def test_a_batch_out_of_order_or_range_is_refused(text):
    with pytest.raises(UsageError, match="expected MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX <= 65536"):
        Batch.parse(text)


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4", "-1", "1.5", " 1", "1,2,", "x" * 500, "9" * 5000, "1\n2", "\u0661"]
)
def test_text_that_is_not_a_batch_is_refused_in_one_short_line(text):
    with pytest.raises(UsageError, match="expected MIN,OPT,MAX as in 1,8,64, or one number") as raised:
        Batch.parse(text)
    assert len(str(raised.value)) < 200
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "info",
    [
        ExportInfo(members=MEMBERS[:1]),
        ExportInfo(members=MEMBERS, views="ten", precision="fp16", lrn="plugin", batch=Batch.parse("4")),
        ExportInfo(members=MEMBERS, views="center", precision="int8", int8_for="tensorrt", lrn="conv"),
        ExportInfo(members=MEMBERS[:1], outputs=("fc7:pre", "probabilities")),
        ExportInfo(
            members=MEMBERS[:1],
            precision="int8",
            int8_for="cpu",
            calibration=CalibrationRecord(method="entropy", images=("0" * 16, "f" * 16), keep_float=("conv1",)),
        ),
    ],
)
def test_json_restores_it_exactly_and_is_canonical(info):
    text = info.to_json()
    assert ExportInfo.from_json(text) == info
    assert json.loads(text)["flavor"] == info.int8_for
    shuffled = json.dumps(dict(reversed(json.loads(text).items())))
    assert ExportInfo.from_json(shuffled).to_json() == text


def test_a_file_that_cuts_views_takes_squares():
    taken = [ExportInfo(members=MEMBERS, views=views).takes_squares for views in ("none", "center", "ten")]
    assert taken == [False, True, True]


@pytest.mark.parametrize(
    "values",
    [
        {"members": ()},
        {"views": "five"},
        {"precision": "fp8"},
        {"lrn": "fast"},
        {"precision": "int8"},
        {"precision": "int8", "int8_for": "gpu"},
        {"int8_for": "cpu"},
        {"calibration": CalibrationRecord(method="entropy", images=("0" * 16,))},
    ],
)
def test_invalid_values_are_refused(values):
    with pytest.raises(SpecError, match="expected"):
        ExportInfo(**{"members": MEMBERS, **values})


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update({key: value})


def put_member(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["members"].append({"name": "a", "sha256": "0" * 64} | values)


@pytest.mark.parametrize(
    "change",
    [
        put("format", 2),
        put("format", None),
        put("format", True),
        put("more", 1),
        lambda data: data.pop("batch"),
        put("batch", None),
        put("batch", {"min": 2, "opt": 1, "max": 3}),
        put("batch", {"min": "1", "opt": 1, "max": 3}),
        put("batch", {"min": 1, "opt": 1, "max": 3, "more": 4}),
        put("members", []),
        put("members", None),
        put("members", ["a"]),
        put("members", [{"name": "a"}]),
        put_member(name="a\nb"),
        put_member(name="\x1b[31m"),
        put_member(name=5),
        put_member(sha256="0" * 63),
        put_member(sha256="G" * 64),
        put_member(sha256=None),
        put("views", ["ten"]),
        put("precision", {}),
        put("lrn", None),
        put("flavor", "cpu"),
        put("int8_for", None),
        put("calibration", {"method": "entropy", "images": ["0" * 16], "keep_float": []}),
        put("calibration", {"method": "entropy", "images": ["0" * 16]}),
        put("calibration", [1]),
    ],
)
def test_altered_metadata_is_refused_in_one_line(change):
    data = json.loads(ExportInfo(members=MEMBERS).to_json())
    change(data)
    with pytest.raises(SpecError) as raised:
        ExportInfo.from_json(json.dumps(data))
    assert str(raised.value).isprintable()


def test_missing_and_unknown_fields_and_another_format_are_named():
    data = json.loads(ExportInfo(members=MEMBERS).to_json())
    with pytest.raises(SpecError, match="missing fields: batch; unknown fields: more"):
        ExportInfo.from_json(json.dumps({"more": 1, **{name: data[name] for name in data if name != "batch"}}))
    with pytest.raises(SpecError, match=r"^export\.members\[0\]: missing fields: sha256$"):
        ExportInfo.from_json(json.dumps({**data, "members": [{"name": "a"}]}))
    with pytest.raises(SpecError, match="format 2: this version reads format 1"):
        ExportInfo.from_json(json.dumps({**data, "format": 2, "more": 1}))


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{", "[" * 100_000, "5"])
def test_text_that_is_not_an_object_is_refused(text):
    with pytest.raises(SpecError, match=r"^export(=.*: expected an object|: not JSON \(.*\))$"):
        ExportInfo.from_json(text)


@pytest.mark.parametrize("number", [True, 1.0, 1.5])
def test_a_batch_that_is_not_a_whole_number_is_refused(number):
    data = json.loads(ExportInfo(members=MEMBERS).to_json())
    data["batch"]["min"] = number
    with pytest.raises(SpecError):
        ExportInfo.from_json(json.dumps(data))


def test_files_that_return_probabilities_only_are_described_as_before_there_were_other_outputs():
    info = ExportInfo(members=MEMBERS)
    assert "outputs" not in json.loads(info.to_json())
    assert ExportInfo.from_json(info.to_json()).outputs == ("probabilities",)


def test_several_nets_return_probabilities_only():
    with pytest.raises(SpecError, match="expected probabilities only, since the file has several nets"):
        ExportInfo(members=MEMBERS, outputs=("fc7",))
