"""The description in an exported file: which nets it contains, what its input is, and how it computes.

An ONNX file has two metadata entries. "alexnet_infer" is the manifest, as in a model file. With several nets it is the
first net's, with the names of all nets and without measured errors. "alexnet_infer_export" is the `ExportInfo`. Engines
have no room for metadata, so a file beside them holds both.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Literal, get_args

from alexnet_infer.errors import SpecError, UsageError, check_fields, shown

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

Flavor = Literal["cpu", "tensorrt"]
"""The form of int8. "cpu": unsigned activations and int32 biases, for CPU runtimes. "tensorrt": signed activations and
float biases, the only form that TensorRT accepts."""

MAX_BATCH = 65536


@dataclass(frozen=True, kw_only=True)
class Batch:
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


@dataclass(frozen=True, kw_only=True)
class Member:
    """A net in the file: its name and the SHA-256 of the model file that it was exported from."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What an exported file takes and how it computes. Raises SpecError on invalid values."""

    members: tuple[Member, ...]
    """The nets whose probabilities are averaged, with equal weights."""
    views: FileViews = "none"
    precision: Precision = "fp32"
    lrn: LRNForm = "op"
    batch: Batch = Batch()
    flavor: Flavor | None = None
    """Set for int8, otherwise None."""

    def __post_init__(self) -> None:
        for name, kind in (("views", FileViews), ("precision", Precision), ("lrn", LRNForm)):
            if getattr(self, name) not in get_args(kind):
                raise SpecError(f"{name}={shown(getattr(self, name))}: expected {' or '.join(get_args(kind))}")
        if self.flavor not in (get_args(Flavor) if self.precision == "int8" else (None,)):
            raise SpecError(f"flavor={shown(self.flavor)}: expected cpu or tensorrt with int8, otherwise no flavor")
        if not self.members:
            raise SpecError("members=[]: expected at least one net")

    @property
    def takes_squares(self) -> bool:
        """Whether the input is uint8 squares [N, S, S, 3] rather than float32 patches [N, 3, patch, patch]."""
        return self.views != "none"

    def to_json(self) -> str:
        """Return canonical JSON. `from_json` restores it exactly."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ExportInfo:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown or out of range."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise SpecError("the export description is not JSON") from None
        where = "the export description"
        if not isinstance(data, dict):
            raise SpecError(f"{where}={shown(data)}: expected an object")
        number = data.pop("format", None)
        if type(number) is not int or number != FORMAT:
            raise SpecError(f"{where}: format {shown(number)}: this version reads format {FORMAT}")
        check_fields(where, data, cls)
        if not isinstance(data["members"], list):
            raise SpecError(f"{where}: members={shown(data['members'])}: expected a list")
        for part, kind in (*((member, Member) for member in data["members"]), (data["batch"], Batch)):
            check_fields(f"{where}: {kind.__name__.lower()}", part, kind)
        members = tuple(Member(**member) for member in data.pop("members"))
        _check_text(members)
        try:
            batch = Batch(**data.pop("batch"))
        except UsageError as error:
            raise SpecError(f"{where}: {error}") from None
        return cls(members=members, batch=batch, **data)


def _check_text(members: tuple[Member, ...]) -> None:
    for member in members:
        if not isinstance(member.name, str) or not member.name.isprintable():
            raise SpecError(f"member {shown(member.name)}: expected printable text")
        if not isinstance(member.sha256, str) or not re.fullmatch("[0-9a-f]{64}", member.sha256):
            raise SpecError(f"member {member.name}: sha256={shown(member.sha256)}: expected 64 hexadecimal digits")
