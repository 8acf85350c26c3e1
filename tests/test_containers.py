"""Archives are listed as the standard library lists them, except those that ask for all memory."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from alexnet_infer import containers
from alexnet_infer.containers import BadZipFile, Header, open_zip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_common_archives_are_listed_as_tarfile_lists_them(form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in ("a", "b/" * 40 + "c", "d" * 90, "ü" * 30):
            archive.addfile(tarfile.TarInfo(name))
    listed = []
    for kind in (tarfile.TarInfo, Header):
        buffer.seek(0)
        with tarfile.open(fileobj=buffer, mode="r:", tarinfo=kind) as archive:
            listed.append([(member.name, member.size, member.offset_data) for member in archive])
    assert listed[0] == listed[1]
    assert len(listed[0]) == 4


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
@pytest.mark.parametrize("size", [containers.MAX_TEXT_BYTES + 1, 2**62, -1])
def test_a_text_that_takes_all_memory_is_refused(kind, size):
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    content = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(tarfile.ReadError, match="a header that says"):
        tarfile.open(fileobj=content, mode="r:", tarinfo=Header).close()


def test_a_sparse_file_whose_description_never_ends_is_refused():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.size = 512
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        archive.addfile(member, io.BytesIO(b"9" * 512))
    buffer.seek(0)
    with pytest.raises(tarfile.ReadError, match="a sparse file"):
        tarfile.open(fileobj=buffer, mode="r:", tarinfo=Header).close()


def test_a_zip_is_listed_and_read_as_zipfile_does_unless_its_list_is_too_long(monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("b", b"2")
    with open_zip(buffer) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a": b"1", "b": b"2"}
    monkeypatch.setattr(containers, "MAX_LIST_BYTES", 80)
    with pytest.raises(BadZipFile, match="a list of 94 bytes: expected at most 80"):
        open_zip(buffer)
