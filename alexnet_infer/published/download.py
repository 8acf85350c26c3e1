"""Fetching a file of known size and digest, whatever the network does on the way.

What has arrived stays in a `.part` file, also when the program is killed, and the next attempt asks for the rest. What
a server says is believed so far as it goes, and what it gives only when size and digest are those of the registry: so
plain HTTP, and a redirect to it, can do no more harm than HTTPS.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
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
"""In a row that bring nothing."""

PAUSE = 0.5
"""Seconds before the second attempt; twice as long before each one after it."""

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


def download(wanted: Wanted, urls: Sequence[str], folder: Path, on_bytes: OnBytes = lambda count: None) -> Path:
    """The path of the file, complete and verified, in `folder`; the caller removes it.

    `urls` (http, https or file) are tried in turn. `on_bytes` is called with the number of bytes that have come since
    the last call, first with those of an earlier attempt; with a negative one where they were of no use.

    Raises UnreadableInputError when it can't be fetched, ModelFileError when what is there is another file, UsageError
    for other kinds of addresses, and when another process fetches the same file or the disk is too full.
    """
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https", "file"):
            raise UsageError(f"{shown(url)}: expected an address that begins with https://, http:// or file://")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{wanted.digest.partition(':')[2][:32]}.part"
    held = lock(part.with_suffix(".lock"))
    if held is None:
        raise UsageError(f"{wanted.what}: another process is fetching it; wait for it")
    with held:
        _check_space(wanted, folder, _size(part))
        problems = []
        for url in urls:
            try:
                _fetch(wanted, url, part, on_bytes)
                return part
            except (_WrongContentError, UnreadableInputError) as error:
                problems.append((url, error))
        url, error = problems[-1]
        if isinstance(error, _WrongContentError):
            raise ModelFileError(f"{wanted.what}: {visible(url)} {error}")
        raise error


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


def _fetch(wanted: Wanted, url: str, part: Path, on_bytes: OnBytes) -> None:
    """Completes `part` from `url`; what an earlier run left of it may turn out to be of another file, once."""
    left = _size(part)
    on_bytes(left)
    _complete(wanted, url, part, on_bytes)
    if _digest(wanted, part) == wanted.digest:
        return
    _discard(part, on_bytes)
    if left:
        _complete(wanted, url, part, on_bytes)
        if _digest(wanted, part) == wanted.digest:
            return
        _discard(part, on_bytes)
    raise _WrongContentError(f"gave {wanted.size:,} bytes with another {wanted.digest.partition(':')[0]}: another file")


def _discard(part: Path, on_bytes: OnBytes) -> None:
    on_bytes(-_size(part))
    part.unlink(missing_ok=True)


def _complete(wanted: Wanted, url: str, part: Path, on_bytes: OnBytes) -> None:
    """Fetches until `part` has the size of the file, going on where a connection broke."""
    idle, validator = 0, None
    while (before := _size(part)) < wanted.size:
        problem: object = "the connection ended early"
        try:
            validator = _receive(wanted, url, part, validator, on_bytes)
        except urllib.error.HTTPError as error:
            with closing(error):
                problem = f"HTTP {error.code} {visible(str(error.reason))[:60]}"
                if error.code == 416:  # what is here can't be the beginning of what is there
                    _discard(part, on_bytes)
                elif error.code < 500 and error.code not in (408, 429):
                    raise _unreachable(wanted, url, problem) from None
        except urllib.error.URLError as error:
            problem = error.reason
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = error
        idle = 0 if _size(part) > before else idle + 1
        if _size(part) < wanted.size:
            if idle >= ATTEMPTS or urlsplit(url).scheme == "file":
                raise _unreachable(wanted, url, problem)
            time.sleep(PAUSE * 2**idle)


def _unreachable(wanted: Wanted, url: str, problem: object) -> UnreadableInputError:
    reason = one_line(problem) if isinstance(problem, Exception) else str(problem)
    return UnreadableInputError(
        f"{wanted.what}: can't be fetched from {visible(url)} ({reason}); try again, check the proxy (HTTPS_PROXY), or "
        "name a copy with --from FILE|URL"
    )


def _receive(wanted: Wanted, url: str, part: Path, validator: str | None, on_bytes: OnBytes) -> str | None:
    """One answer of the server, appended to `part` as far as it comes. Returns what identifies the file's version."""
    there = _size(part)
    headers = {"User-Agent": f"alexnet-infer/{__version__}", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if validator:
            headers["If-Range"] = validator  # if the file has changed, all of it comes
    opener = urllib.request.build_opener()  # which looks for proxies in the environment
    with closing(opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)) as answer:
        begin = _begin(wanted, answer, there)
        if begin != there:
            on_bytes(begin - there)
        _check_length(wanted, answer, begin)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.seek(begin)
            file.truncate()
            while block := answer.read1(min(CHUNK, wanted.size - begin + 1)):
                begin += len(block)
                if begin > wanted.size:
                    file.truncate(0)
                    raise _WrongContentError(f"gave more than {wanted.size:,} bytes: another file")
                file.write(block)
                on_bytes(len(block))
        etag = answer.headers.get("ETag", "")
        return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _begin(wanted: Wanted, answer: Any, there: int) -> int:
    """Where in the file the answer begins."""
    if getattr(answer, "status", None) != 206:
        return 0
    said = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", said)
    if not found or int(found[1]) != there or found[3] not in (str(wanted.size), "*"):
        raise _WrongContentError(f"gave the range {shown(said)}: expected bytes from {there} on of {wanted.size}")
    return there


def _check_length(wanted: Wanted, answer: Any, begin: int) -> None:
    """A page that says "not found" in HTML is best told from the file before it is taken for one."""
    length = answer.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,15}", length) and begin + int(length) != wanted.size:
        kind = visible(answer.headers.get("Content-Type", "unknown type"))[:60]
        raise _WrongContentError(f"gave {begin + int(length):,} bytes of {kind}: expected {wanted.size:,}")
