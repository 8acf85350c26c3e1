"""The index of a zip archive agrees with Python's `zipfile`."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from alexnet_infer.datasets.zips import Zip, ZipMember
from tests.datasets.mini import refused

FILES = {
    "a.JPEG": b"",
    "d/b.JPEG": os.urandom(3000),
    "d/c.JPEG": b"repeated " * 500,
    "ü/日本.JPEG": b"unicode",
    "d/old\xe9.JPEG": b"x",
}


def write(
    path: Path, files: dict[str, bytes] = FILES, *, method: int = zipfile.ZIP_DEFLATED, large: bool = False
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("d/", b"")
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=large) as file:
                file.write(data)
    return path


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\n" * 99])
@pytest.mark.parametrize("comment", [b"", b"a comment, PK, " * 50])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_those_of_zipfile(tmp_path, method, comment, before, large):
    path = write(tmp_path / "x.zip", method=method, large=large)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    path.write_bytes(before + path.read_bytes())
    index = Zip(path)
    with zipfile.ZipFile(path) as archive:
        expected = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    assert {name: ZipMember(index, i).read() for i, name in enumerate(index.names)} == expected == FILES
    assert [ZipMember(index, i).bytes() for i in range(len(FILES))] == [len(data) for data in FILES.values()]
    assert ZipMember(index, 0).path == str(path)


def test_a_zip_that_was_written_without_seeking_is_read(tmp_path):
    """Then the sizes are behind each file and in the list, not before the file."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    (tmp_path / "x.zip").write_bytes(pipe.data)
    index = Zip(tmp_path / "x.zip")
    assert [index.read(i) for i in range(len(FILES))] == list(FILES.values())


def test_more_files_than_16_bits_count_are_all_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"{i}"), b"")
    index = Zip(tmp_path / "x.zip")
    assert index.names == [f"{i}" for i in range(70_000)]
    assert index.read(69_999) == b""


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_rare_compression_is_an_error_of_each_file(tmp_path, method):
    index = Zip(write(tmp_path / "x.zip", method=method))
    assert len(index.names) == len(FILES)
    with pytest.raises(OSError, match=f"zip's method {method}, which is not supported"):
        index.read(1)


def test_an_archive_that_changes_after_it_was_opened_gives_errors(tmp_path):
    index = Zip(write(tmp_path / "x.zip"))
    content = (tmp_path / "x.zip").read_bytes()
    for changed, reason in ((content[:40], "header is damaged"), (b"\0" * len(content), "header is damaged")):
        (tmp_path / "x.zip").write_bytes(changed)
        with pytest.raises(OSError, match=reason):
            index.read(1)
    (tmp_path / "x.zip").unlink()
    with pytest.raises(OSError, match="No such file"):
        index.read(1)


def test_an_archive_in_several_parts_is_refused(tmp_path):
    content = bytearray(write(tmp_path / "x.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 34] = 1  # the part in which a member begins
    (tmp_path / "x.zip").write_bytes(content)
    refused(lambda: Zip(tmp_path / "x.zip"), "one part of several; expected a zip archive in one file")


@pytest.mark.parametrize(
    ("stored", "name"),
    [("é".encode(), "é"), ("e\u0301".encode(), "e\u0301"), (b"\x82", "é"), (b"dir\\x", "dir/x"), (b"plain", "plain")],
)
def test_names_without_the_mark_of_utf8_are_utf8_or_of_the_oldest_character_set(tmp_path, stored, name):
    path = write(tmp_path / "x.zip", {"#" * len(stored): b"x"})
    path.write_bytes(path.read_bytes().replace(b"#" * len(stored), stored))
    assert Zip(path).names == [name]


def test_a_name_with_the_mark_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path / "x.zip", {"ü": b"x"})
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xfe"))
    refused(lambda: Zip(path), "damaged or cut short (a name is not UTF-8)")
