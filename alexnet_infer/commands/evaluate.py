"""`alexnet-infer eval`: a labelled image set in, error figures out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import load_artifact
from alexnet_infer.backends.opening import EXPORTED_SUFFIXES
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.errors import UnreadableInputError, UsageError, shown
from alexnet_infer.evaluation.assemble import Shards, assemble, collect
from alexnet_infer.evaluation.export import check_table, save_table
from alexnet_infer.evaluation.pipeline import STAGES, Clock
from alexnet_infer.evaluation.result import Condition, Evaluation, parse_condition
from alexnet_infer.evaluation.run import Computed, Request, compute, data_folder
from alexnet_infer.files import user_cache
from alexnet_infer.nets import choose_nets


@dataclass(frozen=True, kw_only=True)
class Output:
    """In which forms the result is given, and what makes the exit code 1. Raises UsageError and BackendError for what
    could not be written in the end."""

    form: str = "table"
    """table, json, csv or markdown, on stdout."""
    save_predictions: Path | None = None
    report: Path | None = None
    fail_if: tuple[Condition, ...] = ()
    profile: bool = False

    def __post_init__(self) -> None:
        if self.save_predictions is not None:
            check_table(self.save_predictions)
        if self.report is not None:
            from alexnet_infer.evaluation.report import check_report

            check_report()
            if self.report.exists() and not self.report.is_dir():
                raise UsageError(f"--report {self.report}: is a file; expected a folder, new or not")


def make_request(
    *,
    models: Sequence[Path],
    ensemble: int | None,
    data: Path | None,
    shard: str | None,
    cache: Path | None,
    **given: Any,
) -> Request:
    """From what the command line says; raises UsageError."""
    number, of = _shard(shard)
    if of > 1 and cache is None:
        raise UsageError("--shard: needs a --cache of its own, which eval merge then joins with the others")
    return Request(
        models=tuple(choose_nets(models, ensemble)),
        data=data_folder(data),
        shard=number - 1,
        shards=of,
        cache=cache or user_cache() / "predictions",
        **given,
    )


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if not found:
        raise UsageError(f"--shard {shown(text)}: expected I/N with I from 1 to N, as in 2/8")
    return int(found[1]), int(found[2])


def make_output(
    as_json: bool, csv: bool, markdown: bool, save_predictions: Path | None, fail_if: Sequence[str], **given: Any
) -> Output:
    """From what the command line says; raises UsageError and BackendError."""
    forms = [name for name, wanted in (("json", as_json), ("csv", csv), ("markdown", markdown)) if wanted]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} and --{forms[1]}: expected one of them")
    conditions = tuple(map(parse_condition, fail_if))
    return Output(form=(forms or ["table"])[0], save_predictions=save_predictions, fail_if=conditions, **given)


def run(request: Request, output: Output) -> int:
    """Evaluates and prints; returns the exit code: 0, or 1 when images could not be read or a condition holds.

    A shard has no result yet: raises UsageError when one is asked for.
    """
    if request.shards > 1 and output != Output(profile=output.profile):
        raise UsageError("--shard: makes no result yet; give its options (--json, ...) to alexnet-infer eval merge")
    clock = Clock()
    computed = compute(request, clock)
    if output.profile:
        _print_profile(clock)
    if request.shards > 1:
        done = computed.predictions[0]
        print(
            f"shard {request.shard + 1}/{request.shards}: images {done.about.begin + 1} to {done.about.end} are in "
            f"{request.cache}; when all are there: alexnet-infer eval merge {request.cache} ...",
            file=sys.stderr,
        )
        return 0
    shards = [[one] for one in computed.predictions]
    result = assemble(shards)
    code = finish(result, shards, output)
    if output.report is not None:
        _write_report(result, shards, computed, output.report)
    return code


def merge(caches: Sequence[Path], output: Output) -> int:
    """Joins the shards that several machines left in `caches`; returns the exit code as `run` does."""
    shards = collect(caches)
    return finish(assemble(shards), shards, output)


def _write_report(result: Evaluation, shards: Sequence[Shards], computed: Computed, folder: Path) -> None:
    from alexnet_infer.evaluation.examples import choose_examples
    from alexnet_infer.evaluation.report import ReportedNet, write_report

    preprocessing = computed.nets[0].manifest.preprocessing
    examples = choose_examples(shards, computed.data, computed.positions, preprocessing)
    # Of exported files, whose weights no longer lie open, no kernels are drawn.
    open_nets = [path for path in computed.models if path.suffix not in EXPORTED_SUFFIXES]
    page = write_report(result, examples, [ReportedNet.of(load_artifact(path)) for path in open_nets], folder)
    print(f"report: {page}", file=sys.stderr)


def finish(result: Evaluation, nets: Sequence[Shards], output: Output) -> int:
    """Prints the result and writes what was asked for; returns the exit code."""
    _print(result, output.form)
    sys.stdout.flush()  # whatever becomes of the rest
    unreadable = result.data.unreadable
    name_unreadable(unreadable)
    if output.save_predictions is not None:
        save_table(nets, output.save_predictions)
    failed = [condition for condition in output.fail_if if condition.holds(result)]
    for condition in failed:
        print(f"--fail-if: {condition} holds", file=sys.stderr)
    if len(unreadable) == result.data.images:
        return UnreadableInputError.exit_code
    return 1 if failed or unreadable else 0


def _print(result: Evaluation, form: str) -> None:
    if form == "json":
        print(json.dumps(result.to_json(), indent=1))
        return
    from alexnet_infer.evaluation import tables

    if form == "table":
        from rich.console import Console

        tables.render(result, Console())
    else:
        print({"csv": tables.csv, "markdown": tables.markdown}[form](result), end="")


def _print_profile(clock: Clock) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="time in each stage, over all threads", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    total = sum(clock.seconds.values()) or 1.0
    for stage in STAGES:
        table.add_row(stage, f"{clock.seconds[stage]:.2f}", f"{clock.seconds[stage] / total:.1%}")
    console = Console(stderr=True)
    console.print(table)
    if found := clock.bottleneck():
        stage, share = found
        decoding, cutting = f"decoding on {clock.workers} threads", "cutting patches"
        what = {"read": "reading", "decode": decoding, "patches": cutting, "net": "the net"}[stage]
        console.print(f"bound by {what}, which was busy {share:.0%} of the time", highlight=False)
