"""Timings with a fake clock, the machine's limit computed by hand, and what is measured for each kind of file."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.benchmark import floor
from alexnet_infer.benchmark import measure as module
from alexnet_infer.benchmark import timing as timing_module
from alexnet_infer.benchmark.floor import Machine, Probe, probe_count, probes
from alexnet_infer.benchmark.measure import BenchmarkRequest, measure, parse_batches, subjects, turns
from alexnet_infer.benchmark.timing import Timing, interleave
from alexnet_infer.errors import BackendError, ModelFileError, UsageError
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.presets import preset
from tests.nets import TINY, random_artifact

needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs ONNX Runtime: pip install onnxruntime"
)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO: pip install openvino"
)


@pytest.fixture(autouse=True)
def _small_probes(monkeypatch):
    """Measure the machine with small matrices, since its true rates don't matter here."""
    monkeypatch.setattr(floor, "SQUARE", 96)
    monkeypatch.setattr(floor, "TALL", 128)
    monkeypatch.setattr(floor, "IMAGES", 1)
    monkeypatch.setattr(floor, "PATCHES", 1)


class Clock:
    """A fake clock that only a `task` advances, by its durations in turn, repeatedly."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, *seconds: float):
        def work() -> None:
            self.now += seconds[self.order.count(name) % len(seconds)]
            self.order.append(name)

        return work


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock that `interleave` reads. There are no calls to warm up."""
    clock = Clock()
    monkeypatch.setattr(timing_module, "perf_counter", clock)
    monkeypatch.setattr(timing_module, "WARMUP", 0)
    return clock


def test_warm_up_calls_are_not_timed(clock, monkeypatch):
    monkeypatch.setattr(timing_module, "WARMUP", 4)
    (timing,) = interleave([clock.task("a", 1, 2, 3, 4, 5)], seconds=25, rounds=1)
    assert timing.seconds == (1, 2, 3, 4, 5, 1, 2, 3, 4)  # after four to warm up and one at the start of the turn
    assert (timing.mean, timing.p50, timing.percentile(100)) == (25 / 9, 3, 5)


def test_percentiles_are_interpolated_linearly():
    timing = Timing(seconds=tuple(float(i) for i in range(101)))
    assert (timing.p50, timing.p90, timing.p99) == (50, 90, 99)
    assert Timing(seconds=(0.0, 1.0)).p90 == pytest.approx(0.9)
    with pytest.raises(ValueError, match="at least one call"):
        Timing(seconds=())


def test_turns_are_interleaved_and_their_first_calls_are_not_timed(clock):
    ticks = []
    runs = [clock.task("a", 100, 1, 1), clock.task("b", 100, 2)]
    a, b = interleave(runs, seconds=4, rounds=2, on_turn=lambda: ticks.append(len(clock.order)))
    assert "".join(clock.order) == "aaabbaaabb"
    assert (a.seconds, b.seconds) == ((1, 1, 1, 1), (2, 2))
    assert ticks == [3, 5, 8, 10]


def test_a_slow_task_is_timed_once_per_turn_and_a_drift_affects_all_tasks_equally(clock):
    drift = [1, 1, 2, 2, 4, 4]
    runs = [clock.task("a", *drift), clock.task("b", *(2 * seconds for seconds in drift))]
    a, b = interleave(runs, seconds=0.001, rounds=3)
    assert a.seconds == (1, 2, 4)
    assert b.p50 / a.p50 == b.mean / a.mean == 2


def test_with_a_clock_too_coarse_for_one_call_a_turn_still_lasts_its_time(clock):
    (timing,) = interleave([clock.task("a", 0, 0, 1)], seconds=2, rounds=1)
    assert len(timing.seconds) >= 4


def test_the_machine_has_the_best_median_of_all_probes():
    probes = [
        Probe(name="slow", run=list, flops=100),
        Probe(name="fast", run=list, flops=300),
        Probe(name="reading", run=list, nbytes=40),
    ]
    timings = [Timing(seconds=seconds) for seconds in ((1.0, 2.0, 9.0), (1.0, 2.0, 9.0), (0.5,))]
    machine = Machine.of(probes, timings)
    assert machine == Machine(flops=150, flops_of="fast", bandwidth=80, bandwidth_of="reading")


def test_the_floor_is_the_larger_of_arithmetic_and_reading():
    machine = Machine(flops=100e9, flops_of="a", bandwidth=10e9, bandwidth_of="b")
    assert machine.floor(50_000_000_000, 1) == 1.0  # a multiply-add is two operations
    assert machine.floor(1, 20_000_000_000) == 2.0


