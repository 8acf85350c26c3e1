"""What people read of an evaluation: the figures are there, and names are never more than text."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from alexnet_infer.artifact import ClassName, embedded_model, load_manifest
from alexnet_infer.evaluation import paper, tables
from alexnet_infer.evaluation.result import ClassResult, Evaluation, Sample
from tests.evaluation.results import CLASSES, result


def shown(evaluation: Evaluation, *, width: int = 160, color: bool = False) -> str:
    out = io.StringIO()
    tables.render(
        evaluation, Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    )
    return out.getvalue()


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def records(evaluation: Evaluation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.csv(evaluation))))


def test_ours_stand_first_with_intervals_then_the_published():
    lines = shown(result()).splitlines()
    assert lines[0] == "zoo: 8 images of 7 classes"
    assert [line.split("  ")[0] for line in lines[2:5]] == ["first", "second", "mean of 2 nets"]
    assert "50.00 % [21.5, 78.5]" in lines[2]
    assert "62.50 % [30.6, 86.3]" in lines[3]
    assert re.search(r"37\.50 % \[13\.7, 69\.4\] +12\.50 % \[2\.2, 47\.1\]", lines[4])
    assert [line.split("  ")[0] for line in lines[5:9]] == ["1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"]


def test_published_figures_on_other_data_are_marked_and_dim():
    text = shown(result())
    assert re.search(r"^1 CNN +ILSVRC-2012 validation +ten +40\.7 % +18\.2 % +not comparable *$", text, re.MULTILINE)
    assert text.count("not comparable") == len(paper.PUBLISHED)
    (colored,) = [line for line in shown(result(), color=True).splitlines() if "1 CNN " in line]
    assert colored.startswith("\x1b[2m")
    ours = next(line for line in shown(result(), color=True).splitlines() if "mean of 2 nets" in line)
    assert ours.startswith("\x1b[1m")


def test_figures_on_the_same_classes_stand_before_the_others_and_say_what_differs():
    tiny = load_manifest(embedded_model()).classes
    rows = tables.rows(with_classes(result(), tiny))
    assert [row.net for row in rows[3:5]] == ["an AlexNet-like net", "an ensemble"]
    assert {row.note for row in rows[3:5]} == {"other images"}
    assert all(row.comparable for row in rows[:5])
    assert not any(row.comparable for row in rows[5:])


def with_classes(evaluation: Evaluation, classes: tuple[ClassName, ...], images: int | None = None) -> Evaluation:
    empty = [ClassResult(wnid=one.wnid, name=one.name, images=0, top1=0, top5=0) for one in classes]
    data = replace(evaluation.data, images=images or evaluation.data.images)
    return replace(evaluation, classes=tuple(empty), data=data)


@pytest.mark.parametrize(
    ("views", "images", "sample", "papers", "caffes"),
    [
        ("ten", 50_000, None, "", "other views"),
        ("center", 50_000, None, "other views", ""),
        ("ten", 500, Sample(images=500, of=50_000), "", "other views"),
        ("center", 10_000, None, "other images, other views", "other images"),
    ],
)
def test_on_ilsvrc_the_notes_say_what_keeps_figures_apart(monkeypatch, views, images, sample, papers, caffes):
    for module in (paper, tables):
        monkeypatch.setattr(module, "identify", lambda wnids: "ILSVRC-2012")
    rows = tables.rows(with_classes(result(views=views, sample=sample), CLASSES, images))
    notes = {(row.data, row.net): row.note for row in rows}
    assert notes["ILSVRC-2012 validation", "5 CNNs"] == papers
    assert notes["ILSVRC-2012 validation", "BVLC AlexNet"] == caffes
    assert notes["ILSVRC-2012 test", "5 CNNs"].startswith("other images")
    assert notes["ILSVRC-2010 test", "CNN"] == notes["Tiny ImageNet test", "an ensemble"] == "not comparable"


def test_below_stand_pairs_calibration_classes_confusions_and_deviations():
    text = shown(result())
    assert re.search(r"^second +top-1 +-25\.00 +\[-62\.50, \+0\.00\] +0 +2 +0\.5 *$", text, re.MULTILINE)
    assert re.search(r"^Expected calibration error \(15 bins\): 11\.43 %", text, re.MULTILINE)
    assert line_of(text, "dog").split() == ["dog", "n00000004", "1", "1", "2"]
    assert line_of(text, "bee (n00000002)").split() == ["bee", "(n00000002)", "ant", "(n00000001)", "1", "2"]
    assert "1 of the 8 images can't be read" in text
    assert line_of(text, "- ") == "- The data is another."


def test_worst_classes_are_five_at_most_and_only_those_that_have_images():
    lines = shown(result()).split("Worst classes")[1].split("Most confused")[0].strip().splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["dog", "bee", "cat", "ant"]  # worst first, by top-5 among equals


def test_one_net_has_no_pairs_and_is_the_headline():
    text = shown(result(names=("only",)), color=True)
    assert "mean of" not in text.lower()
    assert next(line for line in text.splitlines() if "only" in line).startswith("\x1b[1m")


def test_a_faultless_result_has_neither_confusions_nor_deviations():
    text = shown(replace(result(deviations=()), confusions=()))
    assert "Most confused" not in text
    assert "Unlike the paper" not in text


def test_a_sample_says_of_how_many():
    text = shown(result(sample=Sample(images=8, of=80)))
    assert text.count("8 of 80 images") == 3  # both nets and their mean
    assert "8 of" not in shown(result())


HOSTILE = "[red]x[/red] [link=file:///etc]y[/link]"


def test_markup_in_names_is_shown_as_it_stands():
    classes = (*CLASSES[:3], ClassName(wnid="[bold]n4", name="[blink]dog"), *CLASSES[4:])
    deviations = (f"{HOSTILE}: one column.",)
    text = shown(result(names=(HOSTILE, "b"), data="[dim]zoo", classes=classes, deviations=deviations), width=250)
    assert text.count(HOSTILE) == 3  # headline, pairs, deviations
    for name in ("[dim]zoo", "[bold]n4", "[blink]dog"):
        assert name in text


def test_names_can_neither_break_lines_nor_reach_the_terminal():
    evil = "a\nb\x1b]0;title\x07\u202ec"
    hostile = result(names=(evil, "b"), data=evil, deviations=(f"{evil}: x.",), reason=evil)
    quiet = result(names=("c" * 40, "b"), data="d" * 40, deviations=("e" * 40,))
    text = shown(hostile, width=300)
    assert len(text.splitlines()) == len(shown(quiet, width=300).splitlines())
    for form in (text, tables.csv(hostile), tables.markdown(hostile)):
        assert re.search(r"a\\+nb", form)
        assert not {"\x1b", "\x07", "\u202e"} & set(form)
    assert len(records(hostile)) == len(records(quiet))


def test_csv_has_the_headline_rows_and_only_published_digits():
    rows = records(result())
    assert list(rows[0]) == [
        "net", "data", "views", "images", "top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high", "note",
        "source", "trained_on",
    ]  # fmt: skip
    assert len(rows) == 3 + len(paper.PUBLISHED)
    assert list(rows[2].values())[:7] == ["mean of 2 nets", "zoo", "ten", "8", "37.50", "13.68", "69.43"]
    starred = next(row for row in rows if row["net"] == "1 CNN*")
    assert (starred["top1"], starred["top1_low"], starred["top5"], starred["images"]) == ("39.0", "", "16.6", "")
    assert starred["source"] == "the paper, table 2"
    assert "2011" in starred["trained_on"]


def test_csv_keeps_commas_and_quotes_and_gives_spreadsheets_no_formula():
    rows = records(result(names=('a, "b"', '=HYPERLINK("x")'), data="@zoo"))
    assert rows[0]["net"] == 'a, "b"'
    assert rows[1]["net"] == '\'=HYPERLINK("x")'
    assert rows[0]["data"] == "'@zoo"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_the_same_rows():
    lines = tables.markdown(result()).splitlines()
    assert cells(lines[0])[:5] == ["net", "data", "views", "top-1 error", "top-5 error"]
    assert set(lines[1]) == {"|", "-"}
    body = lines[2 : 2 + 3 + len(paper.PUBLISHED)]
    assert {len(cells(line)) for line in (*lines[:2], *body)} == {7}
    assert cells(body[2])[:4] == ["mean of 2 nets", "zoo", "ten", "37.50 % \\[13.7, 69.4\\]"]
    assert cells(body[5])[0] == "1 CNN\\*"


def test_markdown_escapes_pipes_links_and_html():
    lines = tables.markdown(result(names=("a|b\\", "[x](javascript:1)<b>"))).splitlines()
    assert cells(lines[2])[0] == "a\\|b\\\\"
    assert cells(lines[3])[0] == "\\[x\\](javascript:1)\\<b\\>"
    assert len(cells(lines[2])) == len(cells(lines[3])) == 7
