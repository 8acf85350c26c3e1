"""`alexnet-infer info`: the layer table, the origin of a net, and errors."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.architecture import Architecture, Dense
from alexnet_infer.artifact import Artifact, embedded_model, load_artifact
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.kernels import Kernels
from alexnet_infer.manifest import MeasuredError
from alexnet_infer.presets import PRESETS
from alexnet_infer.published.cache import cache_path
from alexnet_infer.published.registry import published
from tests.nets import TINY, random_artifact


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


@pytest.mark.parametrize("name", PRESETS)
def test_at_80_columns_every_name_and_figure_is_whole(run, name):
    data = json.loads(run("info", name, "--json")[1])
    out = run("info", name, columns=80)[1]
    assert "…" not in out
    lines = out.partition("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    for layer in data["layers"]:
        row = next(row for row in rows if row[:1] == [layer["name"]])
        (*channels_first,) = layer["output"]
        shape = "x".join(map(str, [*channels_first[1:], channels_first[0]]))
        counts = [f"{layer[key]:,}" for key in ("parameters", "multiply_adds") if layer[key]]
        assert row[-1 - len(counts) :] == [shape, *counts]
    assert ["total", f"{data['parameters']:,}", f"{data['multiply_adds']:,}"] in rows
    for layer in data["layers"]:
        if layer["op"] == "lrn":
            assert {f"alpha={layer['alpha']:g}", f"k={layer['k']:g}"} <= {word.strip(",") for word in out.split()}


def test_at_80_columns_the_origin_of_a_net_breaks_between_words(run):
    wide, narrow = (run("info", columns=columns)[1] for columns in (1000, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow[narrow.index("name  ") :].split() == wide[wide.index("name  ") :].split()


def test_a_model_file_shows_where_it_comes_from(run, tmp_path):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "random-alexnet-64" in out
    assert "seed 0, recipe random" in out
    assert json.loads(run("info", path, "--json")[1])["manifest"]["provenance"]["software"] == "tests"


def test_the_rounding_of_torchvision_is_named_and_the_papers_is_not(run, tmp_path):
    artifact = random_artifact()
    for fit, named in (("crop", False), ("crop-torchvision", True)):
        preprocessing = replace(artifact.manifest.preprocessing, fit=fit)
        path = tmp_path / f"{fit}.safetensors"
        Artifact(replace(artifact.manifest, preprocessing=preprocessing), artifact.tensors).save(path)
        out = run("info", path, columns=1000)[1]
        assert "central square" in out
        assert ("central square, rounded as in torchvision" in out) == named


def test_the_default_net_is_shown_without_a_name(run):
    code, out, _ = run("info")
    assert code == 0
    assert "classes        200" in out


def test_a_preset_names_the_trained_net_of_the_same_name(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "trained net" not in run("info", "caffenet")[1]  # published, and not on this machine
    pulled = cache_path(published("caffenet"))
    pulled.parent.mkdir(parents=True)
    shutil.copy(embedded_model(), pulled)
    code, out, _ = run("info", "caffenet")
    assert code == 0
    *_, text, hint = out.splitlines()
    assert text == "This is the preset. For the trained net of that name:"
    assert "classes        200" in run(*hint[hint.index("info") :].split(maxsplit=1))[1]


def test_an_unknown_name_lists_the_presets_and_exits_2(run):
    code, out, err = run("info", "alexnett")
    assert (code, out) == (2, "")
    assert "'alexnett' is neither a file nor a preset" in err
    assert "alexnet-6conv" in err


def test_a_file_that_is_not_a_net_exits_4(run, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x00" * 100)
    code, out, err = run("info", path)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert run("info", tmp_path / "absent.safetensors")[0] == 4


def test_errors_of_unknown_views_are_shown_by_their_name(run, tmp_path):
    artifact = random_artifact()
    error = MeasuredError(data="some set", views="one", images=10, top1=5, top5=1)
    provenance = replace(artifact.manifest.provenance, errors=(error,))
    path = tmp_path / "net.safetensors"
    Artifact(replace(artifact.manifest, provenance=provenance), artifact.tensors).save(path)
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "top-1 50.00%, top-5 10.00% (one, 10 images, some set)" in " ".join(out.split())


def test_the_share_of_colour_of_each_column_is_shown(run, tmp_path):
    shares = Kernels.of(load_artifact(embedded_model())).colour_shares()
    assert json.loads(run("info", "--json")[1])["colour_share"] == pytest.approx(shares)
    first, second = (f"{100 * share:.1f} %" for share in shares)
    assert f"conv1 colour   {first} in column 1, {second} in column 2" in run("info")[1]
    path = tmp_path / "net.safetensors"
    one_column = random_artifact(dataclasses.replace(TINY, columns=1))
    one_column.save(path)
    (share,) = Kernels.of(load_artifact(path)).colour_shares()
    assert f"conv1 colour   {100 * share:.1f} %" in [line.strip() for line in run("info", path)[1].splitlines()]


def test_the_share_of_colour_is_named_after_the_layer(run, tmp_path):
    artifact = random_artifact()
    own = artifact.manifest.architecture
    operations = (replace(own.operations[0], name="first"), *own.operations[1:])
    tensors = {key.replace("conv1.", "first."): value for key, value in artifact.tensors.items()}
    path = tmp_path / "net.safetensors"
    Artifact(replace(artifact.manifest, architecture=replace(own, operations=operations)), tensors).save(path)
    (line,) = [line for line in run("info", path)[1].splitlines() if " colour" in line]
    assert line.startswith("first colour ")


def test_a_net_whose_first_layer_sees_no_colours_has_no_share(run, tmp_path):
    artifact = random_artifact()
    architecture = Architecture(name="odd", patch=57, operations=(Dense(name="fc8", units=7),))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in architecture.tensors.items()}
    path = tmp_path / "net.safetensors"
    Artifact(replace(artifact.manifest, architecture=architecture), tensors).save(path)
    assert "colour" not in run("info", path)[1]
    assert json.loads(run("info", path, "--json")[1])["colour_share"] is None


def test_an_exported_file_has_no_share_of_colour(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    net = tmp_path / "net.safetensors"
    random_artifact().save(net)
    path = export(ExportRequest(models=(net,), out=tmp_path / "out")).onnx
    assert json.loads(run("info", path, "--json")[1])["colour_share"] is None
    assert "conv1 colour" not in run("info", path)[1]
