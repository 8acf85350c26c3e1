"""Safetensors files whose headers say something twice are refused, whatever the safetensors package makes of them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from alexnet_infer.artifact import load_artifact, load_manifest
from alexnet_infer.errors import SpecError
from alexnet_infer.files import MAX_JSON_BYTES
from alexnet_infer.importing.checkpoint import read_checkpoint
from alexnet_infer.manifest import METADATA_KEY
from alexnet_infer.tensor_file import open_tensors
from tests.modelfiles import good, refused, written


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace a part of the header, which occurs once."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].decode()
    assert header.count(old) == 1
    header = header.replace(old, new)
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + content[8 + length :])


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(good()))
    return path


OTHER = json.dumps("{}")
NONE = '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
TWICE = {
    "two tensors of one name": ('"fc1.bias":', f'"fc1.bias": {NONE}, "fc1.bias":'),
    "the name in escapes": ('"fc1.bias":', f'"\\u0066c1.bias": {NONE}, "fc1.bias":'),
    "two metadata": ('{"__metadata__":', '{"__metadata__": {"a": "b"}, "__metadata__":'),
    "two manifests": (f'{{"{METADATA_KEY}":', f'{{"{METADATA_KEY}": {OTHER}, "{METADATA_KEY}":'),
    "two keys in the manifest": ('\\"format\\":', '\\"format\\": 1, \\"format\\":'),
    "two types": ('"fc1.bias": {"dtype": "F32",', '"fc1.bias": {"dtype": "F32", "dtype": "F32",'),
}  # fmt: skip
"""How a header says something twice: (what it says, what it says then)."""


@pytest.mark.parametrize("how", TWICE)
def test_a_header_that_says_something_twice_is_refused(path, how):
    load_artifact(path)
    rewrite(path, *TWICE[how])
    for load in (load_artifact, load_manifest):
        message = refused(path, load=load)
        assert "occurs twice" in message or "duplicate field" in message  # the package's own words


@pytest.mark.parametrize("part", ["config", "net", "recipe"])
def test_a_checkpoint_that_says_something_twice_is_refused(path, part):
    texts = {"config": '{"recipe": {"unit": 1}, "architecture": {}}', "net": "{}", "state": "{}"}
    if part == "recipe":
        texts["config"] = texts["config"].replace('"unit": 1', '"unit": 1, "unit": 2')
    elif part == "net":
        texts["net"] = '{"classes": [], "classes": []}'
    header = json.dumps({"__metadata__": texts})
    if part == "config":
        header = header.replace('"config":', '"config": "{}", "config":')
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(SpecError, match="occurs twice"):
        read_checkpoint(path)


def test_other_files_are_refused_by_the_package_or_by_their_kind(path, tmp_path):
    for content in (b"", b"x", bytes(8), bytes(100), struct.pack("<Q", 50) + b"{}", struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(content)
        with pytest.raises(SafetensorError), open_tensors(path):
            pass
    header = json.dumps({"a": "x" * MAX_JSON_BYTES})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(SpecError, match="has a header of 16,000,009 bytes: expected at most 16,000,000"):
        open_tensors(path).__enter__()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="is not a regular file"):
        open_tensors(tmp_path / "pipe").__enter__()
    path.write_bytes(written(good()))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        open_tensors(tmp_path / "link", follow=False).__enter__()
    with open_tensors(tmp_path / "link") as file, safe_open(path, "np") as plain:
        assert [*file.keys()] == [*plain.keys()]


def test_memory_that_is_not_enough_is_an_error_about_the_file(path):
    with pytest.raises(SpecError, match="needs more memory than this machine has"), open_tensors(path):
        raise MemoryError
