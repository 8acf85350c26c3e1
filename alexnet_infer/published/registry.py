"""The registry of published nets: `models/registry.json`, or the file named by an environment variable."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args

from alexnet_infer.errors import ModelFileError, SpecError, UsageError, check_fields, meant, one_line, shown
from alexnet_infer.files import along
from alexnet_infer.importing.conventions import CONVENTIONS
from alexnet_infer.importing.formats import Format
from alexnet_infer.presets import PRESETS
from alexnet_infer.web import is_address

VARIABLE = "ALEXNET_INFER_REGISTRY"
"""The environment variable that names a registry file to use instead, with a site's own nets or mirrors."""

DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Number of hex digits of each kind. SHA-1, as on Caffe's pages, is not accepted: two files with the same digest can
be made."""


@dataclass(frozen=True, kw_only=True)
class PublishedError:
    """A net's top-1 and top-5 error in per cent, as published. Raises SpecError for invalid values."""

    top1: float
    top5: float
    views: str
    protocol: str
    source: str

    def __post_init__(self) -> None:
        for name in ("views", "protocol", "source"):
            _check_text(f"error: {name}", getattr(self, name))
        figures = (self.top5, self.top1)
        if not all(type(figure) in (int, float) and math.isfinite(figure) for figure in figures) or not (
            0 <= self.top5 <= self.top1 <= 100
        ):
            raise SpecError(f"error: top1, top5={shown(figures[::-1])}: expected percentages, top1 at least top5")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A net that can be pulled. Raises SpecError for invalid values."""

    name: str
    summary: str
    format: Format
    urls: tuple[str, ...]
    """URLs of the file, tried in this order."""
    size: int
    """Size of the file to download, in bytes."""
    digest: str
    """Kind and hex digits: "sha256:6b0d..."."""
    licence: str
    preset: str
    patch: int
    """Side of the patches, in pixels."""
    preprocessing: str
    """The name of a convention in `alexnet_infer.importing.conventions`."""
    data: str
    date: str | None
    software: str
    error: PublishedError

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", self.name):
            raise SpecError(f"name={shown(self.name)}: expected lower-case letters, digits and hyphens")
        if along(f"{self.name}.safetensors").is_file():
            raise SpecError(f"name={self.name}: is the name of a bundled net; expected another name")
        for field in ("summary", "digest", "licence", "data", "software"):
            _check_text(f"{self.name}: {field}", getattr(self, field))
        choices = {"format": get_args(Format), "preset": PRESETS, "preprocessing": CONVENTIONS}
        for field, known in choices.items():
            value = getattr(self, field)
            if not isinstance(value, str) or value not in known:
                raise SpecError(f"{self.name}: {field}={shown(value)}: expected {', '.join(known)}")
        if type(self.patch) is not int or not 0 < self.patch <= 4096:
            raise SpecError(f"{self.name}: patch={shown(self.patch)}: expected the side of the patches in pixels")
        try:
            if self.date is not None:
                date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise SpecError(f"{self.name}: date={shown(self.date)}: expected an ISO 8601 date, or null") from None
        if type(self.size) is not int or not 0 < self.size < 2**40:
            raise SpecError(f"{self.name}: size={shown(self.size)}: expected a number of bytes")
        kind, _, digits = self.digest.partition(":")
        if kind not in DIGESTS or not re.fullmatch(f"[0-9a-f]{{{DIGESTS[kind]}}}", digits):
            raise SpecError(
                f"{self.name}: digest={shown(self.digest)}: expected {' or '.join(DIGESTS)}, a colon and its hex digits"
            )
        if not self.urls or not all(
            isinstance(url, str) and url.isprintable() and is_address(url) for url in self.urls
        ):
            raise SpecError(f"{self.name}: urls={shown(self.urls)}: expected https://, http:// or file:// URLs")

    @property
    def suffix(self) -> str:
        """The suffix of the model file made from the download."""
        return ".onnx" if self.format == "onnx-quantized" else ".safetensors"


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise SpecError(f"{field}={shown(value)}: expected printable text")


def registry() -> Mapping[str, Published]:
    """Return all published nets by name. Raises ModelFileError if the registry file is missing or invalid."""
    return _read(_path())


def published(name: str) -> Published:
    """Return the published net `name`. Raises UsageError for an unknown name, with a similar name if there is one."""
    nets = registry()
    if name in nets:
        return nets[name]
    raise UsageError(f"{shown(name)} is not a published net{meant(name, nets)}; expected one of {', '.join(nets)}")


def _path() -> Path:
    if path := os.environ.get(VARIABLE):
        return Path(path)
    return along("registry.json")


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> Mapping[str, Published]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("nets"), list):
            raise SpecError("expected an object with format 1 and a list of nets")
        nets = [_net(item) for item in content["nets"]]
        name, count = (Counter(net.name for net in nets).most_common(1) or [("", 0)])[0]
        if count > 1:
            raise SpecError(f"{count} nets are called {name}: expected distinct names")
    except OSError as error:
        raise ModelFileError(f"{path}: the registry of nets can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # SpecError is a ValueError
        raise ModelFileError(f"{path}: not a registry of nets ({one_line(error)})") from None
    return {net.name: net for net in nets}


def _net(item: Any) -> Published:
    named = f"net {shown(item['name'])}" if isinstance(item, dict) and "name" in item else "a net"
    check_fields(named, item, Published)
    urls, error = item["urls"], item["error"]
    check_fields(f"{named}: error", error, PublishedError)
    if not isinstance(urls, list):
        raise SpecError(f"{named}: urls={shown(urls)}: expected a list of URLs")
    return Published(**{**item, "urls": tuple(urls), "error": PublishedError(**error)})
