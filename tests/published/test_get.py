"""Data sets are fetched from a server on the loopback interface, unpacked, and complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.files import lock
from alexnet_infer.published import get as module
from alexnet_infer.published.data_sets import VARIABLE, Archive, DataSet
from alexnet_infer.published.get import get, is_there
from tests.program import PROGRAM
from tests.published.archives import packed, with_member
from tests.published.server import Server

FILES = {f"flowers/val/n0000000{i}/{i}.JPEG": bytes([i]) * 4000 for i in range(3)}
EXPECTED = {name.removeprefix("flowers/"): content for name, content in FILES.items()}
CONTENT = packed(FILES, "tar.gz")


def data_of(*archives: Archive, name: str = "flowers") -> DataSet:
    return DataSet(
        name=name,
        summary="three flowers",
        validation=3,
        train=0,
        classes=3,
        licence="free",
        terms="https://example.org/terms",
        model=None,
        archives=archives,
    )


def archive_of(
    content: bytes,
    *urls: str,
    part: str | None = None,
    folders: tuple[str, ...] = (),
    kind: str = "sha256",
    files: int = 3,
) -> Archive:
    return Archive(
        part=part,
        urls=urls or ("http://127.0.0.1:9/gone.tar",),
        size=len(content),
        digest=f"{kind}:{hashlib.new(kind, content).hexdigest()}",
        digest_source="the test",
        files=files,
        folders=folders,
    )


@pytest.fixture
def server():
    server = Server(CONTENT)
    server.url = server.url.replace("net.bin", "flowers.tgz")
    yield server
    server.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fetch(server, parent: Path, source: str | None = None, **options) -> tuple[Path, bool]:
    data = data_of(archive_of(server.content, server.url))
    return get(data, data.archives, parent, source, **options)


def refused(action: Callable[[], object], kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert str(caught.value).isprintable()
    for part in parts:
        assert part in str(caught.value), caught.value


def test_a_set_is_fetched_verified_and_unpacked_without_the_top_folder(server, tmp_path):
    assert fetch(server, tmp_path / "sets") == (tmp_path / "sets" / "flowers", True)
    assert contents(tmp_path / "sets" / "flowers") == EXPECTED
    assert names(tmp_path / "sets") == ["flowers"]  # nothing else is left


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_every_digest_and_format_works(server, tmp_path, kind, form):
    server.content = packed(FILES, form)
    data = data_of(archive_of(server.content, server.url, kind=kind))
    get(data, data.archives, tmp_path)
    assert contents(tmp_path / "flowers") == EXPECTED


def test_several_top_folders_are_kept(server, tmp_path):
    """WordNet folders at the top, as in some archives, are the set itself."""
    files = {f"n0000000{i}/a.JPEG": b"x" for i in range(3)}
    server.content = packed(files, "tar")
    fetch(server, tmp_path)
    assert contents(tmp_path / "flowers") == files


def test_a_set_that_is_there_is_left_alone(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / "flowers" / "mine").write_text("x")
    assert fetch(server, tmp_path) == (tmp_path / "flowers", False)
    assert (tmp_path / "flowers" / "mine").exists()
    assert len(server.requests) == 1


def test_force_replaces_it(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / "flowers" / "mine").write_text("x")
    assert fetch(server, tmp_path, force=True) == (tmp_path / "flowers", True)
    assert contents(tmp_path / "flowers") == EXPECTED
    assert names(tmp_path) == ["flowers"]


def test_if_force_fails_the_set_stays(server, tmp_path):
    fetch(server, tmp_path)
    server.script = [server.says(b"", 404)]
    refused(lambda: fetch(server, tmp_path, force=True), UnreadableInputError, "HTTP 404")
    assert contents(tmp_path / "flowers") == EXPECTED


def test_an_empty_folder_is_filled(server, tmp_path):
    (tmp_path / "flowers").mkdir()
    assert fetch(server, tmp_path)[1]
    assert contents(tmp_path / "flowers") == EXPECTED


def test_a_file_in_the_place_of_the_set_is_refused(server, tmp_path):
    (tmp_path / "flowers").write_text("mine")
    refused(lambda: fetch(server, tmp_path), UsageError, "flowers: is a file", "--to")
    assert not server.requests


def test_an_interrupted_download_continues(server, tmp_path):
    server.script = [server.drops(100)] + [server.says(b"", 503)] * 20
    refused(lambda: fetch(server, tmp_path), UnreadableInputError, "HTTP 503", "alexnet-infer data get flowers --from")
    assert names(tmp_path) == [".flowers.partial"]
    server.script = []
    server.requests.clear()
    fetch(server, tmp_path)
    assert [header for _, header in server.requests] == ["bytes=100-"]
    assert contents(tmp_path / "flowers") == EXPECTED
    assert names(tmp_path) == ["flowers"]


def test_mirrors_are_tried_in_order(server, tmp_path):
    server.script = [server.says(b"", 404), server.says(b"<html></html>")]
    urls = [server.url, server.url + "2", server.url + "3"]
    data = data_of(archive_of(CONTENT, *urls))
    get(data, data.archives, tmp_path)
    assert [path for path, _ in server.requests] == ["/flowers.tgz", "/flowers.tgz2", "/flowers.tgz3"]


def test_another_file_is_refused_and_nothing_is_left(server, tmp_path):
    data = data_of(archive_of(CONTENT, server.url))
    server.content = CONTENT[:-1] + b"?"
    refused(
        lambda: get(data, data.archives, tmp_path),
        UnreadableInputError,
        "another sha256",
        "data get flowers --from FILE",
    )
    assert names(tmp_path) == []


def test_a_copy_is_verified_used_and_not_modified(server, tmp_path):
    copy = tmp_path / "copy.bin"
    copy.write_bytes(CONTENT)
    fetch(server, tmp_path / "sets", str(copy))
    assert contents(tmp_path / "sets" / "flowers") == EXPECTED
    assert not server.requests
    assert copy.read_bytes() == CONTENT
    copy.write_bytes(CONTENT[:-1] + b"?")
    refused(lambda: fetch(server, tmp_path / "b", str(copy)), UnreadableInputError, "copy.bin: the sha256 differs")
    refused(lambda: fetch(server, tmp_path / "b", str(tmp_path / "gone")), UnreadableInputError, "gone: No such file")
    refused(lambda: fetch(server, tmp_path / "b", str(tmp_path)), UnreadableInputError, "expected")
    assert names(tmp_path / "b") == []


def test_a_copy_makes_the_rest_of_a_download_superfluous(server, tmp_path):
    server.script = [server.drops(100)] + [server.says(b"", 503)] * 20
    refused(lambda: fetch(server, tmp_path / "sets"), UnreadableInputError)
    copy = tmp_path / "copy.bin"
    copy.write_bytes(CONTENT)
    fetch(server, tmp_path / "sets", str(copy))
    assert names(tmp_path / "sets") == ["flowers"]


def test_a_mirror_is_used(server, tmp_path):
    fetch(server, tmp_path, server.url.replace("flowers", "mirror"))
    assert [path for path, _ in server.requests] == ["/mirror.tgz"]


def test_the_archive_is_kept_if_requested(server, tmp_path):
    fetch(server, tmp_path, keep=True)
    assert names(tmp_path) == ["flowers", "flowers.tgz"]
    assert (tmp_path / "flowers.tgz").read_bytes() == CONTENT


HOSTILE = {
    "a link": with_member("set/x", b"2", "/etc/passwd"),
    "outside": packed({"set/a": b"1", "../evil": b"2"}, "tar"),
    "a bomb": packed({"set/a": bytes(200_000_000)}, "tar.gz"),
    "files": packed({f"set/{i}": b"" for i in range(10_100)}, "zip"),
    "no archive": b"<html></html>",
    "empty": packed({}, "zip"),
    "only a folder": packed({"set/": b""}, "tar"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_no_set(server, tmp_path, kind):
    server.content = HOSTILE[kind]
    refused(lambda: fetch(server, tmp_path / "sets"), UnreadableInputError, "/sets/.flowers.partial/")
    assert names(tmp_path) == ["sets"]
    assert names(tmp_path / "sets") == [".flowers.partial"]
    assert not [path for path in (tmp_path / "sets" / ".flowers.partial").iterdir() if path.is_dir()]


# Parts.

BLUR = {f"{kind}/1/n00000001/a.JPEG": kind.encode() for kind in ("defocus", "zoom")}
NOISE = {f"{kind}/1/n00000001/a.JPEG": kind.encode() for kind in ("shot", "impulse")}


@pytest.fixture
def parts(tmp_path):
    """A set with two parts, in files."""
    archives = []
    for part, files in (("blur", BLUR), ("noise", NOISE)):
        path = tmp_path / f"{part}.tar"
        path.write_bytes(packed(files, "tar"))
        folders = tuple({name.partition("/")[0]: 0 for name in files})
        archives.append(archive_of(path.read_bytes(), path.as_uri(), part=part, folders=folders))
    return SimpleNamespace(data=data_of(*archives), folder=tmp_path / "sets")


def test_parts_are_put_side_by_side_at_any_time(parts):
    data, folder = parts.data, parts.folder
    assert get(data, data.choose(["noise"]), folder) == (folder / "flowers", True)
    assert contents(folder / "flowers") == NOISE
    assert (is_there(data, folder), is_there(data, folder, data.choose(["noise"]))) == (False, True)
    assert get(data, data.choose(["noise"]), folder)[1] is False
    assert get(data, data.choose(["all"]), folder)[1] is True
    assert contents(folder / "flowers") == {**BLUR, **NOISE}
    assert is_there(data, folder)
    assert names(folder) == ["flowers"]


def test_force_replaces_only_the_named_part(parts):
    data, folder = parts.data, parts.folder
    get(data, data.archives, folder)
    for kind in ("zoom", "shot"):
        (folder / "flowers" / kind / "mine").write_text("x")
    get(data, data.choose(["blur"]), folder, force=True)
    assert not (folder / "flowers" / "zoom" / "mine").exists()
    assert (folder / "flowers" / "shot" / "mine").exists()


def test_a_part_that_lacks_a_folder_is_completed(parts):
    data, folder = parts.data, parts.folder
    get(data, data.choose(["blur"]), folder)
    shutil.rmtree(folder / "flowers" / "zoom")
    assert get(data, data.choose(["blur"]), folder)[1] is True
    assert contents(folder / "flowers") == BLUR


def test_a_part_without_its_folders_is_refused(parts, tmp_path):
    content = packed(NOISE, "zip")
    data = data_of(archive_of(content, part="blur", folders=("defocus", "shot")))
    (tmp_path / "x.zip").write_bytes(content)
    refused(
        lambda: get(data, data.archives, parts.folder, str(tmp_path / "x.zip")),
        UnreadableInputError,
        "x.zip: has no folder defocus",
    )
    assert names(parts.folder) == []


def test_one_copy_cannot_be_several_parts(parts):
    refused(
        lambda: get(parts.data, parts.data.archives, parts.folder, "x.tar"),
        UsageError,
        "--from x.tar",
        "2 parts",
        "--part",
    )


# The terminal, the disk, and other processes.


def test_on_a_terminal_the_bars_of_download_and_unpacking_follow_one_another(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert fetch(server, tmp_path)[1]  # rich raises an error if two bars are shown at once
    shown = sys.stderr.getvalue()
    assert 0 <= shown.index("flowers") < shown.index("unpacking flowers")


def test_the_room_for_the_images_is_checked_before_anything_is_fetched(server, parts, tmp_path, monkeypatch):
    free = len(CONTENT) + 100
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    refused(lambda: fetch(server, tmp_path / "a"), UsageError, "flowers: needs", "with --to")
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    refused(lambda: fetch(server, tmp_path / "a", str(copy)), UsageError, "flowers: needs", "with --to")
    assert (server.requests, names(tmp_path / "a")) == ([], [])
    one = parts.data.archives[0]
    free = one.size + one.room + 100  # enough for a part, but not for both
    refused(lambda: get(parts.data, parts.data.archives, parts.folder), UsageError, "flowers: needs", "with --to")
    assert names(parts.folder) == []
    assert get(parts.data, parts.data.archives[:1], parts.folder)[1]


def test_a_full_disk_while_unpacking_is_a_one_line_error_and_leaves_no_set(server, tmp_path, monkeypatch):
    def full(*arguments, **options):
        arguments[1].mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "unpack", full)
    refused(lambda: fetch(server, tmp_path), UsageError, "No space left on device", "with --to")
    assert names(tmp_path) == [".flowers.partial"]
    assert not (tmp_path / ".flowers.partial" / "unpacked").exists()


def test_a_folder_that_cannot_be_written_is_a_one_line_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    refused(lambda: fetch(server, tmp_path / "file"), UsageError, "file", "--to")


def test_a_second_process_is_refused(server, tmp_path):
    (tmp_path / ".flowers.partial").mkdir()
    with lock(tmp_path / ".flowers.partial" / "lock"):
        refused(lambda: fetch(server, tmp_path), UsageError, "flowers: another process is getting it")
    assert fetch(server, tmp_path)[1]


def test_an_interrupt_while_unpacking_leaves_the_archive_only(server, tmp_path, monkeypatch):
    def interrupted(archive, folder, **options):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path)
    monkeypatch.undo()
    server.requests.clear()
    fetch(server, tmp_path)
    assert (server.requests, contents(tmp_path / "flowers")) == ([], EXPECTED)


@pytest.mark.parametrize("moment", ["downloading", "unpacking"])
def test_a_killed_run_leaves_no_set_and_the_next_one_succeeds(tmp_path, moment, monkeypatch):
    files = {f"flowers/val/n00000001/{i}.JPEG": b"x" for i in range(20_000)}
    server = Server(packed(files, "tar"))
    server.script = [server.hangs(20)] if moment == "downloading" else []
    work = tmp_path / ".flowers.partial"
    archive = archive_of(server.content, server.url, files=20_000)
    registry = tmp_path / "registry.json"
    registry.write_bytes(msgspec.json.encode({"format": 1, "sets": [data_of(archive)]}))
    command = [*PROGRAM, "data", "get", "flowers", "--to", str(tmp_path)]
    environment = {**os.environ, VARIABLE: str(registry)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(2000):
        if list(work.glob("unpacked/flowers/val/*/1*")) if moment == "unpacking" else list(work.glob("*.part")):
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "flowers").exists()
    assert work.exists()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'flowers'}\n")
    assert len(contents(tmp_path / "flowers")) == 20_000
    assert not work.exists()
    server.close()
