"""The locations of images: whole files and parts of files, read completely or with the reason why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_infer.datasets.places import Place, read_whole, refuse_lines
from alexnet_infer.decode import MAX_BYTES
from tests.datasets.mini import refused


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "file").write_bytes(bytes(range(256)))
    return tmp_path / "file"


def test_a_whole_file_and_a_part_have_their_bytes_and_sizes(file):
    for place, data in (
        (Place(str(file)), bytes(range(256))),
        (Place(str(file), 10, 5), b"\x0a\x0b\x0c\x0d\x0e"),
        (Place(str(file), 0, 0), b""),
        (Place(str(file), 250, 6), bytes(range(250, 256))),
    ):
        assert place.read() == data
        assert place.bytes() == len(data)


@pytest.mark.parametrize(("offset", "size"), [(250, 7), (256, 1), (1000, 5)])
def test_a_part_beyond_the_end_is_an_error(file, offset, size):
    with pytest.raises(OSError, match="the archive ends before the image does"):
        Place(str(file), offset, size).read()


@pytest.mark.parametrize("make", ["nothing", "folder", "pipe", "broken link", "loop"])
@pytest.mark.parametrize("part", [(), (0, 1)])
def test_what_is_no_file_is_an_error_without_waiting(tmp_path, make, part):
    path = tmp_path / "x"
    match make:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "broken link":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to("x")
    with pytest.raises(OSError, match="missing, or not a regular file"):
        Place(str(path), *part).read()
    if make in ("nothing", "broken link", "loop") and not part:
        assert Place(str(path)).bytes() is None


@pytest.mark.parametrize("part", [False, True])
def test_a_file_larger_than_any_image_is_an_error_and_is_not_read(tmp_path, part):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole takes no room
    place = Place(str(tmp_path / "x"), 0, MAX_BYTES + 1) if part else Place(str(tmp_path / "x"))
    with pytest.raises(OSError, match="too large: expected at most 264,000,000 bytes"):
        place.read()


def test_a_file_of_a_set_is_read_missing_or_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"text")
    assert read_whole(tmp_path / "x") == b"text"
    for absent in (tmp_path / "y", tmp_path / "x" / "y"):
        with pytest.raises(FileNotFoundError):
            read_whole(absent)
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read_whole(tmp_path / "pipe"), "pipe: not a regular file")
    refused(lambda: read_whole(tmp_path), f"{tmp_path}: Is a directory")


def test_wrong_lines_are_refused_with_the_first_and_their_number():
    refuse_lines("list", [], "a name")
    refused(lambda: refuse_lines("list", [(7, "x\x1b")], "a name"), "list, line 7: 'x\\x1b': expected a name")
    refused(lambda: refuse_lines("list", [(7, "x"), (9, "y")], "a name"), "(2 lines are wrong; this is the first)")
