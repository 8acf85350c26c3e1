"""Downloads of files of known size and digest, over connections that may break.

The bytes received are kept in a `.part` file, even if the program is killed, and the next attempt asks for the rest. A
file is used only if its size and digest match its registry. With a digest of the SHA-2 family, plain HTTP is as
safe as HTTPS. MD5, which only the registry of data sets accepts, finds damage but not forgery.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.errors import (
    AlexNetInferError,
    ModelFileError,
    SpecError,
    UnreadableInputError,
    UsageError,
    one_line,
    printable,
    shown,
)
from alexnet_infer.files import lock, open_own, open_regular
from alexnet_infer.web import CHUNK, FetchError, is_address, network_errors, open_url, without_password

TIMEOUT = 30.0
"""Seconds to wait for a connection, and for the next byte."""

ATTEMPTS = 5
"""Maximum number of consecutive attempts without progress."""

PAUSE = 0.5
"""Seconds before the next attempt; doubled after each attempt without progress."""

OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file to be fetched."""

    name: str
    """For messages."""
    size: int
    """In bytes."""
    digest: str
    """Kind and hex digits, as in the registry."""
    command: str
    """The command that fetches it, for messages: "alexnet-infer pull NAME"."""
    room: int
    """The bytes on the disk that are needed for what is made from the file."""
    elsewhere: str
    """How to use another disk, for messages."""
    wrong: type[AlexNetInferError] = ModelFileError
    """The error if another file arrives."""

    @property
    def kind(self) -> str:
        """The kind of the digest, a name that `hashlib` knows."""
        return self.digest.partition(":")[0]


class _WrongContentError(Exception):
    """The server sent something other than the file."""


class _RangeError(FetchError):
    """The server sent a different range of bytes than requested, so the `.part` file can't be continued."""


@contextmanager
def download(
    wanted: Wanted, urls: Sequence[str], folder: Path, on_bytes: OnBytes = lambda count: None
) -> Iterator[Path]:
    """Yield the path of the file in `folder`, complete and verified.

    No other process uses the file while the block runs. It is removed afterwards. If the block raises, the file is
    kept, and the next attempt needs no network.

    `urls` (http, https or file) are tried in turn. `on_bytes` is called with the number of bytes received since the
    last call. The first call counts those kept from an earlier attempt. The number is negative if bytes are discarded.

    Raises UnreadableInputError if the file can't be fetched, and `wanted.wrong` if the server has a different file.
    Raises UsageError for other kinds of URLs, if another process is fetching the file, if what is in the place of its
    bytes isn't a file of this user, or if the disk is too full. Raises OSError if `folder` can't be written.
    """
    for url in urls:
        if not is_address(url):
            raise UsageError(
                f"{shown(without_password(url))}: expected a URL that begins with https://, http:// or file://"
            )
    folder.mkdir(parents=True, exist_ok=True)
    part = part_path(wanted, folder)
    held = lock(part.with_suffix(".lock"))
    if held is None:
        raise UsageError(f"{wanted.name}: another process is fetching it; wait until it is done")
    with held:
        _check_own(part)
        kept = _size(part)
        check_space(wanted, folder, max(0, wanted.size - kept))
        on_bytes(kept)
        _fetch(wanted, urls, part, on_bytes)
        yield part
        part.unlink(missing_ok=True)


def part_path(wanted: Wanted, folder: Path) -> Path:
    """Return the path of the file in `folder` that keeps the bytes received."""
    return folder / f"{wanted.digest.partition(':')[2][:32]}.part"


def verify(wanted: Wanted, path: Path) -> None:
    """Verify that `path` holds the file `wanted`. Raises `wanted.wrong` if not, and OSError if it can't be read."""
    try:
        if (size := path.stat().st_size) != wanted.size:
            problem = f"has {size:,} bytes: expected {wanted.size:,}, the size of {wanted.name}"
        elif _digest(wanted, path) != wanted.digest:
            problem = f"the {wanted.kind} differs from that of {wanted.name}: a damaged or a different file"
        else:
            return
    except SpecError as error:
        problem = str(error)
    raise wanted.wrong(f"{path}: {problem}; name another copy, or leave out --from to download it")


def _digest(wanted: Wanted, path: Path) -> str:
    with open_regular(path) as file:
        return f"{wanted.kind}:{hashlib.file_digest(file, wanted.kind).hexdigest()}"


def _check_own(part: Path) -> None:
    """Raise UsageError if another program put a link, a pipe or a file of someone else in the place of `part`."""
    try:
        open_own(part, "r+b").close()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{part}: can't be continued ({error.strerror or error}); remove it") from None


def _size(part: Path) -> int:
    try:
        return part.lstat().st_size
    except FileNotFoundError:
        return 0


def check_space(wanted: Wanted, folder: Path, missing: int) -> None:
    """Check that the disk of `folder` has room for the bytes still `missing`, and for what is made from the file.

    Raises UsageError if not.
    """
    free = shutil.disk_usage(folder).free
    needed = wanted.room + missing
    if free < needed:
        raise UsageError(
            f"{wanted.name}: needs {needed / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; free some "
            f"space, or {wanted.elsewhere}"
        )


