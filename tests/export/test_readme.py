"""The README in an exported folder: its example runs as printed and gives the result of the net."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from alexnet_infer.artifact import Artifact
from alexnet_infer.engines.files import EnginePlatform
from alexnet_infer.export.job import Exported, ExportRequest, export
from alexnet_infer.export.readme import readme
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.nets import load
from alexnet_infer.preprocess import ALIASED, TORCHVISION
from tests.nets import random_artifact

RTX = EnginePlatform(
    flavor="rtx", version="1.2.3", compute_capabilities=("8.6", "12.0"), gpu=None, driver=None, plugin=False
)
TENSORRT = EnginePlatform(
    flavor="tensorrt", version="11.4.0", compute_capabilities=("9.0",), gpu="A GPU", driver="580.1", plugin=True
)


def saved(path: Path, seed: int = 0, **preprocessing: object) -> Path:
    """Save a random net for squares of 64 pixels with this preprocessing."""
    artifact = random_artifact(seed=seed)
    manifest = artifact.manifest
    changed = replace(manifest, name=path.stem, preprocessing=replace(manifest.preprocessing, **preprocessing))
    tensors = dict(artifact.tensors)
    if preprocessing.get("value_range") == "0-1":
        tensors["conv1.weight"] = tensors["conv1.weight"] * 255  # the same activations
    Artifact(changed, tensors).save(path, np.float32)
    return path


def photo(path: Path, width: int, height: int, turned: bool = False) -> None:
    """Save a picture without symmetry, so that a wrong channel, row or column is detected."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * (y / height) ** 2, 128 + 127 * np.sin(x * y / 300)]
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(path, quality=95, exif=exif)


