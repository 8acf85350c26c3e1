"""A small net, and model files written and read from their specification, for tests of both."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool
from alexnet_infer.artifact import load_artifact
from alexnet_infer.errors import ModelFileError
from alexnet_infer.manifest import METADATA_KEY, ClassName, Manifest, MeasuredError, Provenance
from alexnet_infer.preprocess import Preprocessing

NET = Architecture(
    name="net",
    patch=6,
    operations=(
        Conv(name="conv1", kernels=4, size=3),
        BatchNorm(name="bn1"),
        Activation(name="act1"),
        LRN(name="norm1", groups=2),
        MaxPool(name="pool1", size=2),
        Dense(name="fc1", units=3),
    ),
)

PROVENANCE = Provenance(
    data="nothing, 12 images",
    recipe={"name": "fast", "lr": 0.04, "epochs": 3, "decay": [1, 0.5, None], "flags": {"mirror": True}},
    seed=7,
    date="2026-01-31",
    software="alexnet-infer 0",
    errors=(MeasuredError(data="nothing", views="ten", images=10, top1=4, top5=1),),
)


def manifest(**fields: Any) -> Manifest:
    classes = tuple(ClassName(wnid=f"n{i:08}", name=f"thing {i}, Res ignota") for i in range(3))
    mean = np.random.default_rng(0).uniform(0, 255, (8, 8, 3))
    defaults = {
        "name": "test-net",
        "architecture": NET,
        "preprocessing": Preprocessing(size=8, patch=6, mean=mean),
        "classes": classes,
        "provenance": PROVENANCE,
    }
    return Manifest(**(defaults | fields))


def random_tensors(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in NET.tensors.items()}
    tensors["bn1.running_var"] = abs(tensors["bn1.running_var"])
    return tensors


# The format, written and read here from its specification (8 bytes of length, JSON header, data), without the library.

TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I8": np.int8, "BF16": np.uint16, "BOOL": np.bool_}


def parse(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def compose(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def written(tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of (type, array) pairs, with a valid manifest unless `metadata` is given."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: manifest().to_json()} if metadata is None else metadata}
    data = b""
    for name, (dtype, array) in tensors.items():
        content = np.ascontiguousarray(array, TYPES[dtype]).tobytes()
        shape, offsets = list(array.shape), [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    return compose(header, data)


def good(**changed: tuple[str, np.ndarray] | None) -> dict[str, tuple[str, np.ndarray]]:
    """Tensors for `written`; `changed` replaces some or, with None, omits them. "conv1__weight" means conv1.weight."""
    tensors = {name: ("F32", array) for name, array in random_tensors().items()}
    for name, value in changed.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


def refused(path: Path, *parts: str, load: Callable[[Path], Any] = load_artifact) -> str:
    """Check that loading raises ModelFileError (exit code 4) in one line that starts with the path and has `parts`."""
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), message
    assert len(message) < 500 + len(str(path)), message
    for part in parts:
        assert part in message, (part, message)
    return message
