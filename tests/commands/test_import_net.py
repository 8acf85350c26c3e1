"""`alexnet-infer import`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.artifact import load_manifest
from alexnet_infer.presets import PRESETS, variant
from tests.importing.caffe_files import caffemodel
from tests.nets import random_artifact

NAMES = [(f"n{i:08}", f"class {i}") for i in (2, 0, 1)]


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small = replace(variant("caffe"), kernels=(8, 16, 12, 12, 16), hidden=24)
    monkeypatch.setitem(PRESETS, "caffe", (small, ""))
    net = random_artifact(replace(small, classes=3))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(net.manifest.architecture, net.tensors))
    (tmp_path / "classes.tsv").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in NAMES))
    return path


def test_the_model_file_is_named_after_the_source_in_the_current_folder(source, run):
    code, out, err = run("import", source, "--as", "caffe", "--classes", "classes.tsv")
    assert (code, out, err) == (0, "net.safetensors\n", "")
    manifest = load_manifest(Path("net.safetensors"))
    assert manifest.name == "net"
    assert [c.wnid for c in manifest.classes] == ["n00000000", "n00000001", "n00000002"]
    assert run("info", "net.safetensors")[0] == 0
    assert "on unknown images, recipe imported" in run("info", "net.safetensors")[1]


def test_the_users_options_are_in_the_manifest(source, run):
    options = ("--classes", "classes.tsv", "--name", "mine", "--data", "my photos", "-o", "out.safetensors", "--json")
    code, out, _ = run("import", source, "--as", "caffe", *options)
    summary = json.loads(out)
    assert (code, summary["path"]) == (0, "out.safetensors")
    assert summary["manifest"]["name"] == "mine"
    assert summary["manifest"]["provenance"]["data"] == "my photos"
    assert summary["manifest"]["preprocessing"]["fit"] == "stretch"


def test_preprocessing_can_be_named_or_come_from_a_file(source, run):
    fields = {"size": 300, "fit": "crop", "resample": "lanczos", "channel_order": "BGR", "value_range": "0-255"}
    Path("own.json").write_text(json.dumps({**fields, "mean": [1, 2, 3]}))
    common = ("import", source, "--as", "caffe", "--classes", "classes.tsv", "-o", "net.safetensors", "--json")
    preprocessing = json.loads(run(*common, "--preprocessing", "own.json")[1])["manifest"]["preprocessing"]
    assert (preprocessing["size"], preprocessing["mean"]) == (300, [3, 2, 1])
    preprocessing = json.loads(run(*common, "--preprocessing", "torchvision")[1])["manifest"]["preprocessing"]
    assert preprocessing["value_range"] == "0-1"


def test_an_existing_file_is_only_replaced_if_it_is_named(source, run):
    common = ("import", source, "--as", "caffe", "--classes", "classes.tsv")
    assert run(*common, "--name", "../mine")[:2] == (0, "mine.safetensors\n")
    before = Path("mine.safetensors").read_bytes()
    code, out, err = run(*common, "--name", "mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "mine.safetensors: already exists" in err
    assert Path("mine.safetensors").read_bytes() == before
    assert run(*common, "--name", "mine", "-o", "mine.safetensors")[0] == 0
    assert Path("mine.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--as", "caffe"), 4, "units=3: expected dense units=1000"),
        (("--as", "alex", "--classes", "classes.tsv"), 2, "no preset is called 'alex'"),
        (("--classes", "classes.tsv"), 2, "Name the preset with --as"),
        (("--as", "caffe", "--classes", "gone.tsv"), 2, "expected a file called classes.tsv"),
        (("--as", "caffe", "--classes", "sub/classes.tsv"), 3, "no such file"),
        (("--as", "caffe", "--classes", "classes.tsv", "--preprocessing", "x"), 2, "--preprocessing x"),
        (("--as", "caffe", "--classes", "classes.tsv", "--patch", "224"), 2, "--patch 224"),
        (("--as", "caffe", "--classes", "classes.tsv", "-o", "net.bin"), 2, "ends in .safetensors"),
        (("--as", "caffe", "--classes", "classes.tsv", "-o", "net.onnx"), 2, "ends in .safetensors"),
        (("--as", "caffe", "--classes", "classes.tsv", "-o", "net.caffemodel"), 2, "is the file to import"),
        (("--as", "caffe", "--classes", "classes.tsv", "-o", "gone/net.safetensors"), 2, "can't be written"),
        (("--as", "caffe", "--classes", "classes.tsv", "-o", f"{'x' * 300}.safetensors"), 2, "can't be written"),
        (("--as", "caffe", "--classes", "classes.tsv", "--name", "a\nb"), 2, "--name 'a\\nb': expected printable"),
        (("--as", "caffe", "--classes", "classes.tsv", "--data", " "), 2, "--data ' ': expected printable"),
    ],
)
def test_mistakes_are_one_line_errors(source, run, options, code, message):
    exit_code, out, err = run("import", source, *options)
    assert (exit_code, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert source.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "model"),
    [("net", "net"), ("net.pth.tar", "net"), ("net.v2.caffemodel", "net.v2"), ("snapshot.bin", "snapshot")],
)
def test_a_file_of_any_name_is_imported_and_named_without_its_suffixes(source, run, name, model):
    source.rename(name)
    code, out, err = run("import", name, "--as", "caffe", "--classes", "classes.tsv")
    assert (code, out, err) == (0, f"{model}.safetensors\n", "")
    assert load_manifest(Path(f"{model}.safetensors")).name == model


def test_the_format_can_be_named(source, run):
    common = ("import", source, "--as", "caffe", "--classes", "classes.tsv")
    assert run(*common, "--format", "caffemodel")[0] == 0
    code, out, err = run(*common, "--format", "onnx", "-o", "x.safetensors")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "expected an ONNX file" in err
    assert run(*common, "--format", "pickle")[0] == 2


def test_a_file_of_no_known_format_is_a_one_line_error_and_exits_4(source, run):
    source.write_bytes(b"\xff" * 100)
    source.rename("net.bin")
    code, out, err = run("import", "net.bin", "--as", "caffe")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "net.bin: its format is not recognised: expected an ONNX file, a caffemodel, a PyTorch file" in err


def test_a_source_that_cannot_be_read_is_not_reported_as_the_target(source, run, monkeypatch):
    def broken(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("alexnet_infer.importing.convert.sha256", broken)
    code, out, err = run("import", source, "--as", "caffe", "--classes", "classes.tsv")
    assert (code, out, err) == (4, "", f"error: {source}: Input/output error\n")


def test_a_pipe_is_refused_without_waiting(source, run):
    os.mkfifo("pipe.caffemodel")
    code, out, err = run("import", "pipe.caffemodel", "--as", "caffe", "--classes", "classes.tsv", "--data", "photos")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "is not a regular file" in err


def test_a_missing_file_is_a_one_line_error_and_exits_4(source, run):
    code, out, err = run("import", "gone.onnx", "--as", "caffe")
    assert (code, out) == (4, "")
    assert err == "error: gone.onnx: No such file or directory\n"
