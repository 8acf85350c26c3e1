"""Stage 4, second half: layers compared with their memory floor or another implementation, in the same rounds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexnet_infer.architecture import LRN, Conv
from alexnet_infer.presets import variant
from benchmarks.gpu.context import NEEDS_GPU, Context
from benchmarks.gpu.timing import medians, rotating
from benchmarks.gpu.training import forward_and_backward, maps
from train.data import PackedImages
from train.device import prepare_process
from train.feed import Feed
from train.lrn import lrn


def run(context: Context) -> None:
    prepare_process(context.device)
    for part in (lrn_over_its_floor, grouped_convolutions, first_layer_channels, feeding):
        with context.attempt(part.__name__):
            part(context)


def batch(context: Context) -> int:
    return 2 if context.miniature else 1024


def compared(context: Context, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each call, in rounds that time all of them."""
    return medians(calls, context.device, warmup=3, budget=0.02 if context.miniature else 0.3)


def lrn_over_its_floor(context: Context) -> None:
    """Time forward and backward of both LRN layers of `alexnet`, relative to a copy of the same number of bytes.

    Forward reads or writes 2 tensors, backward 3. Copies and LRN use tensors in turn that together exceed the cache.
    """
    for step in variant("alexnet").build().steps:
        if not isinstance(step.operation, LRN):
            continue
        for dtype in (torch.bfloat16, torch.float32):
            spec = step.operation
            inputs = [maps(context, batch(context), step.input).to(dtype) for _ in range(2)]
            x, gradient = inputs[0].requires_grad_(), inputs[1]
            y = lrn(x, spec)
            target = torch.empty_like(gradient)
            times = compared(
                context,
                {
                    "copy": rotating(target.copy_, [(x.detach(),), (gradient,)]),
                    "forward": rotating(lambda x, spec=spec: lrn(x, spec), [(x.detach(),), (gradient,)]),
                    "backward": lambda x=x, y=y, gradient=gradient: torch.autograd.grad(y, x, gradient, True),
                },
            )
            forward, backward = times["forward"] / times["copy"], times["backward"] / (1.5 * times["copy"])
            figures = {f"{name} us": value * 1e6 for name, value in times.items()}
            name = f"{step.operation.name}, {str(dtype).removeprefix('torch.')}"
            over = {"forward over floor": forward, "backward over floor": backward}
            if context.device.type == "cuda":
                context.check(name, max(forward, backward) <= 1.5, **over, **figures)
            else:  # on a CPU, LRN is computed by matrix products, which memory does not limit
                context.record(name, figures)


class TwoConvolutions(nn.Module):
    """A convolution with two groups, as two convolutions and a concatenation."""

    def __init__(self, spec: Conv, channels: int) -> None:
        super().__init__()
        sizes = (channels // 2, spec.kernels // 2, spec.size, spec.stride, spec.pad)
        self.halves = nn.ModuleList([nn.Conv2d(*sizes), nn.Conv2d(*sizes)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([half(part) for half, part in zip(self.halves, x.chunk(2, 1), strict=True)], 1)


def on(context: Context, module: nn.Module) -> nn.Module:
    return module.to(context.device, memory_format=torch.channels_last)


def grouped_convolutions(context: Context) -> None:
    """Time forward and backward of `alexnet`'s convolutions with two groups, and of two alternatives.

    The alternatives are two separate convolutions, and one without groups, which has twice the multiply-adds.
    """
    for step in variant("alexnet").build().steps:
        spec = step.operation
        if not (isinstance(spec, Conv) and spec.groups == 2):
            continue
        channels = step.input[0]
        sizes = (channels, spec.kernels, spec.size, spec.stride, spec.pad)
        forms = {
            "groups=2": nn.Conv2d(*sizes, groups=2),
            "two convolutions": TwoConvolutions(spec, channels),
            "groups=1": nn.Conv2d(*sizes),
        }
        x = maps(context, batch(context), step.input).requires_grad_()
        calls = {name: forward_and_backward(context, on(context, module), x) for name, module in forms.items()}
        context.record(f"{spec.name}, ms", {name: value * 1e3 for name, value in compared(context, calls).items()})


def first_layer_channels(context: Context) -> None:
    """Time conv1 with 3 input channels, and with 4 and 8, the numbers to which the 3 could be padded."""
    step = variant("alexnet").build().steps[0]
    spec, calls = step.operation, {}
    for channels in (3, 4, 8):
        module = on(context, nn.Conv2d(channels, spec.kernels, spec.size, spec.stride, spec.pad))
        calls[str(channels)] = forward_and_backward(
            context, module, maps(context, batch(context), (channels, *step.input[1:]))
        )
    context.record("conv1 by channels, ms", {name: value * 1e3 for name, value in compared(context, calls).items()})


def feeding(context: Context) -> None:
    """Measure how many 256 x 256 squares per second `Feed` copies from host memory to the device."""
    if context.device.type != "cuda":
        context.record("feed", NEEDS_GPU)
        return
    count, steps = 8192, 24
    squares = torch.randint(0, 256, (512, 256, 256, 3), dtype=torch.uint8).repeat(count // 512, 1, 1, 1)
    labels = torch.zeros(count, dtype=torch.int64)
    images = PackedImages(shards=squares.split(512), labels=labels, digest="", mean=None, covariance=None, mapped=True)
    feed = Feed(images, context.device, share=0)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for step, _ in enumerate(feed.batches(torch.randint(count, (steps, 1024)))):
        if step == 3:  # the staging buffers are pinned and filled
            before.record()
    after.record()
    after.synchronize()
    context.record("feed, squares/s", 1024 * (steps - 4) / (before.elapsed_time(after) / 1e3))
