"""The registry of published nets: `models/registry.json`, or another file that a site names."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from alexnet_infer.errors import ModelFileError, SpecError, UsageError, one_line, shown
from alexnet_infer.importing.run import Format

VARIABLE = "ALEXNET_INFER_REGISTRY"
"""Names a registry file to be used instead: a site's own nets, or its own mirrors."""

DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Hex digits of each kind. SHA-1, which Caffe's pages give, isn't one: another file with the same can be made."""


@dataclass(frozen=True, kw_only=True)
class PublishedError:
    """An error figure as its publisher gives it, in per cent."""

    top1: float
    top5: float
    views: str
    protocol: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """A net that can be fetched. Raises SpecError on values that make no sense."""

    name: str
    summary: str
    format: Format
    urls: tuple[str, ...]
    """Where the file lies; tried in this order."""
    size: int
    """In bytes."""
    digest: str
    """Kind and hex digits: "sha256:6b0d..."."""
    licence: str
    preset: str
    patch: int
    preprocessing: str
    """A convention of `alexnet_infer.importing.conventions`."""
    data: str
    date: str | None
    software: str
    error: PublishedError

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", self.name):
            raise SpecError(f"name={shown(self.name)}: expected lower-case letters, digits and hyphens")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "str" and (not isinstance(value, str) or not value.isprintable()):
                raise SpecError(f"{self.name}: {field.name}={shown(value)}: expected printable text")
        if self.format not in get_args(Format):
            raise SpecError(f"{self.name}: format={shown(self.format)}: expected {', '.join(get_args(Format))}")
        if type(self.size) is not int or not 0 < self.size < 2**40:
            raise SpecError(f"{self.name}: size={shown(self.size)}: expected a number of bytes")
        kind, _, digits = self.digest.partition(":")
        if kind not in DIGESTS or not re.fullmatch(f"[0-9a-f]{{{DIGESTS[kind]}}}", digits):
            raise SpecError(f"{self.name}: digest={shown(self.digest)}: expected {', '.join(DIGESTS)} and its digits")
        if not self.urls or not all(isinstance(url, str) and url.isprintable() for url in self.urls):
            raise SpecError(f"{self.name}: urls={shown(self.urls)}: expected addresses")

    @property
    def suffix(self) -> str:
        """Of the model file that it becomes."""
        return ".onnx" if self.format == "onnx-quantized" else ".safetensors"


def registry() -> Mapping[str, Published]:
    """All published nets by name. Raises ModelFileError when the registry file is missing or makes no sense."""
    return _read(_path())


def published(name: str) -> Published:
    """The net called `name`. Raises UsageError, with what may have been meant, when there is none."""
    nets = registry()
    if name in nets:
        return nets[name]
    near = difflib.get_close_matches(name, nets, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(f"no published net is called {shown(name)}{meant}; there are {', '.join(nets)}")


def _path() -> Path:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    here = Path(__file__).parents[1]
    places = [folder / "models" / "registry.json" for folder in (here, here.parent)]
    return next((place for place in places if place.is_file()), places[0])


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> Mapping[str, Published]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("nets"), list):
            raise SpecError("expected an object with format 1 and a list of nets")
        nets = [_net(item) for item in content["nets"]]
    except OSError as error:
        raise ModelFileError(f"{path}: the registry of nets can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # SpecError is a ValueError
        raise ModelFileError(f"{path}: is no registry of nets ({one_line(error)})") from None
    return {net.name: net for net in nets}


def _net(item: Any) -> Published:
    expected = {field.name for field in dataclasses.fields(Published)}
    if not isinstance(item, dict) or item.keys() != expected:
        wrong = expected ^ (item.keys() if isinstance(item, dict) else set())
        raise SpecError(f"a net with missing or unknown fields: {shown(sorted(wrong))}")
    try:
        error = PublishedError(**item["error"])
        return Published(**{**item, "urls": tuple(item["urls"]), "error": error})
    except (TypeError, AttributeError) as problem:
        raise SpecError(f"{shown(item.get('name'))}: {one_line(problem)}") from None
