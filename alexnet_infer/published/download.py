"""Fetching a file of known size and digest, whatever the network does on the way.

What has arrived stays in a `.part` file, also when the program is killed, and the next attempt asks for the rest. What
a server says is believed so far as it goes, and what it gives only when size and digest are those of the registry. All
its digests are SHA-2: so plain HTTP, and a redirect to it, can do no more harm than HTTPS.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alexnet_infer import __version__
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError, one_line, shown, visible
from alexnet_infer.files import lock

CHUNK = 2**18
TIMEOUT = 30.0
"""Seconds without a byte."""

ATTEMPTS = 5
"""In a row that bring no more of the file than there was before."""

PAUSE = 0.5
"""Seconds before the next attempt; twice as long after each one that brought nothing."""

OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that is to be fetched."""

    what: str
    """For messages."""
    size: int
    digest: str
    """Kind and hex digits, as in the registry."""


class _WrongContentError(Exception):
    """What a server gave is not the file."""


class _BrokenError(Exception):
    """The network or the server failed. `final`: another attempt would fail, too. `lost`: what came so far can't be the
    beginning of what is there."""

    def __init__(self, reason: object, *, final: bool = False, lost: bool = False) -> None:
        super().__init__(reason)
        self.final, self.lost = final, lost


@contextmanager
def download(
    wanted: Wanted, urls: Sequence[str], folder: Path, on_bytes: OnBytes = lambda count: None
) -> Iterator[Path]:
    """The file, complete and verified, in `folder`. It is this process's alone while the block runs, and then removed;
    when the block raises, it stays, and the next attempt needs no network.

    `urls` (http, https or file) are tried in turn. `on_bytes` is called with the number of bytes that have come since
    the last call, first with those of an earlier attempt; with a negative one where they were of no use.

    Raises UnreadableInputError when it can't be fetched, ModelFileError when what is there is another file, UsageError
    for other kinds of addresses, and when another process fetches the same file or the disk is too full, OSError when
    `folder` can't be written.
    """
    for url in urls:
        if not is_address(url):
            raise UsageError(f"{shown(url)}: expected an address that begins with https://, http:// or file://")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{wanted.digest.partition(':')[2][:32]}.part"
    held = lock(part.with_suffix(".lock"))
    if held is None:
        raise UsageError(f"{wanted.what}: another process is fetching it; wait for it")
    with held:
        left = _size(part)
        _check_space(wanted, folder, left)
        on_bytes(left)
        _fetch(wanted, urls, part, on_bytes)
        yield part
        part.unlink(missing_ok=True)


def verify(wanted: Wanted, path: Path) -> None:
    """Raises ModelFileError unless `path` is the file, OSError when it can't be read."""
    if (size := path.stat().st_size) != wanted.size:
        raise ModelFileError(f"{path}: has {size:,} bytes: expected {wanted.size:,}, those of {wanted.what}")
    if _digest(wanted, path) != wanted.digest:
        kind = wanted.digest.partition(":")[0]
        raise ModelFileError(f"{path}: has another {kind} than {wanted.what}: it is damaged, or another file")


def _digest(wanted: Wanted, path: Path) -> str:
    kind = wanted.digest.partition(":")[0]
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def is_address(url: str) -> bool:
    """Whether `url` is of a kind that is fetched: https, http or file."""
    try:
        return urlsplit(url).scheme in ("https", "http", "file")
    except ValueError:  # "http://[x"
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(wanted: Wanted, folder: Path, there: int) -> None:
    free = shutil.disk_usage(folder).free
    needed = 2 * wanted.size - there  # the file, and the net that is made of it
    if free < needed:
        raise UsageError(
            f"{wanted.what}: needs {needed / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; free some, "
            "or set XDG_CACHE_HOME to another disk"
        )


def _fetch(wanted: Wanted, urls: Sequence[str], part: Path, on_bytes: OnBytes) -> None:
    """Completes `part` from the first of `urls` that has the file."""
    for url in urls:
        try:
            return _Transfer(wanted=wanted, url=url, part=part, on_bytes=on_bytes).fetch()
        except _WrongContentError as error:
            problem: Exception = ModelFileError(f"{wanted.what}: {visible(url)} {error}")
        except _BrokenError as error:
            problem = UnreadableInputError(
                f"{wanted.what}: can't be fetched from {visible(url)} ({one_line(error)}); try again, check the proxy "
                "(HTTPS_PROXY), or name a copy with --from FILE|URL"
            )
    raise problem


