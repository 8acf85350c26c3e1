"""The locations of images: whole files and parts of files, read completely or with the reason why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_infer.datasets.places import Place
from alexnet_infer.decode import MAX_BYTES


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
    with pytest.raises(OSError, match="is not a regular file" if make == "pipe" else "missing, or not a regular file"):
        Place(str(path), *part).read()
    if make in ("nothing", "broken link", "loop") and not part:
        assert Place(str(path)).bytes() is None


@pytest.mark.parametrize("part", [False, True])
def test_a_file_larger_than_any_image_is_an_error_and_is_not_read(tmp_path, part):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole takes no room
    place = Place(str(tmp_path / "x"), 0, MAX_BYTES + 1) if part else Place(str(tmp_path / "x"))
    with pytest.raises(OSError, match="has 264,000,001 bytes: expected at most 264,000,000"):
        place.read()