def example(folder: Path) -> str:
    """Return the only Python example in the folder's README."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return program


def printed(exported: Exported, monkeypatch, capsys) -> tuple[int, float]:
    """Run the example beside the file. Return what it prints: the first guess and its probability."""
    monkeypatch.chdir(exported.folder)
    capsys.readouterr()
    exec(compile(example(exported.folder), "README.md", "exec"), {"__name__": "__main__"})
    guess, probability = capsys.readouterr().out.split()
    return int(guess), float(probability)


ROUNDING = 1e-3
"""Pillow rounds pixels between its passes along rows and columns, and their order depends on the shape."""

PIXELS = np.random.default_rng(0).uniform(0, 255, (64, 64, 3))
FORMS = {
    "patches": ({}, {}),
    "central view": ({}, {"views": "center"}),
    "ten views": ({}, {"views": "ten"}),
    "patches in BGR": ({"channel_order": "BGR"}, {}),
    "patches from 0 to 1": ({"value_range": "0-1", "mean": np.array([0.4, 0.5, 0.6])}, {}),
    "a mean of each pixel, in BGR": ({"channel_order": "BGR", "mean": PIXELS}, {}),
    "ten views with a mean of each pixel": ({"mean": PIXELS}, {"views": "ten"}),
    "other filter, odd margin": ({"resample": "lanczos", "size": 64, "mean": np.array([9, 8, 7])}, {}),
    "Caffe's, stretched by OpenCV": ({"resample": ALIASED, "fit": "stretch", "channel_order": "BGR"}, {}),
    "cropped by OpenCV": ({"resample": ALIASED}, {}),
    "torchvision's rounding": ({"resample": "bilinear", "fit": TORCHVISION}, {"views": "center"}),
    "three patches per call": ({}, {"batch": Batch.parse("3")}),
    "three squares per call": ({}, {"batch": Batch.parse("3"), "views": "ten"}),
    "half precision": ({}, {"precision": "fp16"}),
    "the plugin's node": ({}, {"lrn": "plugin"}),
}


@pytest.mark.parametrize(("preprocessing", "form"), FORMS.values(), ids=FORMS)
def test_the_example_gives_the_same_result_as_classify_with_the_net(tmp_path, monkeypatch, capsys, preprocessing, form):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    if preprocessing.get("resample") == ALIASED:
        pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    net = saved(tmp_path / "net.safetensors", **preprocessing)
    exported = export(ExportRequest(models=(net,), out=tmp_path / "out", **form))
    views = "ten" if form.get("views") == "ten" else "center"
    reference = load(net, device="cpu", backend="onnxruntime", views=views)
    allowed = 0.002 if form.get("precision") == "fp16" else ROUNDING
    if preprocessing.get("fit") == TORCHVISION:  # here, too, the complete image is rescaled
        allowed = 1e-5
    for size in ((131, 80), (64, 64), (70, 150)):
        photo(exported.folder / "photo.jpg", *size)
        expected = reference.classify(exported.folder / "photo.jpg")[0]
        guess = expected.index, pytest.approx(expected.probability, abs=allowed)
        assert printed(exported, monkeypatch, capsys) == guess


def test_the_example_applies_the_exif_orientation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    net = saved(tmp_path / "net.safetensors")
    exported = export(ExportRequest(models=(net,), out=tmp_path / "out"))
    reference = load(net, device="cpu", backend="onnxruntime", views="center")
    results = []
    for turned in (False, True):
        photo(exported.folder / "photo.jpg", 131, 80, turned)
        results.append(reference.classify(exported.folder / "photo.jpg")[0])
        guess = results[-1].index, pytest.approx(results[-1].probability, abs=ROUNDING)
        assert printed(exported, monkeypatch, capsys) == guess
    assert abs(results[0].probability - results[1].probability) > 5 * ROUNDING


def text(info: ExportInfo, *, onnx: bool = True, platform: EnginePlatform | None = None) -> str:
    engine = Path("net.engine") if platform is not None else None
    return readme(random_artifact().manifest, info, Path("net.onnx") if onnx else None, engine, platform)


def info_of(count: int = 1, **values: object) -> ExportInfo:
    members = tuple(Member(name=f"net{i}", sha256=f"{i}" * 64) for i in range(count))
    return ExportInfo(members=members, **values)


def test_it_describes_input_and_output():
    page = text(info_of())
    assert "| input | `patches` | float32 | [N, 3, 57, 57] | RGB, 0-255 minus the training mean |" in page
    assert "| output | `probabilities` | float32 | [N, 7] |" in page
    page = text(info_of(views="ten"))
    assert "| input | `images` | uint8 | [N, 64, 64, 3] | RGB, 0 to 255 |" in page
    assert "sorted by WordNet id, averaged over ten views |" in page


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Batch size N: any number."),
        ({"batch": Batch.parse("4")}, "Batch size N: always 4."),
        ({"precision": "int8", "int8_for": "tensorrt"}, "Precision int8 for TensorRT;"),
        ({"precision": "int8", "int8_for": "cpu"}, "Precision int8 for CPU runtimes;"),
        ({"precision": "fp16", "lrn": "conv"}, "Precision fp16; LRN is a 1x1 convolution"),
        ({"lrn": "plugin"}, "alexnet_infer::GroupedLRN"),
    ],
)
def test_it_describes_the_form_of_the_net(values, words):
    assert words in text(info_of(**values))


def test_it_lists_the_nets_in_the_file_and_suggests_no_comparison_of_their_mean_with_one_net():
    assert "net0 (SHA-256 0000000000000000...)" in text(info_of())
    assert "alexnet-infer compare ORIGINAL.safetensors net.onnx" in text(info_of())
    page = text(info_of(2, views="center"))
    assert "the mean of 2 nets: net0 (SHA-256 0000000000000000...), net1 (SHA-256 1111111111111111...)" in page
    assert "WordNet id, for the central patch, averaged over 2 nets |" in page
    assert "WordNet id, averaged over 2 nets |" in text(info_of(2))
    assert "WordNet id, averaged over ten views and 2 nets |" in text(info_of(2, views="ten"))
    assert "alexnet-infer compare" not in page
    assert "alexnet-infer classify photo.jpg --model net.onnx" in page


def test_for_an_engine_it_names_the_runtime_and_has_no_python_example():
    page = text(info_of(), onnx=False, platform=RTX)
    assert "`net.engine` runs only in TensorRT-RTX 1.2.3 and on GPUs of compute capability 8.6, 12.0." in page
    assert "N: 1 to 64, fastest with 8." in page
    assert "```python" not in page
    assert "--model net.engine" in page
    assert "the export settings are in `net.engine.json`, as JSON." in page, "an engine has no metadata"
    page = text(info_of(), platform=TENSORRT)
    assert "on A GPU (compute capability 9.0)." in page
    assert "N: 1 to 64, fastest with 8; any number in the ONNX file." in page
    assert 'InferenceSession("net.onnx")' in page
