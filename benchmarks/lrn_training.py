"""LRN in training on a CPU: this project's operator and `torch.nn.LocalResponseNorm`, alone and inside a net.

    python benchmarks/lrn_training.py [--json]

Forward and backward in float32. The layer alone has the size of conv1's output, [32, 96, 55, 55]. The net is the
full-width `alexnet-64` without column groups in its LRN, so that both compute the same. The figures are medians over
interleaved rounds of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from alexnet_infer.architecture import LRN
from alexnet_infer.presets import variant
from train.lrn import lrn
from train.model import AlexNet, LocalResponseNorm, initialise

BATCH = 32


def pytorch_lrn(spec: LRN) -> torch.nn.LocalResponseNorm:
    return torch.nn.LocalResponseNorm(spec.size, spec.alpha_per_size, spec.beta, spec.k)


def step(model: torch.nn.Module, x: torch.Tensor, keys: torch.Tensor) -> None:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x, keys), keys).backward()


def interleaved_medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each. Each round runs all of them once; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    spec = LRN(name="norm")
    planar = (torch.randn(BATCH, 96, 55, 55) * 100).requires_grad_()
    pixels = planar.detach().to(memory_format=torch.channels_last).requires_grad_()
    grad_planar = torch.randn_like(planar)
    grad_pixels = grad_planar.to(memory_format=torch.channels_last)
    layer = pytorch_lrn(spec)

    architecture = replace(variant("alexnet-64"), hidden=1024, classes=200, lrn_columns=1).build()
    net, net_pytorch = AlexNet(architecture), AlexNet(architecture)
    initialise(net, "he")
    net_pytorch.load_state_dict(net.state_dict())
    for name, module in net_pytorch.named_children():
        if isinstance(module, LocalResponseNorm):
            setattr(net_pytorch, name, pytorch_lrn(module.spec))
    x, keys = torch.randn(BATCH, 3, 57, 57) * 70, torch.arange(BATCH)
    x_pixels = x.to(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x_pixels, keys), net_pytorch(x, keys), rtol=1e-3, atol=1e-3)

    seconds = interleaved_medians(
        {
            "layer": lambda: torch.autograd.grad(lrn(pixels, spec), pixels, grad_pixels),
            "layer_pytorch": lambda: torch.autograd.grad(layer(planar), planar, grad_planar),
            "net": lambda: step(net, x_pixels, keys),
            "net_pytorch": lambda: step(net_pytorch, x, keys),
        },
        arguments.rounds,
    )
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "layer_ms": seconds["layer"] * 1e3,
        "layer_pytorch_ms": seconds["layer_pytorch"] * 1e3,
        "layer_speedup": seconds["layer_pytorch"] / seconds["layer"],
        "net_images_per_second": BATCH / seconds["net"],
        "net_pytorch_images_per_second": BATCH / seconds["net_pytorch"],
        "net_speedup": seconds["net_pytorch"] / seconds["net"],
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"PyTorch {result['torch']}, {result['threads']} threads, float32, forward + backward")
    print(f"LRN [32, 96, 55, 55]  torch.nn.LocalResponseNorm {result['layer_pytorch_ms']:6.0f} ms")
    print(f"                      this project's operator    {result['layer_ms']:6.0f} ms")
    print(f"                      {result['layer_speedup']:.1f} times faster")
    print(f"alexnet-64 net        with PyTorch's layer       {result['net_pytorch_images_per_second']:6.0f} images/s")
    print(f"                      with this operator         {result['net_images_per_second']:6.0f} images/s")
    print(f"                      {result['net_speedup']:.2f} times faster")


if __name__ == "__main__":
    main()
