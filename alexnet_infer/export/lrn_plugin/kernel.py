"""Compile an LRN layer to PTX: NVRTC, which needs no GPU, compiles lrn.cu with the layer's constants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from types import ModuleType
from typing import Any, Literal, get_args

from alexnet_infer.architecture import LRN
from alexnet_infer.errors import BackendError, UsageError, one_line, shown

Dtype = Literal["fp32", "fp16"]

BLOCK = 128
MAX_SIZE = 31
"""Largest window, in channels. The window is kept in registers."""
REGISTERS = 64
"""Registers per thread for its window. With more, too few threads fit on a multiprocessor to hide memory latency."""
STEPS = {1: 8, 2: 4, 4: 4, 8: 2}
"""Channels that a thread reads at once, by its number of pixels: 16 to 64 bytes in flight."""

OPTIONS = ("--std=c++17", "--ftz=true", "--prec-sqrt=false")
"""The GPU's approximate square roots, accurate to an ulp or two, take a quarter fewer instructions. With exact roots,
arithmetic would be the limit on GPUs with the fastest memory. Floats below 1.2e-38 become zero. No half value is that
small."""

TARGETS = {(7, 5): "6.3", (8, 0): "7.0", (9, 0): "7.8", (10, 0): "8.6", (12, 0): "8.7"}
"""Compute capabilities that PTX is compiled for, and the first version of the PTX language that supports each.

