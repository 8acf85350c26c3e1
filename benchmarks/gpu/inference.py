"""Stage 5: ten-view inference from squares in PyTorch and, if installed, in ONNX Runtime's CUDA provider and TensorRT.

The net is `alexnet` with random weights and logits scaled so that softmax doesn't saturate. Results:

- `flop`: the operations for one image with ten views.
- `largest_probability`: the largest float32 probability.
- `torch` (by precision), `onnxruntime` and `tensorrt`: images/s by batch size, and the largest difference of a
  probability from PyTorch's float32 result on the same device. That result itself is compared with the CPU's.

PyTorch's squares are on the device. The others get squares in host memory, as `Net.probabilities` takes them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.engines.files import EngineOptions, save_engine
from alexnet_infer.errors import BackendError
from alexnet_infer.export.engine_build import build_engine
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import Variant, variant
from benchmarks.gpu.context import NEEDS_GPU, Context
from benchmarks.gpu.machine import budget_of, round_to_tf32
from benchmarks.gpu.timing import seconds
from train.evaluate import view_patches
from train.model import AlexNet, initialise

MEAN = (123.0, 117.0, 104.0)
CHECKED = 2
"""Number of squares whose probabilities are compared."""
SPREAD = 2.0
"""Standard deviation to which the logits are scaled."""
TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 1e-1}
"""Largest allowed differences of a probability. TF32 keeps 11 bits of each factor and bf16 8 bits of each value, so
their tolerances only distinguish rounding from a mistake."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A net on the CPU, and squares uint8 [N, S, S, 3] for the largest batch size."""

    model: AlexNet
    squares: Tensor
    batches: tuple[int, ...]


def run(context: Context) -> None:
    if context.miniature:
        task = task_of(replace(variant("alexnet-64"), width=0.125, hidden=64, classes=20), 64, (1, 4))
    else:
        task = task_of(variant("alexnet"), 256, (1, 32, 256))
    context.record("flop", 2 * 10 * task.model.architecture.multiply_adds)
    expected = through_torch(context, task)
    context.record("largest_probability", expected.max())
    path = context.scratch / "alexnet.safetensors"
    artifact_of(task).save(path, np.float32)
    for name, opened in (("onnxruntime", onnxruntime), ("tensorrt", tensorrt)):
        with context.attempt(name):
            try:
                net = opened(context.device, path)
            except UnavailableError as reason:
                context.record(name, f"skipped: {reason}")
            else:
                context.record(name, measured(context, net, task, expected))


def task_of(variant: Variant, side: int, batches: tuple[int, ...]) -> Task:
    """Return the net with random weights from a fixed seed, and smooth random images in which the views differ."""
    torch.manual_seed(0)
    model = AlexNet(variant.build()).eval().to(memory_format=torch.channels_last)
    initialise(model, "he")
    coarse = torch.rand(max(batches), 3, 8, 8) * 255
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    squares = images.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    last = model.get_submodule(model.architecture.operations[-1].name)
    with torch.no_grad():
        last.weight *= SPREAD / logits(model, squares[:CHECKED], torch.float32).std()
    return Task(model=model, squares=squares, batches=batches)


