"""The registry of published nets: `models/registry.json`, or the file named by an environment variable."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.errors import AlexNetInferError, ModelFileError, SpecError, UsageError, meant, one_line, shown
from alexnet_infer.files import MAX_JSON_BYTES, along, read_limited
from alexnet_infer.importing.conventions import CONVENTIONS
from alexnet_infer.importing.formats import Format
from alexnet_infer.presets import PRESETS
from alexnet_infer.strict_json import Date, Record, matching, number, whole
from alexnet_infer.web import is_address

VARIABLE = "ALEXNET_INFER_REGISTRY"
"""The environment variable that names a registry file to use instead, with a site's own nets or mirrors."""

Digest = Annotated[
    str,
    matching(
        "sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}",
        "sha256 or sha384 or sha512, a colon and its hex digits",
    ),
]
"""SHA-1, as on Caffe's pages, is not accepted: two files with the same digest can be made."""
Text = Annotated[str, Meta(pattern=r"\S", description="printable text")]
Name = Annotated[str, matching("[a-z0-9][a-z0-9-]{0,63}", "lower-case letters, digits and hyphens")]
Urls = Annotated[tuple[str, ...], Meta(min_length=1, description="a list of URLs")]
Percentage = Annotated[float, number(0, 100)]


class PublishedError(Record, kw_only=True):
    """A net's top-1 and top-5 error in per cent, as published. Raises SpecError for invalid values."""

    top1: Percentage
    top5: Percentage
    views: Text
    protocol: Text
    source: Text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top1 < self.top5:
            raise SpecError(f"top1, top5={self.top1}, {self.top5}: expected top1 to be at least top5")


class Published(Record, kw_only=True):
    """A net that can be pulled. Raises SpecError for invalid values."""

    name: Name
    summary: Text
    format: Format
    urls: Urls
    """URLs of the file, tried in this order."""
    size: Annotated[int, whole(1, 2**40 - 1)]
    """Size of the file to download, in bytes."""
    digest: Digest
    """Kind and hex digits: "sha256:6b0d..."."""
    licence: Text
    preset: str
    patch: Annotated[int, whole(1, 4096)]
    """Side of the patches, in pixels."""
    preprocessing: str
    """The name of a convention in `alexnet_infer.importing.conventions`."""
    data: Text
    date: Date | None
    software: Text
    error: PublishedError

    def __post_init__(self) -> None:
        super().__post_init__()
        strict_json.check_date(self.date)
        if along(f"{self.name}.safetensors").is_file():
            raise SpecError(f"name={self.name}: is the name of a bundled net; expected another name")
        for field, known in (("preset", PRESETS), ("preprocessing", CONVENTIONS)):
            if getattr(self, field) not in known:
                raise SpecError(f"{field}={shown(getattr(self, field))}: expected {', '.join(known)}")
        check_urls(self.urls)

    @property
    def suffix(self) -> str:
        """The suffix of the model file made from the download."""
        return ".onnx" if self.format == "onnx-quantized" else ".safetensors"


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
    return read_registry(path, "nets", Published, ModelFileError)


T = TypeVar("T", bound=Any)


def read_registry(path: Path, key: str, kind: type[T], error: type[AlexNetInferError]) -> Mapping[str, T]:
    """Return the records of the type `kind` in a registry file, by name.

    `key` is the field with the records, and says what they are: "nets". Raises `error` if the file can't be read or is
    invalid.
    """
    try:
        _, content = strict_json.parse_format(read_limited(path, MAX_JSON_BYTES), "registry", 1)
        records = strict_json.convert(content.get(key), tuple[kind, ...], key)
        check_distinct([record.name for record in records], key)
    except OSError as problem:
        raise error(f"{path}: the registry of {key} can't be read ({problem.strerror or problem})") from None
    except SpecError as problem:
        raise error(f"{path}: not a registry of {key} ({one_line(problem)})") from None
    return {record.name: record for record in records}


def check_distinct(names: Sequence[str | None], what: str) -> None:
    """Raise SpecError if a name occurs twice."""
    name, count = (Counter(names).most_common(1) or [("", 0)])[0]
    if count > 1:
        raise SpecError(f"{count} {what} are called {name}: expected distinct names")


def check_urls(urls: Sequence[str], field: str = "urls") -> None:
    """Raise SpecError unless each is an https, http or file URL."""
    if not all(url.isprintable() and is_address(url) for url in urls):
        raise SpecError(f"{field}={shown(urls)}: expected https://, http:// or file:// URLs")
