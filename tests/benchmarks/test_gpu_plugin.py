"""Stage 3 of `python -m benchmarks.gpu` without a GPU: the kernel compiled for the CPU, and the fake device."""

from __future__ import annotations

import ctypes
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.architecture import LRN
from alexnet_infer.backends import engine
from alexnet_infer.engines.library import Gpu
from alexnet_infer.errors import BackendError
from alexnet_infer.export.lrn_plugin import kernel as kernels
from alexnet_infer.export.lrn_plugin.kernel import Kernel, Plan, import_nvrtc
from alexnet_infer.export.lrn_plugin.plugin import TACTICS
from benchmarks.gpu import plugin, replay
from benchmarks.gpu.driver import Launch
from benchmarks.gpu.plugin import CHECKED, Layer, layers, measure
from tests.benchmarks.host_cuda import Buffer, Device, Graph, GraphBuilder, LegacyPinnedMemoryResource, Stream

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")

CPU = torch.device("cpu")
HOST = Path(__file__).parents[1] / "export" / "lrn_plugin"
SMALL = Layer(spec=LRN(name="norm", groups=2), shape=(12, 5, 6), dtype="fp32")


@pytest.fixture(scope="module")
def on_host(tmp_path_factory) -> Callable[[Plan], Launch]:
    """Compile lrn.cu as C++ and launch it with the parameters that the driver takes."""
    folder = tmp_path_factory.mktemp("kernels")

    @cache
    def build(plan: Plan) -> ctypes.CDLL:
        library = folder / f"{plan.name}.so"
        macros = [f"-D{name}={value}" for name, value in {**plan.macros, "NAME": plan.name}.items()]
        folders = [f"-I{HOST}", f"-I{Path(kernels.__file__).parent}"]
        options = ["-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
        subprocess.run(["g++", *options, *macros, *folders, HOST / "host.h", "-o", library], check=True)
        return ctypes.CDLL(library)

    def launcher(plan: Plan) -> Launch:
        library = build(plan)

        def launch(x: int, images: int, y: int, stream: int) -> None:
            columns, rows, _ = plan.grid(images)
            Stream.of(stream).do(lambda: library.run(ctypes.c_void_p(x), images, ctypes.c_void_p(y), 0, columns, rows))

        return launch

    return launcher


def plan_of(layer: Layer, parts: int) -> Plan:
    channels, height, width = layer.shape
    return Plan(spec=layer.spec, channels=channels, height=height, width=width, dtype=layer.dtype, parts=parts)


@pytest.fixture
def device(monkeypatch):
    core = SimpleNamespace(Device=Device, Buffer=Buffer, LegacyPinnedMemoryResource=LegacyPinnedMemoryResource)
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setattr(engine, "this_gpu", lambda: Gpu(name="A GPU", capability="9.0", driver="580"))


@pytest.fixture
def nvrtc():
    try:
        import_nvrtc()
    except BackendError as error:
        pytest.skip(str(error))


def test_the_fake_device_has_the_names_and_parameters_of_cuda_core():
    core = pytest.importorskip("cuda.core", reason="needs CUDA for Python: pip install cuda-core")
    graph = pytest.importorskip("cuda.core.graph")
    classes = {
        Device: core.Device,
        Buffer: core.Buffer,
        LegacyPinnedMemoryResource: core.LegacyPinnedMemoryResource,
        Stream: core.Stream,
        GraphBuilder: graph.GraphBuilder,
        Graph: graph.Graph,
    }
    for fake, real in classes.items():
        for name, function in inspect.getmembers(fake, inspect.isroutine):
            if not name.startswith("_") and name not in ("new", "of", "do"):
                parameters = inspect.signature(getattr(real, name)).parameters
                assert inspect.signature(function).parameters.keys() <= parameters.keys(), (fake, name)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_all_tactics_agree_with_the_definition(dtype, on_host):
    layer = replace(SMALL, dtype=dtype)
    launches = {parts: on_host(plan_of(layer, parts)) for parts in TACTICS}
    row = measure(layer, launches, 3 * CHECKED, CPU)
    assert row["passed"]
    assert 0 < row["error"] <= row["tolerance"]
    assert row["seconds_by_parts"].keys() == {*TACTICS}
    assert row["seconds"] == row["seconds_by_parts"][row["parts"]] == min(row["seconds_by_parts"].values())
    assert row["over_floor"] == row["seconds"] / row["floor"]


def test_a_wrong_constant_in_one_tactic_fails(on_host):
    wrong = replace(SMALL, spec=structs.replace(SMALL.spec, alpha=1.001e-4))
    row = measure(SMALL, {1: on_host(plan_of(SMALL, 1)), 2: on_host(plan_of(wrong, 2))}, CHECKED, CPU)
    assert not row["passed"]


def test_values_that_the_kernel_does_not_write_fail(on_host):
    launch = on_host(plan_of(SMALL, 1))
    row = measure(SMALL, {1: lambda x, images, y, stream: launch(x, images - 1, y, stream)}, 2 * CHECKED, CPU)
    assert row["error"] == float("inf")
    assert not row["passed"]


def test_the_layers_are_the_papers_in_all_supported_forms():
    assert {layer.shape for layer in layers()} == {(96, 55, 55), (256, 27, 27)}
    assert len({layer.name for layer in layers()}) == 8


@pytest.mark.usefixtures("device", "nvrtc")
def test_the_engine_backend_copies_captures_and_replays(on_host):
    result = replay.check((9, 0), lambda kernel: on_host(kernel.plan))
    assert result["passed"]
    assert result["captured"]
    assert result["contexts"] > len(replay.SIZES) > engine.SHAPES_KEPT


@pytest.mark.usefixtures("device", "nvrtc")
def test_a_failing_capture_fails_the_check(on_host, monkeypatch):
    """The backend then continues without a graph, and its results are correct."""
    monkeypatch.setattr(Stream, "can_capture", False)
    result = replay.check((9, 0), lambda kernel: on_host(kernel.plan))
    assert result["error"] <= result["tolerance"]
    assert not result["captured"]
    assert not result["passed"]


@pytest.mark.usefixtures("device", "nvrtc")
def test_a_wrong_kernel_fails(on_host):
    def load(kernel: Kernel) -> Launch:
        return on_host(replace(kernel.plan, spec=structs.replace(kernel.plan.spec, k=1.001)))

    assert not replay.check((9, 0), load)["passed"]


@pytest.mark.usefixtures("device", "nvrtc")
def test_results_of_a_previous_call_fail(on_host):
    """This happens if a copy does not wait for the kernel."""

    def load(kernel: Kernel) -> Launch:
        launch, calls = on_host(kernel.plan), iter(range(10**9))
        return lambda *arguments: launch(*arguments) if next(calls) != 9 else None

    assert not replay.check((9, 0), load)["passed"]


def test_without_a_gpu_the_stage_is_skipped():
    results = {}
    plugin.run(SimpleNamespace(device=CPU, record=results.__setitem__))
    assert set(results.values()) == {"skipped: needs a GPU"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_driver_runs_the_kernel_and_the_backend_replays_it():
    results = {}
    plugin.run(SimpleNamespace(device=torch.device("cuda", 0), record=results.__setitem__, attempt=nullcontext))
    assert all(row["passed"] for row in results["kernel"].values())
    assert results["engine"]["passed"]
