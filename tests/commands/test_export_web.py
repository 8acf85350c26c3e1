"""`alexnet-infer export --web`: the options that apply to a page, and what is printed."""

from __future__ import annotations

import json
import re
import sys

import pytest

from alexnet_infer.commands import export_web
from tests.export.web.ort import made_up_package
from tests.nets import random_artifact
from tests.program import one_line


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    return path


def test_a_page_of_the_bundled_net_is_small_enough_for_a_class_room(run, tmp_path):
    code, out, err = run("export", "--web", tmp_path / "site")
    assert (code, err) == (0, "")
    assert str(tmp_path / "site") in out
    assert f"python3 -m http.server -d {tmp_path / 'site'}" in out
    assert "onnxruntime-web" in out
    assert (tmp_path / "site" / "net.onnx").stat().st_size < 9.7e6
    assert len([*(tmp_path / "site" / "examples").glob("*.jpg")]) == 3


def test_json_names_every_file(run, tmp_path, net, monkeypatch):
    package = made_up_package(tmp_path / "package", monkeypatch)
    code, out, _ = run("export", net, "--web", tmp_path / "site", "--runtime", package, "--json")
    result = json.loads(out)
    written = {str(path): path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert code == 0
    assert {file["path"]: file["bytes"] for file in result["files"]} == written
    assert result["runtime"] == {"version": "1.30.0", "from": "folder"}


def test_the_difference_of_the_page_s_net_is_printed(run, tmp_path):
    code, out, _ = run("export", "--web", tmp_path / "site")
    assert code == 0
    assert float(re.search(r"^largest probability difference  (\S+) on 3 photos$", out, re.MULTILINE)[1]) < 1e-5


def test_a_net_that_float16_changes_by_too_much_is_not_written(run, tmp_path, net, monkeypatch):
    monkeypatch.setattr(export_web, "TOLERANCE", 1e-12)
    code, out, err = run("export", net, "--web", tmp_path / "site", "--json")
    assert (code, out) == (1, "")
    assert re.search(
        r"--web .* differs from that of .*; expected at most 1e-12; nothing was written; use --precision", err
    )
    assert not (tmp_path / "site").exists()


def test_json_says_the_difference(run, tmp_path, net):
    result = json.loads(run("export", net, "--web", tmp_path / "site", "--json")[1])
    assert 0 < result["largest_probability_difference"] < 1e-3
    assert result["photos"] == 3


def test_without_onnx_runtime_the_page_is_written_and_the_missing_comparison_is_said(run, tmp_path, net, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, err = run("export", net, "--web", tmp_path / "site")
    assert code == 0
    assert "was not compared" in err
    assert "difference" not in out


@pytest.mark.parametrize("given", ["", "."])
def test_the_working_directory_is_refused(run, tmp_path, net, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(run("export", net, "--web", given), 2, "--web", "working directory")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_page_from_disk_is_named(run, tmp_path, net, monkeypatch):
    package = made_up_package(tmp_path / "package", monkeypatch)
    _, out, _ = run("export", net, "--web", tmp_path / "site", "--runtime", package)
    assert f"{tmp_path / 'site' / 'disk.html'} holds everything" in out


@pytest.mark.parametrize(("precision", "half"), [((), True), (("fp16",), True), (("fp32",), False)])
def test_weights_are_float16_unless_float32_is_asked_for(run, tmp_path, net, precision, half):
    sizes = []
    for options in (["--precision", *precision] if precision else [], ["--precision", "fp32"]):
        assert run("export", net, "--web", tmp_path / "site", *options)[0] == 0
        sizes.append((tmp_path / "site" / "net.onnx").stat().st_size)
    assert (sizes[0] < 0.55 * sizes[1]) == half


OTHERS = {
    "--views": "none", "--verify": None,
    "--trt": None, "--onnx": None, "--no-verify": None, "-o": "x", "--ensemble": 2, "--batch": "4",
    "--lrn": "op", "--outputs": "fc7", "--calibrate": "x", "--keep-float": "fc8", "--photo": "x", "--data": "x",
    "--limit": 3, "--tolerance": 0.1, "--triton": "x", "--flavor": "rtx", "--workspace": "1GiB",
}  # fmt: skip


@pytest.mark.parametrize("option", OTHERS)
def test_options_for_files_are_refused_and_nothing_is_written(run, tmp_path, net, option):
    value = [] if OTHERS[option] is None else [OTHERS[option]]
    name = "-o/--out" if option == "-o" else option
    one_line(run("export", net, "--web", tmp_path / "site", option, *value), 2, f"{name}: has no effect on a web page")
    assert not (tmp_path / "site").exists()


def test_int8_is_refused_with_the_reason(run, tmp_path):
    one_line(run("export", "--web", tmp_path / "site", "--precision", "int8"), 2, "--precision int8", "fp16")


def test_the_runtime_without_a_page_is_refused(run, tmp_path):
    one_line(run("export", "--runtime", tmp_path), 2, "--runtime", "--web DIR")


def test_two_nets_are_refused(run, tmp_path, net):
    one_line(run("export", net, "alexnet-64-1", "--web", tmp_path / "site"), 2, "--web takes one net")


def test_an_exported_file_is_refused(run, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    one_line(run("export", tmp_path / "a.onnx", "--web", tmp_path / "site"), 2, "is an exported file")


def test_a_folder_that_is_no_package_is_refused(run, tmp_path, net):
    one_line(run("export", net, "--web", tmp_path / "site", "--runtime", tmp_path), 3, "--runtime", "npm pack")
    assert not (tmp_path / "site").exists()


def test_a_damaged_net_leaves_no_folder(run, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"x" * 100)
    one_line(run("export", tmp_path / "net.safetensors", "--web", tmp_path / "site"), 4, "net.safetensors")
    assert not (tmp_path / "site").exists()
