"""HTTP requests for published nets and for photos that are given as URLs.

Proxies come from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY). urllib.request is imported on first use, because
`classify` on local files starts faster without it.
"""

from __future__ import annotations

import base64
import io
import re
import string
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from alexnet_infer.version import __version__

if TYPE_CHECKING:
    from urllib.request import OpenerDirector, Request

CHUNK = 2**18
"""Maximum number of bytes per read."""

REDIRECTS = 5

READ_TIMEOUT = 10.0
"""Seconds that a `Fetch` waits for a connection, and for each next byte."""

TOTAL_TIMEOUT = 120.0
"""Seconds in which a `Fetch` must be complete."""


class FetchError(Exception):
    """The network or the server failed. The message is the cause.

    `final`: another attempt would fail as well. `status`: the HTTP status, if a response with an error status arrived.
    """

    def __init__(self, cause: object, *, final: bool = False, status: int | None = None) -> None:
        super().__init__(cause)
        self.final, self.status = final, status


def is_http(text: str) -> bool:
    """Return whether `text` begins like an http or https URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_address(url: str) -> bool:
    """Return whether `url` is an https, http or file URL, the kinds that `open_url` accepts."""
    try:
        return urlsplit(url).scheme in ("https", "http", "file")
    except ValueError:  # "http://[x"
        return False


def without_password(url: str) -> str:
    """Return `url` with `***` in place of a password, for messages.

    A password with an unencoded "/", "?" or "#" makes the URL invalid, but is hidden as well.
    """
    login = r"[^/?#]*" if _is_valid(url) else ".*"
    return re.sub(rf"^([a-z][a-z0-9+.-]*://[^/?#:]*):{login}@", r"\1:***@", url, flags=re.IGNORECASE)


def _is_valid(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


class Fetch:
    """A background request for the content of an http or https URL. It starts immediately.

    The content must arrive within TOTAL_TIMEOUT, have at most `limit` bytes, and not be a web page.
    """

    def __init__(self, url: str, limit: int) -> None:
        assert is_http(url), url
        self._deadline = time.monotonic() + TOTAL_TIMEOUT
        self._outcome: Future[bytes] = Future()
        # Only a thread can be abandoned after TOTAL_TIMEOUT: a name lookup has no timeout, and READ_TIMEOUT restarts
        # with every address, every redirect and every byte of a header. A daemon thread doesn't delay the exit.
        threading.Thread(target=self._run, args=(url, limit), daemon=True).start()

    def content(self) -> bytes:
        """Wait for the content and return it. Raises FetchError."""
        try:
            return self._outcome.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            raise _too_late() from None

    def _run(self, url: str, limit: int) -> None:
        try:
            self._outcome.set_result(_content(url, limit, self._deadline))
        except BaseException as error:
            self._outcome.set_exception(error)


def _too_late() -> FetchError:
    return FetchError(f"not complete after {TOTAL_TIMEOUT:g} s")


def _content(url: str, limit: int, deadline: float) -> bytes:
    too_long = FetchError(f"larger than the limit of {limit:,} bytes")
    with closing(open_url(url, timeout=READ_TIMEOUT)) as response, network_errors():
        if (kind := response.headers.get_content_type()) in ("text/html", "application/xhtml+xml"):
            raise FetchError(f"a web page, {kind}; expected the URL of the image itself")
        if (response.length or 0) > limit:  # None without a Content-Length
            raise too_long
        content = io.BytesIO()
        while block := response.read1(CHUNK):
            if content.tell() + len(block) > limit:
                raise too_long
            if time.monotonic() > deadline:
                raise _too_late()
            content.write(block)
        if response.length:  # the bytes still missing
            raise FetchError("the connection ended early")
        return content.getvalue()


def open_url(url: str, headers: Mapping[str, str] | None = None, *, timeout: float) -> Any:
    """Send a GET request and return the response. The caller must close it.

    At most REDIRECTS redirects are followed, to http and https only, and from https only to https. A user name and
    password in `url` are sent to the first server only, as basic authentication. `timeout`: seconds to wait for the
    connection, and for each next byte.

    Raises FetchError. Read the response inside `network_errors`.
    """
    from http.client import InvalidURL

    with network_errors():
        request = _request(url, headers or {})
        try:
            return _opener().open(request, timeout=timeout)
        except (InvalidURL, ValueError):  # URLError is neither
            raise FetchError("not a valid URL, or an invalid proxy in HTTP_PROXY or HTTPS_PROXY", final=True) from None


@contextmanager
def network_errors() -> Iterator[None]:
    """Turn the errors of urllib, http.client, ssl and sockets into FetchError."""
    import http.client
    import ssl
    import urllib.error

    try:
        yield
    except urllib.error.HTTPError as error:
        with closing(error):
            may_pass = error.code >= 500 or error.code in (408, 416, 429)
            cause = f"HTTP {error.code} {str(error.reason)[:120]}"
            raise FetchError(cause, final=not may_pass, status=error.code) from None
    except urllib.error.URLError as error:
        # urllib gives a str for "no host given" and "file not on local host". The last three come from file:// URLs.
        final = (str, ssl.SSLCertVerificationError, FileNotFoundError, PermissionError, IsADirectoryError)
        raise FetchError(error.reason, final=isinstance(error.reason, final)) from None
    except (http.client.InvalidURL, ValueError, OverflowError):
        # The error's own message is not used, since it may quote part of a password.
        raise FetchError("not a valid URL", final=True) from None
    except http.client.IncompleteRead:
        raise FetchError("the connection ended early") from None
    except (http.client.HTTPException, OSError) as error:
        raise FetchError(error) from None


def _request(url: str, headers: Mapping[str, str]) -> Request:
    from urllib.request import Request

    parts = urlsplit(url)
    _ = parts.port  # raises ValueError for an invalid port
    login, _, host = parts.netloc.rpartition("@")
    # Encode spaces and non-ASCII letters, as copied from an address bar. Existing percent-encoding is kept.
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    address = urlunsplit((parts.scheme, host.encode("idna").decode(), path, query, ""))
    request = Request(address, headers={"User-Agent": f"alexnet-infer/{__version__}", **headers})
    if login:
        user, _, password = login.partition(":")
        token = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _opener() -> OpenerDirector:
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, build_opener

    class Redirects(HTTPRedirectHandler):
        max_redirections = REDIRECTS
        inf_msg = "too many redirects; the last: "

        def redirect_request(self, request: Any, answer: Any, code: int, message: str, headers: Any, url: str) -> Any:
            answer.close()  # otherwise urllib reads its body, however long
            if not is_http(url) or (request.type == "https" and not url.lower().startswith("https:")):
                # urllib itself follows ftp, and goes from https to http
                raise HTTPError(url, code, f"{message} - Redirection to url '{url}' is not allowed", headers, answer)
            redirected = super().redirect_request(request, answer, code, message, headers, url)
            if redirected is not None:
                # ProxyHandler adds the proxy's password to the request, but the next server may be reached directly.
                redirected.remove_header("Proxy-authorization")
            return redirected

    return build_opener(Redirects)
