"""Run by tests: compiles the trainer's Triton kernels as a launch on a GPU does, without that GPU.

python -m tests.train.triton_compile CAPABILITY (90 for sm_90) -> one JSON object per kernel
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, product

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
        return 0

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


def launch_lrn() -> Iterator[str]:
    """Launch the LRN kernels for every preset's layers, in one and two columns, in all types."""
    steps = [step for variant, _ in PRESETS.values() for step in variant.build().steps]
    channels = sorted({step.output[0] for step in steps if isinstance(step.operation, LRN)})
    for count, columns, dtype in product(channels, (1, 2), TYPES):
        x = torch.zeros(1, count, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        constants = (5, 1e-4, 0.75, 2.0, columns)
        lrn_triton.forward(x, *constants)
        yield f"lrn forward {count} {columns} {dtype}"
        lrn_triton.backward(x, x, *constants)
        yield f"lrn backward {count} {columns} {dtype}"


def launch_augment() -> Iterator[str]:
    """Launch the kernel for an odd patch size with a mean per pixel and an even one with a mean per channel."""
    side, index, corner = 256, torch.tensor([0]), torch.tensor([[0, 0]])
    images, mirror, noise = torch.zeros(1, side, side, 3, dtype=torch.uint8), torch.tensor([True]), torch.zeros(1, 3)
    for (patch, shape), dtype in product(((227, (side, side, 3)), (224, (3,))), TYPES):
        training_patches(images, index, corner, mirror, noise, torch.zeros(shape), patch, dtype)
        yield f"augment {patch} {dtype}"


def main(capability: int) -> None:
    """Compile all launches for this GPU, without running them."""
    compiled, run = [], JITFunction.run
    driver.set_active(Driver(capability))
    JITFunction.run = lambda self, *args, **options: compiled.append(run(self, *args, **options | {"warmup": True}))
    for case in chain(launch_lrn(), launch_augment()):
        print(json.dumps(asdict(described(case, compiled.pop()))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
