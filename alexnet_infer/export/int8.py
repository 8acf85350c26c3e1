"""The int8 form of an exported model: calibrated on images, with some layers in float, and with a record of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from alexnet_infer.datasets import map_classes
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.calibration import (
    CALIBRATION_BATCH,
    Calibration,
    CalibrationImages,
    inputs_of,
)
from alexnet_infer.export.keep_float import FloatLayers, Inputs, choose_float_layers
from alexnet_infer.export.quantize import Calibrated, QuantizationOptions, matching_layers
from alexnet_infer.graph.info import EXPORT_KEY, CalibrationRecord, ExportInfo
from alexnet_infer.manifest import ClassName, Manifest
from alexnet_infer.progress import counting
from alexnet_infer.reading import Unreadable, batches

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An int8 model, and how it was made."""

    model: onnx.ModelProto
    info: ExportInfo
    """The model's info, with the record of the calibration."""
    unreadable: tuple[Unreadable, ...]
    """The calibration images that could not be read."""
    float_layers: FloatLayers | None
    """The choice of the layers that stay in float. None if the user named them."""


def quantized(model: onnx.ModelProto, manifest: Manifest, info: ExportInfo, calibration: Calibration) -> Quantized:
    """Return the int8 form of a float32 model, which has its weights inside.

    Raises UnreadableInputError if there is no image, and the errors of `Calibrated` and `choose_float_layers`.
    """
    images = CalibrationImages(calibration.source, calibration.images)
    preprocessing = manifest.preprocessing
    digests: list[str] = []
    unreadable: list[Unreadable] = []
    with counting("calibrating", len(images)) as advance:

        def skip(error: UnreadableInputError) -> None:
            unreadable.append(Unreadable(image=error.name or "", reason=error.reason))
            advance(1)

        def inputs() -> Iterator[np.ndarray]:
            for batch in batches(images.read(preprocessing.rescaling, skip), CALIBRATION_BATCH):
                digests.extend(image.digest for image in batch)
                yield inputs_of(batch, preprocessing, info)
                advance(len(batch))

        options = QuantizationOptions(
            method=calibration.method, int8_for=info.int8_for or "cpu", keep_float=calibration.keep_float
        )
        calibrated = Calibrated(model, inputs(), options)
    kept, chosen = matching_layers(model, calibration.keep_float), None
    if calibration.max_drop is not None:
        to_net = _to_net(images.classes, manifest)

        def read() -> Iterator[Inputs]:
            for batch in batches(images.read(preprocessing.rescaling), CALIBRATION_BATCH):
                labels = [-1 if image.label is None or to_net is None else to_net[image.label] for image in batch]
                yield inputs_of(batch, preprocessing, info), np.array(labels)

        chosen = choose_float_layers(
            calibrated, read, calibration.max_drop, images=len(digests), labelled=to_net is not None
        )
        kept = matching_layers(model, chosen.kept)
    record = CalibrationRecord(method=calibration.method, images=tuple(sorted({*digests})), keep_float=kept)
    info = replace(info, calibration=record)
    result = calibrated.quantized(kept)
    for entry in result.metadata_props:
        if entry.key == EXPORT_KEY:
            entry.value = info.to_json()
    return Quantized(model=result, info=info, unreadable=tuple(unreadable), float_layers=chosen)


def _to_net(classes: Sequence[ClassName], manifest: Manifest) -> Sequence[int] | None:
    """Return the net's class for each label, or None if the images have no labels of the net's classes."""
    if not classes:
        return None
    try:
        return map_classes(classes, manifest.classes)
    except UsageError:
        return None
