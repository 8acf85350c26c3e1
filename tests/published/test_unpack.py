"""Archives of every format are unpacked, and hostile ones are refused before they write outside their folder."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.published import unpack as module
from alexnet_infer.published.unpack import unpack
from tests.published.archives import FORMATS, packed, with_member

FILES = {"set/": b"", "set/val/n00000001/a.JPEG": b"x" * 5000, "set/words.txt": b"", "./set/b/c.txt": b"12"}
LIMITS = {"max_bytes": 10**6, "max_files": 100}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unpacked(content: bytes, tmp_path: Path, **limits: int) -> dict[str, bytes]:
    archive, folder = tmp_path / "in" / "archive", tmp_path / "in" / "new"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(content)
    unpack(archive, folder, **{**LIMITS, **limits})
    return contents(folder)


def refused(content: bytes, tmp_path: Path, *parts: str, **limits: int) -> None:
    with pytest.raises(UnreadableInputError) as caught:
        unpacked(content, tmp_path, **limits)
    assert str(caught.value).isprintable()
    for part in (str(tmp_path / "in" / "archive"), *parts):
        assert part in str(caught.value), caught.value
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # nothing was written outside
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["archive", "new"]


@pytest.mark.parametrize("form", FORMATS)
def test_the_format_is_told_by_the_content(tmp_path, form):
    expected = {name.removeprefix("./"): content for name, content in FILES.items() if not name.endswith("/")}
    assert unpacked(packed(FILES, form), tmp_path) == expected


@pytest.mark.parametrize("form", FORMATS)
def test_the_progress_adds_up_to_the_archive(tmp_path, form):
    archive = tmp_path / "archive"
    archive.write_bytes(packed({f"{i}.JPEG": os.urandom(30_000) for i in range(100)}, form))
    counts: list[int] = []
    unpack(archive, tmp_path / "new", max_bytes=10**7, max_files=100, on_bytes=counts.append)
    assert 0.95 < sum(counts) / archive.stat().st_size < 1.1
    assert len(counts) > 2


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_the_files_of_macos_are_left_out(tmp_path, form):
    junk = {"__MACOSX/set/._a.JPEG": b"1", "set/.DS_Store": b"2", "set/._b.JPEG": b"3", "._set": b"4"}
    assert unpacked(packed({**junk, "set/a.JPEG": b"5"}, form), tmp_path) == {"set/a.JPEG": b"5"}


OUTSIDE = ["../evil", "set/../../evil", "/tmp/evil", "//evil", "..", "C:\\evil", "C:evil", "..\\evil", "set/a\nb"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_member_outside_the_folder_is_refused(tmp_path, form, name):
    refused(packed({"set/a": b"1", name: b"2"}, form), tmp_path, "expected a printable name inside the new folder")


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_folders_nested_deeper_than_any_sets_are_refused(tmp_path, form):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    assert unpacked(packed({"a/" * 63 + "b": b"1"}, form), tmp_path / "x") == {"a/" * 63 + "b": b"1"}
    refused(packed({"a/" * 1500 + "b": b"1"}, form), tmp_path / "y", "expected at most 64 folders in each other")


@pytest.mark.parametrize("size", [-1, -(10**9)])
@pytest.mark.parametrize("form", ["", ":gz"])
def test_a_member_of_negative_size_is_refused(tmp_path, size, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w{form}", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("set/a")
        member.pax_headers = {"size": str(size)}
        archive.addfile(member)
    refused(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_links_devices_and_unknown_members_of_a_tar_are_refused(tmp_path, kind):
    refused(with_member("set/x", kind, "/etc/passwd"), tmp_path, "'set/x' is neither a folder nor a regular file")


def test_a_file_behind_a_link_in_a_tar_is_not_written(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("set")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        member = tarfile.TarInfo("set/evil")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    refused(buffer.getvalue(), tmp_path, "'set' is neither a folder nor a regular file")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo("set/x")
        member.create_system, member.external_attr = 3, mode << 16
        archive.writestr(member, "/etc/passwd")
    refused(buffer.getvalue(), tmp_path, "'set/x' is neither a folder nor a regular file")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_bomb_of_bytes_is_refused_before_it_is_written(tmp_path, form):
    bomb = packed({"set/a": b"1", "set/b": bytes(50_000_000)}, form)
    assert len(bomb) < 10**5
    refused(bomb, tmp_path, "has more than 1,000,000 bytes or 100 files")
    assert sum(path.stat().st_size for path in (tmp_path / "in" / "new").rglob("*") if path.is_file()) == 1


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_bomb_of_files_is_refused(tmp_path, form, end):
    refused(packed({f"set/{i}{end}": b"" for i in range(101)}, form), tmp_path, "1,000,000 bytes or 100 files")


def test_a_zip_that_claims_less_than_it_has_is_refused(tmp_path):
    content = bytearray(packed({"set/a": bytes(50_000_000)}, "zip"))
    for signature, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        begin = content.rindex(signature) + place
        content[begin : begin + 4] = (10).to_bytes(4, "little")
    refused(bytes(content), tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_archive_is_refused(tmp_path, form):
    content = packed({f"set/{i}": os.urandom(3000) for i in range(20)}, form)
    refused(content[: len(content) // 2], tmp_path)


def test_a_damaged_header_is_not_taken_for_the_end_of_a_tar(tmp_path):
    content = bytearray(packed({"set/a": b"1", "set/b": b"2", "set/c": b"3"}, "tar"))
    content[2 * 512 + 150] ^= 1  # the header of b: each file has one block after its header
    refused(bytes(content), tmp_path, "damaged")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"<html></html>", b"\x1f\x8b", b"\xff" * 10_000])
def test_another_kind_of_file_is_refused(tmp_path, content):
    refused(content, tmp_path, "damaged, or not a tar or zip file")


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(packed({"set/a": b"1"}, "zip"))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    content[content.index(b"PK\x03\x04") + 6] |= 1
    refused(bytes(content), tmp_path, "encrypted")


def test_a_wrong_checksum_in_a_zip_is_refused(tmp_path):
    content = bytearray(packed({"set/a": os.urandom(3000)}, "zip"))
    content[1000] ^= 1
    refused(bytes(content), tmp_path)


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_both_a_file_and_a_folder_is_refused(tmp_path, form, names):
    refused(packed(dict.fromkeys(names, b"1"), form), tmp_path, "damaged, or not a tar or zip file")


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_of_two_members_of_one_name_the_last_stays(tmp_path, form):
    """As with `tar` and `unzip`."""
    twice = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, for the duplicate
        if form == "zip":
            with zipfile.ZipFile(twice, "w") as archive:
                for text in ("one", "two!"):
                    archive.writestr("a", text)
        else:
            with tarfile.open(fileobj=twice, mode="w") as archive:
                for text in (b"one", b"two!"):
                    member = tarfile.TarInfo("a")
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text))
    assert unpacked(twice.getvalue(), tmp_path) == {"a": b"two!"}


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_an_archive_that_cannot_be_read_is_named_and_is_not_a_write_error(tmp_path, form, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 4:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    content = packed(FILES, form)
    monkeypatch.setattr(Path, "open", lambda self, mode: Broken(content))
    with pytest.raises(UnreadableInputError, match="archive: Input/output error"):
        unpack(tmp_path / "archive", tmp_path / "new", **LIMITS)


def test_an_existing_folder_is_not_mixed_with_the_content(tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "archive", tmp_path / "new", **LIMITS)


def test_a_million_members_do_not_stay_in_memory(tmp_path, monkeypatch):
    kept = []
    original = tarfile.TarFile.next

    def counting(self):
        kept.append(len(self.members))
        return original(self)

    monkeypatch.setattr(module.tarfile.TarFile, "next", counting)
    assert len(unpacked(packed({str(i): b"1" for i in range(90)}, "tar"), tmp_path)) == 90
    assert max(kept) <= 1
