"""A model repository for NVIDIA's Triton Inference Server, with an exported ONNX file or TensorRT engine in it.

    DIR/<name>/config.pbtxt    what the model takes and gives, and how requests are batched
    DIR/<name>/labels.txt      a class name a line, in the order of the outputs
    DIR/<name>/README.md       how to serve it and how to ask it
    DIR/<name>/1/model.onnx    versions: 1, 2, ...

Triton reads folders whose names are numbers as versions, and no others, so that one that is being written is not seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import Manifest
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.export.info import ExportInfo
from alexnet_infer.files import write_atomically

QUEUE_DELAY = 1000
"""Microseconds that a request waits for others, so that they run together: less than the net takes on most devices."""

CONFIG, LABELS, README = "config.pbtxt", "labels.txt", "README.md"

_FLOAT32 = (
    "# On a GPU, float32 is float32: ONNX Runtime would round it to TF32, 10 bits. Needs Triton 24.07 or later.",
    "optimization { execution_accelerators { gpu_execution_accelerator [ {",
    '  name: "cuda" parameters { key: "use_tf32" value: "0" }',
    "} ] } }",
    "# 1: no timing of all convolution algorithms for every new batch size.",
    'parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }',
)
"""Triton's ONNX Runtime backend passes the options of the accelerator "cuda" to the CUDA provider as they are. It takes
the search from the model's parameters, where its default is exhaustive."""

_SIGNATURE = "# alexnet-infer: "
"""The config's first line: this, and what every version in the folder has in common, as JSON."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """An exported file, ready to be served.

    `weights` are the files beside an ONNX file in which its weights lie. `tensorrt` is the version of TensorRT that
    built an engine, None for an ONNX file. Raises UsageError for an engine that can't take a single image, which
    Triton would give it.
    """

    path: Path
    manifest: Manifest
    info: ExportInfo
    weights: tuple[Path, ...] = ()
    tensorrt: str | None = None

    def __post_init__(self) -> None:
        batch = self.info.batch
        if self.tensorrt is not None and not batch.fixed and batch.min > 1:
            raise UsageError(
                f"--triton with --batch {batch.min},{batch.opt},{batch.max}: Triton sends single images, too; expected "
                f"1,{batch.opt},{batch.max}, or one number"
            )

    @property
    def backend(self) -> str:
        """Triton's name of what runs it."""
        return "onnxruntime" if self.tensorrt is None else "tensorrt"

    @property
    def file_name(self) -> str:
        """What Triton expects the file in a version to be called."""
        return "model.onnx" if self.tensorrt is None else "model.plan"

    @property
    def input(self) -> tuple[str, str, list[int]]:
        """(Name, Triton's type, dimensions of one image)."""
        preprocessing = self.manifest.preprocessing
        if self.info.takes_squares:
            return "images", "TYPE_UINT8", [preprocessing.size, preprocessing.size, 3]
        return "patches", "TYPE_FP32", [3, preprocessing.patch, preprocessing.patch]

    @property
    def interface(self) -> dict[str, Any]:
        """What clients and config rely on. All versions of a model share it."""
        name, kind, dims = self.input
        batch = self.info.batch
        return {
            "backend": self.backend,
            "input": [name, kind, dims],
            "classes": len(self.manifest.classes),
            "batch": batch.max,
            "fixed": batch.fixed,
        }


