"""TensorRT engines as files, and the options for building them.

`net.engine` is the bare plan, which trtexec also accepts. A plan has no room for a manifest, so `net.engine.json` is
stored beside it with the net, its input, what built the plan and for which GPU, and the plan's SHA-256. An engine is
refused unless its SHA-256 matches its description.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, cause_of, one_line, shown
from alexnet_infer.files import read_limited, write_atomically
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.manifest import Manifest
from alexnet_infer.strict_json import Record, Sha256, Text

FORMAT = 1

EngineFlavor = Literal["tensorrt", "rtx"]
"""TensorRT builds on a GPU, for that GPU. TensorRT-RTX ("rtx") builds without a GPU, for several kinds of GPU, and
finishes compiling where the engine runs."""

RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Default compute capabilities of an RTX engine. 7.5 is left out, because it does not support float32."""

MAX_DESCRIPTION_BYTES = 2**26
MAX_PLAN_BYTES = 2**32
"""The largest engine that is read: twice the largest ONNX file from which one is built."""
MIB = 2**20
Capability = Annotated[str, strict_json.matching(r"[0-9]{1,2}\.[0-9]", "capabilities such as '8.6'")]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built. The batch is in `ExportInfo`. Raises UsageError on invalid values."""

    flavor: EngineFlavor = "tensorrt"
    workspace: int | None = None
    """GPU memory that a layer may use while it runs, in bytes. None for TensorRT's default, all memory."""
    optimization_level: int | None = None
    """From 0 (fast to build) to 5 (fast to run). None for TensorRT's default, 3."""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities to build for, with RTX only. TensorRT builds for the GPU in this machine."""

    def __post_init__(self) -> None:
        if self.flavor not in get_args(EngineFlavor):
            raise UsageError(f"--flavor {shown(self.flavor)}: expected {' or '.join(get_args(EngineFlavor))}")
        if self.workspace is not None and self.workspace < MIB:
            raise UsageError(f"--workspace {self.workspace}: expected at least {MIB} bytes, which is 1MiB")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"--optimization-level {self.optimization_level}: expected 0 to 5")
        if self.capabilities and self.flavor != "rtx":
            raise UsageError(
                f"--compute-capability {','.join(self.capabilities)}: TensorRT builds for the GPU in this machine; "
                "leave it out, or add --flavor rtx"
            )
        for capability in self.capabilities:
            if not strict_json.fits(capability, Capability) or self.capabilities.count(capability) > 1:
                raise UsageError(
                    f"--compute-capability {shown(','.join(self.capabilities))}: "
                    "expected distinct compute capabilities, as in 8.6,8.9,12.0"
                )

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities to build for. Empty for TensorRT."""
        return (self.capabilities or RTX_CAPABILITIES) if self.flavor == "rtx" else ()


def parse_workspace(text: str) -> int:
    """Return the number of bytes in a text such as "512MiB" or "2GiB". Raises UsageError."""
    if not (match := re.fullmatch("([0-9]{1,6}) ?([MG])iB", text)):
        raise UsageError(f"--workspace {shown(text)}: expected MiB or GiB, as in 512MiB or 2GiB")
    return int(match[1]) * (MIB if match[2] == "M" else 1024 * MIB)


class EnginePlatform(Record, kw_only=True):
    """What built an engine, and so what can run it: TensorRT and GPUs. Raises SpecError on invalid values."""

    flavor: EngineFlavor
    version: Text
    """The version of TensorRT or TensorRT-RTX that built the engine. Only this version can run it."""
    compute_capabilities: Annotated[
        tuple[Capability, ...], Meta(min_length=1, description="capabilities such as '8.6'")
    ]
    gpu: Text | None
    """The name of the GPU. None for RTX, which builds for all GPUs of those capabilities."""
    driver: Text | None
    """The version of the GPU's driver, as in `Gpu`. None for RTX."""
    plugin: bool
    """Whether the engine contains alexnet-infer's LRN plugin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gpu", "driver"):
            if self.flavor == "tensorrt" and getattr(self, name) is None:
                raise SpecError(f"{name}=None: expected printable text, since TensorRT builds for one GPU")

    @property
    def title(self) -> str:
        """The library's name and version, such as "TensorRT 11.4.0"."""
        return f"{'TensorRT-RTX' if self.flavor == 'rtx' else 'TensorRT'} {self.version}"


class EngineDescription(Record, kw_only=True):
    """Everything known about an engine, except its plan. Raises SpecError on invalid values."""

    manifest: Manifest
    """The manifest, as in an ONNX file."""
    info: ExportInfo = msgspec.field(name="export")
    platform: EnginePlatform = msgspec.field(name="runtime")
    sha256: Sha256
    """SHA-256 of the plan, in hexadecimal."""
    model_sha256: Sha256
    """SHA-256 of the ONNX model that the engine was built from, in hexadecimal."""

    def to_json(self) -> str:
        """Return canonical JSON. `from_json` restores it exactly."""
        return json.dumps(
            {
                "format": FORMAT,
                "manifest": self.manifest.to_json(),
                "export": self.info.to_json(),
                "runtime": msgspec.to_builtins(self.platform),
                "sha256": self.sha256,
                "model_sha256": self.model_sha256,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> EngineDescription:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown or invalid."""
        _, data = strict_json.parse_format(text, "engine", FORMAT)
        return strict_json.build(data, cls, "engine", manifest=Manifest.from_json, info=ExportInfo.from_json)


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine: its plan and its description."""

    plan: bytes = field(repr=False)
    description: EngineDescription


def description_path(path: Path) -> Path:
    """Return the path of the description of the engine `path`."""
    return path.with_name(f"{path.name}.json")


def save_engine(path: Path, built: Built) -> list[Path]:
    """Write an engine and its description, and return both paths. Raises OSError if a file can't be written.

    A process that reads between the two writes finds a plan that doesn't match the old description, and refuses it.
    """
    write_atomically(path, built.plan)
    write_atomically(description_path(path), built.description.to_json().encode())
    return [path, description_path(path)]


def read_description(path: Path) -> EngineDescription:
    """Read the description of the engine `path`, without reading the engine. Raises ModelFileError."""
    description = description_path(path)
    try:
        return EngineDescription.from_json(read_limited(description, MAX_DESCRIPTION_BYTES).decode())
    except FileNotFoundError:
        raise ModelFileError(
            f"{path}: has no description: expected {description.name} beside it, as written by alexnet-infer export"
        ) from None
    except OSError as error:
        raise ModelFileError(f"{description}: {cause_of(error)}") from None
    except (SpecError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{description}: {one_line(error)}") from None


def read_engine(path: Path) -> Built:
    """Read an engine and its description, and check that they match. No code in the plan is run.

    Raises ModelFileError if either is missing or damaged, or the plan is not the one that was described.
    """
    try:
        if not path.exists():
            raise SpecError("no such file")
        description = read_description(path)
        plan = read_limited(path, MAX_PLAN_BYTES)
    except OSError as error:
        raise ModelFileError(f"{path}: {cause_of(error)}") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None
    if hashlib.sha256(plan).hexdigest() != description.sha256:
        raise ModelFileError(
            f"{path}: damaged, or not the engine that {description_path(path).name} describes "
            "(its SHA-256 differs): export it again"
        )
    return Built(plan=plan, description=description)
