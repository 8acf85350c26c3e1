"""`alexnet-infer export --passport`: what it says is true, can be measured again, and is on one page."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_infer.commands import export_passport
from alexnet_infer.errors import UsageError
from alexnet_infer.passport import page as page_module
from tests.evaluation.page import Page
from tests.evaluation.toys import save_net, write_set

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("jinja2", reason="needs jinja2: pip install jinja2")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(export_passport, "SECONDS", 0.001)
    for name, value in {"SQUARE": 96, "TALL": 128, "IMAGES": 1, "PATCHES": 1}.items():
        monkeypatch.setattr(f"alexnet_infer.benchmark.floor.{name}", value)
    return tmp_path


@pytest.fixture
def net(here) -> Path:
    return save_net(Path("net.safetensors"))


@pytest.fixture
def data(here) -> Path:
    write_set(Path("set"))
    return Path("set")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_its_digests_and_figures_are_those_of_the_files_and_its_command_gives_the_same_comparison(run, net, data):
    options = ["--precision", "fp16", "--views", "center", "--data", data, "--max-drop", "top1=100", "-o", "out"]
    code, out, err = run("export", net, *options, "--passport", "p.json", "--json")
    assert (code, err) == (0, "")
    passport = json.loads(Path("p.json").read_text())
    (file,) = passport["files"]
    onnx = Path("out/net.onnx")
    assert file == {"name": onnx.name, "bytes": onnx.stat().st_size, "sha256": sha256(onnx)}
    assert passport["export"]["members"][0]["sha256"] == sha256(net)
    assert passport["export"]["precision"] == "fp16"
    assert json.loads(out)["passport"] == "p.json"
    compared = passport["comparison"]["files"]["net.onnx"]
    assert compared == json.loads(out)["verified"]["out/net.onnx"]
    assert compared["gate"]["top1"]["max_drop"] == 1
    command = passport["commands"]["comparison"]["net.onnx"]
    code, again, _ = run(*shlex.split(command)[1:], "--json")
    assert (code, json.loads(again)) == (0, compared)
    program, *arguments = shlex.split(passport["commands"]["latency"])
    assert (program, arguments[:3]) == ("alexnet-infer", ["benchmark", "net.safetensors", "out/net.onnx"])
    assert {row["model"] for row in passport["latency"]["rows"]} == {"net.safetensors", "net.onnx"}
    assert {row["views"] for row in passport["latency"]["rows"]} == {"center"}
    assert {"alexnet-infer", "python", "numpy", "onnxruntime"} <= {*passport["versions"]}


def test_the_page_has_the_gate_the_interval_and_the_classes_that_changed_and_loads_nothing(run, net, data):
    other = save_net(Path("other.safetensors"), seed=5)
    code, _, _ = run("export", other, "--data", data, "--max-drop", "top5=0", "-o", "out", "--passport", "p.html")
    text = Path("p.html").read_text()
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    # No image differs, but sixty images are too few to show that none would.
    assert "top-5 gate: undecided. The error may rise by at most 0 points." in words
    assert code == 1
    assert sha256(Path("out/other.onnx")) in words
    assert "://" not in text
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "img")]
    assert not [name for _, attributes in page.elements for name in attributes if name in ("src", "href")]


def test_a_failed_comparison_is_in_the_passport(run, net, data):
    code, _, err = run("export", net, "--tolerance", 0, "--data", data, "-o", "out", "--passport", "p.json")
    assert code == 1
    assert "expected at most 0" in err
    assert json.loads(Path("p.json").read_text())["comparison"]["files"]["net.onnx"]["within"] is False


def test_without_labels_it_says_that_errors_were_not_compared(run, net):
    photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
    code, out, _ = run("export", net, "--photo", photo, "-o", "out", "--passport", "p.html")
    words = " ".join(" ".join(Page(Path("p.html").read_text()).words).split())
    assert code == 0
    assert "p.html" in out
    assert "1 photo, each whole and in quarters" in words
    assert "These images have no labels, so errors were not compared." in words


def test_several_nets_are_compared_again_by_exporting_them(run, net, data, monkeypatch):
    other = save_net(Path("other.safetensors"), seed=5)
    arguments = ["export", str(net), str(other), "--data", str(data), "-o", "out", "--passport", "p.json"]
    monkeypatch.setattr("sys.argv", ["alexnet-infer", *arguments])
    assert run(*arguments)[0] == 0
    passport = json.loads(Path("p.json").read_text())
    (command,) = passport["commands"]["comparison"].values()
    assert command == passport["commands"]["files"] == shlex.join(["alexnet-infer", *arguments])
    assert len(passport["export"]["members"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--passport", "p.txt"], "--passport p.txt: expected a file name ending in .html or .json"),
        (
            ["--passport", "mine.json"],
            "--passport mine.json: was not written by alexnet-infer",
        ),
        (["--passport", "other.html/p.json"], "--passport other.html/p.json: can't be written"),
        (["--passport", "p.json", "--no-verify"], "--passport p.json: has the result of the comparison"),
        (
            ["--passport", "p.json", "--outputs", "fc7"],
            "--passport p.json: compares probabilities, which --outputs",
        ),
        (["--passport", "other.html"], "--passport other.html: its other.html was not written by alexnet-infer"),
        (["--max-drop", "top1=1"], "--max-drop top1=1: expected --data, a labelled set"),
    ],
)
def test_what_can_t_be_done_is_refused_before_anything_is_exported(run, net, options, message):
    Path("other.html").write_text("mine")
    Path("mine.json").write_text("{}")
    code, out, err = run("export", net, *options, "-o", "out")
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("out").exists()
    assert (Path("other.html").read_text(), Path("mine.json").read_text()) == ("mine", "{}")


def test_a_passport_replaces_a_passport(run, net, data):
    for name in ("new/p.json", "new/p.html"):
        for _ in range(2):
            assert run("export", net, "--data", data, "-o", "out", "--passport", name)[0] == 0


def test_the_result_is_printed_even_if_the_passport_cannot_be_written(run, net, data, monkeypatch):
    def full(*arguments):
        raise UsageError("the disk is full")

    monkeypatch.setattr(page_module, "write", full)
    code, out, err = run("export", net, "--data", data, "-o", "out", "--json", "--passport", "p.json")
    assert (code, err) == (2, "error: the disk is full\n")
    assert json.loads(out)["verified"]["out/net.onnx"]["within"]
    assert json.loads(out)["passport"] is None


def test_names_that_begin_with_a_dash_stay_names(run, here, data):
    save_net(Path("-n.safetensors"))
    arguments = ["export", "--data", data, "-o", "out", "--passport", "p.json", "--", "-n.safetensors"]
    assert run(*arguments)[0] == 0
    for command in (json.loads(Path("p.json").read_text())["commands"][key] for key in ("comparison", "latency")):
        line = command if isinstance(command, str) else command["n.onnx"]
        assert run(*shlex.split(line)[1:])[0] == 0


@pytest.mark.parametrize(("low", "difference", "high", "limit"), [(-0.01, 0, 0.02, 0.005), (0, 0, 0, 0), (1, 1, 1, 0)])
def test_the_drawing_has_everything_on_its_axis(low, difference, high, limit):
    judgement = SimpleNamespace(low=low, difference=difference, high=high, max_drop=limit)
    places = page_module._bar(judgement)
    assert all(0 <= place <= 100 for place in places.values())
    assert places["zero"] == 50
    assert places["low"] <= places["difference"] <= places["high"]
