"""Run by tests: compiles the trainer's Triton kernels as a launch on a GPU does, without that GPU.

python -m tests.train.triton_compile CAPABILITY [... four] (90 for sm_90) -> one JSON object per kernel
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from alexnet_infer.architecture import LRN
from alexnet_infer.presets import PRESETS
from train import lrn_triton
from train.augment_triton import training_patches

TYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Kernel:
    """The compiled kernel of a launch."""

    case: str
    shared: int
    """Bytes of shared memory per program."""
    registers: int
    spilled: int
    """Bytes of local memory per thread."""
    accesses: list[str]
    """Kinds of loads and stores of global memory in its PTX, such as "ld.v4.b32"."""
    rounding: list[str]
    """Kinds of conversions to 16-bit floats, such as "cvt.rn.bf16x2.f32"."""
    values_per_thread: list[str]
    """Kinds of layouts of its tensors, such as "[1, 8]": each thread has 8 adjacent values of a row."""


class Driver:
    """The part of Triton's driver of a GPU that compiling needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # by which Triton keeps what it has compiled

    def get_current_stream(self, device: int) -> int:
        return 0


def described(case: str, compiled: triton.compiler.CompiledKernel) -> Kernel:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((registers, stack, local),) = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    ptx = compiled.asm["ptx"]
    return Kernel(
        case=case,
        shared=compiled.metadata.shared,
        registers=int(registers),
        spilled=int(stack) + int(local),
        accesses=sorted({f"{a}{b}" for a, b in re.findall(r"\b(ld|st)\.global(\S*)", ptx)}),
        rounding=sorted(set(re.findall(r"\bcvt\S*\.(?:b?f16|b?f16x2)\.f32", ptx))),
        values_per_thread=sorted(set(re.findall(r"sizePerThread = (\[.*?\])", compiled.asm["ttgir"]))),
    )


def launches(part: int | None) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name and the call of each launch, or of a quarter of them with all types, directions and layers.

    They are the LRN of every preset's layers, in one and two columns, forward and backward, and the augmentation of an
    odd patch size with a mean per pixel and of an even one with a mean per channel, each in all types.
    """
    steps = [step for variant, _ in PRESETS.values() for step in variant.build().steps]
    channels = sorted({step.output[0] for step in steps if isinstance(step.operation, LRN)})
    layers, kinds = [*product(channels, (1, 2))], [*product(("forward", "backward"), TYPES)]
    for (i, (count, columns)), (j, (direction, dtype)) in product(enumerate(layers), enumerate(kinds)):
        if part is None or (i + j) % 4 == part:
            yield f"lrn {direction} {count} {columns} {dtype}", partial(launch_lrn, direction, count, columns, dtype)
    patches = (227, (256, 256, 3)), (224, (3,))
    for (i, (patch, mean)), (j, dtype) in product(enumerate(patches), enumerate(TYPES)):
        if part is None or (i + j) % 2 == part % 2:
            yield f"augment {patch} {dtype}", partial(launch_augment, patch, mean, dtype)


def launch_lrn(direction: str, channels: int, columns: int, dtype: torch.dtype) -> None:
    x = torch.zeros(1, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    inputs = (x,) if direction == "forward" else (x, x)
    getattr(lrn_triton, direction)(*inputs, 5, 1e-4, 0.75, 2.0, columns)


def launch_augment(patch: int, mean: tuple[int, ...], dtype: torch.dtype) -> None:
    index, corner = torch.tensor([0]), torch.tensor([[0, 0]])
    images, mirror, noise = torch.zeros(1, 256, 256, 3, dtype=torch.uint8), torch.tensor([True]), torch.zeros(1, 3)
    training_patches(images, index, corner, mirror, noise, torch.zeros(mean), patch, dtype)


def main(*capabilities: int) -> None:
    """Compile all launches for one GPU, or shared among four GPUs, without running them."""
    compiled, run = [], JITFunction.run
    JITFunction.run = lambda self, *args, **options: compiled.append(run(self, *args, **options | {"warmup": True}))
    for part, capability in enumerate(capabilities):
        driver.set_active(Driver(capability))
        for case, launch in launches(part if len(capabilities) > 1 else None):
            launch()
            print(json.dumps(asdict(described(f"sm_{capability} {case}", compiled.pop()))))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
