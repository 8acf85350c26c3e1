"""The miniature set in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.mini import TRAINING_WRITERS, WRITERS, A, B, C, make


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Form -> folder with the miniature set in that form. Tests must not change the folders."""
    folders = {}
    for form, (_, write) in {**WRITERS, **TRAINING_WRITERS}.items():
        folders[form] = tmp_path_factory.mktemp("set")
        write(folders[form])
    return folders


@pytest.fixture
def folders(tmp_path) -> Path:
    """Four images of three classes, which contain their own paths."""
    return make(tmp_path / "set", f"val/{A}/1.jpg", f"val/{A}/2.jpg", f"val/{B}/1.jpg", f"val/{C}/1.jpg")
