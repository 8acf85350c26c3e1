"""`alexnet-infer export`: export nets for other runtimes, and compare the files with the nets."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from alexnet_infer.commands.compare import choose_images, report, verify
from alexnet_infer.commands.export_int8 import make_calibration, print_float_layers, refuse
from alexnet_infer.commands.export_layers import verify_layers
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.engines.files import EngineOptions, parse_workspace
from alexnet_infer.errors import BackendError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.agreement import MeanNet, check_tolerance, default_tolerance
from alexnet_infer.export.job import Exported, ExportRequest, export
from alexnet_infer.export.triton import Input, ServedModel, check_batch, check_input, write_repository
from alexnet_infer.graph.info import Batch
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.nets import choose_nets, load
from alexnet_infer.output import say, say_json, tell
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The images on which exported files are compared with their nets, and the allowed difference."""

    images: Sequence[Photo] | LabelledImages
    limit: int | None = None
    tolerance: float | None = None
    """The largest allowed probability difference. None for the default of the precision."""


def export_files(
    *,
    precision: str | None,
    verify: bool,
    data: Path | None,
    photo: Sequence[str] | None,
    limit: int | None,
    tolerance: float | None,
    triton: Path | None,
    triton_input: Input,
    as_json: bool,
    **requested: Any,
) -> int:
    """Export files. `requested` are the other options, those of `make_request`. Returns the exit code of `run`."""
    request = make_request(precision=precision or "fp32", **requested)
    if triton_input != "squares" and triton is None:
        raise UsageError(f"--input {triton_input}: applies to Triton model repositories only; add --triton DIR")
    if tolerance is not None and PROBABILITIES not in request.outputs:
        raise UsageError(
            f"--tolerance {tolerance:g}: is for probabilities, which --outputs {','.join(request.outputs)} leaves out; "
            "layers have a tolerance of their own"
        )
    verification = make_verification(verify, data, photo or (), limit, tolerance)
    return run(request, verification, triton, triton_input, as_json=as_json)


def make_request(
    *,
    model: Sequence[Path] | None,
    ensemble: int | None,
    onnx: bool,
    trt: bool,
    flavor: str | None,
    outputs: str | None,
    batch: str,
    lrn: str | None,
    calibrate: Path | None,
    calibration_images: int | None,
    calibration_method: str | None,
    keep_float: Sequence[str] | None,
    max_drop: Sequence[str] | None,
    workspace: str | None,
    optimization_level: int | None,
    compute_capability: str | None,
    **given: Any,
) -> ExportRequest:
    """Return the request for these command-line options. Raises UsageError if they are invalid."""
    engine_options = {
        "--flavor": flavor,
        "--workspace": workspace,
        "--optimization-level": optimization_level,
        "--compute-capability": compute_capability,
    }
    engine = None
    if trt:
        engine = EngineOptions(
            flavor=flavor or "tensorrt",
            workspace=None if workspace is None else parse_workspace(workspace),
            optimization_level=optimization_level,
            capabilities=() if compute_capability is None else tuple(compute_capability.split(",")),
        )
    else:
        refuse(engine_options, "applies to engines only; add --trt")
    return ExportRequest(
        models=tuple(choose_nets(model or (), ensemble)),
        onnx=onnx or not trt,
        engine=engine,
        batch=Batch.parse(batch),
        # The convolution is the fastest form in ONNX Runtime on a CPU. TensorRT has an LRN layer.
        lrn=lrn or ("op" if trt else "conv"),
        calibration=make_calibration(
            calibrate=calibrate,
            images=calibration_images,
            method=calibration_method,
            keep_float=keep_float or (),
            max_drop=max_drop or (),
        ),
        outputs=(PROBABILITIES,) if outputs is None else tuple(name.strip() for name in outputs.split(",")),
        **given,
    )


def make_verification(
    enabled: bool, data: Path | None, photos: Sequence[str], limit: int | None, tolerance: float | None
) -> Verification | None:
    """Return the verification for these command-line options, or None if it is disabled.

    Raises UsageError if the options are invalid, UnreadableInputError if no photo exists, and the errors of
    `choose_images`.
    """
    if not enabled:
        if data is not None or photos or limit is not None or tolerance is not None:
            raise UsageError("--no-verify: makes no comparison; leave out --data, --photo, --limit and --tolerance")
        return None
    if tolerance is not None:
        check_tolerance(tolerance)
    images = choose_images(data=data, photos=photos, limit=limit)
    exist = (photo.url is not None or (photo.path is not None and os.path.exists(photo.path)) for photo in images)  # noqa: PTH110
    if photos and not any(exist):
        raise UnreadableInputError(f"--photo {photos[0]}: no photo found; expected files, folders, patterns or URLs")
    if limit is not None and not 1 <= limit <= len(images):  # checked before anything is exported
        raise UsageError(f"--limit {limit}: expected 1 to {len(images)}, the number of images")
    return Verification(images=images, limit=limit, tolerance=tolerance)


