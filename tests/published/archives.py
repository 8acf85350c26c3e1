"""Archives for tests: dictionaries of names and contents as .zip and .tar files."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

FORMATS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def packed(files: Mapping[str, bytes], form: str) -> bytes:
    """Return an archive of `files`. A name that ends in "/" is a folder."""
    buffer = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{form.partition('.')[2]}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def with_member(name: str, kind: bytes, target: str = "") -> bytes:
    """Return a tar file whose second member has the type `kind`, such as a link to `target`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("set/a.txt"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo("set/z.txt"))
    return buffer.getvalue()
