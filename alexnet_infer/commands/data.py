"""`alexnet-infer data check`: find defects in a labelled image set before a long evaluation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from alexnet_infer.backends.opening import is_exported
from alexnet_infer.datasets import Split
from alexnet_infer.doctor.check import check
from alexnet_infer.doctor.finding import Finding, Report
from alexnet_infer.doctor.trial import not_tried, try_net
from alexnet_infer.nets import load
from alexnet_infer.output import console, say_json, stacked, styled
from alexnet_infer.predict import Net
from alexnet_infer.published.get import set_at


def run(
    root: Path,
    *,
    layout: str | None,
    split: Split,
    as_json: bool,
    hashing: bool = True,
    model: Path | None = None,
    quick_test: bool = False,
) -> int:
    """Check the set, print the findings and return the report's exit code.

    With `model`, or with `quick_test` for the bundled net, the labels of a sample are also compared with a net's
    guesses.

    Raises the errors of `check` and, before any image is read, those of `load`.
    """
    net = _load(model) if model is not None or quick_test else None
    report = check(set_at(root), split, layout, numbered=net.manifest.classes if net else (), hashing=hashing)
    if net is not None:
        tried = try_net(report.data, net) if report.data is not None else not_tried("the labels can't be read")
        report = replace(report, findings=(*report.findings, tried))
    if as_json:
        say_json(report.to_json(), indent=1)
    else:
        _print(report)
    return report.exit_code


def _load(model: Path | None) -> Net:
    """Load the net with the central view, or with the views that it was exported with. One view is enough here."""
    exported = model is not None and is_exported(model)
    return load(model, views=None if exported else "center")


def _print(report: Report) -> None:
    from rich.table import Table

    styles = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
    table = Table(box=None)
    for heading in ("", "finding", "detail and advice"):
        table.add_column(heading)
    for finding in report.findings:
        count = f"{finding.count:,} " if finding.count is not None and finding.examples else ""
        title = _SINGULAR.sub(r"\1", finding.title) if count == "1 " else finding.title
        level = styled(finding.level, styles[finding.level])
        table.add_row(level, styled(count + title), stacked(_lines(finding)))
    out = console()
    out.print(styled(f"{report.root}, {report.split}", "italic"), soft_wrap=True)
    out.print(table)
    out.print()
    levels = Counter(finding.level for finding in report.findings)
    worst = ", ".join(f"{levels[level]} {level}{'s' * (levels[level] != 1)}" for level in ("error", "warning"))
    out.print(f"{report.readable:,} of {report.images:,} images can be read; {worst}")


_SINGULAR = re.compile("^(image|class)e?s")


def _lines(finding: Finding) -> Iterator[str]:
    if finding.detail:
        yield finding.detail
    yield from finding.examples[:3]
    if (more := (finding.count or 0) - 3) > 0 and finding.examples:
        listed = "them" if len(finding.examples) == finding.count else f"the first {len(finding.examples):,}"
        yield f"and {more:,} more (--json lists {listed})"
    if finding.advice:
        yield finding.advice
