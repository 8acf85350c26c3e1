"""`alexnet-infer export --triton` on the command line: the repository for encoded images, and what has no effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.toys import save_net

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch) -> Path:
    """A net and a photo in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((90, 140)).convert("RGB").save("photo.png")
    return save_net(Path("red.safetensors"))


def test_the_input_jpeg_writes_three_models(run, net):
    options = ["--views", "center", "--photo", "photo.png", "--triton", "models", "-o", "out"]
    code, out, err = run("export", net, *options, "--input", "jpeg", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["triton"] == "models/red/1"
    assert {path.name for path in Path("models").iterdir()} == {"red", "red_decode", "red_jpeg"}
    code, out, err = run("export", net, *options)
    assert (code, err, out.splitlines()[-1]) == (0, "", "models/red/2  for Triton")
    code, out, err = run("export", net, *options, "--input", "jpeg")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["models/red/3  for Triton", "models/red_jpeg  for Triton, takes encoded images"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "jpeg"], "--input jpeg: applies to Triton model repositories only; add --triton DIR"),
        (["--input", "jpeg", "--triton", "models"], "add --views center or --views ten"),
        (["--input", "png", "--triton", "models", "--views", "ten"], "'png' is not one of"),
    ],
)
def test_an_input_that_cannot_be_had_is_refused_before_anything_is_exported(run, net, options, words):
    code, out, err = run("export", net, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"red.safetensors", "photo.png"}
