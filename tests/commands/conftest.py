"""A net and photos for the commands that classify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.nets import random_artifact


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    random_artifact().save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder
