"""`alexnet-infer classify` as a user meets it: output, exit codes, one line for each bad input."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model, load_artifact
from tests.nets import random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples"
CATS = {"n02123045", "n02123394", "n02124075"}
"""tabby, Persian cat, Egyptian cat."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    random_artifact().save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder


def test_the_example_cat_is_called_a_cat_by_the_embedded_net(run):
    code, out, _ = run("classify", EXAMPLES / "cat.jpg", "--json")
    assert code == 0
    assert CATS & {label["wnid"] for label in json.loads(out)["labels"]}


def test_one_photo_gets_a_table_with_labels_bars_and_what_ran(run, model, folder):
    code, out, err = run("classify", folder / "0.jpg", "--model", model, "--top", "3")
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if "n0000000" in line]
    assert len(rows) == 3
    percent = [float(row.split()[-1].rstrip("%")) for row in rows]
    assert percent == sorted(percent, reverse=True)
    assert rows[0].count("█") == round(percent[0] / 100 * 24)
    assert "random-alexnet-64, ten views averaged, ONNX Runtime" in out


def test_many_photos_get_a_line_each_in_the_order_given(run, model, folder):
    code, out, err = run("classify", folder / "2.jpg", folder / "0.jpg", "--model", model, "--top", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == ["2.jpg", "0.jpg"]
    assert all(line.count("%") == 2 for line in lines)


def test_json_gives_one_complete_object_a_line(run, model, folder):
    code, out, err = run("classify", folder, "--model", model, "--json", "--top", "7", "--views", "center")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["photo"]).name for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    for row in rows:
        assert sum(label["probability"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)
        assert row["labels"][0].keys() == {"index", "wnid", "name", "probability"}
        assert (row["net"], row["views"]) == ("random-alexnet-64", "center")
        assert row["backend"].startswith("ONNX Runtime")


def test_ten_views_and_the_central_view_differ(run, model, folder):
    outputs = [
        run("classify", folder / "0.jpg", "--model", model, "--json", "--views", v)[1] for v in ("ten", "center")
    ]
    assert json.loads(outputs[0])["labels"] != json.loads(outputs[1])["labels"]


def test_some_failures_exit_1_with_one_line_each_and_the_rest_is_done(run, model, folder):
    (folder / "1.jpg").write_bytes(b"not an image")
    code, out, err = run("classify", folder, folder / "absent.png", "--model", model, "--json")
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert ["error" in row for row in rows] == [False, True, False, True]
    errors = err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)
    assert "1.jpg" in errors[0]
    assert "absent.png" in errors[1]


@pytest.mark.parametrize("arguments", [["absent.jpg"], ["absent.jpg", "nothing-*.png"]])
def test_nothing_readable_exits_3(run, model, arguments):
    code, out, err = run("classify", *arguments, "--model", model)
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == len(arguments)


def test_standard_input_is_read_where_a_dash_stands(run, model, folder, monkeypatch):
    data = (folder / "0.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, _ = run("classify", "-", "--model", model, "--json")
    named = run("classify", folder / "0.jpg", "--model", model, "--json")[1]
    assert code == 0
    assert json.loads(out)["labels"] == json.loads(named)["labels"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--top", "0"], 2, "Invalid value for '--top'"),
        (["--top", "8"], 2, "top=8: expected 1 to 7"),
        (["--views", "five"], 2, "five"),
        (["--device", "tpu"], 2, "tpu"),
        (["--colour"], 2, "--colour"),
        (["--model", "absent.safetensors"], 4, "absent.safetensors: No such file"),
        (["--model", "."], 4, "."),
    ],
)
def test_a_users_mistake_gets_its_exit_code_and_no_traceback(run, model, folder, arguments, code, words):
    given = [] if "--model" in arguments else ["--model", model]
    result, out, err = run("classify", folder / "0.jpg", *given, *arguments)
    assert (result, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_a_missing_runtime_exits_5_with_the_pip_line(run, model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, err = run("classify", folder / "0.jpg", "--model", model, "--backend", "onnxruntime")
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert 'pip install "alexnet-infer[cpu]"' in err


def test_an_interrupt_exits_130(run, model, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("alexnet_infer.commands.classify.load", interrupt)
    assert run("classify", folder / "0.jpg", "--model", model)[0] == 130


def test_a_reader_that_stops_reading_causes_no_traceback(model, folder):
    program = "from alexnet_infer.cli import main; main()"
    arguments = ["classify", *[str(folder / "0.jpg")] * 30, "--model", model, "--json"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline()
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert errors == ""


def test_classify_loads_neither_torch_nor_scipy_nor_pyarrow(model, folder):
    program = (
        "import sys\nfrom alexnet_infer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    arguments = ["classify", str(folder / "0.jpg"), "--model", model]
    child = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in child.stderr.split()}
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "scipy", "pyarrow", "pandas", "matplotlib", "train"}


def test_the_embedded_net_fits_the_wheel_and_has_200_classes():
    assert embedded_model().stat().st_size <= 16e6
    manifest = load_artifact(embedded_model()).manifest
    assert len(manifest.classes) == 200
    assert {error.views for error in manifest.provenance.errors} == {"ten", "center"}


@pytest.mark.parametrize(
    ("there", "expected"), [(("onnxruntime", "openvino"), "onnxruntime"), (("openvino",), "auto")], ids=["both", "one"]
)
def test_few_photos_take_the_runtime_that_starts_first_if_it_is_there(run, model, folder, monkeypatch, there, expected):
    from alexnet_infer.commands import classify

    asked, load = [], classify.load
    monkeypatch.setattr(classify, "find_spec", lambda name: name in there or None)

    def spy(path, **options):
        asked.append(options["backend"])
        return load(path, **options)

    monkeypatch.setattr(classify, "load", spy)
    assert run("classify", folder, "--model", model)[0] == 0
    assert asked == [expected]
