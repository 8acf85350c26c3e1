"""Stage 4, first half: the time of a training step and of its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, Dropout, MaxPool, Step
from alexnet_infer.presets import variant
from benchmarks.gpu.context import NEEDS_GPU, Context
from benchmarks.gpu.machine import matrix_rate
from benchmarks.gpu.timing import seconds
from train.augment import Augment, ColorPCA, EpochPlan
from train.device import can_compile, prepare_process, working_precision
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD
from train.step import Batch, TrainingStep

SET = 2**29
"""Minimum bytes of random squares on the device: more than any cache holds."""
PARTS = {Conv: "convolutions", LRN: "LRN", MaxPool: "pooling", Dense: "fully connected", Activation: "activations"}


@dataclass(frozen=True)
class Size:
    """The size of a measured step: preset, batch size, side of the squares, and width."""

    preset: str
    batch: int
    square: int
    width: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.preset}, {self.batch}"

    @property
    def architecture(self) -> Architecture:
        net = replace(variant(self.preset), width=self.width)
        return (replace(net, hidden=max(16, int(net.hidden * self.width))) if self.width < 1 else net).build()


SIZES = (Size("alexnet", 1024, 256), Size("alexnet", 128, 256), Size("alexnet-64", 512, 64))
TINY = (Size("alexnet-64", 8, 64, width=1 / 8),)


def flops(architecture: Architecture) -> float:
    """Return the FLOP for one image, forward and backward.

    Each product is computed once forward and twice backward, except in the first layer, whose input needs no gradient.
    """
    first = next(step for step in architecture.steps if isinstance(step.operation, Conv))
    return 2 * (3 * architecture.multiply_adds - first.multiply_adds)


def run(context: Context) -> None:
    """Record each figure as soon as it is measured, the most important first."""
    prepare_process(context.device)
    rate = matrix_rate(context, working_precision(context.device), tf32=False)  # in this process, like the steps
    context.record("matrix TFLOP/s", rate / 1e12)
    for size in TINY if context.miniature else SIZES:
        with context.attempt(f"{size.name}, all"):
            steps(context, size, rate)


def steps(context: Context, size: Size, rate: float) -> None:
    """Measure a step eager and compiled, the device's idle time, and each kind of layer separately."""
    architecture = size.architecture
    figures: dict[str, object] = {}
    for mode in ("eager", *(["compiled"] if context.device.type == "cuda" and can_compile() else [])):
        if context.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        call = None  # frees the memory of the previous one
        call = full_step(context, size, architecture, compile=mode == "compiled")
        elapsed = seconds(call, context.device, budget=0.1 if context.miniature else 1.5)
        figures[mode] = {
            "ms": elapsed * 1e3,
            "images/s": size.batch / elapsed,
            "share of the matrix rate": flops(architecture) * size.batch / elapsed / rate,
        }
        if context.device.type == "cuda":
            figures[mode]["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        context.record(size.name, figures)
    with context.attempt(f"{size.name}, kernels"):
        figures["kernels"] = kernels(call, elapsed) if context.device.type == "cuda" else NEEDS_GPU
        context.record(size.name, figures)
    figures["parts, ms"] = {name: value * 1e3 for name, value in parts(context, size, architecture).items()}
    context.record(size.name, figures)


def squares_on(context: Context, size: Size) -> Tensor:
    count = size.batch if context.miniature else max(size.batch, SET // (3 * size.square**2))
    return torch.randint(0, 256, (count, size.square, size.square, 3), dtype=torch.uint8, device=context.device)


def augmentation(context: Context, size: Size, architecture: Architecture) -> Augment:
    """Return the paper's augmentation with a per-pixel mean."""
    mean = np.random.default_rng(0).uniform(90, 130, (size.square, size.square, 3)).astype(np.float32)
    pca = ColorPCA.from_covariance(np.diag([4000.0, 5000, 6000]))
    precision = working_precision(context.device) if context.device.type == "cuda" else torch.float32
    return Augment(mean, pca, architecture.patch, 0.1, context.device, precision)


def batches(context: Context, size: Size, squares: Tensor, classes: int) -> tuple[EpochPlan, Iterator[Batch]]:
    """Return an epoch plan and endless batches of a set that is on the device."""
    plan = EpochPlan.draw(len(squares), 0, 0).to(context.device)
    labels = torch.arange(len(squares), device=context.device) % classes

    def walk() -> Iterator[Batch]:
        while True:
            for rows in plan.order.split(size.batch):
                if len(rows) == size.batch:
                    yield Batch(rows, labels[rows], squares, rows)

    return plan, walk()


def net(context: Context, architecture: Architecture) -> AlexNet:
    torch.manual_seed(0)
    model = AlexNet(architecture, unit=16.0)
    initialise(model, "he")
    return model.to(context.device, memory_format=torch.channels_last)


def full_step(context: Context, size: Size, architecture: Architecture, *, compile: bool) -> Callable[[], object]:
    """Return a call that does what `python -m train` does in a step."""
    model = net(context, architecture)
    optimizer = PaperSGD(list(model.parameters()), 0.9, 0.0005)
    if compile:
        torch.compiler.reset()  # a second batch size would otherwise be compiled for any size
        model.compile(dynamic=False)
        optimizer.compile()
    augment = augmentation(context, size, architecture)
    step = TrainingStep(model, optimizer, augment, precision=working_precision(context.device))
    plan, walk = batches(context, size, squares_on(context, size), architecture.classes)
    return lambda: step(next(walk), plan, 0.001)


def kernels(call: Callable[[], object], elapsed: float, count: int = 5) -> dict[str, object]:
    """Profile a step: milliseconds with and without a running kernel, and the slowest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            call()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    # The profiler also lists the ranges with which the compiler marks its graphs. Their kernels are listed as well.
    on_gpu = [e for e in profiler.key_averages() if e.device_type == cuda and not e.is_user_annotation]
    times = {event.key: event.self_device_time_total / count / 1e3 for event in on_gpu}
    longest = sorted(times, key=times.__getitem__, reverse=True)[:20]
    busy = sum(times.values())
    return {
        "busy ms": busy,
        "waiting ms": elapsed * 1e3 - busy,
        "longest, ms": {name[:120]: times[name] for name in longest},
    }


def parts(context: Context, size: Size, architecture: Architecture) -> dict[str, float]:
    """Return the seconds of each kind of layer, of cutting the patches, of the gradient's norm and of the update.

    Layers are measured separately, forward and backward, in eager mode. The compiler fuses some of the parts into one
    kernel, so a step may take less time than their sum.
    """
    device, budget = context.device, 0.02 if context.miniature else 0.15
    model, times = net(context, architecture), defaultdict[str, float](float)
    keys = torch.arange(size.batch, device=device)

    def add(name: str, call: Callable[[], object]) -> None:
        times[name] += seconds(call, device, budget=budget)

    for position, (step, module) in enumerate(zip(architecture.steps, model.train().children(), strict=True)):
        if isinstance(step.operation, Dropout):
            add("dropout", layer(context, size, step, lambda x, dropout=module: dropout(x, keys)))
        elif name := PARTS.get(type(step.operation)):
            # The net's ReLU works in place, which autograd does not allow on the leaf tensor used here.
            function = nn.ReLU() if isinstance(module, nn.ReLU) else module
            add(name, layer(context, size, step, function, needs_gradient=position > 0))
    augment = augmentation(context, size, architecture)
    squares = squares_on(context, size)
    plan, walk = batches(context, size, squares, architecture.classes)
    add("patches", lambda: augment.training(squares, plan, (rows := next(walk).rows), rows))
    optimizer = PaperSGD(list(model.parameters()), 0.9, 0.0005)
    for w in optimizer.parameters:
        w.grad = torch.randn_like(w)
    add("gradient's norm", lambda: torch.stack(torch._foreach_norm(optimizer.gradients)).norm())
    if device.type == "cuda" and can_compile():
        optimizer.compile()
    add("update", lambda: optimizer.step(0.001))
    return times


def layer(
    context: Context, size: Size, step: Step, module: Callable[[Tensor], Tensor], *, needs_gradient: bool = True
) -> Callable[[], object]:
    """Return a call that runs a layer forward and backward on random maps in the working precision."""
    x = maps(context, size.batch, step.input).requires_grad_(needs_gradient)
    return forward_and_backward(context, module, x)


def maps(context: Context, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Return random values [batch, *shape] in the working precision, channels-last."""
    x = torch.randn(batch, *shape, device=context.device).to(working_precision(context.device))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def forward_and_backward(context: Context, module: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Return a call that runs `module` on x under autocast and computes the gradients of its weights and of x.

    The gradient of x is omitted if x requires none.
    """
    precision = working_precision(context.device)
    weights = [*module.parameters()] if isinstance(module, nn.Module) else []
    targets = [*([x] if x.requires_grad else []), *weights]

    def forward() -> Tensor:
        with torch.autocast(context.device.type, precision, enabled=precision != torch.float32):
            return module(x)

    gradient = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), targets, gradient)
