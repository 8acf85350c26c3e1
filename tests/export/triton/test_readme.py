"""The READMEs: their examples run as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.export.triton import write_repository
from alexnet_infer.export.triton.readme import readme, readme_of_ensemble
from alexnet_infer.graph.info import Batch
from tests.export.triton.models import CLASSES, NAME, PATCH, SIZE, served
from tests.nets import random_artifact

FIXED = Batch(min=4, opt=4, max=4)


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """run_example(folder of a model) -> the request that its README's example sends, to a fake client."""
    sent: dict[str, Any] = {}

    class InferInput:
        def __init__(self, name: str, shape: list[int], kind: str) -> None:
            sent.update(name=name, shape=shape, kind=kind)

        def set_data_from_numpy(self, values: np.ndarray) -> None:
            sent["values"] = values
            assert list(values.shape) == sent["shape"]

    class InferenceServerClient:
        def __init__(self, address: str) -> None:
            pass

        def infer(self, name: str, inputs: list) -> InferenceServerClient:
            sent["model"] = name
            return self

        def as_numpy(self, name: str) -> np.ndarray:
            assert name == "probabilities"
            return np.full((sent["shape"][0], CLASSES), 1 / CLASSES, np.float32)

    package, client = ModuleType("tritonclient"), ModuleType("tritonclient.http")
    client.InferInput, client.InferenceServerClient = InferInput, InferenceServerClient
    package.http = client
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)

    def run_example(place: Path) -> dict[str, Any]:
        (program,) = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL)
        monkeypatch.chdir(place)
        random_artifact().save(Path("net.safetensors"))
        Image.new("RGB", (90, 80), "red").save("photo.jpg")
        exec(compile(program, "README.md", "exec"), {})
        return sent

    return run_example


@pytest.mark.parametrize("views", ["ten", "none"])
@pytest.mark.parametrize("batch", [Batch(), FIXED])
def test_the_readmes_example_sends_what_the_config_expects(tmp_path, run_example, views, batch):
    if views == "none":
        pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    version = write_repository(tmp_path / "models", served(tmp_path / "net.onnx", views=views, batch=batch))
    sent = run_example(version.parent)
    dims = [SIZE, SIZE, 3] if views == "ten" else [3, PATCH, PATCH]
    count = 4 if batch.fixed else 1 if views == "ten" else 10
    kind, dtype = ("UINT8", "uint8") if views == "ten" else ("FP32", "float32")
    assert sent.pop("values").dtype == dtype
    name = "images" if views == "ten" else "patches"
    assert sent == {"name": name, "shape": [count, *dims], "kind": kind, "model": NAME}


@pytest.mark.parametrize("batch", [Batch(), FIXED])
def test_the_example_for_encoded_images_sends_the_bytes_of_the_photo(tmp_path, run_example, batch):
    write_repository(tmp_path / "models", served(tmp_path / "net.onnx", views="ten", batch=batch), "jpeg")
    sent = run_example(tmp_path / "models" / f"{NAME}_jpeg")
    count = 4 if batch.fixed else 1
    assert sent.pop("values").ravel().tolist() == [Path("photo.jpg").read_bytes()] * count
    assert sent == {"name": "encoded_images", "shape": [count, 1], "kind": "BYTES", "model": f"{NAME}_jpeg"}


def test_an_engines_readme_names_the_tensorrt_version_that_runs_it(tmp_path):
    text = readme(served(tmp_path / "net.engine", tensorrt="11.4.0", lrn="plugin"))
    assert "TensorRT 11.4.0" in text
    assert "--gpus all" in text
    assert "The LRN plugin's code is in the engine" in text
    assert "plugin" not in readme(served(tmp_path / "net.engine", tensorrt="11.4.0"))


def test_the_ensembles_readme_says_how_alexnet_infer_comes_into_tritons_image(tmp_path):
    text = readme_of_ensemble(served(tmp_path / "net.onnx", views="ten"))
    assert "pip install /alexnet-infer" in text
    assert "EXECUTION_ENV_PATH" in text
    assert "Triton 24.12 or later" in text, "the Python backend of earlier releases crashes with NumPy 2"


@pytest.mark.parametrize("text_of", [readme, readme_of_ensemble])
def test_the_commands_that_were_not_run_say_so(tmp_path, text_of):
    text = text_of(served(tmp_path / "net.onnx", views="ten"))
    said = text.index("they were not run when alexnet-infer was tested")
    assert said < text.index("docker run")
