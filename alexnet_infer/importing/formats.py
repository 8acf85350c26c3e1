"""The file formats that can be imported.

This module imports no other module of the package. `classify` loads it with the registry of nets, and must start fast.
"""

from __future__ import annotations

from typing import Literal

Format = Literal["onnx", "onnx-quantized", "caffemodel", "state-dict", "checkpoint"]