A GPU accepts PTX for an earlier capability. NVRTC declares the newest version that it supports, although the kernel
needs nothing new. A driver refuses PTX that is newer than itself, so the version is set to the oldest that works."""

SOURCE = resources.files(__package__).joinpath("lrn.cu").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the kernel computes one LRN layer: the constants it is compiled with, and how it is launched.

    The channels of each column are split into `parts` runs, each with its own threads. With one part, every value is
    read once. With more, a few images still fill the GPU. Raises UsageError if the kernel can't compute the layer.
    """

    spec: LRN
    channels: int
    height: int
    width: int
    dtype: Dtype
    parts: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "parts"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value < 2**31:
                raise UsageError(f"LRN plugin: {name}={shown(value)}: expected a whole number from 1 to 2^31 - 1")
        if self.dtype not in get_args(Dtype):
            raise UsageError(f"LRN plugin: dtype={shown(self.dtype)}: expected {' or '.join(get_args(Dtype))}")
        size, groups = self.spec.size, self.spec.groups
        if not (1 <= size <= MAX_SIZE and size % 2):
            raise UsageError(f"LRN plugin: size={size}: expected an odd number up to {MAX_SIZE}; choose another --lrn")
        if groups < 1 or self.channels % groups:
            raise UsageError(f"LRN plugin: groups={groups} must divide the {self.channels} channels")
        if groups * self.runs > 65535 or self.channels * self.pixels >= 2**31:
            raise UsageError(
                f"LRN plugin: maps {self.channels} x {self.height} x {self.width} in {groups * self.runs} runs: "
                "expected fewer than 2^31 values per image and 65536 runs; choose another --lrn"
            )

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def column(self) -> int:
        return self.channels // self.spec.groups

    @property
    def run(self) -> int:
        return -(-self.column // self.parts)

    @property
    def runs(self) -> int:
        """Runs per column. Fewer than `parts` if a run would be empty otherwise."""
        return -(-self.column // self.run)

    @cached_property
    def vector(self) -> int:
        """Adjacent pixels per thread: as many as fit 16 bytes and the registers, and divide the pixels of a map.

        The last condition keeps the map of every channel aligned. So maps with an odd number of pixels (the paper's
        55 x 55 and 27 x 27) have no vectors. Adjacent threads read adjacent values anyway, and memory is the limit.
        """
        wide = 4 if self.dtype == "fp32" else 8
        fitting = (v for v in STEPS if v <= wide and (STEPS[v] + self.spec.size - 1) * v <= REGISTERS)
        return max((v for v in fitting if self.pixels % v == 0), default=1)

    @property
    def packs(self) -> int:
        """Threads that cover the pixels of an image."""
        return self.pixels // self.vector

    @property
    def macros(self) -> dict[str, str]:
        """The constants of lrn.cu except NAME. Floats are hexadecimal, so that no digit is lost."""
        return {
            "HALF": str(int(self.dtype == "fp16")),
            "CHANNELS": str(self.channels),
            "COLUMN": str(self.column),
            "PIXELS": str(self.pixels),
            "SIZE": str(self.spec.size),
            "ALPHA": float(self.spec.alpha).hex(),
            "BETA": float(self.spec.beta).hex(),
            "K": float(self.spec.k).hex(),
            "ROOTS": str(int(self.spec.beta == 0.75)),
            "VECTOR": str(self.vector),
            "RUN": str(self.run),
            "STEP": str(min(STEPS[self.vector], self.run)),
            "BLOCK": str(BLOCK),
        }

    @property
    def name(self) -> str:
        """The entry point. It is readable in a profile and unique, so that kernels can share a namespace."""
        digest = hashlib.sha256(repr((SOURCE, OPTIONS, self.macros)).encode()).hexdigest()[:12]
        return f"alexnet_infer_lrn_{self.dtype}_{self.channels}x{self.height}x{self.width}_{digest}"

    def grid(self, images: int) -> tuple[int, int, int]:
        """Return the grid of blocks, (x, y, z), for an input [images, channels, height, width]."""
        return -(-images * self.packs // BLOCK), self.spec.groups * self.runs, 1


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A compiled kernel: launch `name` of `ptx` with `plan.grid(N)` blocks of `BLOCK` threads on (x, int32 N, y).

    x and y are device pointers to the maps of N images in linear layout, float or half, 16-byte aligned. They must not
    overlap.
    """

    plan: Plan
    ptx: bytes

    @property
    def name(self) -> str:
        return self.plan.name


def compile_ptx(
    spec: LRN,
    channels: int,
    height: int,
    width: int,
    dtype: Dtype,
    capability: tuple[int, int] = (8, 0),
    parts: int = 1,
) -> Kernel:
    """Compile LRN over maps [N, channels, height, width] for GPUs of compute capability `capability` or later.

    Raises the errors of `Plan`, and BackendError without NVRTC or for GPUs before 7.5.
    """
    plan = Plan(spec=spec, channels=channels, height=height, width=width, dtype=dtype, parts=parts)
    major, minor = target(capability)
    options = [f"--gpu-architecture=compute_{major}{minor}", f"-DNAME={plan.name}"]
    ptx = _compile(SOURCE, [*options, *OPTIONS, *(f"-D{name}={value}" for name, value in plan.macros.items())])
    version = TARGETS[major, minor].encode()
    return Kernel(plan=plan, ptx=re.sub(rb"^\.version .*$", b".version " + version, ptx, count=1, flags=re.MULTILINE))


def target(capability: tuple[int, int]) -> tuple[int, int]:
    """Return the latest of `TARGETS` whose PTX a GPU of this compute capability can run.

    Raises BackendError if the GPU is older than all of them.
    """
    fitting = [known for known in TARGETS if known <= tuple(capability)]
    if not fitting:
        raise BackendError(f"compute capability {shown(tuple(capability))}: expected {min(TARGETS)} or later")
    return max(fitting)


def import_nvrtc() -> ModuleType:
    """Import NVRTC and load its library. Raises BackendError if it is missing."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            f'the LRN plugin needs NVRTC ({one_line(error)}): pip install "alexnet-infer[trt]", or choose another --lrn'
        ) from None
    return nvrtc


def _compile(source: str, options: list[str]) -> bytes:
    nvrtc = import_nvrtc()
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"lrn.cu", 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            message = one_line(log.decode(errors="replace"))
            raise BackendError(f"the LRN plugin's kernel: NVRTC says {status.name}: {message}")
        return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(size: Callable[..., Any], get: Callable[..., Any], program: Any) -> bytes:
    """Return the text from a pair of NVRTC functions, without the zero at its end."""
    text = bytearray(size(program)[1])
    get(program, text)
    return bytes(text).rstrip(b"\0")
