"""`alexnet-infer benchmark`: the table, JSON, the picture, and its errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model
from alexnet_infer.benchmark import floor
from alexnet_infer.benchmark.run import Request
from alexnet_infer.commands.benchmark import run
from alexnet_infer.errors import BackendError, UsageError
from tests.nets import random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.fixture(autouse=True)
def _small_probes(monkeypatch):
    """The machine is measured with small matrices: its true rates play no part here."""
    monkeypatch.setattr(floor, "SQUARE", 96)
    monkeypatch.setattr(floor, "TALL", 128)


@pytest.fixture
def net(tmp_path) -> Path:
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    return path


def request(*models: Path, **options: object) -> Request:
    values = {"backend": "onnxruntime", "batches": (1, 2), "seconds": 0.01, "device": "cpu", **options}
    return Request(models=models, **values)


def test_the_table_has_a_row_for_each_batch_and_says_what_the_floor_is(net, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # as wide as a terminal at its first start, and as a pipe
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
    assert "ratio: images/s to the first row's" in text
    assert "GFLOP/s, measured in a float32 matrix product" in text
    assert "bytes of weights at" in text
    assert "int8, which multiplies faster, may go below" in text
    assert err == ""


def test_json_is_one_object_of_the_same_rows(net, capsys):
    run(request(net, views="none"), as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in result["rows"]] == [1, 2]
    assert {row["unit"] for row in result["rows"]} == {"patches"}
    assert result["machine"]["gflops"] > 0
    assert result["machine"]["gb_per_second"] > 0
    assert result["skipped"] == []


def test_without_a_model_it_is_the_embedded_one(capsys):
    run(request(batches=(1,), seconds=0.001), as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == embedded_model().name


def test_the_picture_shows_lines(net, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    plot = tmp_path / "speed.PNG"
    renamed = net.rename(tmp_path / "$a_漢.safetensors")  # neither a formula nor a warning about a missing letter
    run(request(renamed), plot=plot)
    with Image.open(plot) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == (31, 119, 180)).all(1).sum() > 500  # the first colour, of the line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([renamed.name, plot.name])


@pytest.mark.parametrize(
    ("name", "message"), [("speed.jpg", "ending in .png"), ("absent/speed.png", "there is no folder")]
)
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    with pytest.raises(UsageError, match=message):
        run(request(), plot=tmp_path / name)


def test_a_folder_is_no_name_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    (tmp_path / "speed.png").mkdir()
    with pytest.raises(UsageError, match="is a folder; expected a file's name"):
        run(request(), plot=tmp_path / "speed.png")


def test_without_matplotlib_a_picture_is_refused_with_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("alexnet_infer.commands.benchmark.subjects", lambda request: pytest.fail("measured"))
    with pytest.raises(BackendError, match=r'pip install "alexnet-infer\[plot\]"'):
        run(request(), plot=tmp_path / "speed.png")


def test_what_a_runtime_cannot_run_is_named_on_stderr(net, capsys, monkeypatch):
    from alexnet_infer.commands import benchmark

    found, _ = benchmark.subjects(request(net, batches=(1,)))
    monkeypatch.setattr(benchmark, "subjects", lambda request: (found, ["net: OpenVINO can't run it"]))
    run(request(net, batches=(1,)), as_json=True)
    out, err = capsys.readouterr()
    assert err == "left out: net: OpenVINO can't run it\n"
    assert json.loads(out)["skipped"] == ["net: OpenVINO can't run it"]
