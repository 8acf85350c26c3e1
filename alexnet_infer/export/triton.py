"""Write an exported ONNX file or TensorRT engine to a model repository for NVIDIA's Triton Inference Server.

    DIR/<name>/config.pbtxt    the model's input and output, and how requests are batched
    DIR/<name>/labels.txt      one class name per line, in the order of the outputs
    DIR/<name>/README.md       how to serve the model and send requests
    DIR/<name>/1/model.onnx    versions: 1, 2, ...

Triton reads only folders whose names are numbers, so it does not see a version while it is being written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.files import (
    MAX_JSON_BYTES,
    copy_atomically,
    read_limited,
    safe_name,
    temporary_folder,
    write_atomically,
    writing,
)
from alexnet_infer.graph.info import Batch, ExportInfo
from alexnet_infer.layers import PROBABILITIES, Layer, find_layers
from alexnet_infer.manifest import Manifest

QUEUE_DELAY = 1000
"""Maximum wait of a request for others to join its batch, in microseconds. Running the net takes longer on most
devices."""

CONFIG, LABELS, README = "config.pbtxt", "labels.txt", "README.md"

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

_PROBABILITIES = [PROBABILITIES]
"""The outputs of most models. Their interface doesn't name them, like that of configs before there were others."""

_SIGNATURE = "# alexnet-infer: "
"""Start of the config's first line. The rest is `ServedModel.interface` as JSON."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """An exported file to serve.

    `weights` are the files beside an ONNX file that hold its weights. `tensorrt` is the version of TensorRT that built
    an engine, or None for an ONNX file. Raises UsageError for an engine that doesn't accept a single image, because
    Triton also sends single images.
    """

    path: Path
    manifest: Manifest
    info: ExportInfo
    weights: tuple[Path, ...] = ()
    tensorrt: str | None = None

    def __post_init__(self) -> None:
        if self.tensorrt is not None:
            check_batch(self.info.batch)

    @property
    def backend(self) -> str:
        """The name of the Triton backend that runs the file."""
        return "onnxruntime" if self.tensorrt is None else "tensorrt"

    @property
    def file_name(self) -> str:
        """The file's name in a version's folder, as Triton expects it."""
        return "model.onnx" if self.tensorrt is None else "model.plan"

    @property
    def input(self) -> tuple[str, str, list[int]]:
        """(Name, Triton's data type, dimensions of one image) of the input."""
        preprocessing = self.manifest.preprocessing
        if self.info.takes_squares:
            return "images", "TYPE_UINT8", [preprocessing.size, preprocessing.size, 3]
        return "patches", "TYPE_FP32", [3, preprocessing.patch, preprocessing.patch]

    @property
    def interface(self) -> dict[str, Any]:
        """What clients and the config rely on. It is the same for all versions of a model."""
        name, kind, dims = self.input
        batch = self.info.batch
        outputs = list(self.info.outputs)
        return {
            "backend": self.backend,
            "input": [name, kind, dims],
            "classes": len(self.manifest.classes),
            "batch": batch.max,
            "fixed": batch.fixed,
            **({} if outputs == _PROBABILITIES else {"outputs": outputs}),
        }


def check_batch(batch: Batch) -> None:
    """Raise UsageError unless an engine with this batch takes a single image, or always the same number."""
    if not batch.fixed and batch.min > 1:
        raise UsageError(
            f"--triton with --batch {batch.min},{batch.opt},{batch.max}: Triton also sends single images; expected "
            f"1,{batch.opt},{batch.max}, or one number"
        )


def write_repository(folder: Path, model: ServedModel) -> Path:
    """Add `model` to the repository `folder`, and return the folder of its version. `folder` is created if needed.

    Its name for clients is derived from the net's. If the repository already has a model of this name, `model` becomes
    its next version, and the config is kept, since its owner may have changed it.

    Raises UsageError if an existing model has a different interface or different class names or was not written by
    alexnet-infer, or if the folder can't be written.
    """
    name = safe_name(model.manifest.name, 100)
    target = folder / name
    labels = "".join(f"{class_name.name}\n" for class_name in model.manifest.classes)
    with writing(f"--triton {folder}"):
        _check_same(target, model, labels)
        with temporary_folder(target / "version") as temporary:  # Triton ignores it
            for source, file in ((model.path, model.file_name), *((path, path.name) for path in model.weights)):
                copy_atomically(source, temporary / file)
            if not (target / CONFIG).exists():
                write_atomically(target / LABELS, labels.encode())
                write_atomically(target / CONFIG, config(model, name).encode())
            _check_same(target, model, labels)  # another process may have written the config meanwhile
            version = _publish(temporary, target)
        write_atomically(target / README, readme(model, name).encode())
    return version


def _check_same(target: Path, model: ServedModel, labels: str) -> None:
    """Raise UsageError unless `target` has no model yet, or versions with the same interface and class names."""
    same_labels = _contains(target / LABELS, labels.encode())
    if not (target / CONFIG).exists():
        others = {"versions": versions(target), README: os.path.lexists(target / README)}
        others[LABELS] = os.path.lexists(target / LABELS) and not same_labels  # a killed export leaves the same
        for what, found in others.items():
            if found:
                raise UsageError(
                    f"{target}: has {what} but no {CONFIG}; expected a model that alexnet-infer wrote, or another "
                    "folder"
                )
        return
    try:
        first_line = read_limited(target / CONFIG, MAX_JSON_BYTES).decode("utf-8", "replace").partition("\n")[0]
        existing = json.loads(first_line.removeprefix(_SIGNATURE)) if first_line.startswith(_SIGNATURE) else None
    except (ValueError, RecursionError):  # SpecError is a ValueError
        existing = None
    if not isinstance(existing, dict):
        raise UsageError(f"{target / CONFIG}: was not written by alexnet-infer; give --triton another folder")
    before, after = ({"outputs": _PROBABILITIES, **interface} for interface in (existing, model.interface))
    for key, value in after.items():
        if before.get(key) != value:
            raise UsageError(
                f"{target}: its versions have {key}={shown(before.get(key))}, this model has {shown(value)}; "
                "expected the same, or another folder"
            )
    if not same_labels:
        raise UsageError(f"{target / LABELS}: this model has different class names; give --triton another folder")


def _contains(path: Path, content: bytes) -> bool:
    """Whether the file at `path` has exactly this content."""
    try:
        return read_limited(path, len(content)) == content
    except (OSError, SpecError):
        return False


def versions(folder: Path) -> list[int]:
    """Return the versions in a model's folder in ascending order."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name))


def _publish(temporary: Path, target: Path) -> Path:
    """Rename a complete version to the next free number, and return its folder."""
    while True:
        version = target / str(max(versions(target), default=0) + 1)
        try:
            return temporary.rename(version)
        except OSError:
            if not version.exists():  # the number is still free, so this is another error
                raise


def config(model: ServedModel, name: str) -> str:
    """Return the model's configuration, a ModelConfig in protobuf's text format.

    With a `max_batch_size`, Triton batches requests, and the dimensions are those of one image. For a fixed batch,
    `max_batch_size` is 0 and the batch is the first dimension. Triton then passes requests on without batching.
    """
    batch = model.info.batch
    source, kind, dims = model.input
    first = [batch.max] if batch.fixed else []
    outputs = [_output(layer, first) for layer in find_layers(model.manifest.architecture, model.info.outputs)]
    device = "KIND_AUTO" if model.tensorrt is None else "KIND_GPU"
    options = [] if model.tensorrt is not None else _FLOAT32
    lines = [
        _SIGNATURE + json.dumps(model.interface),
        f'name: "{name}"',
        f'backend: "{model.backend}"',
        f"max_batch_size: {0 if batch.fixed else batch.max}",
        f'input [ {{ name: "{source}" data_type: {kind} dims: {_list([*first, *dims])} }} ]',
        "output [ {",
        "}, {\n".join(outputs),
        "} ]",
        f"instance_group [ {{ count: 1 kind: {device} }} ]",
        "version_policy { latest { num_versions: 1 } }",
        *options,
    ]
    if not batch.fixed:
        preferred = f"preferred_batch_size: {_list([batch.opt])}"
        lines.append(f"dynamic_batching {{ {preferred} max_queue_delay_microseconds: {QUEUE_DELAY} }}")
    return "\n".join(lines) + "\n"


def _output(layer: Layer, first: list[int]) -> str:
    labels = f' label_filename: "{LABELS}"' if layer.name == PROBABILITIES else ""
    return f'  name: "{layer.name}" data_type: TYPE_FP32 dims: {_list([*first, *layer.shape])}{labels}'


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def readme(model: ServedModel, name: str) -> str:
    """Return a README in Markdown: how to serve the model and send requests."""
    batch = model.info.batch
    source, kind, dims = model.input
    element = kind.removeprefix("TYPE_")
    values = "square images in RGB, 0 to 255" if model.info.takes_squares else "patches with the mean subtracted"
    layers = find_layers(model.manifest.architecture, model.info.outputs)
    return f"""# {name}

Written by `alexnet-infer export --triton`.

- Input `{source}`: {element} [N, {", ".join(map(str, dims))}], {values}.
{"".join(map(_described, layers))}- Batch size N: {"always" if batch.fixed else "at most"} {batch.max}.

## Serve

Run this in the parent folder:

```bash
docker run --rm {"--gpus all " if model.tensorrt else ""}-p 8000:8000 -v "$PWD:/models:ro" \\
    nvcr.io/nvidia/tritonserver:<tag>-py3 tritonserver --model-repository=/models
curl -f localhost:8000/v2/models/{name}/ready
```

{_note(model)}

To add a version, export to the same folder again. Triton loads it at its next start, or automatically with
`--model-control-mode=poll`.

## Send a request

```python
from pathlib import Path  # needs alexnet-infer and "tritonclient[http]"

import numpy as np
import tritonclient.http as triton
{_example(model)}
tensor = triton.InferInput("{source}", list(inputs.shape), "{element}")
tensor.set_data_from_numpy(inputs)
answer = triton.InferenceServerClient("localhost:8000").infer("{name}", [tensor])
{_printing(model.info.outputs)}```
"""


def _described(layer: Layer) -> str:
    order = f", in the order of [{LABELS}]({LABELS})" if layer.name == PROBABILITIES else ""
    return f"- Output `{layer.name}`: FP32 [{', '.join(['N', *map(str, layer.shape)])}]{order}.\n"


def _printing(outputs: Sequence[str]) -> str:
    """Return Python that prints what was answered."""
    if PROBABILITIES not in outputs:
        return f'print(answer.as_numpy("{outputs[0]}").mean(0).shape)  # all rows are from the same photo\n'
    return f"""probabilities = answer.as_numpy("{PROBABILITIES}").mean(0)  # all rows are from the same photo
labels = Path("{LABELS}").read_text(encoding="utf-8").splitlines()
for i in np.argsort(-probabilities)[:5]:
    print(f"{{probabilities[i]:.1%}} {{labels[i]}}")
"""


def _example(model: ServedModel) -> str:
    """Return Python that reads one photo and makes `inputs` from it."""
    preprocessing, batch = model.manifest.preprocessing, model.info.batch
    square = f'Path("photo.jpg"), name="photo", rescaling={preprocessing.rescaling}'
    if model.info.takes_squares:
        repeat = batch.max if batch.fixed else 1
        return f"""from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling

square = read_square({square})
inputs = np.stack([square] * {repeat})"""
    count = batch.max if batch.fixed or batch.max < 10 else 10
    return f"""from alexnet_infer import load
from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling, patches

square = read_square({square})
preprocessing = load("net.safetensors").manifest.preprocessing  # the exported net
inputs = np.resize(patches(square, preprocessing), ({count}, 3, {preprocessing.patch}, {preprocessing.patch}))"""


def _note(model: ServedModel) -> str:
    """Return a note in Markdown that says where the file runs."""
    if model.tensorrt is None:
        return "The server runs the model on a GPU if it has one (`docker run --gpus all`), otherwise on the CPU."
    plugin = " The LRN plugin's code is in the engine, so no library is needed." if model.info.lrn == "plugin" else ""
    return f"""The engine was built by TensorRT {model.tensorrt}. It runs only in that version, on the kind of GPU that
built it. Find the image tag with this version at https://docs.nvidia.com/deeplearning/frameworks/support-matrix, or
print the version in an image with `docker run --rm IMAGE sh -c "ls /usr/lib/*/libnvinfer.so.*"`.{plugin}"""
