"""`alexnet-infer export`: export nets for other runtimes, and compare the files with the nets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from alexnet_infer.commands.export_int8 import make_calibration, print_float_layers, refuse
from alexnet_infer.commands.export_verify import (
    Verification,
    Verified,
    make_verification,
    reference_net,
    verify_file,
)
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.engines.files import EngineOptions, parse_workspace
from alexnet_infer.errors import UsageError
from alexnet_infer.export.job import Exported, ExportRequest, export
from alexnet_infer.export.triton import Input, ServedModel, check_batch, check_input, write_repository
from alexnet_infer.graph.info import Batch
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.max_drop import parse_max_drop
from alexnet_infer.nets import choose_nets
from alexnet_infer.output import say, say_json, tell


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
    max_drop: Sequence[str] | None,
    passport: Path | None,
    as_json: bool,
    command: str,
    **requested: Any,
) -> int:
    """Export files. `requested` are the other options, those of `make_request`. Returns the exit code of `run`."""
    request = make_request(precision=precision or "fp32", max_drop=max_drop, **requested)
    if max_drop and data is None and (request.calibration is None or request.calibration.max_drop is None):
        raise UsageError(
            f"--max-drop {max_drop[0]}: expected --data, a labelled set on which the file is compared with its net, or "
            "--keep-float auto"
        )
    if triton_input != "squares" and triton is None:
        raise UsageError(f"--input {triton_input}: applies to Triton model repositories only; add --triton DIR")
    if tolerance is not None and PROBABILITIES not in request.outputs:
        raise UsageError(
            f"--tolerance {tolerance:g}: is for probabilities, which --outputs {','.join(request.outputs)} leaves out; "
            "layers have a tolerance of their own"
        )
    verification = make_verification(verify, data, photo or (), limit, tolerance, parse_max_drop(max_drop or ()))
    if passport is not None:
        _check_passport(passport, request, verification)
    return run(request, verification, triton, triton_input, as_json=as_json, passport=passport, command=command)


def _check_passport(out: Path, request: ExportRequest, verification: Verification | None) -> None:
    """Raise UsageError if a passport would have nothing to say of how far a file is the same net."""
    from alexnet_infer.passport.page import check_out

    check_out(out)
    if verification is None:
        raise UsageError(f"--passport {out}: has the result of the comparison; leave out --no-verify")
    if PROBABILITIES not in request.outputs:
        raise UsageError(
            f"--passport {out}: compares probabilities, which --outputs {','.join(request.outputs)} leaves out; add "
            "probabilities to the outputs"
        )


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


def run(
    request: ExportRequest,
    verification: Verification | None,
    triton: Path | None,
    triton_input: Input,
    *,
    as_json: bool,
    passport: Path | None = None,
    command: str = "",
) -> int:
    """Export, verify and print what was written. Returns the exit code.

    `passport` is the file for the passport, which names `command` as the one that exported the files.

    The exit code is 1 if a file does not meet its tolerance or a limit, or an image can't be read, otherwise 0. Such a
    file is kept for inspection, but is not added to the Triton repository. Raises
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
    verified: dict[Path, Verified] = {}
    reference = cache(partial(reference_net, request.models))
    if verification is not None:
        for path in (exported.onnx, exported.engine):
            if path is not None:
                verified[path] = verify_file(path, reference, request, exported, verification, silent=as_json)
    failed = max((file.exit_code for file in verified.values()), default=0)
    served = written = None
    try:
        if triton is not None:
            served = _serve(exported, triton, triton_input, failed=bool(failed), silent=as_json)
        if passport is not None and verification is not None:
            from alexnet_infer.commands.export_passport import make_passport
            from alexnet_infer.passport.page import write

            write(make_passport(request, exported, verification, verified, command), passport)
            written = passport
            if not as_json:
                say(f"{passport}  {_size(passport)}")
    finally:  # the result is printed even if a file can't be written
        if as_json:
            say_json(_json(exported, verified, served, written), indent=1)
    return max(failed, int(bool(exported.unreadable)))


def _serve(exported: Exported, folder: Path, triton_input: Input, *, failed: bool, silent: bool) -> Path | None:
    """Add the file to a Triton repository, unless it `failed`. Returns the folder of its version."""
    if failed:
        tell(f"--triton {folder}: nothing was written, because the verification did not pass")
        return None
    served = write_repository(folder, _served(exported), triton_input)
    if not silent:
        say(f"{served}  for Triton")
        if triton_input == "jpeg":
            say(f"{served.parent}_jpeg  for Triton, takes encoded images")
    return served


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


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


def _json(
    exported: Exported, verified: Mapping[Path, Verified], served: Path | None, passport: Path | None
) -> dict[str, Any]:
    platform = exported.built.description.platform if exported.built is not None else None
    return {
        "net": exported.manifest.name,
        "folder": str(exported.folder),
        "files": [{"path": str(path), "bytes": path.stat().st_size} for path in exported.files],
        "export": json.loads(exported.info.to_json()),
        "runtime": msgspec.structs.asdict(platform) if platform is not None else None,
        "float_layers": exported.float_layers.to_json() if exported.float_layers is not None else None,
        "unreadable": [asdict(image) for image in exported.unreadable],
        "verified": {str(path): file.result for path, file in verified.items()},
        "triton": str(served) if served is not None else None,
        "passport": str(passport) if passport is not None else None,
    }
