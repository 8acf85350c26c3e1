"""`alexnet-infer export --passport`: measure the files' speed, and write what is known about them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from alexnet_infer.benchmark.measure import BenchmarkRequest
from alexnet_infer.commands.benchmark import measured
from alexnet_infer.commands.export_verify import Verification, Verified
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.evaluation.gate import Verdict
from alexnet_infer.export.job import Exported, ExportRequest
from alexnet_infer.nets import nets_at_hand
from alexnet_infer.passport.contents import Check, Commands, FileDigest, Host, Passport, versions

SECONDS = 1.0
"""Measured time for each row of the speed."""


def make_passport(
    request: ExportRequest,
    exported: Exported,
    verification: Verification,
    verified: Mapping[Path, Verified],
    command: str,
) -> Passport:
    """Measure the speed of the files that run here, and return the passport.

    `command` is the one that exported the files.
    """
    checks = [Check(file=path.name, verdict=file.verdict, reason=file.reason) for path, file in verified.items()]
    running = {path: file.verdict for path, file in verified.items() if file.verdict is not None}
    speed = _speed(request, exported, running)
    return Passport(
        net=exported.manifest.name,
        info=exported.info,
        files=tuple(FileDigest.of(path) for path in exported.files),
        float_layers=exported.float_layers,
        engine=exported.built.description.platform if exported.built is not None else None,
        images=_images(verification),
        checks=tuple(checks),
        benchmark=None if speed is None else measured(speed),
        machine=Host.this(),
        versions=versions(),
        commands=Commands(
            files=command,
            digests=_line("sha256sum", map(str, exported.files)),
            comparison={
                path.name: _comparison(request, path, verdict, verification, command)
                for path, verdict in running.items()
            },
            latency=None if speed is None else _command_of(speed),
        ),
        date=datetime.now(UTC).date().isoformat(),
    )


def _images(verification: Verification) -> str:
    images = verification.images
    if isinstance(images, LabelledImages):
        split = f"{images.split}, " if images.split else ""
        return f"{verification.limit or len(images):,} images of {verification.data}, {split}".rstrip(", ")
    return f"{len(images):,} {'photo' if len(images) == 1 else 'photos'}, each whole and in quarters"


def _speed(request: ExportRequest, exported: Exported, running: Mapping[Path, Verdict]) -> BenchmarkRequest | None:
    """Return what to measure: the net, if it is a single one, and the files, with one image and the usual number."""
    if not running:
        return None
    batch = exported.info.batch
    views = next(iter(running.values())).agreement.views
    return BenchmarkRequest(
        models=(*(request.models if len(request.models) == 1 else ()), *running),
        batches=(batch.max,) if batch.fixed else tuple(dict.fromkeys((batch.min, batch.opt))),
        views=views,
        seconds=SECONDS,
    )


def _command_of(speed: BenchmarkRequest) -> str:
    batches = ",".join(map(str, speed.batches))
    options = ["--batch", batches, "--views", str(speed.views), "--seconds", f"{speed.seconds:g}"]
    return _line("alexnet-infer benchmark", map(_named, speed.models), options)


def _comparison(request: ExportRequest, path: Path, verdict: Verdict, verification: Verification, command: str) -> str:
    """Return the command that compares a file again. No command compares a file with several nets but its export."""
    if len(request.models) > 1:
        return command
    (model,) = request.models
    options: list[str] = []
    if verification.data is not None:
        options += ["--data", str(verification.data)]
        options += ["--limit", str(verification.limit)] if verification.limit is not None else []
    if verdict.tolerance is not None:
        options += ["--tolerance", repr(verdict.tolerance)]
    for metric, points in verification.limits.items():
        options += ["--max-drop", f"{metric}={points!r}"]
    options += ["--views", verdict.agreement.views, "--device", "cpu", "--backend", "onnxruntime"]
    return _line("alexnet-infer compare", [_named(model), str(path), *verification.photos], options)


def _named(model: Path) -> str:
    """Return the name of a bundled net, which is the same everywhere, or else the path."""
    return model.stem if model in nets_at_hand() else str(model)


def _line(command: str, names: Iterable[str], options: Sequence[str] = ()) -> str:
    """Return a command line. Names that begin with a dash follow "--", which tells them from options."""
    names = [*names]
    if any(name.startswith("-") for name in names):
        return f"{command} {shlex.join([*options, '--', *names])}"
    return f"{command} {shlex.join([*names, *options])}"
