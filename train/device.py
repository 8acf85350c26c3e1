"""The device, the precision and the compiler for training on this machine."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext

import torch

from alexnet_infer.backends import Device
from alexnet_infer.errors import BackendError
from alexnet_infer.machine import cpu_name
from train.ranks import environment

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>


def pick_device(choice: Device) -> torch.device:
    """Return the device to train on; "auto" is a CUDA GPU if available.

    Raises BackendError if `choice` is "cuda" and no CUDA GPU is available, or if there is none left for this process.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise BackendError(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA GPU here; use --device cpu, or check nvidia-smi "
            "and that PyTorch was installed with CUDA"
        )
    if not available or choice == "cpu":
        return torch.device("cpu")
    index = environment("LOCAL_RANK", 0)  # torchrun gives each process its own
    if index and index >= torch.cuda.device_count():
        raise BackendError(
            f"process {index + 1} on this machine has no GPU of its own: PyTorch finds {torch.cuda.device_count()}; "
            "start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", index)


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with the number of cores in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def working_precision(device: torch.device) -> torch.dtype:
    """Return the precision of convolutions and matrix products; weights, momentum and loss are always float32.

    bfloat16 if the chip supports it natively (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), else float32.
    Emulated bfloat16 is slower than float32, and several times slower on a CPU.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = getattr(torch.cpu, "get_capabilities", dict)()
        native = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def can_compile() -> bool:
    """Whether Triton and a C compiler are installed, which `torch.compile` needs for a GPU."""
    compilers = (os.environ.get("CC", ""), "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def resolve_compile(choice: bool | None, device: torch.device) -> bool:
    """Return whether to compile. None means yes if it is possible and faster.

    Raises BackendError if `choice` is true and compiling is not possible. It is never done on a CPU, where it gains
    nothing: LRN is a custom operator, and the compiler's max pooling is slower than PyTorch's.
    """
    if device.type != "cuda":
        if choice:
            raise BackendError("--compile: needs a CUDA GPU, but this run is on the CPU; leave the option out")
        return False
    if choice and not can_compile():
        raise BackendError("--compile: PyTorch needs Triton and a C compiler (gcc); install them, or use --no-compile")
    return can_compile() if choice is None else choice


def prepare_process(device: torch.device) -> None:
    """Configure this process to train faster on `device`. Results change only by rounding."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # cuDNN times its algorithms once, as all steps have the same shapes
    else:
        keep_memory()


def exact_float32(device: torch.device) -> AbstractContextManager:
    """Return a context in which convolutions on a GPU do not round float32 to TF32 (10 bits), as they do by default.

    In the context, cuDNN does not time its algorithms to choose one.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def keep_memory() -> None:
    """Keep the memory that a training step frees mapped, so that the next step can use it.

    glibc returns large blocks to the system at once, and mapping and zeroing them again took a fifth of a step on a
    CPU. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
