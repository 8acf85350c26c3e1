"""What this machine offers for training: device, precision, compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from alexnet_infer.errors import BackendError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>

DeviceChoice = Literal["auto", "cpu", "cuda"]


def pick_device(choice: DeviceChoice) -> torch.device:
    """The device to train on; "auto" is a CUDA GPU where there is one. Raises BackendError for a GPU that isn't."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise BackendError(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA GPU here; use --device cpu, or check nvidia-smi "
            "and that PyTorch was installed with CUDA"
        )
    if not available or choice == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun gives each process its own


def working_precision(device: torch.device) -> torch.dtype:
    """Precision of convolutions and matrix products in training; weights, momentum and loss stay float32.

    bfloat16 where the chip multiplies it natively: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX. Elsewhere it is
    emulated, which is slower than float32 (on a CPU several times), so float32 it is.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = getattr(torch.cpu, "get_capabilities", dict)()
        native = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def can_compile() -> bool:
    """Whether what `torch.compile` needs for a GPU is installed: Triton and a C compiler."""
    compilers = (os.environ.get("CC", ""), "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def resolve_compile(choice: bool | None, device: torch.device) -> bool:
    """Whether to compile; None means where it gains something and can be done. Raises BackendError when it was asked
    for and can't be.

    On a CPU it gains nothing: LRN is our own operator there, and the compiler's max pooling is slower than PyTorch's.
    """
    if device.type != "cuda":
        if choice:
            raise BackendError("--compile: for a CUDA GPU only, and this run is on the CPU; leave it out")
        return False
    if choice and not can_compile():
        raise BackendError("--compile: PyTorch needs Triton and a C compiler (gcc); install them, or use --no-compile")
    return can_compile() if choice is None else choice


def prepare_process(device: torch.device) -> None:
    """Settings of this process that make training on `device` faster and change no result beyond rounding."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # times its algorithms once: all steps have the same shapes
    else:
        keep_memory()


def exact_float32(device: torch.device) -> AbstractContextManager:
    """In which convolutions on a GPU do not round float32 to TF32, 10 bits, as they do by default. cuDNN chooses its
    algorithms by rule in it, not by timing."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def keep_memory() -> None:
    """Lets this process keep the memory that a training step frees, so that the next step finds it mapped.

    glibc returns large blocks to the system at once, and mapping and zeroing them anew took a fifth of a step on a CPU.
    Does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
