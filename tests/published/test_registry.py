"""The registry file is consistent, and an invalid one is refused in one line."""

from __future__ import annotations

import re

import msgspec
import pytest

from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.importing.conventions import CONVENTIONS
from alexnet_infer.nets import nets_at_hand
from alexnet_infer.presets import PRESETS, variant
from alexnet_infer.published.registry import VARIABLE, published, registry


def test_the_registry_has_the_well_known_nets():
    names = {"bvlc-alexnet", "bvlc-alexnet-int8", "bvlc-alexnet-qdq", "caffenet", "torchvision-alexnet"}
    assert names <= set(registry())
    assert not set(registry()) & set(PRESETS) - {"caffenet"}


@pytest.mark.parametrize("name", registry())
def test_each_entry_names_a_preset_a_convention_and_sources_that_exist(name):
    net = published(name)
    assert net.preprocessing in CONVENTIONS
    assert net.preset in PRESETS
    assert net.patch in (variant(net.preset).patch, 224)
    assert all(url.startswith(("https://", "http://dl.caffe.berkeleyvision.org/")) for url in net.urls)
    assert 0 < net.error.top5 < net.error.top1 < 100
    # float32 weights and little else; a quantized file is a quarter of that
    assert net.size / (1 if net.format == "onnx-quantized" else 4) == pytest.approx(61e6, rel=0.01)


def test_published_figures_are_errors_not_accuracies():
    assert (published("bvlc-alexnet").error.top1, published("bvlc-alexnet").error.top5) == (42.9, 19.8)  # 57.1, 80.2
    assert (published("caffenet").error.top1, published("caffenet").error.top5) == (42.6, 19.6)  # 57.4, 80.4
    assert published("bvlc-alexnet-int8").error.top1 == pytest.approx(100 - 54.68)
    assert published("torchvision-alexnet").error.top1 == pytest.approx(100 - 56.522)


def test_the_hash_of_torchvision_begins_as_its_file_name_says():
    net = published("torchvision-alexnet")
    assert re.search("-([0-9a-f]{8}).pth$", net.urls[0])[1] == net.digest.removeprefix("sha256:")[:8]


def test_an_unknown_name_is_refused_with_a_similar_one():
    with pytest.raises(
        UsageError,
        match=r"'bvlc-alexent' is not a published net \(did you mean bvlc-alexnet\?\); expected one of bvlc-alexnet, ",
    ):
        published("bvlc-alexent")


def entry() -> dict:
    return msgspec.to_builtins(published("caffenet"))


def test_a_site_can_have_its_own_registry(other):
    net = entry() | {"name": "ours", "urls": ["http://mirror.example/net.onnx"]}
    other({"format": 1, "nets": [net]})
    assert list(registry()) == ["ours"]
    assert published("ours").urls == ("http://mirror.example/net.onnx",)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"format": 2, "nets": []}', '{"format": 1}', '{"format": 1, "nets": {}}',
        '{"format": 1, "nets": [3]}', '{"format": 1, "nets": [{}]}', "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_an_invalid_registry_is_a_one_line_error(other, content):
    other(content)
    with pytest.raises(ModelFileError, match="not a registry of nets"):
        registry()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../evil"), ("name", "A B"), ("name", ""), ("name", 3), ("size", 0), ("size", "1"), ("size", 2**41),
        ("digest", "md5:" + "0" * 32), ("digest", "sha256:12"), ("digest", "sha256:" + "g" * 64), ("digest", None),
        ("format", "pickle"), ("urls", []), ("urls", [3]), ("urls", None), ("error", {}), ("error", None),
        ("licence", "a\nb"), ("preset", None), ("preset", "alex"), ("preprocessing", "x"), ("preprocessing", []),
        ("patch", None), ("patch", 0), ("patch", "227"), ("date", "someday"), ("date", 3), ("data", ""),
        ("summary", " "),
        ("urls", "http://x/y"), ("urls", {"http://x/y": 1}), ("urls", [""]), ("urls", ["http://["]), ("urls", ["ftp://x"]),
        ("digest", "sha1:" + "0" * 40),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(other, field, value):
    other({"format": 1, "nets": [entry() | {field: value}]})
    with pytest.raises(ModelFileError, match="not a registry of nets"):
        registry()


def test_missing_and_unknown_fields_are_named(other):
    misspelt, incomplete = entry(), entry()
    misspelt["sise"] = misspelt.pop("size")
    del incomplete["error"]["top5"]
    for net, message in (
        (misspelt, r"nets\[0\]: missing fields: size; unknown fields: sise"),
        (incomplete, r"nets\[0\].error: missing fields: top5"),
    ):
        other({"format": 1, "nets": [net]})
        with pytest.raises(ModelFileError, match=message):
            registry()


@pytest.mark.parametrize("name", [path.stem for path in nets_at_hand()])
def test_the_name_of_a_bundled_net_is_refused(other, name):
    other({"format": 1, "nets": [entry() | {"name": name}]})
    with pytest.raises(ModelFileError, match=f"name={name}: is the name of a bundled net; expected another name"):
        registry()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top1", "42"), ("top1", None), ("top1", [42]), ("top1", 101), ("top1", 10),
        ("top5", -1), ("top5", True), ("protocol", "a\nb"), ("source", ""), ("views", None), ("other", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_of_an_error_is_refused(other, field, value):
    net = entry()
    net["error"][field] = value
    other({"format": 1, "nets": [net]})
    with pytest.raises(ModelFileError, match=r"not a registry of nets .*error"):
        registry()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_error_that_is_not_a_number_is_refused(other, value):
    other({"format": 1, "nets": [entry() | {"error": entry()["error"] | {"top1": value}}]})
    with pytest.raises(ModelFileError, match=r"not a registry of nets .*(NaN|Infinity) is not a JSON number"):
        registry()


def test_two_nets_with_the_same_name_are_refused(other):
    other({"format": 1, "nets": [entry(), entry() | {"name": "b"}, entry()]})
    with pytest.raises(ModelFileError, match="2 nets are called caffenet"):
        registry()


def test_a_missing_registry_is_a_one_line_error(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.json"))
    with pytest.raises(ModelFileError, match=r"gone\.json: the registry of nets can't be read"):
        registry()
