"""Records: what is written is read again, damaged files are one-line errors, other settings are no result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from alexnet_infer.errors import SpecError, UnreadableInputError
from tests.train.reproduction.made import PLAN, both, made, mask, neighbors, random_wrong
from train.reproduction.plan import Mean, Training
from train.reproduction.record import Records
from train.reproduction.settings import settings

TASK = Training("quarter", "no-lrn", 1)


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path)


@pytest.mark.parametrize(
    "task", [TASK, Training("quarter", "six-tuned", 0), Training("bundled", "paper", 3), Mean("bundled")], ids=str
)
def test_what_is_written_is_read_again(records, task):
    rng = np.random.default_rng(0)
    ten, center = random_wrong(rng), random_wrong(rng)
    result = made(task, ten, center)
    records.write(task, result)
    assert records.read(task, settings(PLAN, task)) == result
    np.testing.assert_array_equal(result.wrong("ten"), ten)
    np.testing.assert_array_equal(result.wrong("center"), center)


def test_a_record_is_a_file_of_its_own_by_scale_run_and_seed(records):
    records.write(TASK, made(TASK, both(mask([1]))))
    records.write(Mean("bundled"), made(Mean("bundled"), both(mask([1]))))
    files = sorted(path.relative_to(records.folder).as_posix() for path in records.folder.rglob("*.*"))
    assert files == ["bundled/mean-of-5.json", "quarter/no-lrn-1.json"]
    assert records.read(Training("quarter", "no-lrn", 0), settings(PLAN, Training("quarter", "no-lrn", 0))) is None


def test_the_same_result_is_the_same_file(records):
    result = made(TASK, both(mask([1, 5])))
    records.write(TASK, result)
    before = records.path(TASK).read_bytes()
    read = records.read(TASK, settings(PLAN, TASK))
    assert read is not None
    records.write(TASK, read)
    assert records.path(TASK).read_bytes() == before
    assert before.endswith(b"}\n")


def test_a_record_of_an_earlier_version_has_no_training_error(records):
    def without(fields: dict[str, Any]) -> None:
        del fields["curve"]["training_error"], fields["curve"]["steps_per_epoch"]

    damaged(records, without)
    read = records.read(TASK, settings(PLAN, TASK))
    assert read is not None
    assert (read.curve.training_error, read.curve.steps_per_epoch) == ((), None)
    assert read.curve.top1_error == (0.5, 0.25)


def test_a_record_made_with_other_settings_is_no_result(records):
    records.write(TASK, made(TASK, both(mask([1]))))
    own = settings(PLAN, TASK)
    assert records.read(TASK, own) is not None
    assert records.read(TASK, own | {"recipe": own["recipe"] | {"epochs": 9}}) is None
    assert records.read(TASK, own | {"net": own["net"] | {"width": 0.5}}) is None
    assert records.read(TASK, own | {"data": own["data"] | {"hold-out": 99}}) is None
    assert records.read(TASK, {}) is None


def test_settings_tell_apart_every_net_of_every_scale():
    seen: dict[str, list[str]] = {}
    for scale in PLAN.scales.values():
        for run in PLAN.possible_runs(scale):
            for seed in PLAN.seeds(scale):
                task = PLAN.training(scale, run, seed)
                if task.run != run:  # another name of the same net
                    assert (scale.title, run, task.run) == ("full", "dropout", "paper"), (
                        "the paper's recipe has dropout"
                    )
                    continue
                seen.setdefault(json.dumps(settings(PLAN, task), sort_keys=True), []).append(str(task))
    assert [names for names in seen.values() if len(names) > 1] == []


def test_settings_of_a_net_have_those_of_the_net_it_starts_from():
    tuned = Training("quarter", "six-tuned", 1)
    start = PLAN.start(tuned)
    assert start is not None
    own = settings(PLAN, tuned)
    assert own["start"] == settings(PLAN, start)
    assert own["start"]["start"] is None
    assert settings(PLAN, Mean("bundled"))["mean"][4] == settings(PLAN, Training("bundled", "paper", 4))


def test_settings_are_the_same_after_json():
    for task in (TASK, Training("quarter", "six-tuned", 1), Mean("bundled")):
        assert json.loads(json.dumps(settings(PLAN, task))) == settings(PLAN, task)


def one_line(records: Records, *parts: str) -> None:
    with pytest.raises(UnreadableInputError) as caught:
        records.read(TASK, settings(PLAN, TASK))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for part in (str(records.path(TASK)), *parts):
        assert part in message


def damaged(records: Records, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write a record that `change` has changed."""
    records.write(TASK, made(TASK, both(mask([1, 2, 3]))))
    path = records.path(TASK)
    fields = json.loads(path.read_bytes())
    changed = change(fields)
    path.write_text(json.dumps(fields if changed is None else changed), encoding="utf-8")


