"""What `alexnet-infer eval` and `eval merge` write: the options of the panel "Output", checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.result import Condition, parse_condition
from alexnet_infer.evaluation.save import check_file


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output formats of the result, and the conditions for exit code 1.

    Raises UsageError if a file can't be written under its name or two have the same, and BackendError if a package for
    one is missing.
    """

    form: Literal["table", "json", "csv", "markdown"] = "table"
    """The format on stdout."""
    save_predictions: Path | None = None
    per_class: Path | None = None
    confusion: Path | None = None
    report: Path | None = None
    fail_if: tuple[Condition, ...] = ()
    profile: bool = False

    def __post_init__(self) -> None:
        options: dict[Path, str] = {}
        for option, path in self.files.items():
            check_file(option, path)
            if other := options.get(path.resolve()):
                raise UsageError(f"{option} {path}: is the file of {other}, too; expected another name")
            options[path.resolve()] = option
        if self.report is not None:
            from alexnet_infer.evaluation.report import check_page, check_report

            check_report()
            check_page(self.report)
            if self.report.exists() and not self.report.is_dir():
                raise UsageError(f"--report {self.report}: is a file; expected a new or existing folder")

    @property
    def files(self) -> dict[str, Path]:
        """Option -> file, for the files that are written."""
        given = {
            "--save-predictions": self.save_predictions,
            "--per-class": self.per_class,
            "--confusion": self.confusion,
        }
        return {option: path for option, path in given.items() if path is not None}


OUTPUT_OPTIONS = (
    *("as_json", "csv", "markdown", "save_predictions", "per_class", "confusion", "fail_if", "report", "profile"),
)


def make_output(
    *,
    as_json: bool,
    csv: bool,
    markdown: bool,
    save_predictions: Path | None,
    fail_if: Sequence[str] | None,
    per_class: Path | None = None,
    confusion: Path | None = None,
    report: Path | None = None,
    profile: bool = False,
) -> Output:
    """Build the output from the command line's options. Raises the errors of `Output` and `parse_condition`, and
    UsageError if several formats are requested."""
    forms = [name for name, wanted in (("json", as_json), ("csv", csv), ("markdown", markdown)) if wanted]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} and --{forms[1]}: expected one of them")
    conditions = tuple(map(parse_condition, fail_if or ()))
    return Output(
        form=(forms or ["table"])[0],
        save_predictions=save_predictions,
        per_class=per_class,
        confusion=confusion,
        fail_if=conditions,
        report=report,
        profile=profile,
    )
