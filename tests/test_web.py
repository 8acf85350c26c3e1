"""Requests to a real server on the loopback interface, which redirects, drips and sends too much."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from alexnet_infer import web
from alexnet_infer.errors import one_line
from alexnet_infer.version import __version__
from alexnet_infer.web import Fetch, FetchError, is_address, is_http, without_password
from tests.published.conftest import CONTENT, _alone  # noqa: F401 (no proxies)
from tests.published.server import Server

LIMIT = 2 * len(CONTENT)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(CONTENT)
    yield server
    server.close()


def fetch(url: str, limit: int) -> bytes:
    return Fetch(url, limit).content()


def refused(url: str, limit: int = LIMIT) -> str:
    """The one line with which a URL is refused."""
    with pytest.raises(FetchError) as caught:
        fetch(url, limit)
    message = one_line(caught.value)
    assert message.isprintable()
    return message


def paths(server) -> list[str]:
    return [path for path, _ in server.requests]


@pytest.mark.parametrize("length", [-1, None], ids=["declared", "undeclared"])
def test_the_content_arrives_complete(server, length):
    server.script = [server.says(CONTENT, length=length)]
    assert fetch(server.url, LIMIT) == CONTENT


def test_chunked_content_arrives_complete_and_is_refused_if_it_ends_early(server):
    def chunked(*, complete: bool):
        def act(request):
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            request.wfile.write(b"3\r\nabc\r\n4\r\ndefg\r\n" + (b"0\r\n\r\n" if complete else b""))
            request.close_connection = True

        return act

    server.script = [chunked(complete=True), chunked(complete=False)]
    assert fetch(server.url, LIMIT) == b"abcdefg"
    assert refused(server.url) == "the connection ended early"


def test_a_request_names_the_program(server):
    agents = []
    server.script = [lambda request: (agents.append(request.headers["User-Agent"]), server.serve(request))]
    fetch(server.url, LIMIT)
    assert agents == [f"alexnet-infer/{__version__}"]


# Limits.


@pytest.mark.parametrize("length", [-1, None], ids=["declared", "undeclared"])
def test_the_limit_itself_is_accepted_and_a_byte_more_is_refused(server, length):
    server.script = [server.says(CONTENT, length=length)] * 2
    assert fetch(server.url, len(CONTENT)) == CONTENT
    assert refused(server.url, len(CONTENT) - 1) == "larger than the limit of 1,048,582 bytes"


def test_a_declared_length_beyond_the_limit_is_refused_before_the_content_arrives(server):
    server.script = [server.says(b"", length=10**15)]
    assert "larger than" in refused(server.url)


def test_endless_content_is_refused_at_the_limit(server):
    def endless(request):
        server.answer(request, b"", length=None)
        while True:
            request.wfile.write(bytes(2**16))

    server.script = [endless]
    assert "larger than" in refused(server.url)


def test_content_that_ends_early_is_refused(server):
    server.script = [server.drops(1000)]
    assert refused(server.url) == "the connection ended early"


def drips(part: bytes, beginning: bytes = b""):
    """Sends `beginning`, and then `part` every 20 ms."""

    def act(request):
        request.wfile.write(beginning)
        while True:
            request.wfile.write(part)
            request.wfile.flush()
            time.sleep(0.02)

    return act


@pytest.mark.parametrize(
    "slow",
    [drips(b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), drips(b"x", b"HTTP/1.1 200 OK\r\nX-Slow: ")],
    ids=["body", "header"],
)
def test_a_server_that_sends_slowly_is_refused_after_the_total_time(server, monkeypatch, slow):
    monkeypatch.setattr(web, "TOTAL_TIMEOUT", 0.3)
    server.script = [slow]
    started = time.monotonic()
    assert refused(server.url) == "not complete after 0.3 s"
    assert time.monotonic() - started < 15


def test_a_silent_server_is_refused_after_the_read_timeout(server, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.2)
    server.script = [server.hangs(20)]
    started = time.monotonic()
    assert "timed out" in refused(server.url)
    assert time.monotonic() - started < 15


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, status):
    server.script = [server.says(b"", status, Location=target) for target in ("/a", server.url.replace("net.bin", "b"))]
    assert fetch(server.url, LIMIT) == CONTENT
    assert paths(server) == ["/net.bin", "/a", "/b"]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x/y", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused_with_its_target(server, target):
    server.script = [server.says(b"", 302, Location=target)]
    message = refused(server.url)
    assert message == f"HTTP 302 Found - Redirection to url '{target}' is not allowed"


@pytest.mark.parametrize(
    ("start", "target", "followed"),
    [
        ("https://a/x", "https://b/y", True),
        ("https://a/x", "HTTPS://b/y", True),
        ("http://a/x", "https://b/y", True),
        ("http://a/x", "http://b/y", True),
        ("https://a/x", "http://a/x", False),
        ("HTTPS://a/x", "HTTP://b/y", False),
    ],
)
def test_no_redirect_leads_from_https_to_http(start, target, followed):
    redirects = next(handler for handler in web._opener().handlers if type(handler).__name__ == "Redirects")
    answer = io.BytesIO()
    if followed:
        assert redirects.redirect_request(Request(start), answer, 302, "Found", {}, target).full_url == target
    else:
        with pytest.raises(HTTPError, match=r"Redirection to url .* is not allowed"):
            redirects.redirect_request(Request(start), answer, 302, "Found", {}, target)
    assert answer.closed


def test_redirect_loops_and_endless_redirects_are_refused(server):
    server.script = [server.says(b"", 302, Location="/net.bin")] * 100
    assert refused(server.url) == "HTTP 302 too many redirects; the last: Found"
    assert len(server.requests) <= web.REDIRECTS + 1
    server.requests.clear()
    server.script = [server.says(b"", 302, Location=f"/{i}") for i in range(100)]
    assert "too many redirects" in refused(server.url)
    assert paths(server) == ["/net.bin", *(f"/{i}" for i in range(web.REDIRECTS))]


def test_the_body_of_a_redirect_is_not_read(server):
    def endless(request):
        server.answer(request, b"", 302, length=None, Location="/elsewhere")
        while True:
            request.wfile.write(bytes(2**16))

    server.script = [endless]
    assert fetch(server.url, LIMIT) == CONTENT


# Errors.


@pytest.mark.parametrize(("status", "message"), [(404, "HTTP 404 Not Found"), (500, "HTTP 500 Internal Server Error")])
def test_an_error_status_is_the_message(server, status, message):
    server.script = [server.says(b"<html>no</html>", status, Content_Type="text/html")]
    assert refused(server.url) == message
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_refused_with_what_was_expected(server, kind):
    server.script = [server.says(b"<html></html>", Content_Type=kind)]
    assert refused(server.url) == f"a web page, {kind.partition(';')[0]}; expected the URL of the image itself"


def test_a_host_that_does_not_exist_and_a_port_without_a_server_are_refused(server):
    server.close()
    assert "refused" in refused(server.url)
    assert refused("http://no-such-host.invalid/x.jpg")


@pytest.mark.parametrize(
    "url", ["http://", "https:///x", "http://127.0.0.1:port/x", "http://127.0.0.1:99999/x", "http://[x", "http://a..b/"]
)
def test_an_invalid_url_is_refused(url):
    assert refused(url)


# What is sent for a URL.


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/a%20b%2Fc.jpg", "/a%20b%2Fc.jpg"),
        ("/a b.jpg", "/a%20b.jpg"),
        ("/Käse.jpg", "/K%C3%A4se.jpg"),
        ("/x.jpg?size=large&name=a b#middle", "/x.jpg?size=large&name=a%20b"),
        ("", ""),
    ],
)
def test_a_path_is_encoded_where_needed_and_a_query_is_kept(server, given, sent):
    fetch(server.url.removesuffix("/net.bin") + given, LIMIT)
    assert paths(server) == [sent or "/"]


def test_a_password_is_sent_only_to_the_first_server_and_never_shown(server):
    sent = []

    def note(answer):
        return lambda request: (sent.append(request.headers["Authorization"]), answer(request))

    server.script = [
        note(server.says(b"", 302, Location="/elsewhere")),
        note(server.serve),
        note(server.says(b"", 401)),
    ]
    url = server.url.replace("//", "//me:s%40cret@")
    assert fetch(url, LIMIT) == CONTENT
    assert sent == [f"Basic {base64.b64encode(b'me:s@cret').decode()}", None]
    assert refused(url) == "HTTP 401 Unauthorized"


def test_a_proxy_from_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/net.bin"))
    assert fetch("http://example.invalid/photo.jpg", LIMIT) == CONTENT
    assert paths(server) == ["http://example.invalid/photo.jpg"]


def test_the_proxys_password_is_not_sent_to_a_server_that_is_reached_directly(server, monkeypatch):
    sent = []
    redirect = server.says(b"", 302, Location=server.url)

    def note(answer):
        return lambda request: (sent.append(request.headers["Proxy-Authorization"]), answer(request))

    server.script = [note(redirect), note(server.serve)]
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/net.bin").replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch("http://example.invalid/photo.jpg", LIMIT) == CONTENT
    assert sent == [f"Basic {base64.b64encode(b'me:secret').decode()}", None]


def test_an_invalid_proxy_is_named_as_a_possible_cause(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:port")
    assert "HTTP_PROXY" in refused("http://example.invalid/photo.jpg")


# Helpers for URLs.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@example.org/x", "https://me:***@example.org/x"),
        ("HTTP://me:se:cr@et@example.org:80/x?a=b:c@d", "HTTP://me:***@example.org:80/x?a=b:c@d"),
        ("https://:secret@example.org", "https://:***@example.org"),
        ("https://me@example.org:80/x", "https://me@example.org:80/x"),
        ("https://me:se/cr?e#t@example.org/x", "https://me:***@example.org/x"),
        ("https://example.org:80/@x", "https://example.org:80/@x"),
        ("https://example.org?a=b:c@d", "https://example.org?a=b:c@d"),
        ("photo.jpg", "photo.jpg"),
    ],
)
def test_a_password_is_hidden_and_nothing_else_changes(url, shown):
    assert without_password(url) == shown


def test_schemes_are_recognised_in_either_case():
    assert [url for url in ("http://x", "HTTPS://x", "file:///x", "ftp://x", "http:/x", "photo") if is_http(url)] == [
        "http://x",
        "HTTPS://x",
    ]
    assert [url for url in ("http://x", "HTTPS://x", "file:///x", "ftp://x", "http://[") if is_address(url)] == [
        "http://x",
        "HTTPS://x",
        "file:///x",
    ]


def test_an_internationalized_host_name_is_encoded():
    assert web._request("https://käse.example:8443/x", {}).host == "xn--kse-qla.example:8443"
