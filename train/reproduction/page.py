"""REPRODUCTION.md: a table of all rows, then each row with its claim, its figures, a sentence, and its commands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from train.reproduction.command_lines import row_commands
from train.reproduction.intervals import Interval
from train.reproduction.plan import Plan, Row, Training
from train.reproduction.rows import RowResult, color_verdict
from train.reproduction.speed import TARGET

WIDTH = 120
"""Longest line of text, but for tables and commands."""

MINUS = "\N{MINUS SIGN}"

INTRODUCTION = """\
`python -m train reproduce` trains the paper's net, small, with and without one of its parts, and compares them. This
page has what came out, whether it agrees with the paper or not. A part can matter more or less in the paper's own net,
so only the sign is judged; the sizes are beside each other. Each row has its commands, most of them for ILSVRC-2012.

- **Points** are percentage points of error, counted so that a positive number agrees with the paper.
- **Intervals** are 95 % intervals over seeds and validation images. All nets of a row are measured on the same images,
  and the difference is taken image by image; the variance between seeds is pooled over all runs of a scale
  ([how](../train/reproduction/intervals.py)). Each is for one comparison: of twenty parts without any effect, about one
  would have an interval without 0. The interval of a ratio is over seeds, of the logarithms.
- A row **agrees** with the paper if its interval is above 0, **disagrees** if it is below 0, and is **undecided** if it
  contains 0 (for a ratio, 1). The top-1 error decides; for overfitting, the gap between validation and training error
  does, and for speed the updates.
- Runs have the recipe of their scale, which was chosen for the paper's net, and differ in nothing but the row's part.
  Another recipe may suit a net without one of its parts better. Only ReLU, tanh and the net that is fine-tuned have
  learning rates of their own.
