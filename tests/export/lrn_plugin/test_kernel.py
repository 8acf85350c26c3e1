"""The compiled kernel: PTX for each generation of GPUs, made without a GPU, and layers that are refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_infer.architecture import LRN
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, TARGETS, Kernel, Plan, compile_ptx, import_nvrtc, target

CAPABILITIES = [(8, 0), (9, 0), (10, 0), (12, 0)]
PAPER = LRN(name="norm", groups=2)


@pytest.fixture
def nvrtc():
    try:
        import_nvrtc()
    except BackendError as error:
        pytest.skip(str(error))


needs_nvrtc = pytest.mark.usefixtures("nvrtc")


def parameters(kernel: Kernel) -> list[str]:
    """Types of the parameters of the only entry point, which must have the kernel's name."""
    ((name, listed),) = re.findall(r"\.entry\s+(\w+)\s*\((.*?)\)", kernel.ptx.decode(), re.DOTALL)
    assert name == kernel.name
    return re.findall(r"\.param\s+\.(\w+)", listed)


def moves(kernel: Kernel) -> set[tuple[str, int]]:
    """("ld" or "st", bytes) of the accesses to global memory."""
    accesses = re.findall(r"\b(ld|st)\.global\S*?(?:\.v(\d))?\.[bfu](\d+)\b", kernel.ptx.decode())
    return {(kind, int(count or 1) * int(bits) // 8) for kind, count, bits in accesses}


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("shape", [(96, 55, 55), (256, 27, 27)])
def test_ptx_has_the_entry_and_the_parameters_that_tensorrt_passes(shape, capability, dtype):
    """One input, one whole number and one output. No scratch memory, no shared memory, no globals."""
    kernel = compile_ptx(PAPER, *shape, dtype, capability)
    text = kernel.ptx.decode()
    assert parameters(kernel) == ["u64", "u32", "u64"]
    assert re.findall(r"^\.target (\w+)", text, re.MULTILINE) == ["sm_{}{}".format(*capability)]
    assert re.findall(r"^\.version (\S+)", text, re.MULTILINE) == [TARGETS[capability]]
    assert not re.search(r"\.(shared|extern|local)\b|^\s*\.(global|const)\b", text, re.MULTILINE)
    assert re.search(rf"\.maxntid {BLOCK}\b", text)


@needs_nvrtc
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_loads_and_stores_have_16_bytes_if_a_maps_pixels_allow_it_and_otherwise_one_value(capability):
    assert moves(compile_ptx(PAPER, 96, 56, 56, "fp32", capability)) == {("ld", 16), ("st", 16)}
    assert moves(compile_ptx(PAPER, 96, 56, 56, "fp16", capability)) == {("ld", 16), ("st", 16)}
    assert moves(compile_ptx(PAPER, 96, 55, 55, "fp32", capability)) == {("ld", 4), ("st", 4)}
    assert moves(compile_ptx(PAPER, 96, 55, 55, "fp16", capability)) == {("ld", 2), ("st", 2)}


def assembler() -> Path | None:
    """NVIDIA's ptxas: on the path, or bundled with Triton."""
    if ptxas := shutil.which("ptxas"):
        return Path(ptxas)
    try:
        import triton
    except ImportError:
        return None
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    return bundled if bundled.exists() else None


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(96, 55, 55), (256, 27, 27), (96, 56, 56)])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nvidias_assembler_accepts_the_ptx_and_keeps_the_window_in_registers(capability, shape, dtype, tmp_path):
    """ptxas refuses features that the declared version does not have, so the lowered version is correct."""
    if not (ptxas := assembler()):
        pytest.skip("needs ptxas: pip install triton")
    source = tmp_path / "lrn.ptx"
    source.write_bytes(compile_ptx(PAPER, *shape, dtype, capability).ptx)
    arch = "-arch=sm_{}{}".format(*capability)
    done = subprocess.run(
        [ptxas, "--verbose", arch, source, "-o", tmp_path / "lrn.cubin"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in done.stderr
    (registers,) = re.findall(r"Used (\d+) registers", done.stderr)
    assert int(registers) <= 80


def test_a_newer_gpu_gets_the_ptx_of_the_generation_before_it():
    later = {(8, 6): (8, 0), (8, 9): (8, 0), (9, 0): (9, 0), (10, 3): (10, 0), (12, 1): (12, 0), (14, 0): (12, 0)}
    assert {capability: target(capability) for capability in later} == later


def test_a_gpu_too_old_is_refused_in_one_line():
    with pytest.raises(BackendError, match=r"compute capability \(7, 0\): expected \(7, 5\) or later"):
        compile_ptx(PAPER, 96, 55, 55, "fp32", (7, 0))


def test_different_kernels_have_different_names():
    plans = [
        Plan(spec=spec, channels=96, height=height, width=55, dtype=dtype, parts=parts)
        for spec in (PAPER, LRN(name="norm"), LRN(name="norm", k=1.0), LRN(name="norm", alpha=1e-4 * (1 + 2**-52)))
        for height in (55, 27)
        for dtype in ("fp32", "fp16")
        for parts in (1, 2)
    ]
    assert len({plan.name for plan in plans}) == len(plans)
    assert Plan(spec=LRN(name="other"), channels=96, height=55, width=55, dtype="fp32").name in {p.name for p in plans}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"height": -1}, "height=-1: expected a whole number from 1"),
        ({"parts": 0}, "parts=0: expected"),
        ({"dtype": "int8"}, "dtype='int8': expected fp32 or fp16"),
        ({"spec": LRN(name="n", size=33)}, "size=33: expected an odd number up to 31"),
        ({"spec": LRN(name="n", size=4)}, "size=4: expected an odd number"),
        ({"spec": LRN(name="n", groups=5)}, "groups=5 must divide the 96 channels"),
        ({"channels": 70000, "spec": LRN(name="n", groups=70000)}, "70000 runs: expected"),
        ({"height": 2**20, "width": 2**11}, "2\\^31 values per image"),
    ],
)
def test_a_layer_that_the_kernel_cannot_compute_is_refused_in_one_line(changed, message):
    fitting = {"spec": PAPER, "channels": 96, "height": 55, "width": 55, "dtype": "fp32"}
    with pytest.raises(UsageError, match=message) as raised:
        Plan(**{**fitting, **changed})
    assert "\n" not in str(raised.value)


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r'needs NVRTC \(.*\): pip install "alexnet-infer\[trt\]"'):
        compile_ptx(PAPER, 96, 55, 55, "fp32")


@needs_nvrtc
def test_a_compilation_error_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr("alexnet_infer.export.lrn_plugin.kernel.SOURCE", "not C++\n")
    with pytest.raises(BackendError, match=r"NVRTC says NVRTC_ERROR_COMPILATION: lrn\.cu\(1\)") as raised:
        compile_ptx(PAPER, 96, 55, 55, "fp32")
    assert "\n" not in str(raised.value)
