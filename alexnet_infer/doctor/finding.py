"""The results of a check: findings, and the report that contains them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_infer.datasets import LabelledImages, Split
from alexnet_infer.errors import UnreadableInputError, printable

LISTED = 1000
"""Maximum number of examples that a finding keeps."""

PERMUTED = "0.1 % accuracy on 1,000 classes means permuted labels"

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. All its text is printable: names from files are escaped."""

    level: Level
    title: str
    detail: str = ""
    advice: str = ""
    """What to do about it."""
    count: int | None = None
    """The number of images, classes or files concerned."""
    examples: tuple[str, ...] = ()
    """The first of these images, classes or files, at most LISTED."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about one split. `data` is None if its labels can't be read."""

    root: Path
    split: Split
    layout: str
    images: int
    """Number of images checked."""
    readable: int
    """Number of images that decode."""
    findings: tuple[Finding, ...]
    data: LabelledImages | None

    @property
    def exit_code(self) -> int:
        """0 if nothing is worse than a warning, 1 if there are errors, 3 if no image can be read."""
        if not self.readable:
            return UnreadableInputError.exit_code
        return int(any(finding.level == "error" for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        return {
            "root": printable(str(self.root)),
            "split": self.split,
            "layout": self.layout,
            "images": self.images,
            "readable": self.readable,
            "classes": None if self.data is None else len(self.data.classes),
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
        }
