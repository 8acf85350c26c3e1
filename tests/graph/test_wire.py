"""Protobuf messages of too many parts, or nested too deep, are refused before they are parsed."""

from __future__ import annotations

import sys
import time
import tracemalloc

import onnx
import pytest

from alexnet_infer.errors import BackendError, SpecError
from alexnet_infer.graph.wire import MAX_FIELDS, MAX_PACKED, check_wire, import_onnx, import_protobuf
from tests.nets import random_artifact

MODEL = onnx.ModelProto.DESCRIPTOR


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


HOSTILE = {
    "millions of empty nodes": (field(7, b"\x0a\x00" * 5_000_000), "more than 200,000 fields"),
    "millions of unknown fields": (b"\xf8\x7f\x00" * 5_000_000, "more than 200,000 fields"),
    "millions of empty entries": (b"\x72\x00" * 5_000_000, "more than 200,000 fields"),
    "packed numbers": (field(7, field(5, field(7, bytes(MAX_PACKED + 1)))), "packed whole numbers"),
    "nested graphs": (nested(1000), "nested more than 16 deep"),
    "a length of 2 GB": (b"\x3a" + varint(2**31 - 1) + bytes(100), "ends after its message"),
    "a length of 2^63": (b"\x3a" + varint(2**63) + bytes(100), "ends after its message"),
    "a number without an end": (b"\x08" + b"\xff" * 100, "no end"),
    "a number cut off": (b"\x08\xff", "no end"),
    "a group": (b"\x0b\x0c", "no type"),
    "a fixed number cut off": (b"\x0d\x00", "ends after its message"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_refused_in_a_second_without_memory(name):
    content, words = HOSTILE[name]
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(SpecError, match=words):
        check_wire(content, MODEL)
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5  # tracemalloc slows it down
    assert peak < 1_000_000


def test_a_real_file_has_a_hundredth_of_the_fields_that_are_allowed():
    from alexnet_infer.graph.net import build_onnx
    from alexnet_infer.graph.wire import _Walk

    content = build_onnx(random_artifact(), "plugin").SerializeToString()
    walk = _Walk(content)
    walk.message(0, len(content), MODEL, 0)
    assert 300 < walk.fields < MAX_FIELDS / 100


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_message_that_was_cut_is_refused(cut):
    with pytest.raises(SpecError):
        check_wire(onnx.helper.make_model(onnx.GraphProto(name="g" * 200)).SerializeToString()[:-cut], MODEL)


@pytest.mark.parametrize(("module", "package"), [("onnx", "onnx"), ("google.protobuf.message", "protobuf")])
def test_a_missing_package_is_named_with_its_command(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"^{package} is missing .*pip install {package}$") as raised:
        import_onnx()
    assert raised.value.exit_code == 5


def test_what_needs_only_protobuf_runs_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    import_protobuf()
