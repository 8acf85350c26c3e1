"""Rows of errors, the published rows that follow them, and CSV and Markdown. Names from files are plain text."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.evaluation import paper, tables
from alexnet_infer.evaluation.paper import PUBLISHED
from alexnet_infer.evaluation.result import ClassResult, Evaluation, Sample
from alexnet_infer.manifest import ClassName
from alexnet_infer.output import no_markdown
from tests.evaluation.results import CLASSES, result

ILSVRC, TEST = "ILSVRC-2012 validation", "ILSVRC-2012 test"


def records(evaluation: Evaluation, references: tables.References = "all") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.csv(evaluation, references))))


def with_classes(evaluation: Evaluation, classes: tuple[ClassName, ...], images: int | None = None) -> Evaluation:
    empty = [ClassResult(wnid=named.wnid, name=named.name, images=0, top1=0, top5=0) for named in classes]
    data = replace(evaluation.data, images=images or evaluation.data.images)
    return replace(evaluation, classes=tuple(empty), data=data)


@pytest.fixture
def ilsvrc(monkeypatch) -> None:
    """Identify the tests' classes as those of ILSVRC-2012."""
    for module in (paper, tables):
        monkeypatch.setattr(module, "identify", lambda wnids: "ILSVRC-2012")


def published(evaluation: Evaluation, references: tables.References = "near") -> list[tuple[str, str]]:
    return [(row.data, row.net) for row in tables.rows(evaluation, references) if row.images is None]


# The choice of published rows.


def test_the_runs_rows_are_first_and_all_published_rows_follow_on_request():
    rows = tables.rows(result(), "all")
    assert [row.net for row in rows[:3]] == ["first", "second", "mean of 2 nets"]
    assert [(row.data, row.net) for row in rows[3:]] == [(row.data, row.net) for row in PUBLISHED]
    assert not any(row.comparable for row in rows[3:])


@pytest.mark.parametrize(
    ("names", "views", "expected"),
    [
        (["a"], "ten", [(ILSVRC, "1 CNN"), (ILSVRC, "1 CNN*"), (ILSVRC, "5 CNNs")]),
        (["a", "b"], "ten", [(ILSVRC, "5 CNNs"), (ILSVRC, "7 CNNs*"), (ILSVRC, "1 CNN")]),
        (["a"], "center", [(ILSVRC, "BVLC AlexNet"), (ILSVRC, "1 CNN"), (ILSVRC, "1 CNN*")]),
    ],
)
@pytest.mark.usefixtures("ilsvrc")
def test_on_ilsvrc_the_nearest_rows_prefer_the_same_views_and_kind_of_net(names, views, expected):
    assert published(with_classes(result(names=tuple(names), views=views), CLASSES, 50_000)) == expected


@pytest.mark.parametrize(
    ("names", "expected"), [(["a"], ["AlexNet-like", "ensemble"]), (["a", "b"], ["ensemble", "AlexNet-like"])]
)
def test_on_tiny_imagenet_only_its_own_rows_are_near(names, expected):
    tiny = load_manifest(embedded_model()).classes
    evaluation = with_classes(result(names=tuple(names)), tiny)
    assert published(evaluation) == [("Tiny ImageNet test", net) for net in expected]
    rows = tables.rows(evaluation, "all")[len(names) + (len(names) > 1) :]
    assert [row.note for row in rows] == ["other images"] * 2 + ["not comparable"] * (len(PUBLISHED) - 2)
    assert [row.comparable for row in rows] == [True] * 2 + [False] * (len(PUBLISHED) - 2)


@pytest.mark.parametrize(
    ("names", "views", "expected"),
    [
        (["a"], "ten", (ILSVRC, "1 CNN")),
        (["a", "b"], "ten", (ILSVRC, "5 CNNs")),
        (["a"], "center", ("ILSVRC-2010 test", "CNN, one view")),
    ],
)
def test_for_other_classes_one_row_is_near_and_marked_as_not_comparable(names, views, expected):
    evaluation = result(names=tuple(names), views=views)
    assert published(evaluation) == [expected]
    assert tables.rows(evaluation)[-1].note == "not comparable"


@pytest.mark.parametrize(
    ("views", "images", "sample", "papers", "caffes"),
    [
        ("ten", 50_000, None, "", "other views"),
        ("center", 50_000, None, "other views", ""),
        ("ten", 500, Sample(images=500, of=50_000), "", "other views"),
        ("center", 10_000, None, "other images, views", "other images"),
    ],
)
@pytest.mark.usefixtures("ilsvrc")
def test_on_ilsvrc_the_notes_list_what_differs(views, images, sample, papers, caffes):
    rows = tables.rows(with_classes(result(views=views, sample=sample), CLASSES, images), "all")
    notes = {(row.data, row.net): row.note for row in rows}
    assert notes[ILSVRC, "5 CNNs"] == papers
    assert notes[ILSVRC, "BVLC AlexNet"] == caffes
    assert notes[TEST, "5 CNNs"].startswith("other images")
    assert notes["ILSVRC-2010 test", "CNN"] == notes["Tiny ImageNet test", "ensemble"] == "not comparable"


def test_a_sample_is_noted_with_the_size_of_its_set():
    rows = tables.rows(result(sample=Sample(images=8, of=80)))
    assert [row.note for row in rows[:3]] == ["8 of 80 images"] * 3
    assert tables.rows(result())[0].note == ""


# The verdict.

