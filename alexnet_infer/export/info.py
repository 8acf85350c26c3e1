"""What an exported file says of itself: which nets are in it, what it takes, and how it computes.

The manifest of the (first) net travels under the metadata key "alexnet_infer", as in our own model files (of several
nets with the names of all, and without an error that was measured of one); this travels beside it, under
"alexnet_infer_export". Engines, which have no room for metadata, have both in a file beside them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Literal, get_args

from alexnet_infer.errors import SpecError, UsageError, shown

EXPORT_KEY = "alexnet_infer_export"
FORMAT = 1

FileViews = Literal["none", "center", "ten"]
"""Views that a file cuts and averages itself. With "none" it takes patches, mean subtracted; else whole squares."""

Precision = Literal["fp32", "fp16", "int8"]

LRNForm = Literal["op", "conv", "plugin"]
"""How LRN is written. "op": ONNX's `LRN` node. "conv": a 1x1 convolution and square roots, which makes the whole net
almost twice as fast in ONNX Runtime on a CPU (benchmarks/lrn_form.py). "plugin": a node `alexnet_infer::GroupedLRN`,
which TensorRT runs with our plugin, and others by the definition that comes along in the file.

The same to float32 rounding."""

Flavor = Literal["cpu", "tensorrt"]
"""Of int8: unsigned activations and int32 biases, as CPU runtimes want them, or signed ones and float biases, which are
all that TensorRT takes."""

MAX_BATCH = 65536


@dataclass(frozen=True, kw_only=True)
class Batch:
    """How many images one call takes (patches, in a file without views): `min` to `max`, fastest with `opt`.

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
        """Whether only one number of images will do."""
        return self.min == self.max

    @classmethod
    def parse(cls, text: str) -> Batch:
        """ "MIN,OPT,MAX", or one number for a batch that is always the same. Raises UsageError."""
        if not re.fullmatch(r"\d{1,9}(,\d{1,9},\d{1,9})?", text):
            raise UsageError(f"--batch {shown(text)}: expected MIN,OPT,MAX as in 1,8,64, or one number")
        numbers = [int(part) for part in text.split(",")]
        return cls(min=numbers[0], opt=numbers[len(numbers) // 2], max=numbers[-1])


@dataclass(frozen=True, kw_only=True)
class Member:
    """A net in the file: its name, and the SHA-256 of the model file that it was exported from."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What an exported file takes and how it computes. Raises SpecError on values that make no sense."""

    members: tuple[Member, ...]
    """The nets whose probabilities are averaged, with equal weights."""
    views: FileViews = "none"
    precision: Precision = "fp32"
    lrn: LRNForm = "op"
    batch: Batch = Batch()
    flavor: Flavor | None = None
    """Of int8 only."""

    def __post_init__(self) -> None:
        for name, kind in (("views", FileViews), ("precision", Precision), ("lrn", LRNForm)):
            if getattr(self, name) not in get_args(kind):
                raise SpecError(f"{name}={shown(getattr(self, name))}: expected {' or '.join(get_args(kind))}")
        if self.flavor not in (get_args(Flavor) if self.precision == "int8" else (None,)):
            raise SpecError(f"flavor={shown(self.flavor)}: expected cpu or tensorrt with int8, and none otherwise")
        if not self.members:
            raise SpecError("members=[]: expected at least one net")

    @property
    def takes_squares(self) -> bool:
        """Whether the file takes uint8 squares [N, S, S, 3] and not float32 patches [N, 3, patch, patch]."""
        return self.views != "none"

    def to_json(self) -> str:
        """Canonical JSON; `from_json` restores it exactly."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ExportInfo:
        """Inverse of `to_json`. Raises SpecError on anything missing, surplus or out of range."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise SpecError("what the file says of its export is not JSON") from None
        expected = {"format", *(field.name for field in dataclasses.fields(cls))}
        if not isinstance(data, dict) or data.keys() != expected or data.pop("format") != FORMAT:
            raise SpecError(f"what the file says of its export: expected format {FORMAT} with {sorted(expected)}")
        try:
            members = tuple(Member(**member) for member in data.pop("members"))
            batch = Batch(**data.pop("batch"))
        except (TypeError, UsageError) as error:
            raise SpecError(f"what the file says of its export: {shown(str(error))}") from None
        _check_text(members)
        return cls(members=members, batch=batch, **data)


def _check_text(members: tuple[Member, ...]) -> None:
    for member in members:
        if not isinstance(member.name, str) or not member.name.isprintable():
            raise SpecError(f"member {shown(member.name)}: expected printable text")
        if not isinstance(member.sha256, str) or not re.fullmatch("[0-9a-f]{64}", member.sha256):
            raise SpecError(f"member {member.name}: sha256={shown(member.sha256)}: expected 64 hexadecimal digits")
