"""A stand-in for Triton's module `triton_python_backend_utils`.

It follows NVIDIA's documentation and source (`src/resources/triton_python_backend_utils.py`, and the classes of
`src/pb_stub.cc`, which take no other types) as far as a model without decoupled responses needs it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_STRING": np.object_}


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        if not isinstance(message, str) or code not in range(8):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        if not isinstance(name, str) or not isinstance(values, np.ndarray):
            raise TypeError("__init__(): incompatible constructor arguments")
        if not name:
            raise ValueError("Tensor name cannot be an empty string.")
        assert values.dtype in _NUMPY.values(), values.dtype
        self._name, self._values = name, np.ascontiguousarray(values)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values

    def shape(self) -> list[int]:
        return list(self._values.shape)


class InferenceRequest:
    def __init__(self, inputs: list[Tensor]) -> None:
        self._inputs = inputs

    def inputs(self) -> list[Tensor]:
        return self._inputs


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        tensors = [] if output_tensors is None else output_tensors
        if not all(isinstance(tensor, Tensor) for tensor in tensors) or not isinstance(error, TritonError | None):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._tensors, self._error = tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((output for output in model_config.get("output", ()) if output["name"] == name), None)


def triton_string_to_numpy(kind: str) -> type:
    return _NUMPY[kind]


def deserialize_bytes_tensor(encoded: bytes) -> np.ndarray:
    """Elements as they arrive: each is its length in four bytes, then its content. Always `bytes`, never text."""
    elements, at = [], 0
    while at < len(encoded):
        (length,) = struct.unpack_from("<I", encoded, at)
        elements.append(encoded[at + 4 : at + 4 + length])
        at += 4 + length
    result = np.empty(len(elements), object)
    result[:] = elements
    return result
