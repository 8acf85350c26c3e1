"""The choice of device, precision and compiler."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.errors import BackendError
from train.device import hardware, pick_device, resolve_compile, working_precision

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("choice", "gpu", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_uses_a_gpu_if_available_and_a_named_device_is_used(monkeypatch, choice, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device(choice).type == expected


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"--device cuda: .* use --device cpu") as caught:
        pick_device("cuda")
    assert caught.value.exit_code == 5


def test_the_hardware_is_the_gpu_or_the_cpu_with_its_cores_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert hardware(torch.device("cuda", 1)) == "GPU 1"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("train.device.os.cpu_count", lambda: 8)
    monkeypatch.setattr("train.device.cpu_name", lambda: "Processor X")
    assert hardware(CPU) == "Processor X, 3 of 8 cores"


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_uses_bfloat16_only_if_it_supports_it_natively(monkeypatch, features, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert working_precision(CPU) == expected


def test_with_unknown_cpu_features_the_precision_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert working_precision(CPU) == torch.float32


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_uses_float32(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert working_precision(CUDA) == expected


def test_compiling_is_off_and_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr("train.device.can_compile", lambda: True)
    assert not resolve_compile(None, CPU)
    assert not resolve_compile(False, CPU)
    with pytest.raises(BackendError, match=r"--compile: .* GPU.* leave the option out"):
        resolve_compile(True, CPU)


def test_compiling_for_a_gpu_needs_triton_and_a_compiler(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not resolve_compile(None, CUDA)
    with pytest.raises(BackendError, match=r"--compile: .*gcc.* --no-compile"):
        resolve_compile(True, CUDA)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert resolve_compile(None, CUDA)
    assert resolve_compile(True, CUDA)
    assert not resolve_compile(False, CUDA)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_stays_mapped():
    program = (
        "import resource, sys\n"
        "if sys.argv[1] == 'keep': from train.device import keep_memory; keep_memory()\n"
        "import numpy\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "touch = lambda: numpy.empty(2**26, numpy.uint8).fill(1)\n"
        "touch(); before = faults()\n"
        "for _ in range(5): touch()\n"
        "print(faults() - before)\n"
    )
    faults = {
        how: int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True, cwd=ROOT).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < faults["return"] / 10