@torch.no_grad()
def logits(model: AlexNet, squares: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the logits of each view, float32 [N, 10, classes], of squares uint8 [N, S, S, 3] on the model's device."""
    patches = view_patches(squares, mean_on(squares.device), model.architecture.patch)
    inputs = patches.flatten(0, 1).to(dtype, memory_format=torch.channels_last)
    return model(inputs).float().unflatten(0, patches.shape[:2])


@cache
def mean_on(device: torch.device) -> Tensor:
    """Return the mean on `device`. It is copied only once, since a copy from the host waits for all work before it."""
    return torch.tensor(MEAN, device=device)


def probabilities(model: AlexNet, squares: Tensor, dtype: torch.dtype) -> Tensor:
    """Return probabilities averaged over the views, float32 [N, classes]."""
    return logits(model, squares, dtype).softmax(-1).mean(1)


def through_torch(context: Context, task: Task) -> Tensor:
    """Record images/s and differences in each precision. Returns the float32 probabilities of the first squares."""
    torch.backends.cudnn.benchmark = True
    device = context.device
    squares = task.squares.to(device)
    expected = probabilities(task.model, task.squares[:CHECKED], torch.float32)
    rows: dict[str, Any] = {}
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and device.type != "cuda":
            rows[name] = NEEDS_GPU
            continue
        round_to_tf32(name == "tf32")
        model = copy.deepcopy(task.model).to(device, dtype)
        actual = probabilities(model, squares[:CHECKED], dtype).cpu()
        rows[name] = agreement(actual, expected, TOLERANCES[name])
        if name == "fp32":
            expected = actual

        def call(model: AlexNet, part: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            return probabilities(model, part, dtype)

        rates = {
            batch: batch / seconds(call, device, [(model, squares[:batch])], budget=budget_of(context))
            for batch in task.batches
        }
        rows[name]["images_per_second"] = rates
        context.record("torch", rows)
    return expected


def agreement(actual: Tensor, expected: Tensor, tolerance: float) -> dict[str, Any]:
    """Return a check of the largest difference."""
    difference = (actual - expected).abs().max().nan_to_num(torch.inf).item()
    return {"passed": difference <= tolerance, "difference": difference, "tolerance": tolerance}


def measured(context: Context, net: Net, task: Task, expected: Tensor) -> dict[str, Any]:
    """Return images/s of a net that takes squares in host memory, and its agreement with PyTorch's."""
    squares = list(task.squares.numpy())
    actual = torch.from_numpy(net.probabilities(squares[:CHECKED]))
    clock, budget = torch.device("cpu"), budget_of(context)
    rates = {
        batch: batch / seconds(net.probabilities, clock, [(squares[:batch],)], budget=budget) for batch in task.batches
    }
    row = agreement(actual, expected, TOLERANCES["fp32"])
    return {**row, "backend": net.backend.description, "images_per_second": rates}


def artifact_of(task: Task) -> Artifact:
    """Return the net as the content of a model file."""
    architecture = task.model.architecture
    manifest = Manifest(
        name="random",
        architecture=architecture,
        preprocessing=Preprocessing(size=task.squares.shape[1], patch=architecture.patch, mean=np.array(MEAN)),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(architecture.classes)),
        provenance=Provenance(data="none", recipe={}, seed=0, date=None, software="benchmarks"),
    )
    return Artifact(manifest, task.model.artifact_tensors())


class UnavailableError(Exception):
    """A runtime can't be measured here; the message gives the reason."""


def onnxruntime(device: torch.device, path: Path) -> Net:
    """Open the net in ONNX Runtime: with CUDA on a GPU, and on the CPU in the miniature.

    Raises UnavailableError if ONNX Runtime is missing or has no CUDA support.
    """
    from alexnet_infer.backends.onnxruntime import CUDA, import_runtime

    try:
        providers = import_runtime().get_available_providers()
    except BackendError as error:
        raise UnavailableError(error) from None
    if device.type == "cuda" and CUDA not in providers:
        raise UnavailableError("this ONNX Runtime has no CUDA support")
    return load(path, device=device.type, backend="onnxruntime")


def tensorrt(device: torch.device, path: Path) -> Net:
    """Build a TensorRT engine of the net with ten views, float32 and the plugin, and open it.

    Raises UnavailableError without a GPU or TensorRT.
    """
    if device.type != "cuda":
        raise UnavailableError("needs a GPU")
    if not find_spec("tensorrt"):
        raise UnavailableError("TensorRT is not installed")
    artifact = load_artifact(path)
    info = ExportInfo(
        members=(Member(name=artifact.manifest.name, sha256=sha256(path)),),
        views="ten",
        lrn="plugin",
        batch=Batch(min=1, opt=32, max=64),
    )
    model = build_model([artifact], info).SerializeToString()
    engine = path.with_suffix(".engine")
    save_engine(engine, build_engine(model, artifact.manifest, info, EngineOptions(flavor="tensorrt")))
    return load(engine, trust_engine=True)
