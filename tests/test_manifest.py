"""The manifest in a model file: it is restored exactly, and any other text is refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.artifact import Artifact, load_artifact, load_manifest
from alexnet_infer.errors import SpecError
from alexnet_infer.manifest import METADATA_KEY, ClassName, Manifest, MeasuredError
from alexnet_infer.preprocess import Preprocessing
from tests.modelfiles import PROVENANCE, good, manifest, random_tensors, refused, written


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.safetensors"


def with_manifest(path: Path, text: str) -> Path:
    path.write_bytes(written(good(), {METADATA_KEY: text}))
    return path


def edited(*keys: str | int, to: Any) -> str:
    """The manifest's JSON with one value replaced (or, with `...`, removed)."""
    data = json.loads(manifest().to_json())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "not json", "\x00", "[" * 100_000, '{"format": NaN}', '{"a": 1, "a": 1}', '{"format": Infinity}',
        pytest.param('{"format": ' + "1" * 5000 + "}", id="5000 digits"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_manifest_that_is_not_json_is_refused(path, text):
    refused(with_manifest(path, text), "manifest: not JSON (")
    refused(path, "manifest: not JSON (", load=load_manifest)


@pytest.mark.parametrize("text", ["{}", '{"format": 3}', '{"format": 0}', '{"format": true}'])
def test_another_format_is_refused(path, text):
    refused(with_manifest(path, text), "manifest: format", "this version reads formats 1 to 2")


@pytest.mark.parametrize("text", ["null", "[]", "3", '"format"'])
def test_a_manifest_that_is_not_an_object_is_refused(path, text):
    refused(with_manifest(path, text), f"manifest={json.loads(text)!r}: expected an object")


def test_format_1_which_has_no_fit_means_crop(path):
    data = json.loads(manifest().to_json())
    del data["preprocessing"]["fit"]
    refused(with_manifest(path, json.dumps(data)), "preprocessing: missing fields: fit")
    assert load_artifact(with_manifest(path, json.dumps(data | {"format": 1}))).manifest.preprocessing.fit == "crop"


def test_an_unknown_seed_and_date_stay_unknown(path):
    unknown = replace(manifest().provenance, seed=None, date=None)
    Artifact(replace(manifest(), provenance=unknown), random_tensors()).save(path)
    assert load_manifest(path).provenance == unknown


@pytest.mark.parametrize("field", ["name", "architecture", "preprocessing", "classes", "provenance"])
def test_a_missing_part_is_refused_by_name(path, field):
    refused(with_manifest(path, edited(field, to=...)), f"manifest: missing fields: {field}")


def test_an_unknown_part_is_refused_by_name(path):
    refused(with_manifest(path, edited("new\npart", to=1)), r"manifest: unknown fields: new\npart")


@pytest.mark.parametrize("field", ["data", "recipe", "seed", "date", "software", "errors"])
def test_a_missing_field_of_the_provenance_is_refused_by_name(path, field):
    refused(with_manifest(path, edited("provenance", field, to=...)), f"provenance: missing fields: {field}")


@pytest.mark.parametrize("field", ["data", "views", "images", "top1", "top5"])
def test_a_missing_field_of_an_error_figure_is_refused_by_name(path, field):
    refused(
        with_manifest(path, edited("provenance", "errors", 0, field, to=...)), f"errors[0]: missing fields: {field}"
    )


DEEP: Any = "bottom"
for _ in range(200):
    DEEP = [DEEP]

WRONG = [
    (("name",), "", "manifest: name=''"),
    (("name",), None, "name=None"),
    (("name",), "two\nlines", r"name='two\nlines'"),
    (("architecture",), None, "architecture=None: expected an object"),
    (("architecture", "patch"), 7, "preprocessing: patch=6: expected 7, the net's patch size"),
    (("architecture", "channels"), 1, "the net takes 1 channels: expected 3"),
    (("architecture", "operations", 0, "kernels"), 2**40, "conv1: kernels=1099511627776"),
    (("architecture", "operations", 5, "units"), 4, "3 class names: expected 4, one for each output"),
    (("preprocessing",), [], "preprocessing=[]: expected an object"),
    (("preprocessing", "patch"), 5, "preprocessing: patch=5: expected 6, the net's patch size"),
    (("preprocessing", "mean"), {"float32": "AAAA"}, "preprocessing.mean has 3 bytes"),
    (("classes",), {}, "classes={}: expected a list"),
    (("classes",), [], "0 class names: expected 3, one for each output"),
    (("classes", 1), ["n00000001"], "classes[1]=['n00000001']: expected a [WordNet id, name] pair"),
    (("classes", 1), "ab", "classes[1]='ab': expected a [WordNet id, name] pair"),
    (("classes", 1), ["n00000001", ""], "classes[1]: name=''"),
    (("classes", 1), ["n00000001", "\x1b[2J"], r"classes[1]: name='\x1b[2J'"),
    (("classes", 1), ["n00000001", "\ud800"], r"classes[1]: name='\ud800'"),
    (("classes", 1), [1, "name"], "classes[1]: wnid=1: expected printable text"),
    (("classes", 1, 0), "n00000000", "class n00000000 comes after n00000000"),
    (("classes", 1, 0), "n00000002", "class n00000002 comes after n00000002"),
    (("classes", 0, 0), "n00000009", "class n00000001 comes after n00000009: expected distinct WordNet ids in sorted"),
    (("provenance",), [], "provenance=[]: expected an object"),
    (("provenance", "data"), None, "provenance: data=None"),
    (("provenance", "software"), ["x"], "provenance: software=['x']"),
    (("provenance", "date"), "yesterday", "provenance: date='yesterday': expected an ISO 8601 date"),
    (("provenance", "date"), 20260131, "provenance: date=20260131: expected an ISO 8601 date"),
    (("provenance", "seed"), 1.5, "provenance: seed=1.5: expected a whole number"),
    (("provenance", "seed"), True, "provenance: seed=True"),
    (("provenance", "recipe"), ["lr"], "provenance: recipe=['lr']: expected an object"),
    (("provenance", "recipe"), {"lr": {"a": {"b": {"c": {}}}}}, "at most four levels deep"),
    (("provenance", "recipe"), {"deep": DEEP}, "at most four levels deep"),
    (("provenance", "recipe"), {"note": "\x1b[2J"}, "provenance: recipe="),
    (("provenance", "errors"), {}, "provenance.errors={}: expected a list"),
    (("provenance", "errors"), [3], "errors[0]=3: expected an object"),
    (("provenance", "errors", 0, "top1"), -1, "errors[0]: top1=-1: expected a whole number from 0"),
    (("provenance", "errors", 0, "images"), 10**30, "errors[0]: images=1000000000000000000000000000000: expected"),
    (("provenance", "errors", 0, "top1"), 11, "errors[0]: top5, top1, images=(1, 11, 10)"),
    (("provenance", "errors", 0, "top5"), 5, "errors[0]: top5, top1, images=(5, 4, 10)"),
    (("provenance", "errors", 0, "images"), 0, "errors[0]: top5, top1, images=(1, 4, 0)"),
    (("provenance", "errors", 0, "images"), 10.0, "images=10.0: expected a whole number"),
    (("provenance", "errors", 0, "images"), True, "images=True: expected a whole number"),
    (("provenance", "errors", 0, "views"), 10, "errors[0]: views=10: expected printable text"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG, ids=lambda part: str(part)[:60])
def test_a_wrong_value_in_the_manifest_is_refused_by_field_and_value(path, keys, value, message):
    refused(with_manifest(path, edited(*keys, to=value)), message)
    refused(path, message, load=load_manifest)


def test_a_number_too_large_for_any_float_is_refused_in_a_recipe(path):
    text = manifest().to_json().replace('"lr": 0.04', '"lr": 1e999')
    refused(with_manifest(path, text), "provenance: recipe=")


def paths(data: Any, here: tuple = ()) -> Iterator[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from paths(value, (*here, key))


HOSTILE = [..., None, True, -1, 0, 2**63, 10**400, 1e308, "", "x", "\n", "\ud800", [], [[]], {}, {"x": 1}, DEEP]


def test_any_value_at_any_position_gives_a_manifest_or_a_one_line_spec_error():
    messages = []
    for keys in paths(json.loads(manifest().to_json())):
        for value in HOSTILE:
            try:
                read = Manifest.from_json(edited(*keys, to=value))
            except SpecError as error:
                messages.append(str(error))
            else:  # a manifest that can be read can be written and read again
                assert Manifest.from_json(read.to_json()).to_json() == read.to_json()
    assert len(messages) > 700
    assert [message for message in messages if not message.isprintable() or len(message) > 400] == []


def test_an_absurd_net_is_refused_before_its_weights_are_read(path):
    refused(
        with_manifest(path, edited("architecture", "operations", 0, "pad", to=4096)), "conv1: an output of 4 x 8196"
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: ClassName(wnid="", name="x"),
        lambda: ClassName(wnid="n1", name=""),
        lambda: ClassName(wnid="n1", name="a\tb"),
        lambda: MeasuredError(data="d", views="ten", images=1, top1=2, top5=0),
        lambda: MeasuredError(data="d", views="ten", images=0, top1=0, top5=0),
        lambda: replace(PROVENANCE, date="2026-02-30"),
        lambda: replace(PROVENANCE, recipe={"lr": math.nan}),
        lambda: replace(PROVENANCE, recipe={"path": Path("x")}),
        lambda: replace(PROVENANCE, recipe={1: 2}),
        lambda: replace(PROVENANCE, seed="7"),
        lambda: manifest(name=""),
        lambda: manifest(classes=manifest().classes[:2]),
        lambda: manifest(classes=manifest().classes[::-1]),
        lambda: manifest(preprocessing=Preprocessing(size=8, patch=5, mean=np.zeros(3))),
    ],
)
def test_no_object_can_be_created_that_could_be_saved_but_not_loaded(build):
    with pytest.raises(SpecError) as caught:
        build()
    assert str(caught.value).isprintable()


def test_equal_manifests_give_equal_text():
    data = json.loads(manifest().to_json())
    data["provenance"]["recipe"] = dict(reversed(data["provenance"]["recipe"].items()))
    shuffled = dict(reversed(data.items()))
    assert Manifest.from_json(json.dumps(shuffled)).to_json() == manifest().to_json()


def test_the_first_name_of_a_class_is_its_short_name():
    assert ClassName(wnid="n02123045", name="tabby, tabby cat").short == "tabby"
    assert ClassName(wnid="n02123045", name="tabby").short == "tabby"
