"""TensorRT engines as files, and what one is built with.

`net.engine` is the bare plan, which trtexec takes too. A plan has no room for a manifest, so `net.engine.json` lies
beside it: which net it is, what it takes, what built it for which GPU, and the SHA-256 of the plan that all this is
said of. Of an engine and a description that don't belong together, none is ever used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from alexnet_infer.artifact import Manifest
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, one_line, shown
from alexnet_infer.export.info import ExportInfo
from alexnet_infer.files import write_atomically

FORMAT = 1

EngineFlavor = Literal["tensorrt", "rtx"]
"""TensorRT, which builds on the GPU that will run the engine, for that GPU; or TensorRT-RTX, which builds without one
for many, and compiles the rest where it runs."""

RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""What an RTX engine is built for where nothing else is said. 7.5 is left out: it takes no float32."""

MAX_DESCRIPTION_BYTES = 2**26
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built; for which batch, `ExportInfo` says. Raises UsageError on values that make no sense."""

    flavor: EngineFlavor = "tensorrt"
    workspace: int | None = None
    """Bytes of GPU memory that a layer may use while it runs. None leaves it to TensorRT: all that there is."""
    optimization_level: int | None = None
    """From 0, built fast, to 5, runs fast. None leaves it to TensorRT: 3."""
    capabilities: tuple[str, ...] = ()
    """GPUs' compute capabilities, of RTX only. TensorRT builds for the GPU at hand."""

    def __post_init__(self) -> None:
        if self.flavor not in get_args(EngineFlavor):
            raise UsageError(f"--flavor {shown(self.flavor)}: expected {' or '.join(get_args(EngineFlavor))}")
        if self.workspace is not None and self.workspace < MIB:
            raise UsageError(f"--workspace {self.workspace}: expected at least {MIB} bytes, which is 1MiB")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"--optimization-level {self.optimization_level}: expected 0 to 5")
        if self.capabilities and self.flavor != "rtx":
            raise UsageError(
                f"--compute-capability {','.join(self.capabilities)}: TensorRT builds for the GPU at hand; "
                "leave it out, or add --flavor rtx"
            )
        for capability in self.capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability) or self.capabilities.count(capability) > 1:
                raise UsageError(
                    f"--compute-capability {shown(','.join(self.capabilities))}: "
                    "expected different compute capabilities, as in 8.6,8.9,12.0"
                )

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities to build for; none for TensorRT."""
        return (self.capabilities or RTX_CAPABILITIES) if self.flavor == "rtx" else ()


def parse_workspace(text: str) -> int:
    """ "512MiB" or "2GiB" as bytes. Raises UsageError."""
    if not (found := re.fullmatch(r"(\d{1,6}) ?([MG])iB", text)):
        raise UsageError(f"--workspace {shown(text)}: expected MiB or GiB, as in 512MiB or 2GiB")
    return int(found[1]) * (MIB if found[2] == "M" else 1024 * MIB)


@dataclass(frozen=True, kw_only=True)
class EngineRuntime:
    """What built an engine, and what can run it. Raises SpecError on values that make no sense."""

    flavor: EngineFlavor
    version: str
    """Of TensorRT or TensorRT-RTX. No other will do."""
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    """The GPU's name; None for RTX, which builds for all GPUs of those capabilities."""
    driver: str | None
    """The version of the GPU's driver, as far as it could be found out."""
    plugin: bool
    """Whether our LRN plugin is in it."""

    def __post_init__(self) -> None:
        if self.flavor not in get_args(EngineFlavor):
            raise SpecError(f"flavor={shown(self.flavor)}: expected {' or '.join(get_args(EngineFlavor))}")
        texts = {"version": self.version, "gpu": self.gpu, "driver": self.driver}
        for name, value in texts.items():
            missing = value is None and self.flavor == "rtx" and name != "version"
            if not missing and not (isinstance(value, str) and value and value.isprintable()):
                raise SpecError(f"{name}={shown(value)}: expected printable text")
        capabilities = self.compute_capabilities
        if not capabilities or not all(isinstance(c, str) and re.fullmatch(r"\d{1,2}\.\d", c) for c in capabilities):
            raise SpecError(f"compute_capabilities={shown(capabilities)}: expected them as in 8.6")
        if not isinstance(self.plugin, bool):
            raise SpecError(f"plugin={shown(self.plugin)}: expected true or false")

    @property
    def title(self) -> str:
        """The runtime's name and version, for people."""
        return f"{'TensorRT-RTX' if self.flavor == 'rtx' else 'TensorRT'} {self.version}"


