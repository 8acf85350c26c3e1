"""Where a served net is, as a user writes it: `http://HOST:8000/NAME` or `grpc://HOST:8001/NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.preprocess import Views

Scheme = Literal["http", "https", "grpc", "grpcs"]

FORMS = "http://HOST:8000/NAME or grpc://HOST:8001/NAME"
LONGEST_TIMEOUT = 3600
"""The most seconds that `timeout` may be."""


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A model on a server of the Open Inference Protocol (KServe v2), and what the user says of it."""

    scheme: Scheme
    host: str
    """HOST or HOST:PORT, with an IPv6 address in brackets."""
    base: str = ""
    """The path before /v2, as "/triton", or ""."""
    name: str
    version: str = ""
    """"" for the version that the server chooses."""
    manifest: Path | None = None
    """The name or file of the net whose classes and preprocessing apply, if the server doesn't tell."""
    views: Views | None = None
    """The views that the server averages, if it takes squares and doesn't tell."""
    timeout: float = 60.0
    """Seconds that an answer may take."""

    def __str__(self) -> str:
        """The address without its options."""
        models = f"{self.base}/v2/models" if self.base else ""
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.scheme}://{self.host}{models}/{quote(self.name)}{version}"

    @property
    def encrypted(self) -> bool:
        return self.scheme in ("https", "grpcs")

    @property
    def over_grpc(self) -> bool:
        return self.scheme in ("grpc", "grpcs")

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Parse an address, also one with a version (`.../NAME/versions/2`) or in KServe's form (`/v2/models/NAME`).

        Options follow as in a URL: `?manifest=NET&views=ten&timeout=60`. Raises UsageError, whose message has no part
        that may be a password.
        """
        try:
            url = urlsplit(text)
            named, port = url.hostname, url.port
            (named or "").encode("idna")  # gevent would print a traceback of an empty or too long part
        except ValueError:
            raise UsageError(f"the address of a server is invalid: expected {FORMS}") from None
        if "@" in url.netloc:
            raise UsageError(f"the address of a server with a user or a password: not supported, expected {FORMS}")
        if url.scheme not in get_args(Scheme):
            raise UsageError(f"the address of a server starts with {url.scheme}: expected {FORMS}")
        if not named or url.fragment or not url.netloc.isprintable():
            raise UsageError(f"the address of a server is invalid: expected {FORMS}")
        where = f"{url.scheme}://{url.netloc}"
        if url.scheme in ("grpc", "grpcs") and port is None:
            raise UsageError(f"{where}: expected a port, as in {url.scheme}://{url.netloc}:8001/NAME")
        base, name, version = _parts(url, where)
        return cls(scheme=url.scheme, host=url.netloc, base=base, name=name, version=version, **_options(url, where))


Source = Path | ServerAddress
"""Where a net is: its file, or a model on a server."""


def is_address(text: str) -> bool:
    """Return whether a user's text is meant as the address of a server, not as a name or a path.

    One that is mistyped is, too: it may have a password, which a message about a missing file would repeat.
    """
    return re.match(rf"(?:{'|'.join(get_args(Scheme))}):|[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE) is not None


def _parts(url: SplitResult, where: str) -> tuple[str, str, str]:
    """Return the base path, the model's name and its version or ""."""
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    base: list[str] = []
    for i in range(len(parts) - 2):
        if parts[i : i + 2] == ["v2", "models"]:
            base, parts = parts[:i], parts[i + 2 :]
            break
    if len(parts) in (2, 4) and parts[-1] == "infer":
        parts.pop()
    match parts:
        case [name]:
            version = ""
        case [name, "versions", version] if re.fullmatch(r"[\w.-]+", version, re.ASCII):
            pass
        case _:
            name = version = ""
    if not name or not name.isprintable() or "/" in name or name in (".", ".."):
        raise UsageError(f"{where}: expected one model, as in {FORMS}, or .../NAME/versions/2")
    if name.endswith((".safetensors", ".onnx", ".engine", ".plan")):
        raise UsageError(f"{where}/.../{name}: a net's file can't be used at a URL: download it, and name the file")
    if base and url.scheme in ("grpc", "grpcs"):
        raise UsageError(f"{where}: gRPC has no paths before /v2; expected {url.scheme}://{url.netloc}/{name}")
    if not all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) for part in base):
        raise UsageError(f"{where}: expected a plain path before /v2")
    return "".join(f"/{part}" for part in base), name, version


def _options(url: SplitResult, where: str) -> dict[str, object]:
    pairs = parse_qsl(url.query, keep_blank_values=True)
    given = dict(pairs)
    if given.keys() - {"manifest", "views", "timeout"}:
        raise UsageError(f"{where}: expected nothing but manifest=NET, views=ten and timeout=SECONDS after the ?")
    if len(given) < len(pairs):
        raise UsageError(f"{where}: an option occurs twice after the ?")
    options: dict[str, object] = {}
    if "manifest" in given:
        if not given["manifest"]:
            raise UsageError(f"{where}: manifest is empty: expected the name or the file of a net")
        options["manifest"] = Path(given["manifest"])
    if "views" in given:
        if given["views"] not in get_args(Views):
            raise UsageError(f"{where}: views={shown(given['views'])}: expected {' or '.join(get_args(Views))}")
        options["views"] = given["views"]
    if "timeout" in given:
        options["timeout"] = _seconds(given["timeout"], where)
    return options


def _seconds(text: str, where: str) -> float:
    seconds = float(text) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text, re.ASCII) else 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise UsageError(f"{where}: timeout={shown(text)}: expected seconds, more than 0 and at most {LONGEST_TIMEOUT}")
    return seconds
