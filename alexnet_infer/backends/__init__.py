"""What runs a net: one small class each, behind one protocol.

A backend takes patches and gives probabilities; which views are averaged, and over which nets, is `predict`'s business,
unless an exported file does it itself: then its backend takes whole squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

Device = Literal["auto", "cpu", "cuda"]
Runtime = Literal["auto", "onnxruntime", "openvino"]
"""What runs our own model files and ONNX files; engines run in what built them."""


class Backend(Protocol):
    """A net ready to run."""

    description: str
    """What really runs, for people: runtime, version and device, and the precision where it isn't float32."""

    takes_squares: bool
    """Whether `infer` takes uint8 squares [N, S, S, 3] RGB and averages its views itself."""

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Patches float32 [N, 3, patch, patch], mean subtracted, or squares -> probabilities float32 [N, classes]."""
        ...


def infer_in_calls(call: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int) -> np.ndarray:
    """What `call` gives for `inputs`, `size` at a time; the last call is filled up with zeros."""
    rows = []
    for begin in range(0, len(inputs), size):
        part = inputs[begin : begin + size]
        missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
        rows.append(call(np.concatenate([part, missing]) if len(missing) else part)[: len(part)])
    return np.concatenate(rows)