def test_a_run_that_is_faster_than_all_probes_sets_the_rate():
    machine = Machine(flops=100.0, flops_of="a", bandwidth=10.0, bandwidth_of="b")
    assert machine.including("net", flops=200, nbytes=20, seconds=2.0) == machine
    faster = machine.including("net", flops=300, nbytes=30, seconds=2.0)
    assert faster == Machine(flops=150, flops_of="net", bandwidth=15, bandwidth_of="net")


@needs_onnxruntime
def test_the_probes_compute_what_they_count():
    multiply, runtime, convolution, read = probes()
    assert probe_count() == 4
    assert (multiply.run().shape, multiply.flops) == ((96, 96), 2 * 96**3)
    assert (runtime.run().shape, runtime.flops) == ((1, 4096), 2 * 4096**2)
    assert convolution.run().shape == (1, 384, 13, 13)
    (conv3,) = (step for step in preset("alexnet").steps if step.operation.name == "conv3")
    assert convolution.flops == 2 * conv3.multiply_adds
    np.testing.assert_array_equal(read.run(), np.full(128, 128, np.float32))
    assert read.nbytes == 128 * 128 * 4


def test_without_onnx_runtime_the_machine_is_measured_with_numpy(monkeypatch):
    monkeypatch.setattr(floor, "installed", lambda name: False)
    assert [probe.name for probe in probes()] == ["a matrix product in NumPy", "reading a matrix"]


@pytest.mark.parametrize(("text", "sizes"), [("1,8,64", (1, 8, 64)), ("7", (7,)), ("8,1,8", (8, 1)), ("01", (1,))])
def test_batch_sizes_keep_their_order_without_duplicates(text, sizes):
    assert parse_batches(text) == sizes


@pytest.mark.parametrize("text", ["", "1,", "1;8", "-1", "1.5", "٣", "9" * 5000, "a\nb"])
def test_an_invalid_list_of_batch_sizes_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="expected sizes from 1 to 1024, as in 1,8,64") as raised:
        parse_batches(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (0,)}, "--batch 0: expected sizes from 1 to 1024"),
        ({"batches": ()}, "--batch : expected sizes"),
        ({"batches": (1, 65537)}, "--batch 1,65537"),
        ({"backend": "caffe"}, "--backend 'caffe': expected all, auto, onnxruntime, openvino"),
        ({"views": "five"}, "--views 'five': expected none, center, ten"),
        ({"seconds": 0.0}, "--seconds 0: expected more than 0"),
        ({"seconds": float("nan")}, "--seconds nan"),
    ],
)
def test_requests_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError) as raised:
        BenchmarkRequest(**options)
    assert message in str(raised.value)


@pytest.fixture
def net(tmp_path) -> Path:
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    return path


def export(path: Path, members: int = 1, **info: object) -> Path:
    from alexnet_infer.graph.file import save_model
    from alexnet_infer.graph.model import build_model

    nets = [random_artifact(seed=seed) for seed in range(members)]
    names = tuple(Member(name=f"net {i}", sha256=f"{i}" * 64) for i in range(members))
    weights: dict[str, np.ndarray] = {}
    save_model(path, build_model(nets, ExportInfo(members=names, **info), weights), weights)
    return path


def measured(request: BenchmarkRequest):
    nets, _ = subjects(request)
    return measure(nets, request.batches, seconds=0.01)


@needs_onnxruntime
def test_rows_describe_the_measurement_and_ratios_are_relative_to_the_first(net):
    result = measured(BenchmarkRequest(models=(net,), backend="onnxruntime", batches=(1, 3), device="cpu"))
    first, second = result.to_json()["rows"]
    assert (first["batch"], second["batch"]) == (1, 3)
    for row in (first, second):
        assert row["model"] == "net.safetensors"
        assert row["backend"].startswith("ONNX Runtime")
        assert (row["precision"], row["views"], row["unit"]) == ("fp32", "center", "images")
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["calls"] >= module.ROUNDS
        assert row["ratio"] == row["per_second"] / first["per_second"]
        assert row["over_floor"] >= 1 - 1e-9
    timing = result.rows[1].timing
    assert second["per_second"] == pytest.approx(3 / np.mean(timing.seconds))


@needs_onnxruntime
def test_no_float32_run_is_faster_than_the_floor_in_its_table(net, monkeypatch):
    slow = [Probe(name="a", run=list, flops=1), Probe(name="b", run=list, nbytes=1)]
    monkeypatch.setattr(
        floor.Machine, "of", lambda probes, timings: Machine(flops=1.0, flops_of="a", bandwidth=1.0, bandwidth_of="b")
    )
    monkeypatch.setattr(module, "probes", lambda: slow)
    result = measured(BenchmarkRequest(models=(net,), backend="onnxruntime", batches=(1, 4), device="cpu"))
    ratios = [row["over_floor"] for row in result.to_json()["rows"]]
    assert min(ratios) == pytest.approx(1)
    assert result.machine.flops_of.startswith("net.safetensors, ONNX Runtime")


