"""From trained nets to the files that were asked for: ONNX, an engine, and the README that says how to feed them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_infer.artifact import METADATA_KEY, Artifact, Manifest, load_artifact, sha256
from alexnet_infer.backends.opening import EXPORTED_SUFFIXES
from alexnet_infer.errors import UsageError
from alexnet_infer.export.calibration import Calibration, calibration_inputs
from alexnet_infer.export.engines.build import build_engine
from alexnet_infer.export.engines.files import Built, EngineOptions, description_path, save_engine
from alexnet_infer.export.engines.progress import build_bars
from alexnet_infer.export.info import Batch, ExportInfo, FileViews, Flavor, LRNForm, Member, Precision
from alexnet_infer.export.onnx_file import embed, save_model
from alexnet_infer.export.onnx_model import build_model
from alexnet_infer.export.quantize import MAX_BYTES, QuantizationOptions, quantize
from alexnet_infer.export.readme import SIGNATURE, readme
from alexnet_infer.files import write_atomically
from alexnet_infer.progress import counting

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export, from what, and where to. Raises UsageError on values that don't go together."""

    models: tuple[Path, ...]
    onnx: bool = True
    """Write the ONNX file."""
    engine: EngineOptions | None = None
    """Build an engine with these."""
    precision: Precision = "fp32"
    views: FileViews = "none"
    lrn: LRNForm = "op"
    batch: Batch = field(default_factory=Batch)
    flavor: Flavor | None = None
    """Of int8; None for that of the engine, or of CPUs where there is none."""
    calibration: Calibration | None = None
    out: Path | None = None
    """The folder; None for one in the working directory, named after the net and its form."""

    def __post_init__(self) -> None:
        for path in self.models:
            if path.suffix in EXPORTED_SUFFIXES:
                raise UsageError(f"{path}: was exported itself; expected the trained net that it was made of")
        if not self.onnx and self.engine is None:
            raise UsageError("nothing to export: expected --onnx, --trt or both")
        if (self.precision == "int8") != (self.calibration is not None):
            raise UsageError(
                "--precision int8: needs images to measure activations on; name a folder with --calibrate"
                if self.calibration is None
                else f"--calibrate {self.calibration.source}: is for --precision int8"
            )
        if self.flavor is not None and self.precision != "int8":
            raise UsageError(f"--int8-for {self.flavor}: is for --precision int8")
        if self.engine is not None and self.flavor == "cpu":
            raise UsageError("--int8-for cpu: TensorRT takes only signed activations; leave it out")
        if self.engine is not None and self.engine.flavor == "rtx" and self.lrn == "plugin":
            raise UsageError("--lrn plugin: TensorRT-RTX takes no plugins; use --lrn op")

    @property
    def int8_flavor(self) -> Flavor | None:
        """The flavor of int8 that is made."""
        if self.precision != "int8":
            return None
        return self.flavor or ("cpu" if self.engine is None else "tensorrt")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    manifest: Manifest
    info: ExportInfo
    folder: Path
    onnx: Path | None
    weights: tuple[Path, ...]
    """The file beside the ONNX file in which its weights lie, if they do."""
    engine: Path | None
    built: Built | None
    """The engine, and what is known of it."""

    @property
    def files(self) -> list[Path]:
        """All that was written but the README."""
        described = description_path(self.engine) if self.engine is not None else None
        return [path for path in (self.onnx, *self.weights, self.engine, described) if path is not None]


def export(request: ExportRequest) -> Exported:
    """Makes and writes what was asked for; nothing is written before all of it could be made.

    Raises ModelFileError for a net that can't be read, UsageError when the nets can't be in one file or the folder
    can't be written, UnreadableInputError without an image to calibrate on, and the errors of `build_engine`.
    """
    artifacts = [load_artifact(path) for path in request.models]
    info = _info(request, artifacts)
    with _folder(request.out or Path(folder_name(info))) as folder:
        return _export(request, artifacts, info, folder)


def _info(request: ExportRequest, artifacts: Sequence[Artifact]) -> ExportInfo:
    digests = [sha256(path) for path in request.models]
    for number, digest in enumerate(digests):
        if (first := digests.index(digest)) != number:
            one, other = request.models[number], request.models[first]
            raise UsageError(f"{one}: the same net as {other}; an ensemble needs different nets")
    return ExportInfo(
        members=tuple(
            Member(name=artifact.manifest.name, sha256=digest)
            for artifact, digest in zip(artifacts, digests, strict=True)
        ),
        views=request.views,
        precision=request.precision,
        lrn=request.lrn,
        batch=request.batch,
        flavor=request.int8_flavor,
    )


