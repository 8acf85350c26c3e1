"""Fixtures for Triton's model repositories."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from alexnet_infer.export.triton import ServedModel, write_repository
from alexnet_infer.graph.info import Batch
from tests.export.triton.models import OLD_CONFIG, served


@pytest.fixture
def onnx(tmp_path: Path) -> ServedModel:
    return served(tmp_path / "net.onnx", views="ten", batch=Batch(min=1, opt=8, max=64))


@pytest.fixture(scope="session")
def model_config():
    """Triton's own definition of a config. Only its module is loaded, because the rest of the package needs gRPC."""
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("needs Triton's definition of a config: pip install tritonclient")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def old(onnx, tmp_path) -> Path:
    """The folder of a model whose config has no parameters and an interface without preprocessing."""
    place = write_repository(tmp_path / "models", onnx).parent
    (place / "config.pbtxt").write_text(OLD_CONFIG)
    return place
