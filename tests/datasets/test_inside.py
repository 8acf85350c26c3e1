"""Zip and tar archives in place: read as the folder that was packed, or refused in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_infer.datasets import open_images
from alexnet_infer.datasets.inside import Inside, open_archive
from alexnet_infer.datasets.tree import Folder, children
from tests.datasets import mini
from tests.datasets.mini import WNIDS, pack, refused, write

FILES = {"a.txt": b"top", "d/b.JPEG": b"b" * 500, "d/e/c.JPEG": bytes(range(256)) * 20, "d/é.JPEG": b"accent"}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, data in FILES.items():
        write(tmp_path / "folder" / name, data)
    return tmp_path / "folder"


def contents(folder: Folder, prefix: str = "") -> dict[str, bytes]:
    """The files below `folder`, through the functions and methods that the layouts use."""
    found = {}
    for name, is_folder in children(folder).items():
        path = folder / name
        assert (path.is_dir(), path.is_file()) == (is_folder, not is_folder)
        assert path.name == name
        assert path.parent.name == folder.name
        if is_folder:
            found |= contents(path, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = path.read_bytes()
    return found


def zip_of(files: dict[str | zipfile.ZipInfo, bytes], **options: object) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zipped(path: Path, files: dict[str | zipfile.ZipInfo, bytes], **options: object) -> Path:
    path.write_bytes(zip_of(files, **options))
    return path


ARCHIVES = {
    "deflated": ("set.zip", {"method": zipfile.ZIP_DEFLATED}),
    "stored": ("set.zip", {"method": zipfile.ZIP_STORED}),
    "tar": ("set.tar", {}),
}


@pytest.mark.parametrize("top", ["", "top", "./top/", "/absolute", "C:\\x"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_has_the_files_of_the_folder_that_was_packed(folder, tmp_path, kind, top):
    name, options = ARCHIVES[kind]
    inside = open_archive(pack(folder, tmp_path / name, top, **options))
    assert (inside.name, str(inside)) == (name, str(tmp_path / name))
    for part in top.replace("\\", "/" if kind != "tar" else "\\").split("/"):
        if part not in ("", "."):
            assert list(children(inside)) == [part]
            inside = inside / part
    assert contents(inside) == contents(folder) == FILES
    assert str(inside / "d" / "e").endswith("d/e")


def test_what_is_absent_is_neither_a_file_nor_a_folder(folder, tmp_path):
    inside = open_archive(pack(folder, tmp_path / "set.zip"))
    for path in (
        inside / "x",
        inside / "d" / "x",
        inside / "x" / "b.JPEG",
        inside / "d" / "b.JPEG" / "x",
        inside / "..",
    ):
        assert (path.is_file(), path.is_dir()) == (False, False)
        with pytest.raises(FileNotFoundError):
            path.read_bytes()
        with pytest.raises(KeyError):
            path.place()


@pytest.mark.parametrize("suffix", [".zip", ".tar", "", ".bin"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_recognised_by_its_content_not_its_name(folder, tmp_path, kind, suffix):
    packed = pack(folder, tmp_path / f"x.{kind}")
    path = packed.rename(tmp_path / f"renamed{suffix}")
    assert contents(open_archive(path)) == FILES


def test_other_files_are_no_archives(tmp_path):
    for data in (b"", b"x", mini.jpeg(1), b"PK", bytes(3000), b"%PDF-1.4"):
        (tmp_path / "x").write_bytes(data)
        inside = open_archive(tmp_path / "x")
        assert inside is None, data[:4]


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_every_format_of_tar_is_read_with_long_names(tmp_path, form):
    files = {f"{'d' * 90}/{'n' * 90}.JPEG": b"long", "short.JPEG": b"short"}
    with tarfile.open(tmp_path / "set.tar", "w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert contents(open_archive(tmp_path / "set.tar")) == files


def test_a_tar_without_a_magic_number_is_read(tmp_path):
    """The form before POSIX."""
    content = bytearray(mini.tar_of([("a.JPEG", b"old")]))
    content[257:265] = bytes(8)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "old.tar").write_bytes(content)
    assert contents(open_archive(tmp_path / "old.tar")) == {"a.JPEG": b"old"}


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    (tmp_path / "set.tar").write_bytes(mini.tar_of([("a.JPEG", b"x"), ("z.zip", zip_of({"other.JPEG": b"y"}))]))
    assert list(children(open_archive(tmp_path / "set.tar"))) == ["a.JPEG", "z.zip"]


@pytest.mark.parametrize(
    ("compress", "kind"),
    [
        (gzip.compress, "gzip"),
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd"),
    ],
    ids=["gz", "bz2", "xz", "zst"],
)
@pytest.mark.parametrize("layout", [None, "folders", "tiny-imagenet"])
def test_a_compressed_tar_is_refused_with_the_advice_to_unpack_it(tmp_path, compress, kind, layout):
    path = tmp_path / "imagenette2-160.tgz"
    path.write_bytes(compress(mini.tar_of([("val/n01440764/a.JPEG", b"x")])))
    refused(
        lambda: open_images(path, layout=layout), f"{path}: compressed with {kind}", "unpack it and give the folder"
    )


@pytest.mark.parametrize(("head", "kind"), [(b"7z\xbc\xaf\x27\x1c\0\4", "7z"), (b"Rar!\x1a\x07\1\0", "RAR")])
def test_other_archives_are_refused_with_the_advice_to_unpack_them(tmp_path, head, kind):
    (tmp_path / "set").write_bytes(head + bytes(99))
    refused(lambda: open_archive(tmp_path / "set"), f"a {kind} archive", "unpack it and give the folder")


# Names.


@pytest.mark.parametrize("name", ["../x.JPEG", "a/../../x.JPEG", "a/..", "/../x", "a/../b.JPEG"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path, kind, name):
    path = tmp_path / "set"
    path.write_bytes(zip_of({name: b"x"}) if kind == "zip" else mini.tar_of([(name, b"x")]))
    refused(lambda: open_archive(path), "is not a name inside the archive")


@pytest.mark.parametrize(
    "names", [("a.JPEG", "a.JPEG"), ("d/a.JPEG", "./d/a.JPEG"), ("d/a.JPEG", "d//a.JPEG"), ("d/a", "/d/a")]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path, kind, names):
    path = tmp_path / "set"
    if kind == "tar":
        path.write_bytes(mini.tar_of((name, b"x") for name in names))
    else:
        path.write_bytes(zip_of({zipfile.ZipInfo(name): b"x" for name in names}))
    refused(lambda: open_archive(path), "occurs twice; expected each name once")


@pytest.mark.parametrize("names", [("d", "d/a"), ("d/a", "d"), ("x/d/e/a", "x/d"), ("x/d", "x/d/e/a")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_of_a_file_and_a_folder_is_refused(tmp_path, kind, names):
    path = tmp_path / "set"
    path.write_bytes(zip_of(dict.fromkeys(names, b"x")) if kind == "zip" else mini.tar_of((n, b"x") for n in names))
    refused(lambda: open_archive(path), "is a file and a folder; expected each name once")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_folders_in_each_other_without_end_are_refused(tmp_path, kind):
    path = tmp_path / "set"
    name = "d/" * 5000 + "x.JPEG"
    path.write_bytes(zip_of({name: b"x"}) if kind == "zip" else mini.tar_of([(name, b"x")]))
    refused(lambda: open_archive(path), "expected at most 64 folders in each other")


def test_folders_that_windows_marks_with_a_backslash_are_folders(tmp_path):
    path = zipped(tmp_path / "set.zip", {"d+": b"", "d+a.JPEG": b"x"})
    path.write_bytes(path.read_bytes().replace(b"d+", b"d\\"))
    assert contents(open_archive(path)) == {"d/a.JPEG": b"x"}


# Links, encrypted and damaged archives.


def linked(name: str, target: bytes) -> dict[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return {info: target}


@pytest.mark.parametrize("name", ["val/n01440764", "val/n01440764/a.JPEG"])
def test_a_link_in_an_archive_is_refused(tmp_path, name):
    path = zipped(tmp_path / "set.zip", linked(name, b"../elsewhere"))
    refused(lambda: open_archive(path), f"'{name}' is a link; expected regular files. Unpack it and give")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "elsewhere"
        (tmp_path / "set.tar").write_bytes(member.tobuf() + bytes(1024))
        refused(lambda: open_archive(tmp_path / "set.tar"), f"'{name}' is a link or special file")


def test_an_encrypted_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "set.zip", {"a.JPEG": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(lambda: open_archive(path), "'a.JPEG' is encrypted; unpack the archive and give the folder")


@pytest.fixture
def packed(tmp_path) -> Callable[[str], Path]:
    """The miniature as folders in an archive."""

    def packed(kind: str) -> Path:
        mini.write_imagenette(tmp_path / "set")
        return pack(tmp_path / "set", tmp_path / f"set.{kind}")

    return packed


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_is_cut_short_is_refused_wherever_it_was_cut(packed, kind):
    path = packed(kind)
    content = path.read_bytes()
    end = len(content) if kind == "zip" else len(content.rstrip(b"\0")) // 512 * 512 + 512
    for cut in (end - 1, end - 20, end - 25, end - 600, end * 3 // 4, end // 2, 2000):
        path.write_bytes(content[:cut])
        refused(lambda: open_images(path), str(path), "damaged")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_archives_in_one_file_are_refused_or_the_last_is_read_completely(packed, kind):
    """A program that reads only the first tar would leave out half of the images."""
    path = packed(kind)
    path.write_bytes(path.read_bytes() * 2)
    if kind == "tar":
        refused(lambda: open_images(path), "more data after the end-of-archive marker")
    else:  # whatever precedes a zip archive is no part of it, as in programs that unpack themselves
        assert len(open_images(path)) == 18


def test_a_zip_with_any_damaged_byte_in_its_list_is_refused_or_no_image_is_lost(packed):
    path = packed("zip")
    content = path.read_bytes()
    whole = {(e.name, e.label) for e in open_images(path)}
    begin = content.index(b"PK\x01\x02")
    refusals = unreadable = 0
    for at in range(begin, len(content), 37):
        changed = bytearray(content)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            found = list(open_images(path).examples(on_error="yield"))
        except mini.AlexNetInferError as error:
            refusals += str(error).isprintable()
        else:
            unreadable += any(e.error for e in found)
            assert len(found) == 18 or {(e.name, e.label) for e in found} != whole
    assert refusals > 10
    assert unreadable > 5


def test_a_damaged_image_in_a_zip_is_yielded_with_its_error(packed):
    path = packed("zip")
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.startswith("val/") and i.filename.endswith(".JPEG"))
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + 50] ^= 0xFF
    path.write_bytes(content)
    errors = [(e.name, e.error) for e in open_images(path).examples(on_error="yield") if e.error]
    assert [name for name, _ in errors] == [info.filename]
    assert errors[0][1].startswith("can't be unpacked (")


def test_a_list_in_an_archive_cannot_refer_to_files_outside_of_it(tmp_path):
    outside = tmp_path / "outside.JPEG"
    outside.write_bytes(b"secret")
    mini.write_caffe(tmp_path / "set")
    for name in (str(outside), "../outside.JPEG"):
        (tmp_path / "set" / "val.txt").write_text(f"{name} 0\n")
        path = pack(tmp_path / "set", tmp_path / "set.zip")
        refused(lambda path=path: open_images(path), "1 labels for 0 images", "1 has no image")


def test_the_name_of_an_example_is_its_path_in_the_archive(packed):
    for kind in ("zip", "tar"):
        path = packed(kind)
        names = [e.relative_name for e in open_images(path)]
        assert names[0].startswith(f"val/{WNIDS[0]}/ILSVRC2012_val_")


def test_a_folder_inside_a_set_is_not_opened_as_an_archive(tmp_path):
    mini.write_imagenette(tmp_path / "set")
    assert isinstance(open_archive(pack(tmp_path / "set", tmp_path / "a.zip")), Inside)
    (tmp_path / "a.zip").rename(tmp_path / "set" / "a.zip")
    assert len(open_images(tmp_path / "set")) == 18
    refused(lambda: open_images(tmp_path / "set" / "absent.zip"), "absent.zip: no such file or folder")


def test_numbers_in_a_tar_cannot_make_a_reader_take_all_memory(tmp_path):
    member = tarfile.TarInfo("val/n01440764/bomb.JPEG")
    member.size = 40 << 30
    with (tmp_path / "set.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 10240)  # a hole in the file takes no room
    (example,) = open_images(tmp_path / "set.tar").examples(on_error="yield")
    assert example.error == "has 42,949,672,960 bytes: expected at most 264,000,000"


def test_a_bomb_in_a_zip_is_refused_by_the_size_it_says_or_the_size_it_has(tmp_path):
    path = zipped(tmp_path / "set.zip", {"val/n01440764/a.JPEG": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    for size, reason in (
        (1 << 30, "has 1,073,741,824 bytes"),
        (99, "its checksum is wrong"),
    ):
        struct.pack_into("<L", content, at + 24, size)
        path.write_bytes(content)
        (example,) = open_images(path).examples(on_error="yield")
        assert reason in example.error
