"""`alexnet-infer eval --mce`: the errors of nets on ImageNet-C."""

from __future__ import annotations

import io
import shlex
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from alexnet_infer.commands.evaluate import continuable, name_notes, net_names
from alexnet_infer.commands.evaluate_output import Output
from alexnet_infer.commands.profile import print_profile
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.evaluation import corruption_tables
from alexnet_infer.evaluation.assemble import assembled, how_scored
from alexnet_infer.evaluation.compute import EvaluationRequest, compute_with, load_nets, open_data
from alexnet_infer.evaluation.corruption_errors import Robustness, corruption_errors
from alexnet_infer.evaluation.imagenet_c import PUBLISHED, Sets, find_sets, read_baseline
from alexnet_infer.evaluation.result import Evaluation
from alexnet_infer.evaluation.scoring import Scores, Scoring
from alexnet_infer.evaluation.selection import name_of, positions_of
from alexnet_infer.evaluation.tables import References
from alexnet_infer.output import console, say_json, say_lines, tell
from alexnet_infer.pipeline import Clock
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting

TRIED = 16
"""Images that are read to learn the size of a set's images."""


def run_mce(
    request: EvaluationRequest,
    output: Output,
    *,
    scoring: Scoring | None = None,
    references: References = "near",
    baseline: Path | None = None,
) -> int:
    """Evaluate all sets of ImageNet-C in the request's folder, and print the corruption errors and their mean.

    `baseline` is a result of this function as JSON, or None for the published errors of AlexNet. The predictions of
    each set are cached as `run` caches them.

    Returns the exit code: 0, or 1 if images can't be read, or UnreadableInputError's if there is no mCE because sets
    are missing, or if no image can be read. Raises UsageError for an output of a single set, StoppedError on Ctrl-C,
    and the errors of `find_sets`, `read_baseline` and `compute`.
    """
    sets = find_sets(request.data)
    _check_output(request, output, references, next(folder for _, _, folder in sets))
    reference = PUBLISHED if baseline is None else read_baseline(baseline)
    for folder in sets.unknown:
        tell(f"note: {folder} is no corruption of ImageNet-C and is left out")
    clock = Clock()
    with continuable(request):
        results, sentences = _evaluate(sets, request, scoring or Scoring(), clock, output.profile)
    result = corruption_errors(
        results,
        name=name_of(request.data.resolve()),
        missing=sets.missing,
        baseline=reference,
        **sentences,
    )
    _print(result, output.form)
    name_unreadable(result.data.unreadable)
    if result.problems:
        kind = "error: no mCE" if result.mce is None else "note: incomplete extra corruptions"
        tell(f"{kind}: {'; '.join(result.problems)}")
    if result.mce is None or len(result.data.unreadable) == sum(part.data.images for part in results.values()):
        return UnreadableInputError.exit_code
    return 1 if result.data.unreadable else 0


def _check_output(request: EvaluationRequest, output: Output, references: References, example: Path) -> None:
    """Raise UsageError for an option whose output is that of one set."""
    options = [*output.files]
    options += ["--report"] * (output.report is not None) + ["--fail-if"] * bool(output.fail_if)
    options += ["--references"] * (references != "near")
    if options:
        one = shlex.quote(str(example))
        raise UsageError(f"{options[0]}: not with --mce; leave it out, or give one set, as in --data {one}")
    if request.shards > 1:
        raise UsageError("--shard: not with --mce; leave it out, or evaluate some of the sets on each machine")


def _evaluate(
    sets: Sets, request: EvaluationRequest, scoring: Scoring, clock: Clock, profile: bool
) -> tuple[dict[tuple[str, int], Evaluation], dict[str, object]]:
    """Return the result of each set, and the arguments `scored` and `sizes` of `corruption_errors`."""
    nets = load_nets(request)
    requests = {(name, severity): replace(request, data=folder) for name, severity, folder in sets}
    data, known = open_data(nets, next(iter(requests.values())))
    images = len(positions_of(data, request.limit, known))
    results: dict[tuple[str, int], Evaluation] = {}
    cached: Counter[str] = Counter()
    counted = 0
    scored: Sequence[str] = ()
    with counting("evaluating", images * len(sets)) as advance:
        for key, own in requests.items():
            computed = compute_with(nets, own, clock, advance)
            scores = Scores([[predictions] for predictions in computed.predictions], scoring)
            results[key] = assembled(scores)[0]
            cached.update(dict(zip(net_names(computed), computed.cached, strict=True)))
            counted += len(computed.positions)
            if len(results) == 1:
                scored = tuple(how_scored(scores))
                name_notes(computed)
    if profile:
        print_profile(clock, counted, cached)
    return results, {"scored": scored, "sizes": _sizes(data, nets)}


def _sizes(data: LabelledImages, nets: Sequence[Net]) -> str:
    """The sentence on the size of the images, if the nets' squares have another."""
    sizes = sorted({net.rescaling.size for net in nets})
    for example in data.at(range(min(TRIED, len(data))), on_error="yield"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of many pixels: only the size is read
                width, height = Image.open(io.BytesIO(example.content())).size
        except (OSError, ValueError, UnreadableInputError, Image.DecompressionBombError):
            continue
        if sizes == [min(width, height)]:
            return ""
        return (
            f"The images of {width} x {height} pixels are rescaled to S = {', '.join(map(str, sizes))}; the authors of "
            "ImageNet-C give nets its crops of 224 x 224 as they are."
        )
    return ""


def _print(result: Robustness, form: str) -> None:
    match form:
        case "json":
            say_json(result.to_json(), indent=1)
        case "csv":
            say_lines(corruption_tables.csv(result))
        case "markdown":
            say_lines(corruption_tables.markdown(result))
        case "table":
            corruption_tables.render(result, console())
