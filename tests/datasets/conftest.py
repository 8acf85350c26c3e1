"""The miniature set in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.mini import TRAINING_WRITERS, WRITERS


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Form -> folder with the miniature set in that form. Tests must not change the folders."""
    folders = {}
    for form, (_, write) in {**WRITERS, **TRAINING_WRITERS}.items():
        folders[form] = tmp_path_factory.mktemp("set")
        write(folders[form])
    return folders
