"""`alexnet-infer compare --layers`: where two nets differ, worst first, and what can't be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import Artifact, load_artifact
from alexnet_infer.graph.file import save_model
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.graph.model import build_model
from tests.evaluation.toys import save_net, write_set

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 3


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def net(here) -> Path:
    return save_net(Path("net.safetensors"))


@pytest.fixture
def images(here) -> Path:
    return write_set(Path("set"), IMAGES)


def exported(net: Path, target: str, change: str | None = None, **info: object) -> Path:
    """Export a net, with one layer's weights 10 % larger."""
    artifact = load_artifact(net)
    tensors = dict(artifact.tensors)
    if change:
        tensors[f"{change}.weight"] = tensors[f"{change}.weight"] * np.float32(1.1)
    weights: dict[str, np.ndarray] = {}
    described = ExportInfo(members=(Member(name="net", sha256="0" * 64),), **info)
    save_model(Path(target), build_model([Artifact(artifact.manifest, tensors)], described, weights), weights)
    return Path(target)


@pytest.mark.parametrize("views", ["none", "center", "ten"])
def test_the_layer_where_an_error_arises_is_told_by_its_position(run, net, images, views):
    wrong = exported(net, "wrong.onnx", "conv3", views=views)
    code, out, err = run("compare", net, wrong, "--layers", "--data", images, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["images"], result["views"]) == (IMAGES, "ten" if views == "ten" else "center")
    assert result["reference"]["net"] == result["candidate"]["net"] == "net"
    rows = result["layers"]
    assert [row["difference"] for row in rows] == sorted((row["difference"] for row in rows), reverse=True)
    by_name = {row["layer"]: row for row in rows}
    assert [name for name, _ in sorted(by_name.items(), key=lambda pair: pair[1]["position"])][6:8] == [
        "conv3",
        "conv4",
    ]
    for row in rows:
        assert (row["difference"] < 1e-5) == (row["position"] < by_name["conv3"]["position"])
        assert 0.5 < row["cosine"] <= 1


def test_the_table_shows_the_worst_layer_first_and_where_the_error_grows(run, net, images):
    wrong = exported(net, "wrong.onnx", "conv1")
    code, out, err = run("compare", net, wrong, "--layers", "--data", images, "--limit", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("reference: net, central view, ONNX Runtime ")
    assert lines[2] == "2 images; layers are numbered in the order of the net, worst first"
    assert lines[3].split("  ")[0] == "no."
    errors = [float(line.split()[2]) for line in lines[4:]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 14
    (first,) = (line.split() for line in lines[4:] if " conv1 " in line)
    assert (first[0], first[2], first[3]) == ("1", first[2], f"+{first[2]}")


def test_a_net_agrees_with_itself_and_layers_of_zeros_have_no_cosine(run, net, images):
    artifact = load_artifact(net)
    dead = {**artifact.tensors, "conv5.weight": artifact.tensors["conv5.weight"] * 0}
    dead["conv5.bias"] = artifact.tensors["conv5.bias"] * 0
    Artifact(artifact.manifest, dead).save(Path("dead.safetensors"))
    code, out, _ = run("compare", "dead.safetensors", "dead.safetensors", "--layers", "--data", images, "--json")
    assert code == 0
    for row in json.loads(out)["layers"]:
        assert row["difference"] == 0
        zeros = row["layer"] in ("conv5", "pool5")
        assert row["cosine"] is None if zeros else row["cosine"] == pytest.approx(1)
    out = run("compare", "dead.safetensors", "dead.safetensors", "--layers", "--data", images)[1]
    assert next(line for line in out.splitlines() if " pool5 " in line).split() == ["10", "pool5", "0", "+0", "-"]
    assert "nan" not in out


def test_the_ten_views_are_compared_on_request_or_if_a_file_cuts_them(run, net, images):
    ten, patches = exported(net, "ten.onnx", views="ten"), exported(net, "patches.onnx")
    for a, b, views, expected in (
        (net, patches, [], "center"),
        (net, patches, ["--views", "ten"], "ten"),
        (ten, patches, [], "ten"),
        (net, ten, ["--views", "ten"], "ten"),
    ):
        code, out, err = run("compare", a, b, "--layers", "--data", images, "--limit", "1", *views, "--json")
        assert (code, err) == (0, "")
        result = json.loads(out)
        assert result["views"] == expected
        assert max(row["difference"] for row in result["layers"]) < 1e-5


def test_photos_that_cannot_be_read_are_named_and_exit_1(run, net, images):
    (images / "val" / "n01440764" / "x.jpg").write_text("not an image")
    code, out, err = run("compare", net, net, "--layers", images, "--json")
    assert code == 1
    result = json.loads(out)
    assert [Path(image["image"]).name for image in result["unreadable"]] == ["x.jpg"]
    assert result["images"] == 5 * IMAGES + 1
    assert "x.jpg" in err


def test_what_cannot_be_compared_is_one_line_and_exits_2(run, net, images):
    center = exported(net, "center.onnx", views="center")
    ten = exported(net, "ten.onnx", views="ten")
    Path("net.engine").write_bytes(b"plan")
    for arguments, words in (
        ([net, "net.engine"], "net.engine: an engine, whose layers can't be read; compare the .onnx that it was built"),
        ([center, ten], "center.onnx: cuts views=center itself; export it again with --views ten"),
        ([net, "alexnet-64-0"], "one net has the layer conv1 [16, 55, 55], the other conv1 ["),
        ([net, net, net], f"{net}: --layers compares two nets"),
        ([net, net, "--tolerance", "1"], "--tolerance: has no effect with --layers"),
        ([net, net, "--device", "cpu"], "--device: has no effect with --layers"),
        ([net, net, "--backend", "openvino"], "--backend: has no effect with --layers"),
        ([net, net, "--trust-engine"], "--trust-engine: has no effect with --layers"),
    ):
        code, out, err = run("compare", *arguments, "--layers", "--data", images)
        assert (code, out) == (2, ""), err
        assert words in err
        assert err.count("\n") == 1


def test_a_file_that_ends_early_is_compared_up_to_its_end(run, net, images):
    short = exported(net, "short.onnx", outputs=("pool2",))
    for arguments in ([net, short], [short, net]):
        code, out, _ = run("compare", *arguments, "--layers", "--data", images, "--limit", "1", "--json")
        assert code == 0
        layers = sorted(json.loads(out)["layers"], key=lambda row: row["position"])
        assert [row["layer"] for row in layers] == ["conv1", "norm1", "pool1", "conv2", "norm2", "pool2"]
