"""A forward pass in plain NumPy and float64: slow, exact and independent of every runtime. The tests' oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from alexnet_infer.architecture import LRN, Activation, BatchNorm, Conv, Dense, Dropout, MaxPool
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import failures, name_of, outputs_of, probabilities_in
from alexnet_infer.layers import PROBABILITIES


class ReferenceBackend:
    """Runs the operations of a net's architecture in order, each written as it is defined."""

    runtime, device, precision = "reference", "cpu", "fp32"
    description = f"NumPy {np.__version__} in float64, CPU"
    takes_squares = False

    def __init__(self, artifact: Artifact, outputs: Sequence[str] | None = None) -> None:
        self.artifact = artifact
        self._layers = outputs_of(artifact, outputs)
        self.outputs = tuple(layer.name for layer in self._layers)

    def infer(self, patches_nchw: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, classes] for patches [N, 3, patch, patch].

        Raises BackendError if memory is full.
        """
        probabilities_in(self._layers, name_of(self.artifact))
        with failures("NumPy", name_of(self.artifact)):
            return softmax(self.logits(patches_nchw)).astype(np.float32)

    def activations(self, patches_nchw: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by its name, float32 [N, *shape of the layer]. Raises BackendError if memory is full."""
        wanted = {layer.operation for layer in self._layers}
        values = {}
        with failures("NumPy", name_of(self.artifact)):
            for name, value in self._walk(patches_nchw):
                if name in wanted:
                    values[name] = value.astype(np.float32)
            values[PROBABILITIES] = softmax(value).astype(np.float32)
        return {layer.name: values[layer.operation] for layer in self._layers}

    def logits(self, patches_nchw: np.ndarray) -> np.ndarray:
        """Return logits float64 [N, classes] for patches [N, 3, patch, patch]."""
        for _, value in self._walk(patches_nchw):
            logits = value
        return logits

    def _walk(self, patches_nchw: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each operation's name and its output, float64 [N, *output]."""
        x = patches_nchw.astype(np.float64)
        for step in self.artifact.manifest.architecture.steps:
            o = step.operation
            t = {name.split(".")[1]: self.artifact.tensors[name].astype(np.float64) for name in step.tensors}
            match o:
                case Conv():
                    x = conv(x, t["weight"], t["bias"], o)
                case Dense():
                    x = x.reshape(len(x), -1) @ t["weight"].T + t["bias"]
                case Activation():
                    x = np.maximum(x, 0) if o.kind == "relu" else np.tanh(x)
                case LRN():
                    x = lrn(x, o)
                case BatchNorm():
                    mean, var = t["running_mean"][:, None, None], t["running_var"][:, None, None]
                    x = (x - mean) / np.sqrt(var + o.eps) * t["weight"][:, None, None] + t["bias"][:, None, None]
                case MaxPool():
                    x = max_pool(x, o)
                case Dropout():
                    pass  # training scaled the kept units up
            yield o.name, x


def conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, spec: Conv) -> np.ndarray:
    """Grouped convolution (cross-correlation) of x [N, C, H, W] with `weight` [K, C / groups, size, size]."""
    x = np.pad(x, ((0, 0), (0, 0), (spec.pad, spec.pad), (spec.pad, spec.pad)))
    windows = sliding_window_view(x, (spec.size, spec.size), (2, 3))[:, :, :: spec.stride, :: spec.stride]
    columns = [
        np.einsum("nchwij,kcij->nkhw", part, kernels, optimize=True)
        for part, kernels in zip(np.split(windows, spec.groups, 1), np.split(weight, spec.groups), strict=True)
    ]
    return np.concatenate(columns, 1) + bias[:, None, None]


def lrn(x: np.ndarray, spec: LRN) -> np.ndarray:
    """The paper's formula, channel by channel, for x [N, C, H, W]. Each column is normalised separately."""
    width = x.shape[1] // spec.groups
    out = np.empty_like(x)
    for i in range(x.shape[1]):
        first = i - i % width
        low, high = max(first, i - spec.size // 2), min(first + width, i + spec.size // 2 + 1)
        out[:, i] = x[:, i] / (spec.k + spec.alpha * (x[:, low:high] ** 2).sum(1)) ** spec.beta
    return out


def max_pool(x: np.ndarray, spec: MaxPool) -> np.ndarray:
    """Max pooling of x [N, C, H, W]. Positions past the edge are never the maximum."""
    rows, columns = spec.overhang(x.shape[2]), spec.overhang(x.shape[3])
    x = np.pad(x, ((0, 0), (0, 0), (0, rows), (0, columns)), constant_values=-np.inf)
    windows = sliding_window_view(x, (spec.size, spec.size), (2, 3))[:, :, :: spec.stride, :: spec.stride]
    return windows.max((4, 5))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
