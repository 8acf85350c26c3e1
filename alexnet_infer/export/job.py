"""The export job: write trained nets as an ONNX file, an engine or both, with a README that explains their use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_infer.artifact import Artifact, check_different, load_artifact, sha256
from alexnet_infer.backends.opening import is_exported
from alexnet_infer.engines.files import Built, EngineOptions, description_path, save_engine
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.export.calibration import Calibration
from alexnet_infer.export.engine_build import build_engine
from alexnet_infer.export.engine_progress import build_bars
from alexnet_infer.export.int8 import Quantized, quantized
from alexnet_infer.export.keep_float import FloatLayers
from alexnet_infer.export.readme import SIGNATURE, readme
from alexnet_infer.files import read_limited, safe_name, write_atomically, writing
from alexnet_infer.graph.check import check_graph
from alexnet_infer.graph.file import MAX_BYTES, MAX_WEIGHTS, embed, save_model
from alexnet_infer.graph.info import Batch, ExportInfo, FileViews, Int8For, LRNForm, Member, Precision
from alexnet_infer.graph.model import build_model
from alexnet_infer.layers import PROBABILITIES, find_layers
from alexnet_infer.manifest import METADATA_KEY, Manifest
from alexnet_infer.reading import Unreadable

if TYPE_CHECKING:
    import onnx

MAX_README_BYTES = 1_000_000
"""The largest README.md that may be alexnet-infer's own, which has a few kB."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export, from which nets, and to which folder. Raises UsageError if values contradict each other."""

    models: tuple[Path, ...]
    onnx: bool = True
    """Write the ONNX file."""
    engine: EngineOptions | None = None
    """Build an engine with these options. None for no engine."""
    precision: Precision = "fp32"
    views: FileViews = "none"
    lrn: LRNForm = "op"
    batch: Batch = field(default_factory=Batch)
    int8_for: Int8For | None = None
    """The kind of int8. None: "tensorrt" if an engine is built, otherwise "cpu"."""
    calibration: Calibration | None = None
    outputs: tuple[str, ...] = (PROBABILITIES,)
    """The layers that the ONNX file returns (`alexnet_infer.layers`)."""
    out: Path | None = None
    """The folder to write. None: a folder in the working directory with the name that `folder_name` gives."""

    def __post_init__(self) -> None:
        for path in self.models:
            if is_exported(path):
                raise UsageError(f"{path}: is an exported file; expected the trained net that it was made from")
        if not self.onnx and self.engine is None:
            raise UsageError("nothing to export: expected --onnx, --trt or both")
        if (self.precision == "int8") != (self.calibration is not None):
            raise UsageError(
                "--precision int8: needs images; name a labelled set or a folder of photos with --calibrate"
                if self.calibration is None
                else f"--calibrate {self.calibration.source}: applies to --precision int8 only"
            )
        if self.calibration and self.calibration.max_drop is not None and PROBABILITIES not in self.outputs:
            raise UsageError(
                f"--keep-float auto: measures probabilities, which --outputs {','.join(self.outputs)} leaves out; name "
                "the layers to keep, or add probabilities to the outputs"
            )
        if self.int8_for is not None and self.precision != "int8":
            raise UsageError(f"--int8-for {self.int8_for}: applies to --precision int8 only")
        if self.outputs != (PROBABILITIES,):
            if len(self.models) > 1:
                raise UsageError(
                    f"--outputs {','.join(self.outputs)}: applies to a single net, not to {len(self.models)}"
                )
            if self.engine is not None:
                raise UsageError(f"--outputs {','.join(self.outputs)}: applies to ONNX files only; leave out --trt")
        if self.engine is not None and self.int8_for == "cpu":
            raise UsageError("--int8-for cpu: TensorRT accepts only signed activations; leave it out")
        if self.engine is not None and self.engine.flavor == "rtx" and self.lrn == "plugin":
            raise UsageError("--lrn plugin: TensorRT-RTX does not support plugins; use --lrn op")

    @property
    def kind_of_int8(self) -> Int8For | None:
        """The kind of int8 to export. None for other precisions."""
        if self.precision != "int8":
            return None
        return self.int8_for or ("cpu" if self.engine is None else "tensorrt")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The files of an export, and what they contain."""

    manifest: Manifest
    info: ExportInfo
    folder: Path
    onnx: Path | None
    weights: tuple[Path, ...]
    """The file beside the ONNX file that holds its weights. Empty if they are in the ONNX file."""
    engine: Path | None
    built: Built | None
    """The engine with its description. None for no engine."""
    unreadable: tuple[Unreadable, ...] = ()
    """The calibration images that could not be read."""
    float_layers: FloatLayers | None = None
    """With `Calibration.max_drop`, how the layers that stay in float were chosen."""

    @property
    def files(self) -> list[Path]:
        """All files that were written, except the README."""
        description = description_path(self.engine) if self.engine is not None else None
        return [path for path in (self.onnx, *self.weights, self.engine, description) if path is not None]


def export(request: ExportRequest) -> Exported:
    """Export the nets and return what was written. All models are built before the first file is written.

    Raises ModelFileError if a net can't be read, UsageError if the nets can't share a file or the folder can't be
    written, UnreadableInputError if there is no image to calibrate on, and the errors of `build_engine` and `quantize`.
    """
    artifacts = [load_artifact(path) for path in request.models]
    info = _info(request, artifacts)
    with _folder(request.out or Path(folder_name(info))) as folder:
        return _export(request, artifacts, info, folder)


def _info(request: ExportRequest, artifacts: Sequence[Artifact]) -> ExportInfo:
    find_layers(artifacts[0].manifest.architecture, request.outputs)
    digests = [sha256(path) for path in request.models]
    check_different(zip(request.models, ([digest] for digest in digests), strict=True))
    return ExportInfo(
        members=tuple(
            Member(name=artifact.manifest.name, sha256=digest)
            for artifact, digest in zip(artifacts, digests, strict=True)
        ),
        views=request.views,
        precision=request.precision,
        lrn=request.lrn,
        batch=request.batch,
        int8_for=request.kind_of_int8,
        outputs=request.outputs,
    )


def _export(request: ExportRequest, artifacts: Sequence[Artifact], info: ExportInfo, folder: Path) -> Exported:
    outside: dict[str, np.ndarray] = {}
    int8: Quantized | None = None
    model = build_model(artifacts, info, outside)
    if request.calibration is not None:
        # Checked before `embed`, because a protobuf message above MAX_BYTES can't report its size.
        if (size := _size(model, outside)) > MAX_WEIGHTS:
            raise UsageError(
                f"--precision int8: the nets have {size / 1e9:.1f} GB of float weights; expected at most "
                f"{MAX_WEIGHTS / 1e9:.1f} GB; export fewer nets"
            )
        embed(model, outside)
        outside = {}
        int8 = quantized(model, artifacts[0].manifest, info, request.calibration)
        model, info = int8.model, int8.info
    if request.onnx:
        _check_readable(model, info)
    manifest = _manifest_of(model)
    built = None
    if request.engine is not None:
        content = _content(model, outside)
        with build_bars() as on_progress:
            built = build_engine(content, manifest, info, request.engine, on_progress=on_progress)
    stem = file_stem(info)
    onnx_path, weights, engine_path = None, (), None
    with writing(f"--out {folder}"):
        if request.onnx:
            onnx_path, *weight_files = save_model(folder / f"{stem}.onnx", model, outside)
            weights = tuple(weight_files)
        if built is not None:
            engine_path, _ = save_engine(folder / f"{stem}.engine", built)
        text = readme(manifest, info, onnx_path, engine_path, built and built.description.platform)
        write_atomically(folder / "README.md", text.encode())
    return Exported(
        manifest=manifest,
        info=info,
        folder=folder,
        onnx=onnx_path,
        weights=weights,
        engine=engine_path,
        built=built,
        unreadable=int8.unreadable if int8 else (),
        float_layers=int8.float_layers if int8 else None,
    )


def _check_readable(model: onnx.ModelProto, info: ExportInfo) -> None:
    """Raise UsageError if the file would be refused, because it takes more than a reader accepts."""
    try:
        check_graph(model, info)
    except SpecError as error:
        raise UsageError(
            f"too much for an ONNX file: {error}; export fewer or smaller nets, or a smaller --batch"
        ) from None


def folder_name(info: ExportInfo) -> str:
    """Return the default folder: "alexnet-64-fp16-ten", or "alexnet-64-and-4-more-fp32" for several nets."""
    views = "" if info.views == "none" else f"-{info.views}"
    return f"{file_stem(info)}-{info.precision}{views}"


def file_stem(info: ExportInfo) -> str:
    """Return the files' name without suffix: the net's name, reduced to characters that every file system allows."""
    name = safe_name(info.members[0].name, 80)
    return name if len(info.members) == 1 else f"{name}-and-{len(info.members) - 1}-more"


def _manifest_of(model: onnx.ModelProto) -> Manifest:
    return Manifest.from_json(next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY))


def _size(model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> int:
    """Return the size of the model including its weights, in bytes."""
    return model.ByteSize() + sum(values.nbytes for values in outside.values())


def _content(model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> bytes:
    """Return the model including its weights as bytes, for the engine builder. Raises UsageError if it is too large."""
    import onnx

    if (size := _size(model, outside)) > MAX_BYTES:
        raise UsageError(
            f"--trt: the nets have {size / 1e9:.1f} GB of weights; expected less than {MAX_BYTES / 1e9:.1f} GB; export "
            "fewer nets"
        )
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    embed(complete, outside)
    return complete.SerializeToString()


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """Create `folder` and check that it can be written, before minutes are spent on the export.

    If the export fails, the folders that were created are removed again, unless they contain files.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        with writing(f"--out {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.urandom(4).hex()}.tmp"
            probe.touch(exist_ok=False)
            probe.unlink()
            _check_readme(folder / "README.md")
        yield folder
    except BaseException:
        with suppress(OSError):  # the folder is missing or not empty
            for path in missing:
                path.rmdir()
        raise


def _check_readme(path: Path) -> None:
    """Raise UsageError if `path` is a README that alexnet-infer did not write: with `--out .` it may be a project's."""
    try:
        ours = not path.exists() or SIGNATURE.encode() in read_limited(path, MAX_README_BYTES)
    except SpecError:
        ours = False
    if not ours:
        raise UsageError(
            f"--out {path.parent}: its {path.name} was not written by alexnet-infer and would be overwritten; "
            "expected another folder"
        )