def _fetch(wanted: Wanted, urls: Sequence[str], part: Path, on_bytes: OnBytes) -> None:
    """Complete `part` from the first of `urls` that has the file."""
    for url in urls:
        try:
            return _Transfer(wanted=wanted, url=url, part=part, on_bytes=on_bytes).fetch()
        except _WrongContentError as error:
            problem: Exception = wanted.wrong(
                f"{wanted.name}: {printable(without_password(url))} {error}; `{wanted.command} --from FILE|URL` uses "
                "another source"
            )
        except FetchError as error:
            problem = UnreadableInputError(
                f"{wanted.name}: can't be fetched from {printable(without_password(url))} ({one_line(error)}); "
                f"try again, check the proxy (HTTPS_PROXY), or use a copy: `{wanted.command} --from FILE|URL`"
            )
    raise problem


@dataclass(kw_only=True)
class _Transfer:
    """The transfer of a file from one URL to `part`, over as many connections as needed."""

    wanted: Wanted
    url: str
    part: Path
    on_bytes: OnBytes
    validator: str | None = None
    """Identifies the server's version of the file: its ETag, or else its date."""
    resumed: bool = True
    """Whether `part` begins with bytes from before the last response."""

    def fetch(self) -> None:
        """Complete `part`. If it was resumed and its digest is wrong, fetch the complete file once more: the pieces may
        belong to different files.

        Raises FetchError, which leaves `part` for the next attempt, or _WrongContentError.
        """
        for _ in range(2):
            self._complete()
            if _digest(self.wanted, self.part) == self.wanted.digest:
                return
            self._discard()
            if not self.resumed:
                break
        raise _WrongContentError(f"sent {self.wanted.size:,} bytes with another {self.wanted.kind}: a different file")

    def _discard(self) -> None:
        self.on_bytes(-_size(self.part))
        self.part.unlink(missing_ok=True)

    def _complete(self) -> None:
        """Fetch until `part` has the size of the file. Resume after a broken connection."""
        size = most = _size(self.part)
        idle = 0
        while size < self.wanted.size:
            problem = FetchError("the connection ended early")
            try:
                self._receive()
            except FetchError as error:
                problem = error
                if isinstance(error, _RangeError) or error.status == 416:  # the server can't continue this `part`
                    self._discard()
            size = _size(self.part)
            # Progress means a new largest size: a server without ranges that always breaks off starts again at 0.
            idle, most = (0, size) if size > most else (idle + 1, most)
            if size < self.wanted.size:
                if problem.final or idle >= ATTEMPTS:
                    raise problem
                time.sleep(PAUSE * 2**idle)

    def _receive(self) -> None:
        """Send one request and append the body of its response to `part`."""
        kept = _size(self.part)
        headers = {"Accept-Encoding": "identity"}
        if kept:
            headers["Range"] = f"bytes={kept}-"
            if self.validator:
                headers["If-Range"] = self.validator  # if the file has changed, the server sends all of it
        with closing(open_url(self.url, headers, timeout=TIMEOUT)) as response:
            begin = _begin(self.wanted, response, kept)
            _check_response(self.wanted, response, begin)
            etag = response.headers.get("ETag", "")
            self.validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
            self.resumed = begin > 0
            self.on_bytes(begin - kept)
            self._append(response, begin)

    def _append(self, response: Any, size: int) -> None:
        """Write the body after the first `size` bytes of `part`. Raises _WrongContentError if the body is too long."""
        with open_own(self.part, "r+b" if os.path.lexists(self.part) else "ab") as file:
            file.truncate(size)
            file.seek(size)
            while size <= self.wanted.size:
                with network_errors():  # only here: other OSErrors come from this machine's disk
                    block = response.read1(min(CHUNK, self.wanted.size + 1 - size))
                if not block:
                    return
                file.write(block)
                size += len(block)
                self.on_bytes(len(block))
        self._discard()
        raise _WrongContentError(f"sent more than {self.wanted.size:,} bytes: a different file")


def _begin(wanted: Wanted, response: Any, kept: int) -> int:
    """Return the position in the file at which the response's body begins. Raises _RangeError."""
    if getattr(response, "status", None) != 206:
        return 0
    header = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", header)
    if (
        not match
        or int(match[1]) != kept
        or int(match[2]) != wanted.size - 1
        or match[3] not in (str(wanted.size), "*")
    ):
        expected = f"bytes {kept}-{wanted.size - 1}/{wanted.size}"
        raise _RangeError(f"the range {shown(header)}: expected {expected}")
    return kept


def _check_response(wanted: Wanted, response: Any, begin: int) -> None:
    """Recognise an error page or a login page by its headers. Raises _WrongContentError."""
    encoding = printable(response.headers.get("Content-Encoding", "identity"))[:60]
    if encoding.lower() not in ("identity", ""):
        raise _WrongContentError(f"sent it compressed ({encoding}), which was not requested: expected the file itself")
    kind = printable(response.headers.get("Content-Type", "unknown type"))[:60]
    length = response.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,15}", length):
        if begin + int(length) != wanted.size:
            raise _WrongContentError(f"sent {begin + int(length):,} bytes of {kind}: expected {wanted.size:,}")
    elif kind.startswith("text/html"):
        raise _WrongContentError(f"sent a web page ({kind}): expected a file of {wanted.size:,} bytes")
