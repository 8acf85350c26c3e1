"""`alexnet-infer benchmark`: its table, JSON, plot and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model
from alexnet_infer.benchmark import floor
from alexnet_infer.benchmark.floor import Machine
from alexnet_infer.benchmark.measure import Benchmark, BenchmarkRequest, Measurement, Subject
from alexnet_infer.benchmark.timing import Timing
from alexnet_infer.commands.benchmark import _print_table, run
from alexnet_infer.errors import BackendError, UsageError
from tests.nets import random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.fixture(autouse=True)
def _small_probes(monkeypatch):
    """Measure the machine with small matrices, since its true rates don't matter here."""
    monkeypatch.setattr(floor, "SQUARE", 96)
    monkeypatch.setattr(floor, "TALL", 128)
    monkeypatch.setattr(floor, "IMAGES", 1)
    monkeypatch.setattr(floor, "PATCHES", 1)


@pytest.fixture
def net(tmp_path) -> Path:
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    return path


def request(*models: Path, **options: object) -> BenchmarkRequest:
    values = {"backend": "onnxruntime", "batches": (1, 2), "seconds": 0.01, "device": "cpu", **options}
    return BenchmarkRequest(models=models, **values)


def test_the_table_has_a_row_for_each_batch_and_explains_the_floor(net, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # the usual default width of a terminal, and rich's for a pipe
    run(request(net))
    out, err = capsys.readouterr()
    header, title, first, second, *footer = out.splitlines()
    assert header.split() == ["batch", "p50", "ms", "p90", "ms", "p99", "ms", "images/s", "ratio", "x", "floor"]
    assert title.startswith("net.safetensors, ONNX Runtime")
    assert title.endswith(", CPUExecutionProvider, views center")
    assert len(first) == len(second) == len(header) <= 80
    assert first.split()[-2] == "1.00"
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    text = " ".join(" ".join(footer).split())
    assert "ratio: images/s relative to the first row." in text
    assert "), and reading the weights at" in text
    assert "These are the highest rates of this run." in text
    assert "int8 multiplies faster and has no floor here." in text
    assert err == ""


MACHINE = Machine(flops=123_456e9, flops_of="a product", bandwidth=1234.5e9, bandwidth_of="reading a matrix")
LONG_NAME = "a-net-with-a-rather-long-name-" * 4 + ".safetensors"


def made_up_row(model: str, seconds: float, batch: int, floor: float | None) -> Measurement:
    backend = SimpleNamespace(description="OpenVINO 2026.4.1, CPU, fp16 computed in float32")
    net = SimpleNamespace(backend=backend)
    subject = Subject(model=model, net=net, precision="fp16", views="ten", multiply_adds=1, weight_bytes=1)
    return Measurement(subject=subject, batch=batch, timing=Timing(seconds=(seconds,)), floor=floor)


def test_no_figure_or_name_is_cut_at_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    rows = (
        made_up_row("fast.safetensors", 0.000_5, 1024, 0.000_4),  # 2,048,000.0 images/s
        made_up_row(LONG_NAME, 234.567_89, 1, 0.01),  # 234567.89 ms
        made_up_row("gpu.engine", 0.001, 64, None),
    )
    _print_table(Benchmark(rows=rows, machine=MACHINE))
    lines = capsys.readouterr().out.splitlines()
    fast, slow, gpu = (lines[index].split() for index in (2, 4, 6))
    assert fast == ["1024", "0.50", "0.50", "0.50", "2,048,000.0", "1.00", "1.25"]
    assert slow == ["1", "234567.89", "234567.89", "234567.89", "0.0", "0.00", "23456.79"]
    assert gpu == ["64", "1.00", "1.00", "1.00", "64,000.0", "0.03", "-"]
    assert lines[3] == f"{LONG_NAME}, OpenVINO 2026.4.1, CPU, fp16 computed in float32, views ten"
    assert all(len(line) <= 80 for line in lines if line != lines[3])
    assert {len(lines[index]) for index in (0, 2, 4, 6)} == {len(lines[0])}
    text = " ".join(" ".join(lines[7:]).split())
    assert "123456 GFLOP/s" in text
    assert "1234.5 GB/s" in text


def test_json_is_one_object_with_the_same_rows(net, capsys):
    run(request(net, views="none"), as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in result["rows"]] == [1, 2]
    assert {row["unit"] for row in result["rows"]} == {"patches"}
    assert result["machine"]["gflops"] > 0
    assert result["machine"]["gb_per_second"] > 0
    assert result["skipped"] == []


def test_the_default_model_is_the_bundled_net(capsys):
    run(request(batches=(1,), seconds=0.001), as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == embedded_model().name


def test_the_plot_shows_lines(net, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    plot = tmp_path / "speed.PNG"
    renamed = net.rename(tmp_path / "$a_漢.safetensors")  # no formula, and no warning about a missing glyph
    run(request(renamed), plot=plot)
    with Image.open(plot) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == (31, 119, 180)).all(1).sum() > 500  # the colour of the first line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([renamed.name, plot.name])


@pytest.mark.parametrize(
    ("name", "message"), [("speed.jpg", "ending in .png"), ("absent/speed.png", "the folder .* does not exist")]
)
def test_a_plot_that_cannot_be_written_is_refused_before_measuring(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    with pytest.raises(UsageError, match=message):
        run(request(), plot=tmp_path / name)


def test_a_folder_as_the_plot_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    (tmp_path / "speed.png").mkdir()
    with pytest.raises(UsageError, match="is a folder; expected a file name"):
        run(request(), plot=tmp_path / "speed.png")


def test_without_matplotlib_a_plot_is_refused_with_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    with pytest.raises(BackendError, match=r'pip install "alexnet-infer\[plot\]"'):
        run(request(), plot=tmp_path / "speed.png")


def test_a_model_that_a_runtime_cannot_run_is_reported_on_stderr(net, capsys, monkeypatch):
    from alexnet_infer.commands import benchmark

    nets, _ = benchmark.subjects(request(net, batches=(1,)))
    monkeypatch.setattr(benchmark, "subjects", lambda request: (nets, ["net: OpenVINO can't run it"]))
    run(request(net, batches=(1,)), as_json=True)
    out, err = capsys.readouterr()
    assert err == "left out: net: OpenVINO can't run it\n"
    assert json.loads(out)["skipped"] == ["net: OpenVINO can't run it"]
