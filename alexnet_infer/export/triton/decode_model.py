"""A model for Triton's Python backend: encoded images to squares, exactly as `alexnet-infer classify` makes them.

`alexnet-infer export --triton DIR --input jpeg` writes it. It needs alexnet-infer in the Python of the backend, and
imports only what decoding needs: NumPy, Pillow and msgspec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.decode import read_square
from alexnet_infer.errors import SpecError, UnreadableInputError, one_line
from alexnet_infer.preprocess import Rescaling

ENCODED, SQUARES = "encoded_images", "images"
"""The input and the output."""

RESCALING_KEY = "alexnet_infer_rescaling"
"""The parameter that says how images are rescaled: a `Rescaling` as JSON."""


class TritonPythonModel:
    """BYTES [N, 1], one encoded image each, to uint8 [N, S, S, 3] RGB."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read how images are rescaled from the model's configuration. Raises SpecError if it contradicts the output.

        Triton then doesn't load the model.
        """
        import triton_python_backend_utils as triton

        config = json.loads(args["model_config"])
        text = config["parameters"][RESCALING_KEY]["string_value"]
        self._rescaling = strict_json.build(strict_json.parse(text, RESCALING_KEY), Rescaling, RESCALING_KEY)
        dims = [int(side) for side in triton.get_output_config_by_name(config, SQUARES)["dims"]]
        square = [self._rescaling.size, self._rescaling.size, 3]
        if dims[-3:] != square:
            raise SpecError(f"{SQUARES}: dims={dims}: expected to end with {square}, as in {RESCALING_KEY}")
        self._triton = triton

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response per request. A request with an image that can't be read gets an error with the reason."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        triton = self._triton
        try:
            squares = self._squares(triton.get_input_tensor_by_name(request, ENCODED).as_numpy())
        except UnreadableInputError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
        except Exception as error:  # a defect, which must not fail the other requests
            return triton.InferenceResponse(error=triton.TritonError(f"{type(error).__name__}: {one_line(error)}"))
        return triton.InferenceResponse(output_tensors=[triton.Tensor(SQUARES, squares)])

    def _squares(self, encoded: np.ndarray) -> np.ndarray:
        side = self._rescaling.size
        squares = np.empty((encoded.size, side, side, 3), np.uint8)
        for i, data in enumerate(encoded.ravel()):
            squares[i] = read_square(data, name=f"{ENCODED}[{i}]", rescaling=self._rescaling)
        return squares