def _export(request: ExportRequest, artifacts: Sequence[Artifact], info: ExportInfo, folder: Path) -> Exported:
    outside: dict[str, np.ndarray] = {}
    model = build_model(artifacts, info, outside)
    if request.calibration is not None:
        if (size := _size(model, outside)) > MAX_BYTES:  # asked before: a message of more can't even tell its size
            raise UsageError(
                f"--precision int8: the nets have {size / 1e9:.1f} GB of float weights; expected at most "
                f"{MAX_BYTES / 1e9:.1f}, so fewer nets"
            )
        embed(model, outside)
        outside = {}
        model = _quantized(model, artifacts[0].manifest, info, request.calibration)
    manifest = _manifest_of(model)
    built = None
    if request.engine is not None:
        content = _content(model, outside)
        with build_bars() as on_progress:
            built = build_engine(content, manifest, info, request.engine, on_progress=on_progress)
    stem = file_stem(info)
    onnx_path, weights, engine_path = None, (), None
    with _writing(folder):
        if request.onnx:
            onnx_path, *beside = save_model(folder / f"{stem}.onnx", model, outside)
            weights = tuple(beside)
        if built is not None:
            engine_path, _ = save_engine(folder / f"{stem}.engine", built)
        text = readme(manifest, info, onnx_path, engine_path, built and built.description.runtime)
        write_atomically(folder / "README.md", text.encode())
    return Exported(
        manifest=manifest, info=info, folder=folder, onnx=onnx_path, weights=weights, engine=engine_path, built=built
    )


def folder_name(info: ExportInfo) -> str:
    """As in "alexnet-64-fp16-ten"; "alexnet-64-and-4-more-fp32" for several nets."""
    views = "" if info.views == "none" else f"-{info.views}"
    return f"{file_stem(info)}-{info.precision}{views}"


def file_stem(info: ExportInfo) -> str:
    """The net's name, in letters that every system takes."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", info.members[0].name).strip(".-")[:80] or "alexnet"
    return name if len(info.members) == 1 else f"{name}-and-{len(info.members) - 1}-more"


def _quantized(
    model: onnx.ModelProto, manifest: Manifest, info: ExportInfo, calibration: Calibration
) -> onnx.ModelProto:
    options = QuantizationOptions(
        method=calibration.method, flavor=info.flavor or "cpu", keep_float=calibration.keep_float
    )
    with counting("calibrating", calibration.images) as advance:
        views = 1 if info.takes_squares else 10

        def batches() -> Iterator[np.ndarray]:
            for batch in calibration_inputs(calibration.source, calibration.images, manifest, info):
                yield batch
                advance(len(batch) // views)

        return quantize(model, batches(), options)


def _manifest_of(model: onnx.ModelProto) -> Manifest:
    return Manifest.from_json(next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY))


def _size(model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> int:
    """Bytes of the model in one piece."""
    return model.ByteSize() + sum(values.nbytes for values in outside.values())


def _content(model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> bytes:
    """The model in one piece, as engine builders take it."""
    import onnx

    size = _size(model, outside)
    if size >= 2**31:
        raise UsageError(f"--trt: the nets have {size / 1e9:.1f} GB of weights; expected less than 2, so fewer nets")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    embed(whole, outside)
    return whole.SerializeToString()


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """`folder`, found to be writable before minutes are spent on what could then not be written. Of what had to be made
    for it, nothing empty stays behind when those minutes end in an error."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.urandom(4).hex()}.tmp"
            probe.touch(exist_ok=False)
            probe.unlink()
            _spare(folder / "README.md")
        yield folder
    except BaseException:
        with suppress(OSError):  # it isn't there, or not empty
            for place in missing:
                place.rmdir()
        raise


def _spare(place: Path) -> None:
    """Refuses to write a README over one that isn't ours: with `--out .` that would be a project's own."""
    if place.exists() and SIGNATURE.encode() not in place.read_bytes():
        raise UsageError(
            f"--out {place.parent}: has a {place.name} of its own, which would be overwritten; expected another folder"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out {folder}: can't be written ({error.strerror or error})") from None