FIELDS = [*json.loads(json.dumps({"format": 1})), *made(TASK, both(mask([1]))).__struct_fields__]


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_one_line(records, name):
    damaged(records, lambda fields: fields.pop(name) and None)
    one_line(records, name, "remove it, and run its experiment again")


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("settings", "data")])
@pytest.mark.parametrize("value", [True, -1, "", {"a": 1}, [[]], 1e400, "\n"], ids=repr)
def test_a_field_of_another_type_is_one_line(records, name, value):
    damaged(records, lambda fields: fields.__setitem__(name, value))
    one_line(records)


@pytest.mark.parametrize("name", ["settings", "data"])
@pytest.mark.parametrize("value", [None, 3, [], "a"], ids=repr)
def test_settings_and_data_that_are_no_objects_are_one_line(records, name, value):
    damaged(records, lambda fields: fields.__setitem__(name, value))
    one_line(records, name)


NEIGHBORS = msgspec.to_builtins(neighbors())

NESTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "too-few-bits": lambda f: f["ten"].__setitem__("top5", "AAA="),
    "too-many-bits": lambda f: f["center"].__setitem__("top1", "AAAAAAAAAAA="),
    "other-images": lambda f: f.__setitem__("images", 48),
    "wrong-in-top5-only": lambda f: f["ten"].update(top1="AAAAAAA=", top5="gAAAAAA="),
    "no-base64": lambda f: f["ten"].__setitem__("top1", "@@@@"),
    "bits-null": lambda f: f["ten"].__setitem__("top1", None),
    "training-count-below-0": lambda f: f["training"].__setitem__("top1", -1),
    "training-no-images": lambda f: f["training"].__setitem__("images", 0),
    "training-more-wrong-than-images": lambda f: f["training"].__setitem__("top1", 1000),
    "color-above-1": lambda f: f.__setitem__("color", [0.5, 1.5]),
    "color-of-one-half": lambda f: f.__setitem__("color", [0.5]),
    "three-columns": lambda f: f.__setitem__("columns", 3),
    "date-no-date": lambda f: f.__setitem__("date", "yesterday"),
    "curve-error-above-1": lambda f: f["curve"].__setitem__("top1_error", [2.0]),
    "curve-of-other-epochs": lambda f: f["curve"].__setitem__("training_error", [0.5]),
    "curve-without-steps": lambda f: f["curve"].__setitem__("steps_per_epoch", None),
    "curve-of-no-epochs": lambda f: f.__setitem__("curve", {"loss": [], "top1_error": [], "top5_error": []}),
    "no-training-of-one-net": lambda f: f.__setitem__("training", None),
    "neighbors-of-too-few-images": lambda f: f.__setitem__("neighbors", NEIGHBORS | {"queries": 99}),
    "more-neighbors-than-nearest": lambda f: f.__setitem__("neighbors", NEIGHBORS | {"nearest": 2}),
    "neighbors-no-base64": lambda f: f.__setitem__("neighbors", NEIGHBORS | {"pixels": "@"}),
    "no-validation": lambda f: f.__setitem__("data", {}),
    "unknown-field": lambda f: f.__setitem__("colour", 1),
    "unknown-field-of-errors": lambda f: f["training"].__setitem__("colour", 1),
    "other-format": lambda f: f.__setitem__("format", 2),
    "a-list": lambda f: [f],
    "null": lambda f: 0,
}


@pytest.mark.parametrize("damage", NESTED)
def test_a_value_that_can_not_be_is_one_line(records, damage):
    damaged(records, NESTED[damage])
    one_line(records)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000, b'{"format": 1, "format": 1}', b'{"format": NaN}', b"1" * 5000],
    ids=["empty", "brace", "no-utf-8", "null", "deep", "key-twice", "nan", "long-number"],
)
def test_a_file_that_is_no_record_is_one_line(records, content):
    path = records.path(TASK)
    path.parent.mkdir()
    path.write_bytes(content)
    one_line(records)


def test_a_truncated_file_is_one_line_wherever_it_ends(records):
    records.write(TASK, made(TASK, both(mask([1]))))
    path = records.path(TASK)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:end])
        one_line(records, "not JSON")


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder_are_one_line(records):
    records.path(TASK).mkdir(parents=True)
    one_line(records)
    records.path(TASK).rmdir()
    records.path(TASK).parent.rmdir()
    records.path(TASK).parent.write_bytes(b"")
    one_line(records)


def test_a_huge_file_is_one_line_and_is_not_read(records):
    path = records.path(TASK)
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(2**40)
    one_line(records, "expected at most")


def test_the_largest_validation_set_of_a_scale_fits_in_a_record(records):
    """ILSVRC-2012 has 50,000 validation images; a scale that holds out 50 of each of 1000 classes has twice as many."""
    wrong = random_wrong(np.random.default_rng(1), 100_000)
    records.write(TASK, made(TASK, wrong, wrong))
    assert records.read(TASK, settings(PLAN, TASK)) is not None


@pytest.mark.parametrize(
    "changes", [{"columns": 0}, {"parameters": -1}, {"color": (2.0,)}, {"hardware": "a\nb"}, {"seconds": -1.0}], ids=str
)
def test_a_result_with_a_value_out_of_range_can_not_be_made(changes):
    with pytest.raises(SpecError, match=next(iter(changes))):
        made(TASK, both(mask([1])), **changes)
