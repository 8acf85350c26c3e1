"""`alexnet-infer export --outputs`: files that return layers, and their verification."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from alexnet_infer import load
from alexnet_infer.artifact import Artifact, load_artifact
from alexnet_infer.graph.file import save_model
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.graph.model import build_model
from tests.evaluation.toys import save_net

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(here) -> Path:
    return save_net(here / "red.safetensors", 0)


@pytest.fixture
def photo(here) -> Path:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8))
    (here / "photos").mkdir()
    noise.resize((130, 80), Image.Resampling.BICUBIC).save(here / "photos" / "photo.png")
    return here / "photos" / "photo.png"


@pytest.mark.parametrize("views", ["none", "center", "ten"])
@pytest.mark.parametrize("outputs", ["fc7:pre,probabilities", "probabilities,conv1,act1,fc7", "pool5"])
def test_a_file_has_the_layers_of_its_net_and_is_compared_layer_by_layer(run, net, photo, outputs, views):
    arguments = ["--outputs", outputs, "--views", views, "--photo", photo]
    code, out, err = run("export", net, *arguments, "-o", "out", "--json")
    assert (code, err) == (0, "")
    names = outputs.split(",")
    result = json.loads(out)
    assert result["export"]["outputs"] == names
    (verified,) = result["verified"].values()
    assert [row["layer"] for row in verified["layers"]] == [name for name in names if name != "probabilities"]
    assert all(row["within"] and row["difference"] < 1e-5 for row in verified["layers"])
    assert ("largest" in verified) == ("probabilities" in names)
    own_views = "center" if views == "center" else "ten"
    expected = load(net, views=own_views, backend="reference").features(photo, names)
    actual = load("out/red.onnx", views=own_views).features(photo, names)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("int8_for", ["cpu", "tensorrt"])
def test_an_int8_file_returns_float_layers_near_those_of_its_net(run, net, photo, int8_for):
    arguments = ["--precision", "int8", "--int8-for", int8_for, "--calibrate", photo.parent, "--photo", photo]
    code, out, err = run("export", net, "--outputs", "pool5,fc7,probabilities", *arguments, "-o", "out", "--json")
    assert err == ""
    (verified,) = json.loads(out)["verified"].values()
    for row in verified["layers"]:
        assert 1e-4 < row["difference"] < row["tolerance"]
    assert code == 0
    kinds = {value.type.tensor_type.elem_type for value in onnx.load("out/red.onnx").graph.output}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_a_layer_that_differs_is_an_error_with_exit_code_1(run, net, photo, monkeypatch):
    def other(artifacts, info, weights):
        """A file of a net whose fc7 is another, with the same probabilities as before from what follows it."""
        tensors = dict(artifacts[0].tensors)
        tensors["fc7.weight"], tensors["fc7.bias"] = tensors["fc7.weight"] * 2, tensors["fc7.bias"] * 2
        tensors["fc8.weight"] = tensors["fc8.weight"] / 2
        return build_model([Artifact(artifacts[0].manifest, tensors)], info, weights)

    monkeypatch.setattr("alexnet_infer.export.job.build_model", other)
    code, out, err = run("export", net, "--outputs", "fc6,fc7,probabilities", "--photo", photo, "-o", "out")
    assert code == 1
    assert err == "error: layer fc7 differs by 1 of its size: expected at most 0.0001\n"
    assert re.search(r"fc7 +1  more than 0.0001", out)
    assert re.search(r"fc6 +[0-9.e-]+  within 0.0001", out)
    assert Path("out/red.onnx").exists()


def test_a_file_without_probabilities_does_not_classify_and_says_how_to_export_it(run, net, photo):
    assert run("export", net, "--outputs", "fc7,pool5", "--photo", photo, "-o", "out")[0] == 0
    for command in (["classify", photo, "--model"], ["benchmark", "--seconds", "0.01"]):
        code, out, err = run(*command, "out/red.onnx")
        assert (code, out) == (2, "")
        assert err == (
            "error: out/red.onnx: computes only fc7, pool5: to get probabilities, export it again with --outputs "
            "fc7,pool5,probabilities\n"
        )
    readme = Path("out/README.md").read_text()
    assert "| output | `pool5` | float32 | [N, 32, 6, 6] | maps: channels, height, width |" in readme
    assert "alexnet-infer features photo.jpg --model red.onnx --layer fc7 --layer pool5 -o features.npz" in readme
    assert "classify" not in readme
    assert "probabilit" not in readme


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--outputs", "fc9"], "has no layer 'fc9' (did you mean fc8?): expected one of conv1 act1"),
        (["--outputs", "fc7,"], "has no layer ''"),
        (["--outputs", "fc7,fc7"], "layer 'fc7' is named twice"),
        (
            ["--outputs", "fc7", "--tolerance", "0.1"],
            "--tolerance 0.1: is for probabilities, which --outputs fc7 leaves",
        ),
        (["--outputs", "fc7", "--trt"], "--outputs fc7: applies to ONNX files only; leave out --trt"),
        (["blue.safetensors", "--outputs", "fc7"], "--outputs fc7: applies to a single net, not to 2"),
    ],
)
def test_invalid_outputs_are_refused_before_anything_is_written(run, net, arguments, words):
    save_net(Path("blue.safetensors"), 1)
    code, out, err = run("export", net, *arguments, "-o", "out")
    assert (code, out) == (2, "")
    assert words in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ["fc9"]}, "outputs: .* has no layer 'fc9'"),
        ({"outputs": ["fc7:pre"]}, "the outputs fc7: expected one input and fc7:pre"),
        ({"outputs": ["fc7", "pool5"]}, "the outputs fc7: expected one input and fc7, pool5"),
        ({"outputs": []}, r"outputs=\(\): expected names of layers, at least one"),
        ({"outputs": [1]}, r"outputs=\(1,\): expected names of layers, at least one"),
        ({"outputs": "fc7"}, "outputs='fc7': expected a list"),
        ({"outputs": ["fc7\x1b[2J"]}, r"has no layer .fc7\\x1b"),
    ],
)
def test_a_file_whose_outputs_are_not_those_of_its_metadata_is_refused(run, net, photo, change, message):
    artifact = load_artifact(net)
    info = ExportInfo(members=(Member(name="a", sha256="0" * 64),), outputs=("fc7",))
    weights: dict[str, np.ndarray] = {}
    model = build_model([artifact], info, weights)
    for entry in model.metadata_props:
        if entry.key == "alexnet_infer_export":
            entry.value = json.dumps(json.loads(entry.value) | change)
    save_model(Path("net.onnx"), model, weights)
    code, out, err = run("classify", photo, "--model", "net.onnx")
    assert (code, out) == (4, "")
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert err.isprintable() or err[:-1].isprintable()


@pytest.mark.parametrize("outputs", ["fc7", "fc7,probabilities"])
def test_photos_that_cannot_be_read_are_named_once_and_exit_1(run, net, photo, outputs):
    (photo.parent / "text.png").write_text("no image")
    code, out, err = run("export", net, "--outputs", outputs, "--photo", photo.parent, "-o", "out", "--json")
    assert code == 1
    assert err.count("text.png") == 1
    (verified,) = json.loads(out)["verified"].values()
    assert [Path(image["image"]).name for image in verified["unreadable"]] == ["text.png"]
    photo.write_text("no image")
    code, out, err = run("export", net, "--outputs", "fc7", "--photo", photo, "-o", "none")
    assert code == 3
    assert "photo.png" in err


@pytest.mark.parametrize("batch", ["1,8,64", "2"])
def test_tritons_config_has_the_outputs_of_the_file_and_refuses_a_version_with_others(run, net, photo, batch):
    options = ["--photo", photo, "--triton", "served", "--batch", batch, "--views", "ten"]
    assert run("export", net, "--outputs", "conv1:pre,probabilities", *options, "-o", "first")[0] == 0
    config, readme = (Path("served/red", name).read_text() for name in ("config.pbtxt", "README.md"))
    outputs = onnx.load("served/red/1/model.onnx").graph.output
    for output in outputs:
        sides = [side.dim_value for side in output.type.tensor_type.shape.dim]
        dims = sides if sides[0] else sides[1:]
        assert f'name: "{output.name}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, dims))} ]' in config
    assert config.count("TYPE_FP32 dims") == len(outputs)
    assert "- Output `conv1:pre`: FP32 [N, 16, 55, 55].\n" in readme
    for others in (["--outputs", "fc7"], []):
        code, _, err = run("export", net, *others, *options, "-o", "second")
        assert code == 2
        assert "its versions have outputs=['conv1:pre', 'probabilities'], this model has [" in err
    assert not Path("served/red/2").exists()
