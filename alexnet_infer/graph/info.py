"""The description in an exported file: which nets it contains, what its input is, and how it computes.

An ONNX file has two metadata entries. "alexnet_infer" is the manifest, as in a model file. With several nets it is the
first net's, with the names of all nets and without measured errors. "alexnet_infer_export" is the `ExportInfo`. Engines
have no room for metadata, so a file beside them holds both.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import msgspec

from alexnet_infer import strict_json
from alexnet_infer.digests import DIGITS
from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.strict_json import Record, Sha256, Text

EXPORT_KEY = "alexnet_infer_export"
FORMAT = 1

FileViews = Literal["none", "center", "ten"]
"""Views that a file cuts out of squares and averages. With "none", the input is patches with the mean subtracted."""

Precision = Literal["fp32", "fp16", "int8"]

LRNForm = Literal["op", "conv", "plugin"]
"""How LRN is written. All forms are equal up to float32 rounding.

"op": ONNX's `LRN` node. "conv": a 1x1 convolution and square roots, which makes the net almost twice as fast in ONNX
Runtime on a CPU (benchmarks/lrn_form.py). "plugin": an `alexnet_infer::GroupedLRN` node. TensorRT runs it with
alexnet-infer's plugin, other runtimes run the definition in the file."""

Int8For = Literal["cpu", "tensorrt"]
"""The kind of int8, by what runs it. "cpu": unsigned activations and int32 biases, for CPU runtimes. "tensorrt": signed
activations and float biases, the only form that TensorRT accepts."""

MAX_BATCH = 65536


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The number of images per call (patches, in a file without views): `min` to `max`, fastest with `opt`.

    Raises UsageError unless 1 <= min <= opt <= max.
    """

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        numbers = (self.min, self.opt, self.max)
        if any(type(n) is not int for n in numbers) or not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise UsageError(
                f"--batch {','.join(map(shown, numbers))}: expected MIN,OPT,MAX "
                f"with 1 <= MIN <= OPT <= MAX <= {MAX_BATCH}"
            )

    @property
    def fixed(self) -> bool:
        """Whether every call takes the same number of images."""
        return self.min == self.max

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Parse "MIN,OPT,MAX", or one number for a fixed batch. Raises UsageError."""
        if not re.fullmatch("[0-9]{1,9}(,[0-9]{1,9},[0-9]{1,9})?", text):
            raise UsageError(f"--batch {shown(text)}: expected MIN,OPT,MAX as in 1,8,64, or one number")
        numbers = [int(part) for part in text.split(",")]
        return cls(min=numbers[0], opt=numbers[len(numbers) // 2], max=numbers[-1])


class Member(Record, kw_only=True):
    """A net in the file: its name and the SHA-256 of the model file that it was exported from."""

    name: Text
    sha256: Sha256


ImageDigest = Annotated[str, strict_json.matching(f"[0-9a-f]{{{DIGITS}}}", f"{DIGITS} hexadecimal digits")]
"""An `alexnet_infer.digests.image_digest`."""


class CalibrationRecord(Record, kw_only=True):
    """How int8 ranges were measured: what a comparison must know to say that it uses the same images."""

    method: Text
    """Where ranges are clipped: entropy, percentile or minmax."""
    images: Annotated[tuple[ImageDigest, ...], msgspec.Meta(min_length=1, description="at least one image")]
    """The images whose activations were measured, sorted, each once."""
    keep_float: tuple[Text, ...] = ()
    """The layers that stay in float, by the names of their weights, in the order of the graph."""


class ExportInfo(Record, kw_only=True):
    """What an exported file takes and how it computes. Raises SpecError on invalid values."""

    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1, description="at least one net")]
    """The nets whose probabilities are averaged, with equal weights."""
    views: FileViews = "none"
    precision: Precision = "fp32"
    lrn: LRNForm = "op"
    batch: Batch = Batch()
    int8_for: Int8For | None = msgspec.field(name="flavor", default=None)
    """Set for int8, otherwise None."""
    outputs: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, description="names of layers, at least one")] = (
        PROBABILITIES,
    )
    """The layers that the file returns, by their names in `alexnet_infer.layers`. Absent in JSON if it returns only
    probabilities, as in files of versions before 0.2."""
    calibration: CalibrationRecord | None = None
    """None for int8 files of earlier versions, which have no record of it. Absent in JSON if it is None."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.members) > 1 and self.outputs != (PROBABILITIES,):
            raise SpecError(
                f"outputs={shown(self.outputs)}: expected probabilities only, since the file has several nets"
            )
        if self.calibration is not None and self.precision != "int8":
            raise SpecError(f"calibration: expected int8 for it, not {self.precision}")
        if (self.int8_for is None) == (self.precision == "int8"):
            raise SpecError(f"flavor={shown(self.int8_for)}: expected cpu or tensorrt with int8, otherwise no flavor")

    @property
    def takes_squares(self) -> bool:
        """Whether the input is uint8 squares [N, S, S, 3] rather than float32 patches [N, 3, patch, patch]."""
        return self.views != "none"

    def to_json(self) -> str:
        """Return canonical JSON. `from_json` restores it exactly."""
        fields = msgspec.to_builtins(self)
        if self.outputs == (PROBABILITIES,):
            del fields["outputs"]
        if self.calibration is None:
            del fields["calibration"]
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "export") -> ExportInfo:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown or out of range."""
        _, data = strict_json.parse_format(text, where, FORMAT)
        return strict_json.build(
            {"outputs": [PROBABILITIES], "calibration": None, **data}, cls, where, calibration=_calibration_from_json
        )


def _calibration_from_json(data: Any, where: str) -> CalibrationRecord | None:
    return None if data is None else strict_json.build(data, CalibrationRecord, where)
