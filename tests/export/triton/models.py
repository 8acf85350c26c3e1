"""Exported files to serve, for tests, and Triton's own definition of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs

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


def preprocessed(**changes: object) -> Manifest:
    return structs.replace(MANIFEST, preprocessing=structs.replace(MANIFEST.preprocessing, **changes))


OLD_CONFIG = """\
# alexnet-infer: {"backend": "onnxruntime", "input": ["images", "TYPE_UINT8", [64, 64, 3]], "classes": 7, \
"batch": 64, "fixed": false}
name: "random-alexnet-64"
backend: "onnxruntime"
max_batch_size: 64
input [ { name: "images" data_type: TYPE_UINT8 dims: [ 64, 64, 3 ] } ]
"""
"""The begin of a config that was written when configs had no parameters."""
