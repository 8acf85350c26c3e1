"""`config.pbtxt`: a model's configuration for Triton, a ModelConfig in protobuf's text format.

With a `max_batch_size`, Triton batches requests, and the dimensions are those of one image. For a fixed batch,
`max_batch_size` is 0 and the batch is the first dimension. Triton then passes requests on without batching.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from alexnet_infer.export.triton.decode_model import ENCODED, RESCALING_KEY
from alexnet_infer.export.triton.served_model import ServedModel
from alexnet_infer.files import MAX_JSON_BYTES, read_limited
from alexnet_infer.graph.info import Batch
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.layers import PROBABILITIES, Layer

QUEUE_DELAY = 1000
"""Maximum wait of a request for others to join its batch, in microseconds. Running the net takes longer on most
devices."""

CONFIG, LABELS = "config.pbtxt", "labels.txt"

DECODERS = 2
"""Processes that decode. Each takes one request at a time."""

_SIGNATURE = "# alexnet-infer: "
"""Start of the config's first line. The rest is the model's interface as JSON: what all its versions have in common."""

_VERSIONS = "version_policy { latest { num_versions: 1 } }"

_FLOAT32 = (
    "# On a GPU, don't round float32 to TF32 (10 mantissa bits), as ONNX Runtime does by default.",
    "# Needs Triton 24.07 or later.",
    "optimization { execution_accelerators { gpu_execution_accelerator [ {",
    '  name: "cuda" parameters { key: "use_tf32" value: "0" }',
    "} ] } }",
    "# 1: choose convolution algorithms by a heuristic, not by timing all of them.",
    'parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }',
)
"""Triton's ONNX Runtime backend passes the options of the accelerator "cuda" unchanged to the CUDA provider. It reads
the algorithm search from the model's parameters, and searches exhaustively by default."""


def interface_in(path: Path) -> dict[str, Any] | None:
    """Return the interface in a config that alexnet-infer wrote, or None for another file. Raises OSError."""
    try:
        first_line = read_limited(path, MAX_JSON_BYTES).decode("utf-8", "replace").partition("\n")[0]
        interface = json.loads(first_line.removeprefix(_SIGNATURE)) if first_line.startswith(_SIGNATURE) else None
    except (ValueError, RecursionError):  # SpecError is a ValueError
        return None
    return interface if isinstance(interface, dict) else None


def net_config(model: ServedModel) -> str:
    """Return the configuration of the net. Its parameters tell clients the classes and the preprocessing."""
    batch = model.info.batch
    device = "KIND_AUTO" if model.tensorrt is None else "KIND_GPU"
    described = ServedNet(manifest=model.manifest, info=model.info).parameters()
    lines = [
        *_start(model.name, model.interface, f'backend: "{model.backend}"', batch),
        *_tensors(batch, model.input, model.layers),
        f"instance_group [ {{ count: 1 kind: {device} }} ]",
        _VERSIONS,
        *([] if model.tensorrt is not None else _FLOAT32),
        "# The net for clients, as of the first version. Its digests and precision may have changed since.",
        *(_parameter(key, value) for key, value in described.items()),
    ]
    if not batch.fixed:
        preferred = f"preferred_batch_size: {_list([batch.opt])}"
        lines.append(f"dynamic_batching {{ {preferred} max_queue_delay_microseconds: {QUEUE_DELAY} }}")
    return "\n".join(lines) + "\n"


def decode_config(model: ServedModel, name: str, interface: Mapping[str, Any]) -> str:
    """Return the configuration of the model that decodes. `interface` is its signature."""
    batch = model.info.batch
    squares, kind, dims = model.input
    rescaling = json.dumps(msgspec.to_builtins(model.manifest.preprocessing.rescaling))
    lines = [
        *_start(name, interface, 'backend: "python"', batch),
        _input(batch, ENCODED, "TYPE_STRING", [1]),
        f'output [ {{ name: "{squares}" data_type: {kind} dims: {_dims(batch, dims)} }} ]',
        "# Processes that decode, each one request at a time. Increase it up to the number of CPU cores.",
        f"instance_group [ {{ count: {DECODERS} kind: KIND_CPU }} ]",
        _VERSIONS,
        _parameter(RESCALING_KEY, rescaling),
    ]
    return "\n".join(lines) + "\n"


def ensemble_config(model: ServedModel, name: str, interface: Mapping[str, Any], decoder: str) -> str:
    """Return the configuration of the ensemble: the model `decoder`, then the net. `interface` is its signature."""
    batch = model.info.batch
    squares, _, _ = model.input
    outputs = " ".join(_map("output_map", layer.name, layer.name) for layer in model.layers)
    lines = [
        *_start(name, interface, 'platform: "ensemble"', batch),
        *_tensors(batch, (ENCODED, "TYPE_STRING", [1]), model.layers),
        _VERSIONS,
        "# -1: the latest version.",
        "ensemble_scheduling { step [ {",
        f'  model_name: "{decoder}" model_version: -1',
        f"  {_map('input_map', ENCODED, ENCODED)} {_map('output_map', squares, 'squares')}",
        "}, {",
        f'  model_name: "{model.name}" model_version: -1',
        f"  {_map('input_map', squares, 'squares')} {outputs}",
        "} ] }",
    ]
    return "\n".join(lines) + "\n"


def _start(name: str, interface: Mapping[str, Any], runner: str, batch: Batch) -> list[str]:
    size = 0 if batch.fixed else batch.max
    return [_SIGNATURE + json.dumps(interface), f'name: "{name}"', runner, f"max_batch_size: {size}"]


def _tensors(batch: Batch, source: tuple[str, str, list[int]], layers: Iterable[Layer]) -> list[str]:
    return [_input(batch, *source), "output [ {", "}, {\n".join(_output(batch, layer) for layer in layers), "} ]"]


def _input(batch: Batch, name: str, kind: str, dims: list[int]) -> str:
    return f'input [ {{ name: "{name}" data_type: {kind} dims: {_dims(batch, dims)} }} ]'


def _output(batch: Batch, layer: Layer) -> str:
    labels = f' label_filename: "{LABELS}"' if layer.name == PROBABILITIES else ""
    return f'  name: "{layer.name}" data_type: TYPE_FP32 dims: {_dims(batch, layer.shape)}{labels}'


def _dims(batch: Batch, one: Sequence[int]) -> str:
    return _list([batch.max, *one] if batch.fixed else one)


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def _map(kind: str, key: str, value: str) -> str:
    return f'{kind} {{ key: "{key}" value: "{value}" }}'


def _parameter(key: str, text: str) -> str:
    """Return a parameter, whose text is JSON in ASCII. Protobuf and JSON quote and escape such text in the same way."""
    return f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(text)} }} }}'
