"""`alexnet-infer eval` and `eval merge`: the errors of nets on a labelled image set."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_infer.artifact import load_artifact
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import StoppedError, UnreadableInputError, UsageError, printable, shown
from alexnet_infer.evaluation import tables
from alexnet_infer.evaluation.assemble import assembled, collect, display_names
from alexnet_infer.evaluation.compute import Computed, EvaluationRequest, compute, data_folder, reopen
from alexnet_infer.evaluation.confusion import Confusion
from alexnet_infer.evaluation.per_class import save_per_class
from alexnet_infer.evaluation.pipeline import STAGES, Clock
from alexnet_infer.evaluation.result import Condition, Evaluation, parse_condition
from alexnet_infer.evaluation.save import check_file, save_table
from alexnet_infer.evaluation.scoring import Scores, Scoring, parse_scoring
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.files import user_cache
from alexnet_infer.nets import choose_nets
from alexnet_infer.predict import Net

Images = tuple[LabelledImages, Sequence[int]]
"""A set, and the positions of the images that were evaluated."""


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
            from alexnet_infer.evaluation.report import check_report

            check_report()
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


def main(*, references: tables.References, mce: bool, mce_baseline: Path | None, **options: Any) -> int:
    """Run the command with the options of `make_request` and `make_output`. Returns the exit code of `run`.

    With `mce`, returns that of `run_mce`.
    """
    if mce_baseline is not None and not mce:
        raise UsageError(f"--mce-baseline {mce_baseline}: needs --mce")
    output_options = {name: options.pop(name) for name in OUTPUT_OPTIONS}
    scoring = parse_scoring(options.pop("classes"), options.pop("labels"))
    output = make_output(**output_options)
    request = make_request(**options)
    if mce:
        from alexnet_infer.commands.mce import run_mce

        return run_mce(request, output, scoring=scoring, references=references, baseline=mce_baseline)
    return run(request, output, scoring=scoring, references=references)


def make_request(
    *,
    models: Sequence[Path] | None,
    ensemble: int | None,
    data: Path | None,
    shard: str | None,
    cache: Path | None,
    **given: Any,
) -> EvaluationRequest:
    """Build the request from the command line's options. Raises UsageError if they are invalid or contradictory."""
    number, shards = _shard(shard)
    if shards > 1 and cache is None:
        raise UsageError("--shard: expected --cache too, with a separate folder for each shard; eval merge joins them")
    return EvaluationRequest(
        models=tuple(choose_nets(models or (), ensemble)),
        data=data_folder(data),
        shard=number - 1,
        shards=shards,
        cache=cache or user_cache() / "predictions",
        **given,
    )


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if not match:
        raise UsageError(f"--shard {shown(text)}: expected I/N with I from 1 to N, as in 2/8")
    return int(match[1]), int(match[2])


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


def run(
    request: EvaluationRequest,
    output: Output,
    *,
    scoring: Scoring | None = None,
    references: tables.References = "near",
) -> int:
    """Evaluate, and print and write the result.

    `references` selects the published rows of the table, the CSV and the Markdown (`tables.rows`). JSON and the report
    do not depend on it: JSON has no published rows, the report has all.

    Returns the exit code of `finish`. A shard prints no result. Raises UsageError if the request is for a shard and
    `output` or `references` asks for a result, StoppedError on Ctrl-C, and the errors of `compute`.
    """
    scoring = scoring or Scoring()
    if request.shards > 1 and (output, references, scoring) != (Output(profile=output.profile), "near", Scoring()):
        raise UsageError(
            "--shard: computes a part and prints no result; give the output options (--json, ...), --classes and "
            "--labels to alexnet-infer eval merge"
        )
    clock = Clock()
    with continuable(request):
        computed = compute(request, clock)
    if computed.data.assumed:
        name_assumed(computed)
    if output.profile:
        begin, end = computed.predictions[0].about.begin, computed.predictions[0].about.end
        print_profile(clock, end - begin, dict(zip(net_names(computed), computed.cached, strict=True)))
    if request.shards > 1:
        about = computed.predictions[0].about
        print(
            f"shard {request.shard + 1}/{request.shards}: images {about.begin + 1} to {about.end} are in "
            f"{request.cache}; when all shards are done: alexnet-infer eval merge {request.cache} ...",
            file=sys.stderr,
        )
        return 0
    scores = Scores([[predictions] for predictions in computed.predictions], scoring)
    result, code = finish(scores, output, references=references)
    if output.report is not None:
        _write_report(result, scores, (computed.data, computed.positions), computed.nets, output.report)
    return code


@contextmanager
def continuable(request: EvaluationRequest) -> Iterator[None]:
    """Turn Ctrl-C in the block into StoppedError, which says how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        again = "again without --fresh" if request.fresh else "again"
        raise StoppedError(f"interrupted: run the same command {again} to continue") from None


def net_names(computed: Computed) -> list[str]:
    """Return the nets' names as in the result."""
    return display_names([[predictions] for predictions in computed.predictions])


