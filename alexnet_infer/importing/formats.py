"""The file formats that can be imported. Imports no other module, because `classify` reads the registry of nets."""

from __future__ import annotations

from typing import Literal

Format = Literal["onnx", "onnx-quantized", "caffemodel", "state-dict", "checkpoint"]

SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".caffemodel": "caffemodel",
    ".pth": "state-dict",
    ".pt": "state-dict",
    ".safetensors": "checkpoint",
}
