"""`alexnet-infer export --keep-float auto`: the choice, its table, and the options that don't fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.export.keep_float import FloatLayers
from alexnet_infer.graph.file import read_model
from tests.evaluation.toys import save_net, write_set

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

LAYERS = {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
INT8 = ["--precision", "int8", "--views", "center", "--no-verify", "-o", "out"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


@pytest.fixture
def net(here) -> Path:
    return save_net(Path("net.safetensors"))


@pytest.fixture
def photos(here) -> Path:
    Path("photos").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 70, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    return Path("photos")


@pytest.fixture
def choosing(monkeypatch) -> list[dict[str, float]]:
    """The limits of each choice, in which half the images change with fewer than two layers in float."""
    from alexnet_infer.export import keep_float

    limits: list[dict[str, float]] = []
    real = keep_float._trial

    def trial(kept, reference, probabilities, labels):
        measured = real(kept, reference, probabilities, labels)
        return keep_float.Trial(kept=kept, top1=50.0 if kept < 2 else measured.top1, top5=measured.top5)

    def choose(*arguments, **given) -> FloatLayers:
        limits.append(dict(arguments[2]))
        return keep_float.choose_float_layers(*arguments, **given)

    monkeypatch.setattr(keep_float, "_trial", trial)
    monkeypatch.setattr("alexnet_infer.export.int8.choose_float_layers", choose)
    return limits


def test_the_chosen_layers_are_in_the_file_the_readme_the_table_and_the_json(run, net, photos, choosing):
    options = ["--calibrate", photos, "--keep-float", "auto", "--max-drop", "top1=20", "--max-drop", "top5=100"]
    code, out, err = run("export", net, *INT8, *options, "--json")
    assert (code, err) == (0, "")
    assert choosing == [{"top1": 20, "top5": 100}]
    result = json.loads(out)
    chosen = result["float_layers"]
    assert (chosen["images"], chosen["labelled"], chosen["limits"]) == (5, False, {"top1": 20, "top5": 100})
    assert [trial["kept"] for trial in chosen["trials"]] == [0, 1, 2]
    assert {layer["layer"] for layer in chosen["layers"]} == LAYERS
    assert sum(layer["share"] for layer in chosen["layers"]) == pytest.approx(1)
    kept = [layer["layer"] for layer in chosen["layers"] if layer["kept"]]
    assert kept == [layer["layer"] for layer in chosen["layers"][:2]]
    text = " ".join(run("info", "out/net.onnx")[1].split())
    assert "calibrated on 5 images, entropy; in float: " in text
    record = read_model(Path("out/net.onnx")).info.calibration
    assert set(record.keep_float) == {*kept}
    assert result["export"]["calibration"]["keep_float"] == list(record.keep_float)
    assert (
        f"In float are the layers `{record.keep_float[0]}`, `{record.keep_float[1]}`."
        in Path("out/README.md").read_text()
    )

    code, out, err = run("export", net, *INT8, *options)
    assert (code, err) == (0, "")
    table = [line.split() for line in out.splitlines()]
    assert table[0] == ["layer", "share", "of", "the", "error"]
    assert [row[0] for row in table[1:9]] == [layer["layer"] for layer in chosen["layers"]]
    assert [row[2] for row in table[1:9]] == ["float"] * 2 + ["int8"] * 6
    assert "in float  top-1 changed, points  allowed  top-5 changed, points  allowed" in out
    assert f"{kept[0]}, {kept[1]} stay in float. Without labels, each changed guess counts as an error" in out
    assert "Measured on the 5 calibration images. One image is 20 points: more images (--calibration-images)" in out


def test_by_default_half_a_point_of_top_1_is_allowed_and_labels_are_used(run, net, choosing):
    images = write_set(Path("set"), 6)
    code, out, err = run("export", net, *INT8, "--calibrate", images, "--keep-float", "auto")
    assert (code, err) == (0, "")
    assert choosing == [{"top1": 0.5}]
    assert "in float  top-1 error, points  allowed" in out
    assert "Without labels" not in out


def test_it_is_said_if_no_layer_has_to_be_kept(run, net, photos):
    code, out, err = run("export", net, *INT8, "--calibrate", photos, "--keep-float", "auto", "--max-drop", "top5=100")
    assert (code, err) == (0, "")
    assert "No layer stays in float." in out
    assert read_model(Path("out/net.onnx")).info.calibration.keep_float == ()


def test_named_layers_are_kept_without_a_choice(run, net, photos):
    code, out, err = run("export", net, *INT8, "--calibrate", photos, "--keep-float", "conv1", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["float_layers"] is None
    assert result["export"]["calibration"]["keep_float"] == ["conv1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-float", "auto"], "--keep-float auto: needs --precision int8 and --calibrate PATH"),
        (
            ["--calibrate", "photos", "--keep-float", "auto", "--keep-float", "fc8"],
            "--keep-float auto: chooses all layers itself; leave out --keep-float fc8",
        ),
        (
            ["--calibrate", "photos", "--max-drop", "top1=1"],
            "--max-drop top1=1: expected --data, a labelled set on which the file is compared with its net, or",
        ),
        (
            ["--calibrate", "photos", "--keep-float", "auto", "--max-drop", "1"],
            "--max-drop '1': expected top1=X or top5=X",
        ),
        (
            ["--calibrate", "photos", "--keep-float", "auto", "--outputs", "fc7"],
            "--keep-float auto: measures probabilities, which --outputs fc7 leaves out",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(run, net, photos, options, words):
    code, out, err = run("export", net, *INT8, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("out").exists()
