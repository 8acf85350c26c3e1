"""What runs a net: one small class each, behind one protocol.

A backend takes patches and gives probabilities; which views are averaged, and over which nets, is `predict`'s business,
unless an exported file does it itself: then its backend takes whole squares.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from alexnet_infer.errors import ModelFileError

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


def checked(found: np.ndarray, inputs: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """`found`, what an exported file made of `inputs`, if it can be their probabilities. What a graph declares as its
    output is a claim: runtimes give what comes out. Raises ModelFileError."""
    if found.shape != (len(inputs), classes):
        raise ModelFileError(
            f"{path}: gives {list(found.shape)} for {len(inputs)} inputs: expected {[len(inputs), classes]}, "
            "by its own manifest"
        )
    if not ((found >= 0) & (found < 1.001)).all():  # NaN is neither; rounding may take a mean a little above 1
        raise ModelFileError(
            f"{path}: what it gives are no probabilities: the file is broken, or its precision too low for this net; "
            "export it as fp32"
        )
    return found


def infer_in_calls(
    call: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int, *, powers_of_two: bool = False
) -> np.ndarray:
    """What `call` gives for `inputs`, `size` at a time. The last call is filled up with zeros, so that all calls take
    `size` inputs and round alike. With `powers_of_two`, inputs that fit into one call are filled up to the next of
    them instead: few numbers of inputs occur, with less padding."""
    single = powers_of_two and len(inputs) <= size
    rows = []
    for begin in range(0, max(len(inputs), 1), size):
        part = inputs[begin : begin + size]
        wanted = min(size, 1 << max(len(part) - 1, 0).bit_length()) if single else size
        missing = np.zeros((wanted - len(part), *part.shape[1:]), part.dtype)
        rows.append(call(np.concatenate([part, missing]) if len(missing) else part)[: len(part)])
    return np.concatenate(rows)
