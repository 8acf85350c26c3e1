"""What a passport says, as data."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from alexnet_infer.artifact import sha256
from alexnet_infer.benchmark.measure import Benchmark
from alexnet_infer.engines.files import EnginePlatform
from alexnet_infer.evaluation.gate import Verdict
from alexnet_infer.export.keep_float import FloatLayers
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.machine import cpu_name
from alexnet_infer.version import __version__

KIND, FORMAT = "alexnet-infer passport", 1
"""What a file of JSON begins with."""

_PACKAGES = ("numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
"""What may change a figure. Those that are installed are named with their versions."""


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One of the exported files."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Read the file."""
        return cls(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))


@dataclass(frozen=True, kw_only=True)
class Check:
    """A file that was compared with its nets, or the reason why it was not."""

    file: str
    verdict: Verdict | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What reproduces each figure, in the working folder of the export."""

    files: str
    digests: str
    comparison: dict[str, str]
    """File -> command."""
    latency: str | None


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where the figures were measured."""

    cpu: str
    cores: int
    system: str

    @classmethod
    def this(cls) -> Host:
        return cls(cpu=cpu_name(), cores=os.cpu_count() or 1, system=f"{platform.system()} {platform.machine()}")


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the installed packages that may change a figure."""
    found = {"alexnet-infer": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Passport:
    """All that is known about the files of one export."""

    net: str
    info: ExportInfo
    files: tuple[FileDigest, ...]
    float_layers: FloatLayers | None
    """How the layers that stay in float were chosen, if they were."""
    engine: EnginePlatform | None
    """What the engine, if there is one, was built by and for."""
    images: str
    """The images of the comparison, for display."""
    checks: tuple[Check, ...]
    benchmark: Benchmark | None
    """The files' speed on this machine, each beside its net. None if no file runs here."""
    machine: Host
    versions: dict[str, str]
    commands: Commands
    date: str
    """In ISO 8601, UTC."""

    def to_json(self) -> dict[str, Any]:
        """Return the passport as objects that `json.dumps` accepts."""
        checks = {
            check.file: {"not_compared": check.reason} if check.verdict is None else check.verdict.to_json()
            for check in self.checks
        }
        return {
            "kind": KIND,
            "format": FORMAT,
            "net": self.net,
            "date": self.date,
            "files": [asdict(file) for file in self.files],
            "export": json.loads(self.info.to_json()),
            "float_layers": self.float_layers.to_json() if self.float_layers is not None else None,
            "engine": msgspec.structs.asdict(self.engine) if self.engine is not None else None,
            "comparison": {"images": self.images, "files": checks},
            "latency": self.benchmark.to_json() if self.benchmark is not None else None,
            "machine": asdict(self.machine),
            "versions": self.versions,
            "commands": asdict(self.commands),
        }
