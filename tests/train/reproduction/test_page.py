"""REPRODUCTION.md from made records: its table, its sentences, its links and its commands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import BackendError
from tests.train.reproduction.made import IMAGES, PLAN, Folder, both, mask, neighbors
from train.reproduction import figures
from train.reproduction.command_lines import command, row_commands
from train.reproduction.page import MINUS, NAMES, page
from train.reproduction.plan import Mean, Training
from train.reproduction.publish import ABLATIONS, CURVES, write_page
from train.reproduction.request import Request

QUARTER = [row.name for row in PLAN.rows if PLAN.runs_of(row, PLAN.scales["quarter"])]


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "reproduction")


@pytest.fixture
def full(folder) -> Folder:
    """Records of every row at the scales quarter and bundled. The net without LRN is much worse than the paper's."""
    shares = {"paper": 0.3, "no-lrn": 0.95, "pool-2": 0.05}
    for scale in ("quarter", "bundled"):
        for seed, row in enumerate(PLAN.rows):
            if PLAN.runs_of(row, PLAN.scales[scale]):
                folder.add_row(row.name, scale, seed, shares)
    return folder


def table(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins so."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {head}"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line[1:-1].split(" |")])
    return rows


def section(text: str, title: str) -> str:
    """Return the section of a row, with each paragraph on one line."""
    blocks = text.split(f"\n## {title}\n")[1].split("\n## ")[0].split("\n\n")
    return "\n\n".join(b if b.startswith(("|", "```")) else b.strip("\n").replace("\n", " ") for b in blocks)


def signed(fraction: float) -> str:
    """Return a fraction in points, as the page writes it."""
    return f"{100 * fraction:+.2f}".replace("-", MINUS)


def test_every_row_is_in_the_table_once_per_scale_or_not_run_yet(full):
    cells = table(full.page(), "claim")
    found = [(re.sub(r"\[(.*)\]\(.*\)", r"\1", row[0]), row[4]) for row in cells]
    expected = []
    for row in PLAN.rows:
        scales = [
            name for name in PLAN.scales if name in ("quarter", "bundled") and PLAN.runs_of(row, PLAN.scales[name])
        ]
        expected += [(row.title, scale) for scale in scales or [""]]
    assert found == expected
    assert all(len(row) == 6 for row in cells)


def test_without_records_every_row_is_in_the_table_and_has_a_section_that_says_not_run_yet(folder):
    text = folder.page()
    cells = table(text, "claim")
    assert [row[0].split("]")[0][1:] for row in cells] == [row.title for row in PLAN.rows]
    assert {row[5] for row in cells} == {"not run yet"}
    for row in PLAN.rows:
        assert "Not run yet." in section(text, row.title)
        assert row.claim in section(text, row.title)
    assert "![" not in text


def test_the_papers_figures_are_those_of_the_plan(folder):
    cells = {row[0].split("]")[0][1:]: row for row in table(folder.page(), "claim")}
    assert cells["LRN"][1:3] == ["3.3", "1.4 / 1.2"]
    assert cells["Colour noise"][2] == "more than 1"
    assert cells["Dropout"][2] == "no figure"


def test_verdicts_are_those_of_the_intervals(full):
    cells = {(row[0].split("]")[0][1:], row[4]): row for row in table(full.page(), "claim")}
    seen = set()
    for result in full.rows:
        if not result.done or result.row.measure == "color":
            continue
        word, shown = cells[result.row.title, result.scale.title][5], cells[result.row.title, result.scale.title][3]
        name = result.row.decisive
        decisive = result.figures.get(name)
        if decisive is None:
            assert (word, shown) == ("too few seeds", "")
            continue
        ends = f"{signed(decisive.low)} to {signed(decisive.high)}"
        assert shown == f"{NAMES[name]} {signed(decisive.value)} ({ends})"
        agrees, disagrees = decisive.low > 0, decisive.high < 0
        expected = "agrees" if agrees else "disagrees" if disagrees else "undecided"
        if result.row.name in ("one-column", "pre-training"):
            expected = "no claim"
        assert word == expected
        seen.add(word)
    assert cells["LRN", "quarter"][5] == "agrees"
    assert cells["Overlapping pooling", "quarter"][5] == "disagrees"
    assert {"agrees", "disagrees", "undecided", "no claim"} <= seen


def test_a_row_without_a_claim_has_no_verdict_in_its_sentence_either(full):
    text = full.page()
    for name in ("one-column", "pre-training"):
        assert "agrees with the paper" not in section(text, PLAN.row(name).title)


