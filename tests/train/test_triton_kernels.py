"""The Triton kernels of LRN and augmentation without a GPU: interpreted, and compiled for five GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from alexnet_infer.files import lock

pytest.importorskip("triton", reason="needs Triton: pip install triton")

WHOLE, SHARED = (90,), (80, 86, 100, 120)
"""GPUs: for the first, all kernels are compiled. The others share them: each kernel is compiled for one of the four."""


def child(*arguments: object, **environment: str) -> list[str]:
    """Run a module in a new process and return its lines. Importing Triton decides if it compiles or interprets."""
    command = [sys.executable, "-W", "error", "-m", *map(str, arguments)]
    ended = subprocess.run(
        command, env=os.environ | environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize(("subject", "cases"), [("lrn", 27), ("augment", 14)])
def test_interpreted_kernels_agree_with_the_code_for_cpus(subject, cases):
    assert child("tests.train.triton_check", subject, TRITON_INTERPRET="1") == [f"{cases} cases agree"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, dict]:
    """`tests.train.triton_compile.Kernel` as JSON, by its case: "sm_90 lrn forward 256 2 torch.bfloat16".

    If the tests run in several processes, one of them compiles.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the processes share
    result = folder / "triton.json"
    with lock(folder / "triton.lock", wait=True):
        if not result.exists():
            environment = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_INTERPRET": "0"}
            with ThreadPoolExecutor(2) as pool:
                parts = pool.map(
                    lambda gpus: child("tests.train.triton_compile", *gpus, **environment), (WHOLE, SHARED)
                )
            kernels = map(json.loads, chain(*parts))
            result.write_text(json.dumps({kernel["case"]: kernel for kernel in kernels}))
        return json.loads(result.read_text())


def of(subject: str, compiled: dict[str, dict]) -> dict[str, dict]:
    return {case: kernel for case, kernel in compiled.items() if f" {subject} " in case}


def test_every_layer_of_the_presets_and_every_kind_of_patch_compiles(compiled):
    # 96 and 256 channels in one and two columns, both directions, three types; two kinds of patches, three types.
    for subject, count, share in (("lrn", 2 * 2 * 2 * 3, 2 * 3), ("augment", 2 * 3, 3)):
        cases = [case.partition(f" {subject} ") for case in of(subject, compiled)]
        assert {case for gpu, _, case in cases if gpu == "sm_90"} == {case for gpu, _, case in cases if gpu != "sm_90"}
        expected = {f"sm_{capability}": share for capability in SHARED} | {"sm_90": count}
        assert Counter(gpu for gpu, _, _ in cases) == expected


def test_kernels_use_no_shared_memory_and_few_registers(compiled):
    """They spill no registers. With 64 registers per thread, 32 warps fit on a multiprocessor."""
    for case, kernel in compiled.items():
        assert (kernel["shared"], kernel["spilled"]) == (0, 0), case
        assert kernel["registers"] <= 64, case


def test_lrn_loads_and_stores_16_bytes_per_thread(compiled):
    for case, kernel in of("lrn", compiled).items():
        assert kernel["accesses"] == ["ld.v4.b32", "st.v4.b32"], case


def test_neighbouring_threads_store_neighbouring_values_of_a_patch(compiled):
    for case, kernel in of("augment", compiled).items():
        stored = {access for access in kernel["accesses"] if access.startswith("st")}
        assert stored == {"st.b32" if "float32" in case else "st.b16"}, case
        assert kernel["values_per_thread"] == ["[1]"], case


def test_results_are_rounded_to_the_nearest_value_of_a_16_bit_type(compiled):
    for case, kernel in compiled.items():
        name = {"torch.float32": None, "torch.bfloat16": "bf16", "torch.float16": "f16"}[case.split()[-1]]
        kinds = {kind.replace("x2", "") for kind in kernel["rounding"]}
        assert kinds == ({f"cvt.rn.{name}.f32"} if name else set()), case
