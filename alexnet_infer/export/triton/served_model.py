"""The exported file that Triton serves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.errors import UsageError
from alexnet_infer.files import safe_name
from alexnet_infer.graph.info import Batch, ExportInfo
from alexnet_infer.layers import PROBABILITIES, Layer, find_layers
from alexnet_infer.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """An exported file to serve.

    `weights` are the files beside an ONNX file that hold its weights. `tensorrt` is the version of TensorRT that built
    an engine, or None for an ONNX file. Raises UsageError for an engine that doesn't accept a single image, because
    Triton also sends single images.
    """

    path: Path
    manifest: Manifest
    info: ExportInfo
    weights: tuple[Path, ...] = ()
    tensorrt: str | None = None

    def __post_init__(self) -> None:
        if self.tensorrt is not None:
            check_batch(self.info.batch)

    @property
    def name(self) -> str:
        """The name for clients, which is also the folder's."""
        return safe_name(self.manifest.name, 100)

    @property
    def backend(self) -> str:
        """The name of the Triton backend that runs the file."""
        return "onnxruntime" if self.tensorrt is None else "tensorrt"

    @property
    def file_name(self) -> str:
        """The file's name in a version's folder, as Triton expects it."""
        return "model.onnx" if self.tensorrt is None else "model.plan"

    @property
    def input(self) -> tuple[str, str, list[int]]:
        """(Name, Triton's data type, dimensions of one image) of the input."""
        preprocessing = self.manifest.preprocessing
        if self.info.takes_squares:
            return "images", "TYPE_UINT8", [preprocessing.size, preprocessing.size, 3]
        return "patches", "TYPE_FP32", [3, preprocessing.patch, preprocessing.patch]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The outputs."""
        return find_layers(self.manifest.architecture, self.info.outputs)

    @property
    def labels(self) -> str:
        """The class names, one per line, in the order of the probabilities."""
        return "".join(f"{class_name.name}\n" for class_name in self.manifest.classes)

    @property
    def interface(self) -> dict[str, Any]:
        """What clients and the config rely on. It is the same for all versions of a model."""
        name, kind, dims = self.input
        batch = self.info.batch
        outputs = list(self.info.outputs)
        return {
            "backend": self.backend,
            "input": [name, kind, dims],
            "classes": len(self.manifest.classes),
            "batch": batch.max,
            "fixed": batch.fixed,
            **({} if outputs == [PROBABILITIES] else {"outputs": outputs}),
            "views": self.info.views,
            **self._preparation(),
        }

    def _preparation(self) -> dict[str, Any]:
        """How clients make the input from an image. `input` has the sides of squares and patches."""
        preprocessing = self.manifest.preprocessing
        rescaling = {"resample": preprocessing.resample, "fit": preprocessing.fit}
        if self.info.takes_squares:  # the file subtracts the mean, so versions may have different ones
            return rescaling
        mean: Any = preprocessing.mean.tolist()
        if preprocessing.mean.ndim > 1:  # a megabyte as text
            mean = f"sha256:{hashlib.sha256(preprocessing.mean.astype('<f4').tobytes()).hexdigest()}"
        values = {"channel_order": preprocessing.channel_order, "value_range": preprocessing.value_range}
        return {**rescaling, "size": preprocessing.size, "mean": mean, **values}


def check_batch(batch: Batch) -> None:
    """Raise UsageError unless an engine with this batch takes a single image, or always the same number."""
    if not batch.fixed and batch.min > 1:
        raise UsageError(
            f"--triton with --batch {batch.min},{batch.opt},{batch.max}: Triton also sends single images; expected "
            f"1,{batch.opt},{batch.max}, or one number"
        )