def write_repository(
    folder: Path, model: ServedModel, *, name: str | None = None, queue_delay: int = QUEUE_DELAY
) -> Path:
    """Puts `model` into the repository `folder`, new or not; returns the folder of its version.

    `name` is the model's for clients; without, it is made of the net's. Where the model is there already, this becomes
    its next version and the config, which its owner may have changed, stays as it is. `queue_delay` is in microseconds.

    Raises UsageError when the name is none, when what is there takes, gives or runs something else or isn't ours, and
    when the folder can't be written.
    """
    name = _safe_name(model.manifest.name) if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(f"--triton: model name {shown(name)}: expected letters, digits, _, - and .")
    if not 0 <= queue_delay <= 10_000_000:
        raise UsageError(f"--triton: queue delay {queue_delay}: expected microseconds from 0 to 10,000,000")
    place = folder / name
    labels = "".join(f"{one.name}\n" for one in model.manifest.classes)
    try:
        _check_same(place, model, labels)
        place.mkdir(parents=True, exist_ok=True)
        coming = _written(place, model)
        try:
            if not (place / CONFIG).exists():
                write_atomically(place / LABELS, labels.encode())
                write_atomically(place / CONFIG, config(model, name, queue_delay).encode())
            _check_same(place, model, labels)  # somebody else may have written it just now
            version = _published(coming, place)
        finally:
            shutil.rmtree(coming, ignore_errors=True)
        write_atomically(place / README, readme(model, name).encode())
    except OSError as error:
        raise UsageError(f"--triton {folder}: can't be written ({error.strerror or error})") from None
    return version


def _safe_name(text: str) -> str:
    """A net's name as that of a folder and in a URL."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:100] or "alexnet"


def _check_same(place: Path, model: ServedModel, labels: str) -> None:
    """Raises UsageError unless `place` is free, or holds versions with the same interface and classes."""
    if not (place / CONFIG).exists():
        if versions(place):
            raise UsageError(f"{place}: has versions but no {CONFIG}; expected a model of ours, or another folder")
        return
    first = (place / CONFIG).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    try:
        theirs = json.loads(first.removeprefix(_SIGNATURE)) if first.startswith(_SIGNATURE) else None
    except (ValueError, RecursionError):
        theirs = None
    if not isinstance(theirs, dict):
        raise UsageError(f"{place / CONFIG}: is not of alexnet-infer; give --triton another folder")
    ours = model.interface
    for key in ours:
        if theirs.get(key) != ours[key]:
            raise UsageError(
                f"{place}: its versions have {key}={shown(theirs.get(key))}, this model has {shown(ours[key])}; "
                "expected the same, or another folder"
            )
    if not (place / LABELS).exists() or (place / LABELS).read_bytes() != labels.encode():
        raise UsageError(f"{place / LABELS}: has other class names than this model; give --triton another folder")


def versions(place: Path) -> list[int]:
    """The versions in a model's folder, in order."""
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name))


def _written(place: Path, model: ServedModel) -> Path:
    """The files of a version, complete, in a folder that Triton passes over."""
    coming = place / f".{os.urandom(4).hex()}.tmp"
    coming.mkdir()
    try:
        for source, target in ((model.path, model.file_name), *((path, path.name) for path in model.weights)):
            _copy(source, coming / target)
    except BaseException:
        shutil.rmtree(coming, ignore_errors=True)
        raise
    return coming


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _published(coming: Path, place: Path) -> Path:
    """Renames a complete version to the next free number."""
    while True:
        version = place / str(max(versions(place), default=0) + 1)
        try:
            return coming.rename(version)
        except OSError:
            if not version.exists():  # nobody else took this number: something is wrong
                raise


