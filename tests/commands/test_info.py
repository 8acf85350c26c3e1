"""`alexnet-infer info`: the layer table and its errors."""

from __future__ import annotations

import json

import pytest

from alexnet_infer.presets import PRESETS
from tests.nets import random_artifact


def test_the_papers_net_shows_its_layers_and_60965224_parameters(run):
    code, out, err = run("info", "alexnet")
    assert (code, err) == (0, "")
    assert "60,965,224" in out
    conv2 = next(line for line in out.splitlines() if line.split()[:1] == ["conv2"])
    assert "307,456" in conv2  # 256 kernels of 5 x 5 x 48, and 256 biases
    assert "223,948,800" in conv2  # 27 x 27 x 256 outputs of 5 x 5 x 48


@pytest.mark.parametrize("name", PRESETS)
def test_json_adds_up_for_every_preset(run, name):
    code, out, _ = run("info", name, "--json")
    data = json.loads(out)
    assert code == 0
    assert sum(layer["parameters"] for layer in data["layers"]) == data["parameters"]
    assert sum(layer["multiply_adds"] for layer in data["layers"]) == data["multiply_adds"]
    assert data["manifest"] is None


def test_a_model_file_shows_where_it_comes_from(run, tmp_path):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "random-alexnet-64" in out
    assert "seed 0, recipe random" in out
    assert json.loads(run("info", path, "--json")[1])["manifest"]["provenance"]["software"] == "tests"


def test_the_embedded_net_is_shown_when_none_is_named(run):
    code, out, _ = run("info")
    assert code == 0
    assert "classes        200" in out


def test_a_preset_says_which_trained_net_has_its_name(run):
    code, out, _ = run("info", "alexnet-64")
    assert code == 0
    hint = out.splitlines()[-1]
    assert "trained net is called alexnet-64" in hint
    assert "classes        200" in run(*hint[hint.index("info") :].split(maxsplit=1))[1]
    assert "trained net" not in run("info", "caffenet")[1]  # published, and not on this machine


def test_an_unknown_name_lists_the_presets_and_exits_2(run):
    code, out, err = run("info", "alexnett")
    assert (code, out) == (2, "")
    assert "'alexnett' is neither a file nor a preset" in err
    assert "alexnet-6conv" in err


def test_a_file_that_is_no_net_exits_4(run, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x00" * 100)
    code, out, err = run("info", path)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert run("info", tmp_path / "absent.safetensors")[0] == 4