"""


def page(plan: Plan, results: Sequence[RowResult], pictures: Mapping[str, str]) -> str:
    """Return the page as Markdown. `results` are those of all rows and scales; `pictures` has paths and captions."""
    by_row = {row.name: [r for r in results if r.row is row] for row in plan.rows}
    lines = ["# The paper's claims, measured again", "", INTRODUCTION]
    lines += _scales(plan, results)
    lines += ["", *_summary(plan, by_row), ""]
    for path, caption in pictures.items():
        lines += [f"![{caption}]({path})", ""]
    for row in plan.rows:
        lines += _section(plan, row, by_row[row.name])
    return "\n".join(lines).rstrip() + "\n"


def _scales(plan: Plan, results: Sequence[RowResult]) -> Iterator[str]:
    used = {r.scale.title for r in results if r.done}
    yield "| scale | nets and data |"
    yield "|---|---|"
    for name in sorted(used, key=list(plan.scales).index):
        yield f"| {name} | {plan.scales[name].about} |"


def _summary(plan: Plan, by_row: Mapping[str, Sequence[RowResult]]) -> Iterator[str]:
    yield "| claim | section | paper, top-1 / top-5 | measured (interval) | scale | verdict |"
    yield "|---|---|---|---|---|---|"
    for row in plan.rows:
        link = f"[{row.title}](#{_anchor(row)})"
        done = [result for result in by_row[row.name] if result.done]
        for result in done:
            ours = _colors(result) if row.measure == "color" else _decisive(result)
            verdict = _row_verdict(row, result)
            yield f"| {link} | {row.section} | {_paper(row)} | {ours} | {result.scale.title} | {verdict} |"
        if not done:
            yield f"| {link} | {row.section} | {_paper(row)} | | | not run yet |"


def _section(plan: Plan, row: Row, results: Sequence[RowResult]) -> Iterator[str]:
    yield from (f"## {row.title}", "", _paragraph(f"Section {row.section}. {row.claim}"), "")
    done = [result for result in results if result.done]
    if done:
        yield from _table(plan, row, done)
    for result in done:
        if row.measure != "color":
            yield from (_paragraph(sentence(row, result)), "")
    if row.measure == "color" and done:
        yield from (_paragraph(_color_sentence(done)), "")
    if not done:
        yield from ("Not run yet.", "")
    if row.note:
        yield from (_paragraph(row.note), "")
    yield from (*_commands(plan, row), "")


def _table(plan: Plan, row: Row, results: Sequence[RowResult]) -> Iterator[str]:
    match row.measure:
        case "color":
            return _color_table(plan, results)
        case "neighbors":
            return _neighbor_table(results)
        case "speed":
            return _speed_table(plan, results)
    return _error_table(plan, results)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _error_table(plan: Plan, results: Sequence[RowResult]) -> Iterator[str]:
    training = any(result.row.measure == "overfitting" for result in results)
    head = ["scale", "net", "parameters", "seeds", "top-1 / top-5 error", "central view, top-1"]
    head += ["training images, top-1"] if training else []
    yield from (f"| {' | '.join(head)} |", "|---" * len(head) + "|")
    for result in results:
        for run in result.runs:
            cells = [result.scale.title, plan.runs[run.run].title, f"{run.parameters:,}", str(run.seeds)]
            cells += [f"{_percent(run.top1)} / {_percent(run.top5)}", _percent(run.center)]
            cells += [_percent(run.training)] if training and run.training is not None else []
            yield f"| {' | '.join(cells)} |"
    yield ""


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def sentence(row: Row, result: RowResult) -> str:
    """Return one sentence on a row at a scale: the figures, and the verdict."""
    images, scale = f"{result.images:,} images", result.scale.title
    if row.measure == "speed":
        return _speed_sentence(row, result)
    shown = [f"{NAMES[name]} {_points(result.figures[name])}" for name in NAMES if name in result.figures]
    if not shown:
        return f"At the scale {scale}, on {images}: there are too few seeds for an interval."
    text = f"At the scale {scale}, on {images}, in points: {', '.join(shown)}"
    if not row.claimed or result.verdict is None:
        return f"{text}."
    return f"{text}. {_verdict(row, result)}{_against_paper(row, result)}."


def _verdict(row: Row, result: RowResult) -> str:
    assert result.verdict is not None, "with figures"
    return VERDICTS[result.verdict].format(NAMES[row.decisive], neutral=result.figures[row.decisive].neutral)


NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "gap": "gap between validation and training error",
    "ratio": "updates",
    "same": "neighbours of the same class",
}
VERDICTS = {
    "agrees": "This agrees with the paper ({})",
    "disagrees": "This disagrees with the paper ({})",
    "undecided": "Undecided: the interval contains {neutral:g} ({})",
}


def _against_paper(row: Row, result: RowResult) -> str:
    name, unit, factor = ("ratio", "times", 1) if row.measure == "speed" else ("top1", "points", 100)
    ours, paper = result.figures.get(name), row.paper.get(name)
    if ours is None or paper is None:
        return ""
    inside = factor * ours.high > paper if row.more else factor * ours.low <= paper <= factor * ours.high
    return f"; the interval {'includes' if inside else 'does not include'} the paper's {_more(row)}{paper:g} {unit}"


def _more(row: Row) -> str:
    return "more than " if row.more else ""


def _row_verdict(row: Row, result: RowResult) -> str:
    if not row.claimed:
        return "no claim"
    return result.shown_verdict


def _decisive(result: RowResult) -> str:
    name, interval = result.row.decisive, result.figures.get(result.row.decisive)
    if interval is None:
        return ""
    return f"{NAMES[name]} {_times(interval) if name == 'ratio' else _points(interval)}"


def _times(interval: Interval) -> str:
    return f"{interval.value:.2f} times ({interval.low:.2f} to {interval.high:.2f})"


def _points(interval: Interval) -> str:
    # Rounded first, and + 0.0, so that no figure is -0.00.
    value, low, high = (f"{round(100 * x, 2) + 0.0:+.2f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})".replace("-", MINUS)


def _paper(row: Row) -> str:
    if "ratio" in row.paper:
        return f"{row.paper['ratio']:g} times"
    return _more(row) + " / ".join(f"{row.paper[k]:g}" for k in ("top1", "top5") if k in row.paper) or "no figure"


def _colors(result: RowResult) -> str:
    differences = [abs(a - b) for run, _, (a, b) in result.color if run == result.row.net]
    return f"shares differ by {100 * min(differences):.0f} to {100 * max(differences):.0f}"


def _color_table(plan: Plan, results: Sequence[RowResult]) -> Iterator[str]:
    yield from ("| scale | net | seed | first half of conv1 | second half | difference |", "|---|---|---|---|---|---|")
    for result in results:
        for run, seed, (first, second) in result.color:
            cells = [
                result.scale.title,
                plan.runs[run].title,
                str(seed),
                *(f"{100 * x:.1f} %" for x in (first, second)),
            ]
            yield f"| {' | '.join(cells)} | {100 * abs(first - second):.1f} |"
    yield ""


def _neighbor_table(results: Sequence[RowResult]) -> Iterator[str]:
    distance = "distance in pixels: neighbours in the layer, in pixels, all images"
    yield from (f"| scale | seed | same class, in the layer | in pixels | {distance} |", "|---|---|---|---|---|")
    for result in results:
        for seed, net in enumerate(result.neighbors):
            features, pixels = (100 * shares.mean() for shares in net.shares())
            distances = net.pixel_distance_of_features, net.pixel_distance_of_pixels, net.pixel_distance_of_all
            text = ", ".join(f"{distance:,.0f}" for distance in distances)
            yield f"| {result.scale.title} | {seed} | {features:.1f} % | {pixels:.1f} % | {text} |"
    yield ""


def _color_sentence(results: Sequence[RowResult]) -> str:
    verdict = color_verdict([result.color for result in results])
    words = {
        "agrees": "the columns of every net with two differ more in colour than the halves of every net with one. This "
        "agrees with the paper",
        "disagrees": "the halves of every net with one column differ more in colour than the columns of every net with "
        "two. This disagrees with the paper",
        "undecided": "the two kinds of nets are not apart, or there are too few of them: undecided",
    }
    return f"Within each scale that has both kinds of nets, {words[verdict]}."


def _speed_table(plan: Plan, results: Sequence[RowResult]) -> Iterator[str]:
    head = f"updates to {TARGET:.0%} training error, each seed"
    yield from (f"| scale | net | learning rate | {head} |", "|---|---|---|---|")
    for result in results:
        for run, updates in result.updates.items():
            rate = plan.recipe(Training(result.scale.title, run, plan.seeds(result.scale)[0])).lr
            reached = ", ".join("not reached" if count is None else f"{count:,.0f}" for count in updates)
            yield f"| {result.scale.title} | {plan.runs[run].title} | {rate:g} | {reached} |"
    yield ""


def _speed_sentence(row: Row, result: RowResult) -> str:
    scale, interval = result.scale.title, result.figures.get("ratio")
    if interval is None:
        why = {"not reached": "some nets did not reach the error", "too few seeds": "there are too few seeds"}
        return f"At the scale {scale}, there is no interval: {why[result.shown_verdict]}."
    ours = f"`{row.against}` takes {_times(interval)} as many updates as `{row.net}`"
    return f"At the scale {scale}, {ours}. {_verdict(row, result)}{_against_paper(row, result)}."


def _commands(plan: Plan, row: Row) -> Iterator[str]:
    scale, commands = row_commands(plan, row)
    if scale.title == "full":
        yield "On ILSVRC-2012, with the paper's recipe and the seed 0 (repeat with other seeds and folders):"
    else:
        yield "With the seed 0 (repeat with other seeds and folders; on CIFAR-10, leave out `--classes`):"
    if any(plan.runs[run].start for run in (row.net, row.against) if run):
        yield "(`LARGER` is a set with other classes, such as ImageNet Fall 2011)"
    yield from ("", "```bash", *commands, "```")


def _anchor(row: Row) -> str:
    return "".join(c for c in row.title.lower() if c.isalnum() or c in " -").replace(" ", "-")