@needs_onnxruntime
def test_the_floor_counts_every_view_and_the_bytes_of_the_precision(net, tmp_path):
    architecture = TINY.build()
    half = export(tmp_path / "half.onnx", precision="fp16", views="ten")
    nets, _ = subjects(BenchmarkRequest(models=(net, half), backend="onnxruntime", device="cpu"))
    (center, ten) = nets
    assert (center.views, ten.views, ten.precision) == ("center", "ten", "fp16")
    assert (center.multiply_adds, ten.multiply_adds) == (architecture.multiply_adds, 10 * architecture.multiply_adds)
    assert (center.weight_bytes, ten.weight_bytes) == (4 * architecture.parameters, 2 * architecture.parameters)
    result = measure(nets, (2,), seconds=0.01)
    for row, subject in zip(result.rows, nets, strict=True):
        assert row.floor == result.machine.floor(2 * subject.multiply_adds, subject.weight_bytes)


@needs_onnxruntime
@pytest.mark.parametrize(
    ("views", "expected"),
    [("none", (2, 3, 57, 57)), ("center", (2, 3, 57, 57)), ("ten", (20, 3, 57, 57))],
)
def test_a_batch_consists_of_patches_or_of_images_with_their_views(net, views, expected):
    (subject,), _ = subjects(BenchmarkRequest(models=(net,), backend="onnxruntime", views=views, device="cpu"))
    assert subject.unit == ("patches" if views == "none" else "images")
    shapes, infer = [], subject.net.backend.infer
    subject.net.backend.infer = lambda inputs: shapes.append(inputs.shape) or infer(inputs)
    subject.run(2)()
    assert shapes == [expected]


@needs_onnxruntime
def test_a_file_that_cuts_its_views_takes_no_patches(tmp_path):
    path = export(tmp_path / "net.onnx", views="center")
    with pytest.raises(UsageError, match=r"net\.onnx: takes images .* use --views center"):
        subjects(BenchmarkRequest(models=(path,), views="none"))


@needs_onnxruntime
def test_a_file_with_several_nets_has_no_floor(tmp_path):
    path = export(tmp_path / "two.onnx", members=2)
    request = BenchmarkRequest(models=(path,), backend="onnxruntime", batches=(1,), device="cpu")
    nets, _ = subjects(request)
    assert turns(nets, (1,)) == module.ROUNDS  # the machine is not measured either
    result = measure(nets, (1,), seconds=0.01)
    assert result.machine is None
    assert result.to_json()["rows"][0]["over_floor"] is None


@needs_onnxruntime
@needs_openvino
def test_backend_all_means_every_installed_runtime(tmp_path):
    path = export(tmp_path / "net.onnx")
    nets, skipped = subjects(BenchmarkRequest(models=(path,), device="cpu"))
    assert [subject.net.backend.description.split()[0] for subject in nets] == ["ONNX", "OpenVINO"]
    assert not skipped


@needs_onnxruntime
def test_a_runtime_that_cannot_run_a_file_is_skipped_with_the_reason(net, monkeypatch):
    def partly(path, **options):
        if options["backend"] == "openvino":
            raise ModelFileError("OpenVINO can't run it")
        return load(path, **options)

    load = module.load
    monkeypatch.setattr(module, "load", partly)
    monkeypatch.setattr(module, "_choices", lambda request, path: iter(("onnxruntime", "openvino")))
    nets, skipped = subjects(BenchmarkRequest(models=(net,), device="cpu"))
    assert len(nets) == 1
    assert skipped == ["OpenVINO can't run it"]


@needs_onnxruntime
def test_a_missing_runtime_given_by_name_is_an_error(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    path = export(tmp_path / "net.onnx")
    with pytest.raises(BackendError, match=r"pip install \"alexnet-infer\[openvino\]\""):
        subjects(BenchmarkRequest(models=(path,), backend="openvino"))


@needs_onnxruntime
def test_files_with_the_same_name_are_shown_with_their_paths(net, tmp_path):
    other = tmp_path / "other" / net.name
    other.parent.mkdir()
    random_artifact(replace(TINY, columns=1)).save(other)
    nets, _ = subjects(BenchmarkRequest(models=(net, other), backend="onnxruntime", device="cpu"))
    assert [subject.model for subject in nets] == [str(net), str(other)]


@needs_onnxruntime
def test_turns_counts_the_calls_of_on_turn(net):
    nets, _ = subjects(BenchmarkRequest(models=(net,), backend="onnxruntime", device="cpu"))
    ticks = []
    measure(nets, (1, 2), seconds=0.001, on_turn=lambda: ticks.append(1))
    assert len(ticks) == turns(nets, (1, 2)) == module.ROUNDS * (2 + probe_count())