@dataclass(kw_only=True)
class _Transfer:
    """The way of a file from one address into `part`, over as many connections as it takes."""

    wanted: Wanted
    url: str
    part: Path
    on_bytes: OnBytes
    validator: str | None = None
    """What tells this version of the file from others: its ETag, or else its date."""
    resumed: bool = True
    """Whether `part` begins with bytes from before the last answer."""

    def fetch(self) -> None:
        """Completes `part`. What came in pieces may be of several files: then all of it is fetched once more.

        Raises _BrokenError, which leaves `part` for the next attempt, or _WrongContentError.
        """
        for _ in range(2):
            self._complete()
            if _digest(self.wanted, self.part) == self.wanted.digest:
                return
            self._discard()
            if not self.resumed:
                break
        kind = self.wanted.digest.partition(":")[0]
        raise _WrongContentError(f"gave {self.wanted.size:,} bytes with another {kind}: another file")

    def _discard(self) -> None:
        self.on_bytes(-_size(self.part))
        self.part.unlink(missing_ok=True)

    def _complete(self) -> None:
        """Fetches until `part` has the size of the file, going on where a connection broke."""
        size = most = _size(self.part)
        idle = 0
        while size < self.wanted.size:
            problem = _BrokenError("the connection ended early")
            try:
                self._receive()
            except _BrokenError as error:
                problem = error
                if error.lost:
                    self._discard()
            size = _size(self.part)
            # Against the most there ever was: a server without ranges that always breaks off would be asked for ever
            idle, most = (0, size) if size > most else (idle + 1, most)
            if size < self.wanted.size:
                if problem.final or idle >= ATTEMPTS:
                    raise problem
                time.sleep(PAUSE * 2**idle)

    def _receive(self) -> None:
        """Appends one answer of the server to `part`, as far as it comes."""
        there = _size(self.part)
        headers = {"User-Agent": f"alexnet-infer/{__version__}", "Accept-Encoding": "identity"}
        if there:
            headers["Range"] = f"bytes={there}-"
            if self.validator:
                headers["If-Range"] = self.validator  # if the file has changed, all of it comes
        opener = urllib.request.build_opener()  # which looks for proxies in the environment
        with _network():
            answer = opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        with closing(answer):
            begin = _begin(self.wanted, answer, there)
            _check_answer(self.wanted, answer, begin)
            etag = answer.headers.get("ETag", "")
            self.validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
            self.resumed = begin > 0
            self.on_bytes(begin - there)
            self._append(answer, begin)

    def _append(self, answer: Any, size: int) -> None:
        """Writes what comes after the first `size` bytes; one byte more than the file has is enough to know."""
        with self.part.open("r+b" if self.part.exists() else "wb") as file:
            file.truncate(size)
            file.seek(size)
            while size <= self.wanted.size:
                with _network():
                    block = answer.read1(min(CHUNK, self.wanted.size + 1 - size))
                if not block:
                    return
                file.write(block)
                size += len(block)
                self.on_bytes(len(block))
        self._discard()
        raise _WrongContentError(f"gave more than {self.wanted.size:,} bytes: another file")


@contextmanager
def _network() -> Iterator[None]:
    """What goes wrong on the way here is a _BrokenError; an OSError is left to mean this machine's disk."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with closing(error):
            waiting_helps = error.code >= 500 or error.code in (408, 416, 429)
            reason = f"HTTP {error.code} {str(error.reason)[:60]}"
            raise _BrokenError(reason, final=not waiting_helps, lost=error.code == 416) from None
    except urllib.error.URLError as error:
        # str: "no host given", "file not on local host"; the last three are of file:// addresses
        final = (str, ssl.SSLCertVerificationError, FileNotFoundError, PermissionError, IsADirectoryError)
        raise _BrokenError(error.reason, final=isinstance(error.reason, final)) from None
    except (http.client.InvalidURL, ValueError) as error:  # from an address that can't be one
        raise _BrokenError(error, final=True) from None
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenError(error) from None


def _begin(wanted: Wanted, answer: Any, there: int) -> int:
    """Where in the file the answer begins."""
    if getattr(answer, "status", None) != 206:
        return 0
    said = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", said)
    if (
        not found
        or int(found[1]) != there
        or int(found[2]) != wanted.size - 1
        or found[3] not in (str(wanted.size), "*")
    ):
        expected = f"bytes {there}-{wanted.size - 1}/{wanted.size}"
        raise _BrokenError(f"the range {shown(said)}: expected {expected}", lost=True)
    return there


def _check_answer(wanted: Wanted, answer: Any, begin: int) -> None:
    """A page that says "not found", or asks to log in, is best told from the file before it is taken for one."""
    packed = visible(answer.headers.get("Content-Encoding", "identity"))[:60]
    if packed.lower() not in ("identity", ""):
        raise _WrongContentError(f"gave it packed ({packed}), which was not asked for: expected the file as it is")
    kind = visible(answer.headers.get("Content-Type", "unknown type"))[:60]
    length = answer.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,15}", length):
        if begin + int(length) != wanted.size:
            raise _WrongContentError(f"gave {begin + int(length):,} bytes of {kind}: expected {wanted.size:,}")
    elif kind.startswith("text/html"):
        raise _WrongContentError(f"gave a page ({kind}): expected a file of {wanted.size:,} bytes")
