"""onnxruntime-web: only the pinned version with the pinned hashes is taken."""

from __future__ import annotations

import json

import pytest

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.export.web.runtime import BINARY, SCRIPT, VERSION, integrity_of, read_runtime
from tests.export.web.ort import made_up_package, real_package


def test_a_hash_is_written_as_browsers_read_it():
    """The example of the W3C's Subresource Integrity, section 3.5."""
    expected = "sha384-H8BRh8j48O9oYatfu5AZzq6A9RINhZO5H16dQZngK7T62em8MUt1FLm52t+eX6xO"
    assert integrity_of(b"alert('Hello, world.');") == expected


def test_the_npm_package_has_the_pinned_hashes():
    files = read_runtime(real_package())
    assert {file: len(content) for file, content in files.items()} == {SCRIPT: SCRIPT.bytes, BINARY: BINARY.bytes}


def test_the_files_of_a_package_are_read(tmp_path, monkeypatch):
    files = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    assert sorted(content for content in files.values()) == sorted(
        (tmp_path / "package" / "dist" / name).read_bytes() for name in (SCRIPT.name, BINARY.name)
    )


@pytest.mark.parametrize("name", [SCRIPT.name, BINARY.name])
@pytest.mark.parametrize("damage", [lambda content: content[:-1] + b"!", lambda content: content + b"!"])
def test_a_file_with_another_content_is_refused(tmp_path, monkeypatch, name, damage):
    file = made_up_package(tmp_path / "package", monkeypatch) / "dist" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UnreadableInputError, match=f"--runtime.*{name}"):
        read_runtime(tmp_path / "package")


@pytest.mark.parametrize("name", [SCRIPT.name, BINARY.name, "package.json"])
def test_a_missing_file_is_named_with_the_command_that_unpacks_the_package(tmp_path, monkeypatch, name):
    package = made_up_package(tmp_path / "package", monkeypatch)
    next(package.rglob(name)).unlink()
    with pytest.raises(UnreadableInputError, match=f"{name}: No such file.*npm pack onnxruntime-web@{VERSION}"):
        read_runtime(package)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"name": "onnxruntime-web", "version": "1.29.0"}),
        json.dumps({"name": "onnxruntime-node", "version": VERSION}),
        json.dumps([1]),
        json.dumps({"name": ["\x1b[2J"], "version": None}),
        "{",
        "\xff",
    ],
)
def test_another_package_or_version_is_refused_in_one_line(tmp_path, monkeypatch, text):
    package = made_up_package(tmp_path / "package", monkeypatch)
    (package / "package.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UnreadableInputError, match=r"--runtime.*expected onnxruntime-web") as caught:
        read_runtime(package)
    assert str(caught.value).isprintable()
