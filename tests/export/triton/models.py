"""Exported files to serve, for tests, and Triton's own definition of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet_infer.export.triton import ServedModel
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.manifest import Manifest
from tests.nets import random_artifact

MANIFEST = random_artifact().manifest
SIZE, PATCH, CLASSES = MANIFEST.preprocessing.size, MANIFEST.preprocessing.patch, len(MANIFEST.classes)
NAME = "random-alexnet-64"
MEMBERS = (Member(name="net", sha256="0" * 64),)


def served(path: Path, *, tensorrt: str | None = None, manifest: Manifest = MANIFEST, **info: object) -> ServedModel:
    """Make a file with arbitrary content, which the repository must not parse."""
    if not path.exists():
        path.write_bytes(b"the model of " + path.name.encode())
    return ServedModel(path=path, manifest=manifest, info=ExportInfo(members=MEMBERS, **info), tensorrt=tensorrt)


def parsed(model_config: Any, text: str) -> Any:
    """Parse a config as Triton does."""
    from google.protobuf import text_format

    return text_format.Parse(text, model_config.ModelConfig())