VERDICTS = {
    ("better", "better"): "significantly better in top-1 and top-5 error.",
    ("undecided", "undecided"): "not significantly better in top-1 or top-5 error.",
    ("better", "undecided"): "significantly better in top-1 error and not significantly better in top-5 error.",
    ("undecided", "worse"): "not significantly better in top-1 error and significantly worse in top-5 error.",
}


@pytest.mark.parametrize("verdicts", VERDICTS)
def test_the_verdict_on_both_errors_is_one_sentence(verdicts):
    against = result().against_best
    pairs = {
        "better": replace(against.top1, low=-0.02, high=-0.01, p=0.001),
        "undecided": replace(against.top1, low=-0.02, high=0.01, p=0.3),
        "worse": replace(against.top1, low=0.01, high=0.02, p=0.001),
    }
    top1, top5 = (pairs[name] for name in verdicts)
    assert tables.verdict(replace(against, top1=top1, top5=top5)) == f"The mean is {VERDICTS[verdicts]}"


# CSV and Markdown.


@pytest.mark.parametrize(("references", "count"), [("near", 1), ("all", len(PUBLISHED))])
def test_csv_and_markdown_have_the_rows_of_the_table(references, count):
    assert len(records(result(), references)) == 3 + count
    body = [line for line in tables.markdown(result(), references).splitlines()[2:] if line.startswith("|")]
    assert len(body) == 3 + count


def test_csv_has_only_the_published_digits():
    rows = records(result())
    assert list(rows[0]) == [
        "net", "data", "views", "images", "top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high", "note",
        "source", "trained_on",
    ]  # fmt: skip
    assert list(rows[2].values())[:7] == ["mean of 2 nets", "zoo", "ten", "8", "37.50", "13.68", "69.43"]
    starred = next(row for row in rows if row["net"] == "1 CNN*")
    assert (starred["top1"], starred["top1_low"], starred["top5"], starred["images"]) == ("39.0", "", "16.6", "")
    assert starred["source"] == "the paper, table 2"
    assert "2011" in starred["trained_on"]


def test_csv_keeps_commas_and_quotes_and_escapes_formulas():
    rows = records(result(names=('a, "b"', '=HYPERLINK("x")'), data="@zoo"))
    assert rows[0]["net"] == 'a, "b"'
    assert rows[1]["net"] == '\'=HYPERLINK("x")'
    assert rows[0]["data"] == "'@zoo"


NOTES = ("2 of the 7 classes are unknown | to the net.", "3 of the net's 9 classes are not in the data.")


def noted(**settings: object) -> Evaluation:
    evaluation = result(**settings)
    return replace(evaluation, protocol=replace(evaluation.protocol, notes=NOTES))


def test_csv_has_the_notes_on_the_classes_in_the_rows_of_the_run_only():
    rows = list(csv.DictReader(io.StringIO(tables.csv(noted(sample=Sample(images=8, of=80)), "all"))))
    expected = "; ".join(["8 of 80 images", *(note.removesuffix(".") for note in NOTES)])
    assert [row["note"] for row in rows[:3]] == [expected] * 3
    assert not [row for row in rows[3:] if "classes" in row["note"]]


def test_markdown_has_the_notes_on_the_classes_before_the_table():
    before, table, after = tables.markdown(noted()).partition("| net |")
    assert before == f"{NOTES[0].replace('|', chr(92) + '|')}\n\n{NOTES[1]}\n\n"
    assert table + after == tables.markdown(result())


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_seven_columns_and_explains_the_star_if_there_is_one():
    text = tables.markdown(result(), "all")
    lines = text.splitlines()
    assert cells(lines[0])[:5] == ["net", "data", "views", "top-1 error", "top-5 error"]
    assert set(lines[1]) == {"|", "-"}
    body = lines[2 : 2 + 3 + len(PUBLISHED)]
    assert {len(cells(line)) for line in (*lines[:2], *body)} == {7}
    assert cells(body[2])[:4] == ["mean of 2 nets", "zoo", "ten", "37.50 % \\[13.7, 69.4\\]"]
    assert cells(body[5])[0] == "1 CNN\\*"
    assert "a sixth convolution" in text
    assert "a sixth convolution" not in tables.markdown(result(names=("a*", "b")))


def test_markdown_escapes_pipes_links_and_html():
    lines = tables.markdown(result(names=("a|b\\", "[x](javascript:1)<b>"))).splitlines()
    assert cells(lines[2])[0] == "a\\|b\\\\"
    assert cells(lines[3])[0] == "\\[x\\](javascript:1)\\<b\\>"
    assert len(cells(lines[2])) == len(cells(lines[3])) == 7


def test_names_cannot_break_rows_or_control_the_terminal():
    evil = "a\nb\x1b]0;title\x07\u202ec"
    hostile, quiet = result(names=(evil, "b"), data=evil), result()
    for form in (tables.csv, tables.markdown):
        text = form(hostile)
        assert re.search(r"a\\+nb", text)
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert len(text.splitlines()) == len(form(quiet).splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b`c`<d>&e", r"a\|b\`c\`\<d\>\&e"),
        ("_x_ snake_case __y__", r"\_x\_ snake_case \_\_y\_\_"),
        ("~~x~~ *y* [z](u)", r"\~\~x\~\~ \*y\* \[z\](u)"),
        (":smile: 1:2: http://x", r"\:smile: 1\:2: http://x"),
        ("a\x1b\nb", r"a\\x1b\\nb"),
    ],
)
def test_markdown_shows_a_name_as_it_is(text, expected):
    assert no_markdown(text) == expected
