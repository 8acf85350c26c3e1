"""What `alexnet-infer export` does after writing files: compare them with the nets that they were made from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_infer.commands.compare import choose_images, report, verify
from alexnet_infer.commands.export_layers import verify_layers
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import BackendError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.agreement import MeanNet, check_tolerance, default_tolerance
from alexnet_infer.evaluation.gate import Verdict, judge
from alexnet_infer.export.job import Exported, ExportRequest
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.max_drop import Metric
from alexnet_infer.nets import load
from alexnet_infer.output import say, tell
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The images on which exported files are compared with their nets, and what the files must meet."""

    images: Sequence[Photo] | LabelledImages
    data: Path | None = None
    """The labelled set, if it is one."""
    photos: tuple[str, ...] = ()
    """The photos that the user named."""
    limit: int | None = None
    tolerance: float | None = None
    """The largest allowed probability difference. None for the default of the precision, or with limits for any."""
    limits: Mapping[Metric, float] = field(default_factory=dict)
    """By how many points errors may rise."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A file after its comparison."""

    result: dict[str, Any] | None
    """As JSON data. None if the file can't run here."""
    exit_code: int
    verdict: Verdict | None = None
    """None for a file without probabilities, too."""
    reason: str = ""
    """Why the file can't run here."""


def make_verification(
    enabled: bool,
    data: Path | None,
    photos: Sequence[str],
    limit: int | None,
    tolerance: float | None,
    limits: Mapping[Metric, float],
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
    return Verification(
        images=images,
        data=data,
        photos=tuple(photos),
        limit=limit,
        tolerance=tolerance,
        limits={} if data is None else limits,
    )


def verify_file(
    path: Path,
    reference_of: Callable[[Views], Net],
    request: ExportRequest,
    exported: Exported,
    verification: Verification,
    *,
    silent: bool,
) -> Verified:
    """Compare a file with its nets, and print the result unless `silent`.

    An engine that can't run here is reported as unverified. That is not a failure, since it may have been built for
    another machine.
    """
    try:
        # Where the reference runs, so that the result can be reproduced. Engines have only one runtime.
        where = {"device": "cpu", "backend": "onnxruntime"} if path.suffix == ".onnx" else {}
        candidate = load(path, **where)
    except BackendError as error:
        if path.suffix == ".onnx":
            raise
        fix = _elsewhere(path, request, exported)
        tell(f"{path}: not verified, because it can't run here ({error}); {fix}")
        return Verified(result=None, exit_code=0, reason=f"it can't run here ({error})")
    images, limit = verification.images, verification.limit
    result, code, verdict = {}, 0, None
    if PROBABILITIES in request.outputs:
        verdict = _verdict(reference_of(candidate.views), candidate, verification)
        if not silent:
            say()
        code, result = report(verdict, silent=silent), verdict.to_json()
    if request.outputs != (PROBABILITIES,):
        (model,) = request.models
        layers, layers_code = verify_layers(model, candidate, images, limit, silent=silent)
        result, code = result | layers, max(code, layers_code)
    return Verified(result=result, exit_code=code, verdict=verdict)


def _verdict(reference: Net, candidate: Net, verification: Verification) -> Verdict:
    agreement = verify(reference, candidate, verification.images, limit=verification.limit)
    tolerance = verification.tolerance
    if tolerance is None and not verification.limits:
        tolerance = default_tolerance(reference, candidate)
    return Verdict(agreement=agreement, tolerance=tolerance, gate=judge(agreement, verification.limits))


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