def test_the_figures_in_a_sentence_are_those_of_the_records(folder):
    for run, counts in {"paper": (10, 12), "no-lrn": (20, 24)}.items():
        for seed, count in enumerate(counts):
            folder.add(Training("quarter", run, seed), both(mask(range(count)), mask(range(count // 2))))
    part = section(folder.page(), "LRN")
    top1, top5 = (folder.of("lrn", "quarter").figures[name] for name in ("top1", "top5"))
    sentence = next(line for line in part.splitlines() if line.startswith("At the scale"))
    ours = [
        f"{name} {signed(i.value)} ({signed(i.low)} to {signed(i.high)})"
        for name, i in (("top-1", top1), ("top-5", top5))
    ]
    assert sentence.startswith(f"At the scale quarter, on {IMAGES} images, in points: {', '.join(ours)}. ")
    assert ours[0].startswith("top-1 +27.50 (")  # (20 + 24 - 10 - 12) / 2 of 40 images
    inside = top1.low <= 0.014 <= top1.high
    word = "includes" if inside else "does not include"
    assert sentence.endswith(f" (top-1); the interval {word} the paper's 1.4 points.")
    errors = table(part, "scale")
    assert errors[0] == ["quarter", "the paper's net", "1,234,567", "2", "27.50 % / 13.75 %", "27.50 %"]
    assert errors[1] == ["quarter", "without LRN", "1,234,567", "2", "55.00 % / 27.50 %", "55.00 %"]


def test_tables_have_as_many_cells_in_each_row_as_in_the_head(full):
    width = 0
    for line in full.page().splitlines():
        cells = line.count("|") if line.startswith("|") else 0
        assert not (cells and width) or cells == width, line
        width = cells


def test_rows_of_overfitting_show_the_errors_on_training_images_and_the_gap(full):
    part = section(full.page(), "Dropout")
    assert "training images, top-1" in part
    gap = full.of("dropout", "quarter").figures["gap"]
    assert f"gap between validation and training error {signed(gap.value)} ({signed(gap.low)}" in part
    assert "training images, top-1" not in section(full.page(), "LRN")


def test_two_nets_too_few_for_an_interval_are_shown_with_their_errors(folder):
    folder.add_row("views", "quarter")
    part = section(folder.page(), PLAN.row("views").title)
    assert f"At the scale quarter, on {IMAGES} images: there are too few seeds for an interval." in part
    assert len(table(part, "scale")) == 1


def test_colours_are_judged_within_each_scale_and_over_all_of_them(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask([1])), color=(0.9, 0.1))
    for scale, seeds in (("quarter", 2), ("half", 3)):
        for run, color in (("paper", (0.1, 0.7)), ("one-column", (0.5, 0.4))):
            for seed in range(seeds):
                folder.add(Training(scale, run, seed), both(mask([1])), color=color)
    text = folder.page()
    title = PLAN.row("color-columns").title
    part = section(text, title)
    assert "the columns of every net with two differ more" in part
    cells = [row for row in table(text, "claim") if title in row[0]]
    assert {row[4]: (row[3], row[5]) for row in cells} == {
        "bundled": ("shares differ by 80 to 80", "undecided"),
        "quarter": ("shares differ by 60 to 60", "undecided"),
        "half": ("shares differ by 60 to 60", "undecided"),
    }, "one of 6 and one of 20 cases"
    assert len(table(part, "scale")) == 15


def test_lines_of_text_are_at_most_120_characters_wide(full):
    text = re.sub(r"^```.*?^```$", "", full.page(), flags=re.M | re.S)
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_links_of_the_table_go_to_headings_by_githubs_rule(full):
    text = full.page()
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len({*anchors}) == len(anchors)
    targets = re.findall(r"\]\(#([^)]*)\)", text)
    assert targets
    assert {*targets} <= {*anchors}


def test_pictures_are_shown_with_their_captions(folder):
    text = page(PLAN, folder.rows, {"a/b.svg": "What it shows"})
    assert text.count("![What it shows](a/b.svg)") == 1


def test_the_page_has_no_empty_lines_in_tables_no_doubled_lines_and_ends_with_one(full, folder):
    for text in (full.page(), Folder(folder.path / "none").page()):
        assert "\n\n\n" not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert not re.search(r"[ \t]$", text, re.M)
        assert "None" not in text
        assert "nan" not in re.findall(r"\w+", text)


def test_the_same_records_give_the_same_page(full):
    assert full.page() == full.page()


@pytest.mark.parametrize("row", PLAN.rows, ids=lambda row: row.name)
def test_the_commands_of_a_row_pack_each_part_and_train_each_net_once(row):
    scale, lines = row_commands(PLAN, row)
    if row.name == "relu":
        assert lines[0] == "python -m train prepare tiny-imagenet --out packed-ten --image-size 32 --classes ::20"
    else:
        assert scale.title == "full"
        assert lines[0] == "python -m train prepare ILSVRC2012 --out packed --image-size 256"
    assert len({*lines}) == len(lines)
    lines = [line for line in lines if not line.startswith(("alexnet-infer eval ", "python -m train plot "))]
    outs = [re.search(r"--out (\S+)", line)[1] for line in lines]
    for line, sources in zip(lines, range(len(lines)), strict=True):
        for name in re.findall(r"--init-from runs/([^/]+)/", line):
            assert f"runs/{name}" in outs[:sources], "trained before"
    assert lines[0].split()[6] in {word for line in lines[1:] for word in re.findall(r"--data (\S+)", line)}
    runs = {run for run in (row.net, row.against) if run}
    assert {out.removeprefix("runs/").rsplit("-", 1)[0] for out in outs[1:]} >= runs


def test_every_data_folder_that_a_command_uses_is_explained_or_packed_by_another_command():
    for row in PLAN.rows:
        lines = [line for line in row_commands(PLAN, row)[1] if not line.startswith("alexnet-infer eval ")]
        packed = {word for line in lines if " prepare " in line for word in re.findall(r"--out (\S+)", line)}
        used = {word for line in lines for word in re.findall(r"--data (\S+)", line)}
        assert used <= packed, row.name


def test_commands_of_the_page_are_those_of_the_full_scale(folder):
    part = section(folder.page(), "LRN")
    for run in ("paper", "no-lrn"):
        assert command(PLAN, Training("full", run, 0)) in part.splitlines()


def request(folder: Folder) -> Request:
    return Request(plan=PLAN, scale="quarter", results=folder.path)


def test_writing_the_page_writes_it_beside_the_results_with_its_pictures(full):
    pytest.importorskip("matplotlib")
    written = write_page(request(full))
    assert written == full.path.parent / "REPRODUCTION.md"
    text = written.read_text(encoding="utf-8")
    for name in (ABLATIONS, CURVES):
        assert text.count(f"(reproduction/{name})") == 1
        assert (written.parent / "reproduction" / name).is_file()
    assert re.sub(r"!\[.*\n\n", "", text) == full.page()
    assert "runs at the scale quarter](reproduction/curves.svg)" in text


def test_without_matplotlib_the_page_is_written_without_pictures_and_old_ones_are_removed(full, monkeypatch, capsys):
    def missing(*arguments: object) -> None:
        raise BackendError("figures needs matplotlib: pip install matplotlib")

    monkeypatch.setattr(figures, "ablations", missing)
    (full.path / "curves.svg").write_bytes(b"old")
    written = write_page(request(full))
    assert written.read_text(encoding="utf-8") == full.page()
    assert not (full.path / "curves.svg").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_page_without_any_records_is_written_to_a_new_folder(folder):
    written = write_page(request(folder))
    assert written.read_text(encoding="utf-8") == folder.page()
    assert [path.name for path in folder.path.iterdir()] == []


def test_a_page_can_be_written_with_results_in_the_current_folder(full, monkeypatch):
    monkeypatch.chdir(full.path)
    here = Request(plan=PLAN, scale="quarter", results=Path())
    assert here.page.resolve() == full.path.parent / "REPRODUCTION.md"


def test_neighbours_have_their_table_and_sentence(folder):
    for seed in range(3):
        folder.add(Training("half", "paper", seed), both(mask([1])), neighbors=neighbors((6, 3), (1, 0)))
    part = section(folder.page(), PLAN.row("neighbors").title)
    assert table(part, "scale")[0] == ["half", "0", "75.0 %", "8.3 %", "3,000, 2,000, 4,000"]
    assert "in points: neighbours of the same class +66.67 (" in part


def test_an_ensemble_has_its_sentence(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask(range(10 + seed))))
    folder.add(Mean("bundled"), both(mask(range(6))))
    value = np.mean([10, 11, 12, 13, 14]) / IMAGES - 6 / IMAGES
    assert f"top-1 {signed(value)} (" in section(folder.page(), PLAN.row("five").title)