def config(model: ServedModel, name: str, queue_delay: int = QUEUE_DELAY) -> str:
    """The model's configuration, a ModelConfig in protobuf's text format.

    With a `max_batch_size` Triton batches requests, and dimensions are those of one image. A file that takes only a
    fixed number of images has none, and the number is its first dimension: requests come as they are.
    """
    batch = model.info.batch
    source, kind, dims = model.input
    outputs = [len(model.manifest.classes)]
    if batch.fixed:
        dims, outputs = [batch.max, *dims], [batch.max, *outputs]
    device = "KIND_AUTO" if model.tensorrt is None else "KIND_GPU"
    accuracy = [] if model.tensorrt is not None else _FLOAT32
    lines = [
        _SIGNATURE + json.dumps(model.interface),
        f'name: "{name}"',
        f'backend: "{model.backend}"',
        f"max_batch_size: {0 if batch.fixed else batch.max}",
        f'input [ {{ name: "{source}" data_type: {kind} dims: {_list(dims)} }} ]',
        "output [ {",
        f'  name: "probabilities" data_type: TYPE_FP32 dims: {_list(outputs)} label_filename: "{LABELS}"',
        "} ]",
        f"instance_group [ {{ count: 1 kind: {device} }} ]",
        "version_policy { latest { num_versions: 1 } }",
        *accuracy,
    ]
    if not batch.fixed:
        preferred = f"preferred_batch_size: {_list([batch.opt])}"
        lines.append(f"dynamic_batching {{ {preferred} max_queue_delay_microseconds: {queue_delay} }}")
    return "\n".join(lines) + "\n"


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def readme(model: ServedModel, name: str) -> str:
    """How to serve the model and how to ask it, in Markdown."""
    batch = model.info.batch
    source, kind, dims = model.input
    element = kind.removeprefix("TYPE_")
    what = "whole squares, RGB, 0 to 255" if model.info.takes_squares else "patches, mean subtracted"
    return f"""# {name}

Written by `alexnet-infer export --triton`. `{source}`: {element} [N, {", ".join(map(str, dims))}], {what}, N
{"exactly" if batch.fixed else "up to"} {batch.max}. `probabilities`: FP32 [N, {len(model.manifest.classes)}], in the
order of [{LABELS}]({LABELS}).

## Serve

In the folder above this one:

```bash
docker run --rm {"--gpus all " if model.tensorrt else ""}-p 8000:8000 -v "$PWD:/models:ro" \\
    nvcr.io/nvidia/tritonserver:<tag>-py3 tritonserver --model-repository=/models
curl -f localhost:8000/v2/models/{name}/ready
```

{_note(model)}

Export again to the same folder for the next version; Triton takes it at its next start or, with
`--model-control-mode=poll`, by itself.

## Ask

```python
from pathlib import Path  # pip install alexnet-infer "tritonclient[http]"

import numpy as np
import tritonclient.http as triton
{_example(model)}
tensor = triton.InferInput("{source}", list(inputs.shape), "{element}")
tensor.set_data_from_numpy(inputs)
answer = triton.InferenceServerClient("localhost:8000").infer("{name}", [tensor])
probabilities = answer.as_numpy("probabilities").mean(0)  # of the one photo
labels = Path("{LABELS}").read_text(encoding="utf-8").splitlines()
for i in np.argsort(-probabilities)[:5]:
    print(f"{{probabilities[i]:.1%}} {{labels[i]}}")
```
"""


def _example(model: ServedModel) -> str:
    """Python that makes `inputs`, of one photo, from a file."""
    preprocessing, batch = model.manifest.preprocessing, model.info.batch
    square = f'Path("photo.jpg"), name="photo", rescaling={preprocessing.rescaling}'
    if model.info.takes_squares:
        repeat = batch.max if batch.fixed else 1
        return f"""from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling

square = read_square({square})
inputs = np.stack([square] * {repeat})"""
    some = batch.max if batch.fixed or batch.max < 10 else 10
    return f"""from alexnet_infer import load
from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling, patches

square = read_square({square})
preprocessing = load("net.safetensors").manifest.preprocessing  # of the net that was exported
inputs = np.resize(patches(square, preprocessing), ({some}, 3, {preprocessing.patch}, {preprocessing.patch}))"""


def _note(model: ServedModel) -> str:
    """Where the file runs."""
    if model.tensorrt is None:
        return "The server runs it on a GPU where it has one (`docker run --gpus all`), and else on the CPU."
    plugin = " The LRN plugin's code is in the engine: nothing to load for it." if model.info.lrn == "plugin" else ""
    return f"""The engine was built by TensorRT {model.tensorrt}, and runs in that version and on that kind of GPU only:
take the tag that has it by https://docs.nvidia.com/deeplearning/frameworks/support-matrix, or look into an image with
`docker run --rm IMAGE sh -c "ls /usr/lib/*/libnvinfer.so.*"`.{plugin}"""
