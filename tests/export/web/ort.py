"""Packages of onnxruntime-web for tests: a made-up one, and the real one where it is installed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.export.web import runtime, site
from alexnet_infer.export.web.runtime import BINARY, SCRIPT, integrity_of

VARIABLE = "ALEXNET_INFER_ORT_WEB"
"""The environment variable that names the folder of the real package."""


def real_package() -> Path:
    """Return the real package's folder, or skip the test."""
    folder = os.environ.get(VARIABLE)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"needs the npm package onnxruntime-web {runtime.VERSION}: set {VARIABLE} to its folder")
    return Path(folder)


def made_up_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a package with short files, and make its hashes the pinned ones."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": runtime.PACKAGE, "version": runtime.VERSION}))
    for name, file in (("SCRIPT", SCRIPT), ("BINARY", BINARY)):
        content = f"the content of {file.name}".encode()
        (folder / "dist" / file.name).write_bytes(content)
        for module in (runtime, site):
            monkeypatch.setattr(module, name, replace(file, bytes=len(content), integrity=integrity_of(content)))
    return folder
