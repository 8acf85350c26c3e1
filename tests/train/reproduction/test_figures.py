"""The pictures of the page: SVG that is XML, is the same each time, and shows the figures of the records."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from alexnet_infer.errors import BackendError
from tests.train.reproduction.made import PLAN, Folder, both, curve, mask
from train.reproduction import figures
from train.reproduction.plan import Training

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    for seed, name in enumerate(("lrn", "pooling", "patches")):
        folder.add_row(name, "quarter", seed)
    return folder


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")


def texts(svg: bytes) -> list[str]:
    """Return the texts of an SVG file. Raises if it is not XML."""
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_ablations_are_an_svg_with_the_title_of_each_row_once(folder, matplotlib):
    svg = figures.ablations(folder.rows)
    assert svg is not None
    shown = texts(svg)
    for name in ("lrn", "pooling", "patches"):
        assert shown.count(f"{PLAN.row(name).title} (quarter)") == 1
    assert shown.count("measured, 95 % interval") == shown.count("paper") == 1
    assert not [text for text in shown if "Dropout" in text], "it has no figures"


def test_the_curves_are_an_svg_with_the_title_of_each_run_once(folder, matplotlib):
    svg = figures.curves(PLAN, folder.results, "quarter")
    assert svg is not None
    for run in ("paper", "no-lrn", "pool-2", "one-view"):
        assert texts(svg).count(PLAN.runs[run].title) == 1
    assert PLAN.runs["no-dropout"].title not in texts(svg)


def test_pictures_are_the_same_for_the_same_records_byte_for_byte(folder, matplotlib, monkeypatch):
    def both_pictures() -> tuple[bytes | None, bytes | None]:
        return figures.ablations(folder.rows), figures.curves(PLAN, folder.results, "quarter")

    first = both_pictures()
    matplotlib.rcParams["axes.facecolor"] = "red"  # of the user
    try:
        assert both_pictures() == first
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    finally:
        matplotlib.rcdefaults()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert both_pictures() == first
    assert not any(b"<dc:date>" in (picture or b"") for picture in first)


def test_other_records_give_other_pictures(folder, matplotlib):
    before = figures.ablations(folder.rows), figures.curves(PLAN, folder.results, "quarter")
    task = Training("quarter", "no-lrn", 0)
    folder.add(task, both(mask(range(39))), curve=curve((0.9, 0.8)))
    assert figures.ablations(folder.rows) != before[0]
    assert figures.curves(PLAN, folder.results, "quarter") != before[1]


def test_without_records_there_is_no_picture_and_no_need_of_matplotlib(tmp_path, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.style"):
        monkeypatch.setitem(sys.modules, module, None)
    empty = Folder(tmp_path / "none")
    assert figures.ablations(empty.rows) is None
    assert figures.curves(PLAN, empty.results, "quarter") is None


def test_a_missing_matplotlib_is_one_line_that_names_the_package(folder, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.style"):
        monkeypatch.setitem(sys.modules, module, None)
    for draw in (lambda: figures.ablations(folder.rows), lambda: figures.curves(PLAN, folder.results, "quarter")):
        with pytest.raises(BackendError, match=r"figures needs? matplotlib.*: pip install") as caught:
            draw()
        assert "\n" not in str(caught.value)


def test_importing_the_module_and_the_page_loads_neither_matplotlib_nor_torch():
    code = (
        "import sys, train.reproduction.figures, train.reproduction.page, train.reproduction.publish; "
        "sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_curves_of_runs_of_other_lengths_are_averaged_where_all_have_values(folder, matplotlib):
    task = Training("quarter", "paper", 1)
    folder.add(task, both(mask([1])), curve=curve((0.9,)))
    svg = figures.curves(PLAN, folder.results, "quarter")
    assert svg is not None
    assert texts(svg)


def test_an_interval_without_width_is_drawn(tmp_path, matplotlib):
    folder = Folder(tmp_path / "same")
    for run in ("paper", "no-lrn"):
        for seed in (0, 1):
            folder.add(Training("quarter", run, seed), both(np.zeros(40, bool)))
    assert folder.of("lrn", "quarter").figures["top1"].low == 0
    assert figures.ablations(folder.rows)


def test_the_curves_of_relu_and_tanh_are_those_of_each_seed_by_updates(tmp_path, matplotlib, monkeypatch):
    folder, row, drawn = Folder(tmp_path / "two"), PLAN.row("relu"), []
    plot = matplotlib.axes.Axes.plot

    def noted(axes, x, y, *more, **look):
        drawn.append((x, y))
        return plot(axes, x, y, *more, **look)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", noted)
    assert figures.speed(PLAN, folder.results, row, "four-layer") is None
    for run, errors in (("relu", (0.5, 0.25)), ("tanh", (0.75, 0.5))):
        for seed in (0, 1, 2):
            folder.add(Training("four-layer", run, seed), both(mask([1])), curve=curve(errors, 40))
    svg = figures.speed(PLAN, folder.results, row, "four-layer")
    assert svg is not None
    assert {"ReLU", "tanh", "updates"} <= {*texts(svg)}
    assert drawn == [([20, 60], [50, 25])] * 3 + [([20, 60], [75, 50])] * 3


def test_numbers_in_a_picture_are_finite(folder, matplotlib):
    for svg in (figures.ablations(folder.rows), figures.curves(PLAN, folder.results, "quarter")):
        assert svg is not None
        assert not re.search(rb'"[^"]*\b(nan|inf)\b[^"]*"', svg)
