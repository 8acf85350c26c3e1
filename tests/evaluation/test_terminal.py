"""What `eval` prints: one screen of 80 columns in which no figure is cut. Names from files are plain text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.evaluation.paper import PUBLISHED
from alexnet_infer.evaluation.result import Confusion, Data, Evaluation, Protocol, Sample, evaluation
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.evaluation.terminal import render
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Views
from tests.evaluation.results import CLASSES, WNIDS, facts, result

TINY = load_manifest(embedded_model()).classes


def shown(evaluation: Evaluation, references: str = "near", *, width: int = 80, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    render(evaluation, console, references)
    return out.getvalue()


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def widest(lines: Iterable[str]) -> int:
    """The width of the widest line, in cells of a terminal."""
    console = Console(width=80)
    return max(console.measure(line).maximum for line in lines)


def series(
    names: list[str],
    images: int = 1000,
    *,
    mean: float = 0.3,
    classes: tuple[ClassName, ...] = TINY,
    views: Views = "ten",
):
    """Evaluate nets with errors of 50.0 %, 50.5 %, ... on `images` images. The mean's error is `mean`.

    An image that one net classifies wrongly is also wrong for all nets with a higher error.
    """
    labels = np.arange(images) % len(classes)

    def tally(error: float) -> Tally:
        wrong = np.arange(images) * 7 % images < round(error * images)
        probabilities = np.full((images, len(classes)), 0.5 / len(classes), np.float32)
        probabilities[np.arange(images), (labels + wrong) % len(classes)] = 0.5
        counted = Tally(len(classes))
        counted.add(probabilities, labels, labels)
        return counted

    return evaluation(
        data=Data(name="tiny-imagenet", listing="", images=images, classes=len(classes)),
        protocol=Protocol(views=views, nets=len(names), deviations=("x " * 54,) + ("All nets: y.",) * 4),
        classes=classes,
        guesses=classes,
        nets=[(facts(name), tally(0.5 + 0.005 * i)) for i, name in enumerate(names)],
        ensemble=tally(mean) if len(names) > 1 else None,
    )


FIVE = [f"alexnet-64-{i}" for i in range(5)]
LONG = [f"a net that was trained for a very long time under a very long name, seed {i}" for i in range(5)]
WIDE = ["\N{CJK UNIFIED IDEOGRAPH-732B}" * 60 + str(i) for i in range(3)]


# One screen.


def test_five_nets_fit_a_screen_of_forty_lines_at_80_columns():
    lines = shown(series(FIVE)).splitlines()
    assert sum(max(1, -(-len(line) // 80)) for line in lines) <= 40


@pytest.mark.parametrize("names", [["torchvision-alexnet"], FIVE, LONG, WIDE], ids=["one", "five", "long", "wide"])
@pytest.mark.parametrize("references", ["near", "all"])
def test_at_80_columns_every_row_is_one_line_and_no_figure_is_cut(names, references):
    result = series(names)
    text = shown(result, references)
    rows = text.split("\nDeviations")[0].split("\nSource")[0].splitlines()
    assert widest(rows) <= 80
    errors = [errors for net in result.nets for errors in (net.top1, net.top5)]
    for rate in errors:
        assert f"{100 * rate.error:.2f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" in text
    lines = text.splitlines()[2 : 2 + len(names)]
    # Names are shortened in the middle and keep their ends.
    assert [line.split("  ")[0][-1] for line in lines] == [name[-1] for name in names]
    count = sum(line.startswith(tuple({row.net for row in PUBLISHED})) for line in rows)
    assert count == (2 if references == "near" else len(PUBLISHED))


@pytest.mark.parametrize("references", ["near", "all"])
def test_published_rows_with_the_longest_notes_fit_80_columns(references):
    text = shown(series(FIVE[:1], classes=ilsvrc_classes(), views="center"), references)
    rows = [line for line in text.splitlines() if line.endswith("other images, views")]
    assert rows
    assert widest(rows) <= 80


def test_on_a_narrow_terminal_figures_are_whole_and_names_are_twelve_cells():
    lines = shown(series(LONG), width=40).splitlines()
    assert re.fullmatch(r"a net\.\.\.ed 0  50\.00 % \[46\.9, 53\.1\]  \S+ % \[\S+, \S+\]", lines[2])


# The parts.


def test_the_runs_nets_come_first_with_intervals_and_the_mean_is_bold():
    lines = shown(result(), width=120).splitlines()
    assert lines[0] == "zoo: 8 images, 7 classes, ten views"
    assert [line.split("  ")[0] for line in lines[2:5]] == ["first", "second", "mean of 2 nets"]
    assert "50.00 % [21.5, 78.5]" in lines[2]
    assert "62.50 % [30.6, 86.3]" in lines[3]
    assert re.search(r"37\.50 % \[13\.7, 69\.4\] +12\.50 % \[2\.2, 47\.1\]", lines[4])
    assert "Expected calibration error (15 bins): 11.43 %" in lines[5]
    assert lines[6] == "1 of the 8 images can't be read and count as wrong."
    colored = shown(result(), color=True).splitlines()
    assert next(line for line in colored if "mean of 2 nets" in line).startswith("\x1b[1m")


def test_the_title_names_views_and_sample():
    title = shown(result(views="center", sample=Sample(images=8, of=5000))).splitlines()[0]
    assert title == "zoo: 8 of 5,000 images, 7 classes, central view"


def test_the_mean_is_compared_with_the_best_net_and_the_verdict_is_a_sentence():
    names = ["worse", "best"]
    two_nets = series(["x", "y"], mean=0.3)
    turned = replace(
        two_nets,
        nets=tuple(replace(net, name=name) for net, name in zip(two_nets.nets[::-1], names, strict=True)),
        ensemble=replace(
            two_nets.ensemble,
            against=tuple(
                replace(pair, net=name) for pair, name in zip(two_nets.ensemble.against[::-1], names, strict=True)
            ),
        ),
    )
    text = shown(turned)
    assert "Mean of 2 nets against the best of them, best\n" in text
    assert re.search(r"^top-1  -20\.00 \[-22\.\d\d, -17\.\d\d\] +0 +200 +< 1e-12$", text, re.MULTILINE)
    assert "The mean is significantly better in top-1 and top-5 error.\n" in text
    assert "against the best of them" not in shown(series(["only"]))


def test_a_mean_that_is_not_better_is_reported_as_not_better():
    text = shown(result())  # the mean and the best net differ in one image of eight
    assert re.search(r"^top-1 +-12\.50 \[\S+, \+0\.00\] +0 +1 +1$", text, re.MULTILINE)
    assert "The mean is not significantly better in top-1 or top-5 error." in text


def test_published_figures_on_other_data_are_marked_and_dim():
    text = shown(result())
    assert re.search(r"^5 CNNs +ILSVRC-2012 validation +ten +38\.1 +16\.4 +not comparable$", text, re.MULTILINE)
    assert text.count("not comparable") == 1
    assert "Source: the paper, table 2. All 14 rows: --references all\n" in text
    everything = shown(result(), "all")
    assert everything.count("not comparable") == len(PUBLISHED)
    assert "--references" not in everything
    assert "*: a sixth convolution" in everything
    assert "*: a sixth convolution" not in text
    (colored,) = [line for line in shown(result(), color=True).splitlines() if "5 CNNs " in line]
    assert colored.startswith("\x1b[2m")


def with_images(evaluation: Evaluation, counts: list[tuple[int, int, int]]) -> Evaluation:
    """Set the counts of each class: images, and images that are wrong in the top 1 and in the top 5."""
    classes = [
        replace(class_, images=images, top1=top1, top5=top5)
        for class_, (images, top1, top5) in zip(evaluation.classes, counts, strict=True)
    ]
    pairs = [(0, 1, 3, 4), (1, 2, 3, 5), (5, 6, 2, 20), (4, 0, 2, 10), (3, 0, 1, 9)]
    confusions = [Confusion(label=WNIDS[a], guess=WNIDS[b], images=n, of=total) for a, b, n, total in pairs]
    return replace(evaluation, classes=tuple(classes), confusions=tuple(confusions))


def test_three_worst_classes_and_confusions_are_shown_among_classes_with_five_images():
    counts = [(4, 4, 4), (5, 3, 1), (10, 6, 3), (9, 1, 0), (10, 5, 0), (20, 2, 0), (0, 0, 0)]
    text = shown(with_images(result(), counts))
    worst, confused = text.split("worst classes")[1].split("\nmost confused")
    assert [line.split() for line in worst.strip().splitlines()[1:]] == [
        ["cat", "n00000003", "6", "3", "10"],  # the top-1 error of the bee, and a higher top-5 error
        ["bee", "n00000002", "3", "1", "5"],
        ["eel", "n00000005", "5", "0", "10"],
    ]
    assert [line.split() for line in confused.split("\n\n")[0].splitlines()[1:]] == [
        ["bee", "cat", "3", "5"],
        ["fox", "gnu", "2", "20"],
        ["eel", "ant", "2", "10"],
    ]


def test_below_five_images_per_class_one_line_says_that_classes_are_not_shown():
    text = shown(with_images(result(), [(4, 4, 4)] * 7))
    assert "No class has 5 or more images: worst classes and confusions are not shown.\n" in text
    assert "worst classes  " not in text
    assert "most confused" not in text


def test_classes_with_the_same_name_are_shown_with_wordnet_ids_and_unknown_guesses_as_ids():
    classes = (*CLASSES[:1], ClassName(wnid=WNIDS[1], name="crane, bird"), ClassName(wnid=WNIDS[2], name="crane"))
    evaluation = with_images(result(classes=(*classes, *CLASSES[3:])), [(20, 9, 9)] * 7)
    unknown = Confusion(label=WNIDS[0], guess="n99999999", images=9, of=20)
    text = shown(replace(evaluation, confusions=(unknown, *evaluation.confusions)))
    assert line_of(text, "crane (n00000002)").split()[-4:] == ["crane", "(n00000003)", "3", "5"]
    assert re.search(r"^ant +n99999999 +9 +20$", text, re.MULTILINE)


@pytest.mark.parametrize("width", [40, 80])
def test_notes_on_the_classes_are_the_first_lines(width):
    notes = ("2 of the 7 classes are unknown to the net: [dim]their images count as wrong." + "x" * 30, "Another.")
    evaluation = result()
    noted = replace(evaluation, protocol=replace(evaluation.protocol, notes=notes))
    assert shown(noted, width=width) == "\n".join(notes) + "\n" + shown(evaluation, width=width)


def test_deviations_are_listed_one_per_line():
    assert line_of(shown(result()), "- ") == "- The data is another."
    assert "Deviations" not in shown(result(deviations=()))


def test_one_net_has_no_comparison_and_is_the_headline():
    text = shown(result(names=("only",)), color=True)
    assert "mean of" not in text.lower()
    assert next(line for line in text.splitlines() if "only" in line).startswith("\x1b[1m")


# Names.

HOSTILE = "[red]x[/red] [link=file:///etc]y[/link]"


def test_markup_in_names_is_printed_as_text():
    classes = (*CLASSES[:3], ClassName(wnid="[bold]n4", name="[blink]dog"), *CLASSES[4:])
    hostile = result(names=(HOSTILE, "b"), data="[dim]zoo", classes=classes, deviations=(f"{HOSTILE}: one column.",))
    counts = [(9, 0, 0)] * 3 + [(9, 9, 9)] + [(9, 0, 0)] * 3
    text = shown(replace(with_images(hostile, counts), confusions=()), width=250)
    assert text.count(HOSTILE) == 3  # errors, comparison, deviations
    for name in ("[dim]zoo", "[bold]n4", "[blink]dog"):
        assert name in text


def test_names_cannot_break_lines_or_control_the_terminal():
    evil = "a\nb\x1b]0;title\x07\u202ec"
    hostile = result(names=(evil, "b"), data=evil, deviations=(f"{evil}: x.",), reason=evil)
    quiet = result(names=("c" * 40, "b"), data="d" * 40, deviations=("e" * 40,))
    text = shown(hostile, width=300)
    assert len(text.splitlines()) == len(shown(quiet, width=300).splitlines())
    assert re.search(r"a\\nb", text)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