def run(
    request: ExportRequest,
    verification: Verification | None,
    triton: Path | None,
    triton_input: Input,
    *,
    as_json: bool,
) -> int:
    """Export, verify and print what was written. Returns the exit code.

    The exit code is 1 if a file differs from its nets by more than the tolerance or an image can't be read, otherwise
    0. A file that fails the verification is kept for inspection, but is not added to the Triton repository. Raises
    UsageError if Triton can't serve the file, and the errors of `export`, `compare` and `write_repository`.
    """
    check_input(triton_input, request.views)  # checked before anything is exported, as is the engine
    if triton is not None and request.engine is not None:
        if request.engine.flavor == "rtx":
            raise UsageError(
                "--triton: Triton can't run TensorRT-RTX engines; use --onnx, or --trt without --flavor rtx"
            )
        check_batch(request.batch)
    exported = export(request)
    name_unreadable(exported.unreadable)
    if not as_json:
        if exported.float_layers is not None:
            print_float_layers(exported.float_layers)
        for path in (*exported.files, exported.folder / "README.md"):
            say(f"{path}  {_size(path)}")
    verified, failed = {}, 0
    reference = cache(partial(reference_net, request.models))
    if verification is not None:
        for path in (exported.onnx, exported.engine):
            if path is not None:
                verified[str(path)], file_code = _verify(path, reference, request, exported, verification, as_json)
                failed = max(failed, file_code)
    served = None
    if triton is not None and failed:
        tell(f"--triton {triton}: nothing was written, because the verification failed")
    elif triton is not None:
        served = write_repository(triton, _served(exported), triton_input)
        if not as_json:
            say(f"{served}  for Triton")
            if triton_input == "jpeg":
                say(f"{served.parent}_jpeg  for Triton, takes encoded images")
    if as_json:
        say_json(_json(exported, verified, served), indent=1)
    return max(failed, int(bool(exported.unreadable)))


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _verify(
    path: Path,
    reference_of: Callable[[Views], Net],
    request: ExportRequest,
    exported: Exported,
    verification: Verification,
    as_json: bool,
) -> tuple[dict[str, Any] | None, int]:
    """Compare a file with its nets. Returns the result as JSON data, and the exit code.

    An engine that can't run here is reported as unverified. That is not a failure, since it may have been built for
    another machine: the result is None and the exit code 0.
    """
    try:
        candidate = load(path)
    except BackendError as error:
        if path.suffix == ".onnx":
            raise
        fix = _elsewhere(path, request, exported)
        tell(f"{path}: not verified, because it can't run here ({error}); {fix}")
        return None, 0
    images, limit = verification.images, verification.limit
    result, code = {}, 0
    if PROBABILITIES in request.outputs:
        reference = reference_of(candidate.views)
        agreement = verify(reference, candidate, images, limit=limit)
        tolerance = verification.tolerance
        if tolerance is None:
            tolerance = default_tolerance(reference, candidate)
        if not as_json:
            say()
        code = report(agreement, tolerance, silent=as_json)
        result = {**agreement.to_json(), "tolerance": tolerance, "within": agreement.within(tolerance)}
    if request.outputs != (PROBABILITIES,):
        (model,) = request.models
        layers, layers_code = verify_layers(model, candidate, images, limit, silent=as_json)
        result, code = result | layers, max(code, layers_code)
    return result, code


def _elsewhere(engine: Path, request: ExportRequest, exported: Exported) -> str:
    """Return how to verify an engine on a machine that can run it. Only an ONNX file holds the mean of several nets."""
    reference = request.models[0] if len(request.models) == 1 else exported.onnx
    if reference is None:
        return "add --onnx to write an ONNX file of the same nets to compare it with"
    command = shlex.join(["alexnet-infer", "compare", str(reference), str(engine), "--trust-engine"])
    return f"verify it on a machine that can run it: {command}"


def reference_net(models: Sequence[Path], views: Views) -> Net:
    """Return the net in a model file, or the mean of several, in float32 on the CPU."""
    nets = [load(path, device="cpu", views=views, backend="onnxruntime") for path in models]
    return nets[0] if len(nets) == 1 else MeanNet(nets)


def _served(exported: Exported) -> ServedModel:
    path = exported.engine or exported.onnx
    assert path is not None
    return ServedModel(
        path=path,
        manifest=exported.manifest,
        info=exported.info,
        weights=exported.weights if exported.engine is None else (),
        tensorrt=exported.built.description.platform.version if exported.built is not None else None,
    )


def _json(exported: Exported, verified: dict[str, Any], served: Path | None) -> dict[str, Any]:
    platform = exported.built.description.platform if exported.built is not None else None
    return {
        "net": exported.manifest.name,
        "folder": str(exported.folder),
        "files": [{"path": str(path), "bytes": path.stat().st_size} for path in exported.files],
        "export": json.loads(exported.info.to_json()),
        "runtime": msgspec.structs.asdict(platform) if platform is not None else None,
        "float_layers": exported.float_layers.to_json() if exported.float_layers is not None else None,
        "unreadable": [asdict(image) for image in exported.unreadable],
        "verified": verified,
        "triton": str(served) if served is not None else None,
    }
