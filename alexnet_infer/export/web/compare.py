"""Compare the page's net with the net that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.onnxruntime import import_runtime
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.decode import read_square
from alexnet_infer.graph.net import INPUT
from alexnet_infer.graph.web import COLUMN_SWITCH, LRN_SWITCH
from alexnet_infer.layers import PROBABILITIES, columns_of
from alexnet_infer.preprocess import patches

TOLERANCE = 1e-3
"""The largest difference of a probability that a page may have."""


def largest_difference(artifact: Artifact, net: bytes, photos: Sequence[Path]) -> float:
    """Return the largest difference of a probability between a graph of `build_web_model` and the NumPy reference.

    Each photo is one view, the central one. The switches are on. NaN if a probability is not finite. Raises
    BackendError if ONNX Runtime is missing.
    """
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(net, options, providers=["CPUExecutionProvider"])
    manifest = artifact.manifest
    rescaling = manifest.preprocessing.rescaling
    squares = [read_square(path, name=path.name, rescaling=rescaling) for path in photos]
    views = np.concatenate([patches(square, manifest.preprocessing, "center") for square in squares])
    columns = max(columns_of(manifest.architecture).values())
    feeds = {INPUT: views, LRN_SWITCH: np.array(True), COLUMN_SWITCH: np.ones(columns, np.float32)}
    inputs = {value.name for value in session.get_inputs()}
    (actual,) = session.run([PROBABILITIES], {name: value for name, value in feeds.items() if name in inputs})
    return float(np.abs(actual - ReferenceBackend(artifact).infer(views)).max())
