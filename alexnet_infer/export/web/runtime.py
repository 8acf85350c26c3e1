"""onnxruntime-web: the version that the page runs, and the hashes that its files must have."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UnreadableInputError, cause_of, shown
from alexnet_infer.files import read_limited

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
"""Serves the files of the npm package."""


@dataclass(frozen=True, kw_only=True)
class RuntimeFile:
    """A file in `dist/` of the npm package."""

    name: str
    bytes: int
    integrity: str
    """Its hash, as browsers and npm write it: "sha384-" and the digest in base64."""


SCRIPT = RuntimeFile(
    name="ort.wasm.bundle.min.mjs",
    bytes=73_054,
    integrity="sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
)
BINARY = RuntimeFile(
    name="ort-wasm-simd-threaded.wasm",
    bytes=14_239_897,
    integrity="sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
)


def integrity_of(content: bytes) -> str:
    """Return the hash of a file as the attribute `integrity` of a web page has it."""
    return "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()


def read_runtime(folder: Path) -> dict[RuntimeFile, bytes]:
    """Return the files of an unpacked npm package, after checking its name, its version and the files' hashes.

    Raises UnreadableInputError if one is missing or differs.
    """
    expected = f"expected {PACKAGE} {VERSION}, unpacked: npm pack {PACKAGE}@{VERSION} && tar xf {PACKAGE}-{VERSION}.tgz"
    package = _json(_read(folder / "package.json", 1_000_000, expected), expected)
    found = (package.get("name"), package.get("version"))
    if found != (PACKAGE, VERSION):
        raise UnreadableInputError(f"--runtime {folder}: is {shown(found[0])} {shown(found[1])}; {expected}")
    files = {file: _read(folder / "dist" / file.name, file.bytes, expected) for file in (SCRIPT, BINARY)}
    for file, content in files.items():
        if (actual := integrity_of(content)) != file.integrity:
            raise UnreadableInputError(
                f"--runtime {folder}: dist/{file.name} has the hash {actual}, and version {VERSION} has "
                f"{file.integrity}; unpack the package again"
            )
    return files


def _read(path: Path, most: int, expected: str) -> bytes:
    try:
        return read_limited(path, most)
    except (OSError, SpecError) as error:
        raise UnreadableInputError(f"--runtime: {path}: {cause_of(error)}; {expected}") from None


def _json(text: bytes, expected: str) -> dict[str, Any]:
    try:
        data = strict_json.parse(text, "package.json")
    except SpecError as error:
        raise UnreadableInputError(f"--runtime: {error}; {expected}") from None
    return data if isinstance(data, dict) else {}