@dataclass(frozen=True, kw_only=True)
class EngineDescription:
    """All that is known of an engine but its plan. Raises SpecError on values that make no sense."""

    manifest: Manifest
    """Of the first net, as in an ONNX file."""
    info: ExportInfo
    runtime: EngineRuntime
    sha256: str
    """Of the plan."""
    model_sha256: str
    """Of the ONNX model that it was built from."""

    def __post_init__(self) -> None:
        for name in ("sha256", "model_sha256"):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
                raise SpecError(f"{name}={shown(value)}: expected 64 hexadecimal digits")

    def to_json(self) -> str:
        """Canonical JSON; `from_json` restores it exactly."""
        return json.dumps(
            {
                "format": FORMAT,
                "manifest": self.manifest.to_json(),
                "export": self.info.to_json(),
                "runtime": dataclasses.asdict(self.runtime),
                "sha256": self.sha256,
                "model_sha256": self.model_sha256,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> EngineDescription:
        """Inverse of `to_json`. Raises SpecError on anything missing, surplus, out of range or contradictory."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"is not JSON ({one_line(error)})") from None
        found = data.get("format") if isinstance(data, dict) else None
        if type(found) is not int or found != FORMAT:
            raise SpecError(f"format {shown(found)}: this version reads format {FORMAT}")
        _check_keys("the description", data, {"format", "manifest", "export", "runtime", "sha256", "model_sha256"})
        for name in ("manifest", "export"):
            if not isinstance(data[name], str):
                raise SpecError(f"{name}={shown(data[name])}: expected JSON as text")
        runtime = data["runtime"]
        _check_keys("runtime", runtime, {item.name for item in dataclasses.fields(EngineRuntime)})
        if not isinstance(runtime["compute_capabilities"], list):
            raise SpecError(f"compute_capabilities={shown(runtime['compute_capabilities'])}: expected a list")
        return cls(
            manifest=Manifest.from_json(data["manifest"]),
            info=ExportInfo.from_json(data["export"]),
            runtime=EngineRuntime(**{**runtime, "compute_capabilities": tuple(runtime["compute_capabilities"])}),
            sha256=data["sha256"],
            model_sha256=data["model_sha256"],
        )


def _check_keys(where: str, data: Any, expected: set[str]) -> None:
    if not isinstance(data, dict) or data.keys() != expected:
        wrong = sorted(data.keys() ^ expected) if isinstance(data, dict) else data
        raise SpecError(f"{where}: missing or unknown fields: {shown(wrong)}")


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine: the plan, and what is known of it."""

    plan: bytes = field(repr=False)
    description: EngineDescription


def description_path(path: Path) -> Path:
    """Where the description of the engine `path` lies."""
    return path.with_name(f"{path.name}.json")


def save_engine(path: Path, built: Built) -> list[Path]:
    """Writes an engine and its description; returns both paths. Raises OSError when a file can't be written.

    Whoever reads between the two finds a plan that the old description is not of, and refuses it.
    """
    write_atomically(path, built.plan)
    write_atomically(description_path(path), built.description.to_json().encode())
    return [path, description_path(path)]


def read_description(path: Path) -> EngineDescription:
    """What is said of the engine `path`, which itself isn't read. Raises ModelFileError."""
    place = description_path(path)
    try:
        return EngineDescription.from_json(_read(place, MAX_DESCRIPTION_BYTES).decode())
    except FileNotFoundError:
        raise ModelFileError(
            f"{path}: nothing says what is in it: expected {place.name} beside it, as alexnet-infer export writes it"
        ) from None
    except OSError as error:
        raise ModelFileError(f"{place}: {error.strerror or one_line(error)}") from None
    except (SpecError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{place}: {one_line(error)}") from None


def read_engine(path: Path) -> Built:
    """An engine with its description, found to belong together. Nothing of the plan has been run.

    Raises ModelFileError when either is missing or damaged, or the plan is not the one that was described.
    """
    try:
        if not path.exists():
            raise SpecError("no such file")
        description = read_description(path)
        plan = _read(path)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or one_line(error)}") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None
    if hashlib.sha256(plan).hexdigest() != description.sha256:
        raise ModelFileError(
            f"{path}: damaged, or not the engine that {description_path(path).name} describes "
            "(its SHA-256 differs): export it again"
        )
    return Built(plan=plan, description=description)


def _read(path: Path, most: int | None = None) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SpecError("is not a regular file: expected a model file")
    if most is not None and status.st_size > most:
        raise SpecError(f"has {status.st_size} bytes: expected a description, at most {most}")
    return path.read_bytes()
