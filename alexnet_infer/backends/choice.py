"""The choice of the faster runtime for a net on this CPU: measured once, then stored in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import Backend
from alexnet_infer.errors import AlexNetInferError
from alexnet_infer.files import MAX_JSON_BYTES, read_limited, user_cache, write_atomically
from alexnet_infer.graph.file import OnnxFile
from alexnet_infer.machine import cpu_name
from alexnet_infer.manifest import Manifest
from alexnet_infer.packages import installed

CpuRuntime = Literal["onnxruntime", "openvino"]

PATCHES = 10
"""The patches of one photo with the paper's ten views."""

SMALL = 50_000_000
"""Multiply-adds per patch below which nothing is timed: either runtime takes only a few milliseconds."""

ROUNDS = 5
LEAD = 0.95
"""OpenVINO is chosen if it takes at most this share of ONNX Runtime's time, since it takes longer to start."""


def choose_cpu_backend(net: Artifact | OnnxFile) -> CpuRuntime:
    """Return the faster runtime for ten patches of this net on this machine.

    Nothing is timed and OpenVINO is not imported if

    - only one of the two runtimes is installed,
    - the net is small, or is an exported file in float16, which OpenVINO would silently compute in float32,
    - the cache has the answer for this architecture or exported file, these versions and this CPU.

    If the cache can't be read or written, the runtimes are timed each time. A runtime that doesn't start or can't run
    the net is not chosen, and that result is not stored.
    """
    if not installed("openvino"):
        return "onnxruntime"
    if not installed("onnxruntime"):
        return "openvino"
    half = not isinstance(net, Artifact) and net.info.precision == "fp16"
    if half or net.manifest.architecture.multiply_adds < SMALL:
        return "onnxruntime"
    question = _question(net)
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
    path = user_cache() / "cpu-backends" / f"{digest}.json"
    if (known := _remembered(path, question)) is not None:
        return known
    backends = start(net)
    if len(backends) < 2:
        return next(iter(backends), "onnxruntime")
    seconds = medians(backends, net.manifest)
    chosen: CpuRuntime = "openvino" if seconds["openvino"] <= LEAD * seconds["onnxruntime"] else "onnxruntime"
    milliseconds = {name: round(value * 1e3, 3) for name, value in seconds.items()}
    answer = {"question": question, "chosen": chosen, "milliseconds": milliseconds}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(answer, indent=1).encode())
    return chosen


def start(net: Artifact | OnnxFile) -> dict[CpuRuntime, Backend]:
    """Open the net in each runtime that starts and can run it: an exported file may run in only one of them."""
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
    from alexnet_infer.backends.openvino import OpenVinoBackend

    backends: dict[CpuRuntime, Backend] = {}
    with suppress(AlexNetInferError):
        backends["onnxruntime"] = OnnxRuntimeBackend(net, "cpu")
    with suppress(AlexNetInferError):
        backends["openvino"] = OpenVinoBackend(net)
    return backends


def medians(backends: Mapping[CpuRuntime, Backend], manifest: Manifest) -> dict[CpuRuntime, float]:
    """Return the median seconds of `ROUNDS` calls of each backend, after one call that is not timed.

    All calls take the same ten patches, or one square if the net cuts its views itself.
    """
    size, patch = manifest.preprocessing.size, manifest.preprocessing.patch
    rng = np.random.default_rng(0)
    if any(backend.takes_squares for backend in backends.values()):
        inputs = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    else:
        inputs = rng.normal(0, 70, (PATCHES, 3, patch, patch)).astype(np.float32)
    times: dict[CpuRuntime, list[float]] = {name: [] for name in backends}
    for turn in range(1 + ROUNDS):
        for name, backend in backends.items():
            begin = time.perf_counter()
            backend.activations(inputs)
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def _question(net: Artifact | OnnxFile) -> dict[str, object]:
    """Everything that the answer depends on. For an exported file, that includes its whole content."""
    if isinstance(net, Artifact):
        content = json.dumps(net.manifest.architecture.to_json(), sort_keys=True).encode()
    else:
        content = net.content
    return {
        "architecture": hashlib.sha256(content).hexdigest(),
        "versions": {name: _version(name) for name in get_args(CpuRuntime)},
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }


def _version(runtime: CpuRuntime) -> str:
    """The version of the installed package, without importing it."""
    for package in (runtime, f"{runtime}-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"


def _remembered(path: Path, question: Mapping[str, object]) -> CpuRuntime | None:
    """The answer in the cache file, or None if the file is missing, damaged or answers another question."""
    try:
        answer = json.loads(read_limited(path, MAX_JSON_BYTES))
        chosen = answer["chosen"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
    return chosen if chosen in get_args(CpuRuntime) and answer.get("question") == question else None
