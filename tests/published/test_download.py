"""Downloads from a real server on the loopback interface, which drops connections, sends wrong data and redirects."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.published import download as module
from alexnet_infer.published.download import Wanted, download, part_path, verify
from tests.published.conftest import CONTENT

FACTS = {"command": "alexnet-infer pull a-net", "room": len(CONTENT), "elsewhere": "set XDG_CACHE_HOME"}
WANTED = Wanted(name="a-net", size=len(CONTENT), digest=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", **FACTS)


def fetched(server, folder: Path, *urls: str, wanted: Wanted = WANTED) -> bytes:
    """Return the downloaded content, after checking that as many bytes were counted."""
    counted = []
    with download(wanted, urls or [server.url], folder, counted.append) as path:
        assert sum(counted) == wanted.size
        content = path.read_bytes()
    assert not path.exists()
    return content


def refused(server, folder: Path, kind: type[Exception], *parts: str, urls: list[str] | None = None) -> str:
    with pytest.raises(kind) as caught, download(WANTED, urls or [server.url], folder):
        pass
    message = str(caught.value)
    assert message.isprintable()
    for part in ("a-net", *parts):
        assert part in message, message
    return message


def ranges(server) -> list[str | None]:
    return [header for _, header in server.requests]


@pytest.mark.parametrize("kind", ["md5", "sha256", "sha384", "sha512"])
def test_a_file_is_complete_and_verified(server, tmp_path, kind):
    digest = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    wanted = Wanted(name="a-net", size=len(CONTENT), digest=digest, **FACTS)
    assert fetched(server, tmp_path / "new", wanted=wanted) == CONTENT
    assert ranges(server) == [None]


def test_a_download_continues_where_a_connection_broke(server, tmp_path):
    server.script = [server.drops(1000), server.drops(300_000), server.drops(1)]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, "bytes=1000-", "bytes=301000-", "bytes=301001-"]


def test_a_server_without_ranges_sends_the_file_again(server, tmp_path):
    server.script = [server.drops(1000), server.says(CONTENT)]
    assert fetched(server, tmp_path) == CONTENT


def test_a_file_that_changes_between_requests_is_fetched_completely(server, tmp_path):
    old = b"x" * len(CONTENT)

    def first(request):
        server.content = old
        server.drops(5000)(request)
        server.content, server.etag = CONTENT, '"2"'

    server.script = [first]
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.requests) == 2  # the second has If-Range


def test_a_download_continues_where_an_earlier_run_ended(server, tmp_path):
    server.script = [server.drops(5000)] + [server.says(b"", 503)] * 20
    refused(server, tmp_path, UnreadableInputError, "HTTP 503")
    server.script = []
    server.requests.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == ["bytes=5000-"]


@pytest.mark.parametrize("left", [b"x" * 5000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1), CONTENT + b"x"])
def test_the_beginning_of_another_file_is_discarded(server, tmp_path, left):
    part = tmp_path / f"{WANTED.digest.partition(':')[2][:32]}.part"
    part.write_bytes(left)
    assert fetched(server, tmp_path) == CONTENT


def test_a_complete_file_of_an_earlier_run_needs_no_server(server, tmp_path):
    (tmp_path / f"{WANTED.digest.partition(':')[2][:32]}.part").write_bytes(CONTENT)
    assert fetched(server, tmp_path) == CONTENT
    assert not server.requests


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 999-1048582/1048583", "bytes 1000-1048582/1048584", "bytes 1000-5000/1048583", "bytes 1000-", "",
        "items 1000-1/1048583",
    ],
)  # fmt: skip
def test_after_a_wrong_range_the_complete_file_is_requested(server, tmp_path, content_range):
    odd = server.says(CONTENT[1000:], 206, Content_Range=content_range)
    server.script = [server.drops(1000), odd]
    assert fetched(server, tmp_path / "a") == CONTENT
    assert ranges(server) == [None, "bytes=1000-", None]
    server.script = [odd] * 100  # also for the complete file
    refused(server, tmp_path / "b", UnreadableInputError, "the range", "expected bytes 0-1048582/1048583")


def test_after_repeated_wrong_ranges_the_run_fails_and_the_next_run_succeeds(server, tmp_path):
    def odd(request):
        if request.headers.get("Range"):
            server.answer(request, CONTENT[:10], 206, **{"Content-Range": "bytes 0-9/1048583"})
        else:
            server.drops(1000)(request)

    server.script = [odd] * 100
    refused(server, tmp_path, UnreadableInputError)
    assert len(server.requests) <= 2 * module.ATTEMPTS
    server.script = []
    assert fetched(server, tmp_path) == CONTENT


@pytest.mark.parametrize("length", [-1, None])
def test_compressed_content_is_refused(server, tmp_path, length):
    server.script = [server.says(gzip.compress(CONTENT), length=length, Content_Encoding="gzip")]
    refused(server, tmp_path, ModelFileError, "sent it compressed (gzip)")
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [0, 1, 4096, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_length_is_refused(server, tmp_path, length):
    server.content = (CONTENT + b"x")[:length]
    refused(server, tmp_path, ModelFileError, f"sent {length:,} bytes", f"expected {len(CONTENT):,}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [CONTENT + b"x", CONTENT + b"x" * 10_000_000])
def test_bytes_beyond_the_size_are_not_stored(server, tmp_path, body):
    server.script = [server.says(body, length=None)]
    refused(server, tmp_path, ModelFileError, "sent more than 1,048,583 bytes")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(CONTENT)


def test_endless_content_is_refused(server, tmp_path):
    def endless(request):
        server.answer(request, b"", length=None)
        while True:
            request.wfile.write(bytes(2**20))

    server.script = [endless]
    refused(server, tmp_path, ModelFileError, "sent more than")


def test_missing_bytes_are_requested_again(server, tmp_path):
    server.script = [server.drops(len(CONTENT) - 1)]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, f"bytes={len(CONTENT) - 1}-"]


def test_a_response_without_a_length_is_accepted(server, tmp_path):
    server.script = [server.says(CONTENT, length=None)]
    assert fetched(server, tmp_path) == CONTENT


def test_a_web_page_is_refused(server, tmp_path):
    server.script = [server.says(b"<html>not here</html>", Content_Type="text/html; charset=utf-8")]
    refused(server, tmp_path, ModelFileError, "sent 21 bytes of text/html; charset=utf-8", "expected 1,048,583")


@pytest.mark.parametrize("begun", [False, True])
def test_a_web_page_without_a_length_is_refused(server, tmp_path, begun):
    page = server.says(b"<html>log in</html>", length=None, Content_Type="text/html")
    server.script = [server.drops(1000)] * begun + [page]
    refused(server, tmp_path, ModelFileError, "sent a web page (text/html)", "expected a file of 1,048,583 bytes")
    assert len(server.requests) == 1 + begun


def test_the_file_is_accepted_even_if_declared_as_html(server, tmp_path):
    server.script = [server.says(CONTENT, Content_Type="text/html")]
    assert fetched(server, tmp_path) == CONTENT


def test_another_file_of_the_same_length_is_refused_and_discarded(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    refused(
        server,
        tmp_path,
        ModelFileError,
        "another sha256",
        "; `alexnet-infer pull a-net --from FILE|URL` uses another source",
    )
    server.content = CONTENT
    assert fetched(server, tmp_path) == CONTENT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_client_error_is_final(server, tmp_path, status):
    server.script = [server.says(b"no", status)] * 3
    refused(server, tmp_path, UnreadableInputError, f"HTTP {status}", "--from FILE|URL", "proxy")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_temporary_error_is_retried(server, tmp_path, status):
    server.script = [server.says(b"later", status)] * 3
    assert fetched(server, tmp_path) == CONTENT


def test_retries_end_after_some_attempts(server, tmp_path):
    server.script = [server.says(b"later", 503)] * 100
    refused(server, tmp_path, UnreadableInputError, "HTTP 503")
    assert len(server.requests) == module.ATTEMPTS


def test_retries_end_if_a_server_without_ranges_always_drops_the_connection(server, tmp_path):
    server.script = [server.cuts(CONTENT[:5000])] * 100
    refused(server, tmp_path, UnreadableInputError, "ended early")
    assert len(server.requests) == 1 + module.ATTEMPTS


def test_a_mix_of_two_files_is_discarded_and_fetched_again(server, tmp_path):
    server.etag = ""  # so that the versions can't be told apart
    server.script = [server.cuts(b"x" * 5000)]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, "bytes=5000-", None]


def test_a_range_that_the_server_refuses_is_discarded(server, tmp_path):
    server.script = [server.drops(5000), server.says(b"", 416)]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, "bytes=5000-", None]


def test_a_silent_connection_is_closed_and_the_download_continues(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.script = [server.hangs(20)]
    started = time.monotonic()
    assert fetched(server, tmp_path) == CONTENT
    assert time.monotonic() - started < 15
    assert ranges(server) == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_for_every_part_of_a_file(server, tmp_path, status):
    away = server.says(b"", status, Location="/elsewhere")
    server.script = [away, server.drops(1000), away]
    assert fetched(server, tmp_path) == CONTENT
    paths = [path for path, _ in server.requests]
    assert paths == ["/net.bin", "/elsewhere"] * 2
    assert ranges(server)[-1] == "bytes=1000-"


def test_a_redirect_loop_is_refused(server, tmp_path):
    server.script = [server.says(b"", 302, Location="/net.bin")] * 100
    refused(server, tmp_path, UnreadableInputError, "HTTP 302")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x"])
def test_a_redirect_to_another_scheme_is_refused(server, tmp_path, target):
    server.script = [server.says(b"", 302, Location=target)] * 100
    refused(server, tmp_path, UnreadableInputError)


def test_the_next_mirror_is_tried(server, tmp_path):
    server.script = [server.says(b"no", 404), server.says(b"<html></html>")]
    assert fetched(server, tmp_path, server.url, server.url + "2", server.url + "3") == CONTENT
    assert [path for path, _ in server.requests] == ["/net.bin", "/net.bin2", "/net.bin3"]


def test_a_refused_connection_is_a_one_line_error(server, tmp_path):
    server.close()
    refused(server, tmp_path, UnreadableInputError, "refused")


def test_a_name_that_does_not_resolve_is_a_one_line_error(server, tmp_path):
    refused(server, tmp_path, UnreadableInputError, "can't be fetched", urls=["http://no-such-host.invalid/x"])


@pytest.mark.parametrize("url", ["ftp://x/y", "javascript:x", "net.bin", "data:,x", "http://[x"])
def test_other_kinds_of_urls_are_refused(tmp_path, url):
    with pytest.raises(UsageError, match="expected a URL"), download(WANTED, [url], tmp_path):
        pass


def test_a_file_url_works(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    assert fetched(None, tmp_path / "cache", source.as_uri()) == CONTENT
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_url_without_a_file_is_tried_once(tmp_path, monkeypatch, name):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("waited"))
    refused(None, tmp_path / "cache", UnreadableInputError, urls=[(tmp_path / name).as_uri()])


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://127.0.0.1:port/x", "http://127.0.0.1:99999/x"])
def test_an_invalid_url_is_tried_once(tmp_path, monkeypatch, url):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("waited"))
    refused(None, tmp_path, UnreadableInputError, urls=[url])


def test_a_server_with_an_untrusted_certificate_is_tried_once(tmp_path, monkeypatch):
    def untrusted(*arguments, **options):
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", untrusted)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("waited"))
    refused(None, tmp_path, UnreadableInputError, "self-signed certificate", urls=["https://127.0.0.1/x"])


def test_a_file_that_could_not_be_used_is_kept_and_needs_no_network_the_next_time(server, tmp_path):
    with pytest.raises(KeyboardInterrupt), download(WANTED, [server.url], tmp_path):
        raise KeyboardInterrupt
    server.requests.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert not server.requests


def test_no_one_else_can_fetch_the_file_while_it_is_used(server, tmp_path):
    with (
        download(WANTED, [server.url], tmp_path),
        pytest.raises(UsageError, match="another process"),
        download(WANTED, [server.url], tmp_path),
    ):
        pass


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/net.bin"))
    assert fetched(server, tmp_path, "http://example.invalid/some/net.bin") == CONTENT
    assert server.requests[0][0] == "http://example.invalid/some/net.bin"


def test_a_second_process_is_refused(server, tmp_path):
    from alexnet_infer.files import lock

    with (
        lock(tmp_path / f"{WANTED.digest.partition(':')[2][:32]}.lock"),
        pytest.raises(UsageError, match="another process"),
        download(WANTED, [server.url], tmp_path),
    ):
        pass


def test_a_full_disk_is_noticed_before_anything_is_fetched(tmp_path):
    for huge in (replace(WANTED, size=2**60), replace(WANTED, room=2**60)):
        with (
            pytest.raises(UsageError, match=r"needs \d+ MB .* are free; free some space, or set XDG_CACHE_HOME"),
            download(huge, ["http://127.0.0.1:9/x"], tmp_path),
        ):
            pass


def test_a_killed_download_continues_where_it_was(server, tmp_path):
    code = (
        "import sys; from pathlib import Path; from alexnet_infer.published.download import Wanted, download; "
        f"download(Wanted(name='a-net', size={WANTED.size}, digest={WANTED.digest!r}, **{FACTS!r}), [{server.url!r}], "
        f"Path({str(tmp_path)!r})).__enter__()"
    )
    server.script = [server.hangs(20)]
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ)
    part = tmp_path / f"{WANTED.digest.partition(':')[2][:32]}.part"
    for _ in range(1000):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = part.stat().st_size
    assert 0 < left < WANTED.size
    server.requests.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [f"bytes={left}-"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes: expected 1,048,583"),
        (CONTENT[:8], "has 8 bytes"),
        (CONTENT[:-1], "has 1,048,582 bytes"),
        (CONTENT + b"x", "has 1,048,584 bytes"),
        (CONTENT[:-1] + b"?", "the sha256 differs"),
    ],
    ids=["empty", "header", "a byte short", "a byte long", "another"],
)
def test_a_copy_is_verified(tmp_path, content, message):
    path = tmp_path / "copy"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{message}.*; name another copy, or leave out --from to download it$"):
        verify(WANTED, path)
    path.write_bytes(CONTENT)
    verify(WANTED, path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_what_another_program_put_in_place_of_the_part_is_refused_and_not_written(tmp_path, kind):
    (tmp_path / "source").write_bytes(CONTENT)
    (precious := tmp_path / "precious").write_text("precious")
    folder = tmp_path / "downloads"
    folder.mkdir()
    part = part_path(WANTED, folder)
    match kind:
        case "link":
            part.symlink_to(precious)
        case "dangling link":
            part.symlink_to(tmp_path / "new")
        case "hard link":
            part.hardlink_to(precious)
        case "pipe":
            os.mkfifo(part)
        case "folder":
            part.mkdir()
    with pytest.raises(UsageError) as error, download(WANTED, [f"file://{tmp_path / 'source'}"], folder):
        pass
    assert str(error.value).startswith(f"{part}: can't be continued (")
    assert str(error.value).endswith("); remove it")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "new").exists()