def name_assumed(computed: Computed) -> None:
    classes, root = computed.nets[0].manifest.classes, printable(str(computed.data.root))
    print(
        f"note: the folders of {root} are numbered, and the numbers are taken as positions in the net's "
        f"{len(classes):,} classes (0 is {classes[0].wnid}). If they stand for other classes, add synset_words.txt to "
        "the folder",
        file=sys.stderr,
    )


def merge(
    caches: Sequence[Path],
    output: Output,
    *,
    scoring: Scoring | None = None,
    references: tables.References = "near",
    data: Path | None = None,
) -> int:
    """Join the shards in `caches`, and print and write the result. Other arguments and the exit code are as in `run`.

    `data` is the set, from which the report shows images. Raises the errors of `collect` and `reopen`, and UsageError
    if there is `data` but no report.
    """
    if data is not None and output.report is None:
        raise UsageError(f"--data {data}: is only for the images of a report; add --report, or leave it out")
    scores = Scores(collect(caches), scoring)
    images = None if data is None else reopen(data, scores.about)
    result, code = finish(scores, output, references=references)
    if output.report is not None:
        _write_report(result, scores, images, [], output.report)
    return code


def _write_report(result: Evaluation, scores: Scores, images: Images | None, nets: Sequence[Net], folder: Path) -> None:
    """Write the page. Without `images` it shows none. `nets` is empty if the model files aren't there."""
    from alexnet_infer.evaluation.examples import choose_examples
    from alexnet_infer.evaluation.report import ReportedNet, write_report

    examples = None if images is None else choose_examples(scores, *images, nets[0].rescaling if nets else None)
    # The weights of an exported file can't be read. The page shows the kernels of all nets or of none.
    files = [net.opened for net in nets]
    exported = any(file.info is not None for file in files)
    reported = [] if exported else [ReportedNet.of(load_artifact(file.path)) for file in files]
    page = write_report(result, examples, reported, folder)
    print(f"report: {page}", file=sys.stderr)


def finish(scores: Scores, output: Output, *, references: tables.References = "near") -> tuple[Evaluation, int]:
    """Compute and print the result, and write the files except the report.

    Returns the result and the exit code: 0, or 1 if images can't be read or a condition holds, or
    UnreadableInputError's if no image can be read.
    """
    result, headline = assembled(scores)
    _print(result, output.form, references)
    sys.stdout.flush()  # the result is printed even if a later step fails
    unreadable = result.data.unreadable
    name_unreadable(unreadable)
    if output.save_predictions is not None:
        save_table(scores, output.save_predictions)
    if output.per_class is not None:
        save_per_class(result.classes, headline, scores.outputs, output.per_class)
    if output.confusion is not None:
        _confusion(result, headline, scores).save(output.confusion)
    failed = [condition for condition in output.fail_if if condition.holds(result)]
    for condition in failed:
        print(f"--fail-if: {condition} holds", file=sys.stderr)
    if len(unreadable) == result.data.images:
        return result, UnreadableInputError.exit_code
    return result, 1 if failed or unreadable else 0


def _confusion(result: Evaluation, headline: Tally, scores: Scores) -> Confusion:
    subject = f"mean of {len(result.nets)} nets" if result.ensemble else result.nets[0].name
    title = f"{result.data.name}: {subject}, top-1 error {100 * result.errors.top1.error:.2f} %"
    return Confusion.of(headline, scores.classes, scores.outputs, title)


def _print(result: Evaluation, form: str, references: tables.References) -> None:
    match form:
        case "json":
            print(json.dumps(result.to_json(), indent=1))
        case "csv":
            print(tables.csv(result, references), end="")
        case "markdown":
            print(tables.markdown(result, references), end="")
        case "table":
            from rich.console import Console

            from alexnet_infer.evaluation.terminal import render

            render(result, Console(), references)


def print_profile(clock: Clock, images: int, cached: Mapping[str, int]) -> None:
    """Print the time per stage on stderr. Of each net, `cached` of the `images` were predicted by an earlier run."""
    from rich.console import Console
    from rich.table import Table

    for net, count in cached.items() if len({*cached.values()}) > 1 else [("", next(iter(cached.values())))]:
        if count:
            of = f"{printable(net)}: " if net else ""
            print(f"{of}the predictions of {count:,} of the {images:,} images were cached", file=sys.stderr)
    if all(count == images for count in cached.values()):
        print("nothing was computed, so there are no times; --fresh computes the predictions again", file=sys.stderr)
        return
    table = Table(title="time per stage, summed over all threads", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    total = sum(clock.seconds.values()) or 1.0
    for stage in STAGES:
        table.add_row(stage, f"{clock.seconds[stage]:.2f}", f"{clock.seconds[stage] / total:.1%}")
    console = Console(stderr=True)
    console.print(table)
    if bottleneck := clock.bottleneck():
        stage, share = bottleneck
        names = {
            "read": "reading",
            "decode": f"decoding on {clock.workers} threads",
            "patches": "cutting patches",
            "net": "the net",
        }
        console.print(f"bound by {names[stage]}, which was busy {share:.0%} of the time", highlight=False)
