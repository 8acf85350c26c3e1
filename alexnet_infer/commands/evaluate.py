"""`alexnet-infer eval` and `eval merge`: the errors of nets on a labelled image set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import load_artifact
from alexnet_infer.backends.remote.address import Source
from alexnet_infer.commands.evaluate_output import OUTPUT_OPTIONS, Output, make_output
from alexnet_infer.commands.profile import print_profile
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import StoppedError, UnreadableInputError, UsageError, shown
from alexnet_infer.evaluation import tables
from alexnet_infer.evaluation.assemble import assembled, collect, display_names
from alexnet_infer.evaluation.compute import Computed, EvaluationRequest, compute, data_folder
from alexnet_infer.evaluation.confusion import ConfusionMatrix
from alexnet_infer.evaluation.per_class import save_per_class
from alexnet_infer.evaluation.result import Evaluation
from alexnet_infer.evaluation.save import save_table
from alexnet_infer.evaluation.scoring import Scores, Scoring, parse_scoring
from alexnet_infer.evaluation.selection import reopen
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.files import user_cache
from alexnet_infer.nets import choose_nets
from alexnet_infer.output import console, say_json, say_lines, tell
from alexnet_infer.pipeline import Clock
from alexnet_infer.predict import Net

Images = tuple[LabelledImages, Sequence[int]]
"""A set, and the positions of the images that were evaluated."""


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
    models: Sequence[Source] | None,
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
    name_notes(computed)
    if output.profile:
        begin, end = computed.predictions[0].about.begin, computed.predictions[0].about.end
        print_profile(clock, end - begin, dict(zip(net_names(computed), computed.cached, strict=True)))
    if request.shards > 1:
        about = computed.predictions[0].about
        tell(
            f"shard {request.shard + 1}/{request.shards}: images {about.begin + 1} to {about.end} are in "
            f"{request.cache}; when all shards are done: alexnet-infer eval merge {request.cache} ..."
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


def name_notes(computed: Computed) -> None:
    """Print what a user should know before trusting a figure."""
    for note in computed.notes:
        tell(f"note: {note}")


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
    # The weights of an exported file or a served net can't be read. The page shows the kernels of all nets or of none.
    opened = [net.opened for net in nets]
    readable = all(each.has_weights for each in opened)
    reported = [ReportedNet.of(load_artifact(each.path)) for each in opened] if readable else []
    page = write_report(result, examples, reported, folder)
    tell(f"report: {page}")


def finish(scores: Scores, output: Output, *, references: tables.References = "near") -> tuple[Evaluation, int]:
    """Compute and print the result, and write the files except the report, even if nobody reads the result.

    Returns the result and the exit code: 0, or 1 if images can't be read or a condition holds, or
    UnreadableInputError's if no image can be read.
    """
    result, headline = assembled(scores)
    unreadable = result.data.unreadable
    try:
        _write_tables(result, headline, scores, output)
    finally:  # the result is printed even if a file can't be written, and files are written even if nobody reads it
        _print(result, output.form, references)
        name_unreadable(unreadable)
    failed = [condition for condition in output.fail_if if condition.holds(result)]
    for condition in failed:
        tell(f"--fail-if: {condition} holds")
    if len(unreadable) == result.data.images:
        return result, UnreadableInputError.exit_code
    return result, 1 if failed or unreadable else 0


def _write_tables(result: Evaluation, headline: Tally, scores: Scores, output: Output) -> None:
    if output.save_predictions is not None:
        save_table(scores, output.save_predictions)
    if output.per_class is not None:
        save_per_class(result.classes, headline, scores.outputs, output.per_class)
    if output.confusion is not None:
        _confusion(result, headline, scores).save(output.confusion)


def _confusion(result: Evaluation, headline: Tally, scores: Scores) -> ConfusionMatrix:
    subject = f"mean of {len(result.nets)} nets" if result.ensemble else result.nets[0].name
    title = f"{result.data.name}: {subject}, top-1 error {100 * result.errors.top1.error:.2f} %"
    return ConfusionMatrix.of(headline, scores.classes, scores.outputs, title)


def _print(result: Evaluation, form: str, references: tables.References) -> None:
    match form:
        case "json":
            say_json(result.to_json(), indent=1)
        case "csv":
            say_lines(tables.csv(result, references))
        case "markdown":
            say_lines(tables.markdown(result, references))
        case "table":
            from alexnet_infer.evaluation.terminal import render

            render(result, console(), references)
