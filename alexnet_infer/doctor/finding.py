"""What the doctor says: findings, and the report that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_infer.datasets import LabelledImages, Split
from alexnet_infer.decode import printable
from alexnet_infer.errors import UnreadableInputError

ILSVRC = "ILSVRC-2012"
ARCHIVES: dict[Split, dict[str, tuple[int | None, str]]] = {
    "validation": {"ILSVRC2012_img_val.tar": (6_744_924_160, "29b22e2961454d5413ddabcf34fc5622")},
    "train": {"ILSVRC2012_img_train.tar": (147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e")},
}
"""Name -> size in bytes and MD5, as published."""
DEVKIT = (None, "fa75699e90414af021442c21a62c3abf")

LISTED = 1000
"""Examples that a finding keeps at most."""

PERMUTED = "0.1 % accuracy on 1,000 classes means permuted labels"

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at and how it is. All its text is printable: names from files are escaped."""

    level: Level
    title: str
    detail: str = ""
    advice: str = ""
    """What to do."""
    count: int | None = None
    """How many images, classes or files it is about."""
    examples: tuple[str, ...] = ()
    """The first of these, at most LISTED."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything found out about one split. `data` is None when its labels can't be read."""

    root: Path
    split: Split
    layout: str
    images: int
    """Images that were looked at."""
    readable: int
    """Images that decode."""
    findings: tuple[Finding, ...]
    data: LabelledImages | None

    @property
    def exit_code(self) -> int:
        """0 when nothing is worse than a warning, 1 when there are errors, 3 when no image could be read."""
        if not self.readable:
            return UnreadableInputError.exit_code
        return int(any(one.level == "error" for one in self.findings))

    def to_json(self) -> dict[str, Any]:
        return {
            "root": printable(str(self.root)),
            "split": self.split,
            "layout": self.layout,
            "images": self.images,
            "readable": self.readable,
            "classes": None if self.data is None else len(self.data.classes),
            "exit_code": self.exit_code,
            "findings": [asdict(one) for one in self.findings],
        }
