"""Curves of runs: their data, checked by hand, and the picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import BackendError, UnreadableInputError, UsageError
from train.log import LOG_NAME, RunLog
from train.plot import HEIGHT, WIDTH, _draw, _smoothed, curves, distinct_names, plot

FIRST, SECOND, THIRD = (31, 119, 180), (255, 127, 14), (44, 160, 44)
"""The first colours of matplotlib's tab10."""


def run(folder: Path, epochs: int = 4, loss: float = 5.0, steps: int = 40, more: int = 0, **figures: float) -> Path:
    """Log a run of `epochs` epochs and `more` steps, every tenth step. Its figures fall as 1 / time."""
    folder.mkdir(parents=True)
    log = RunLog(folder, steps, every=10)
    log.start((0, 0), {}, {})
    errors: list[float] = []
    for epoch in range(epochs + 1):
        for step in range(1, 1 + (steps if epoch < epochs else more)):
            value = 1 / (1 + epoch + step / steps)
            figure = {"loss": loss * value, "top1_error": value, "lr": 0.01 * value}
            figure |= {"images_per_second": 100.0, "grad_norm": value}
            log.on_step(SimpleNamespace(epoch=epoch, step=step, **(figure | figures)))
        if epoch < epochs:
            errors.append(1 / (epoch + 2))
            top5 = [error / 2 for error in errors]
            log.on_epoch(SimpleNamespace(epoch=epoch + 1, errors=errors, top5=top5, seconds=9.0 * (epoch + 1)))
    log.close("finished")
    return folder


def pixels(path: Path) -> np.ndarray:
    """Return [height, width, 3], 0..255."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def share(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((picture == color).all(-1).mean())


@pytest.fixture
def drawn(tmp_path):
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "alexnet-infer[plot]"')

    def drawn(*runs: Path) -> np.ndarray:
        plot(runs, tmp_path / "out.png")
        return pixels(tmp_path / "out.png")

    return drawn


# The data.


def test_the_curves_of_a_log_by_hand(tmp_path):
    records = [
        {"event": "start", "epoch": 0, "step": 0, "steps_per_epoch": 10},
        *(
            {"event": "step", "epoch": epoch, "step": step, "steps": count, "loss": loss, "top1_error": error}
            | {"lr": 0.5, "images_per_second": None, "grad_norm": 2, "grad_norm_max": 3}
            for epoch, step, count, loss, error in (
                (0, 2, 2, 8.0, 1.0),
                (0, 4, 2, 6.0, 0.75),
                (0, 8, 4, None, None),
                (0, 9, 1, 3.0, 0.5),
            )
        ),
        {"event": "epoch", "epoch": 1, "top1_error": 0.75, "top5_error": 0.5, "seconds": 60},
        {"event": "start", "epoch": 1, "step": 0, "steps_per_epoch": 10},
        {"event": "step", "epoch": 1, "step": 1, "steps": 3, "loss": 1.0, "top1_error": 0.25}
        | {"lr": 0.25, "images_per_second": 99.5, "grad_norm": None, "grad_norm_max": None},
    ]
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / LOG_NAME).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    table = curves(folder)
    assert table == {
        "run": "net",
        "train": {
            "epoch": pytest.approx([0.2, 0.4, 0.8, 0.9, 1.1]),
            "loss": [8.0, 6.0, None, 3.0, 1.0],
            # Means within a quarter of an epoch, weighted by steps: 0.2 with 0.4; 0.8, which has no loss, takes
            # that of 0.9; 0.9 with 1.1, which have one step and three.
            "loss_smoothed": pytest.approx([7.0, 7.0, 3.0, 1.5, 1.5]),
            "top1_error": [1.0, 0.75, None, 0.5, 0.25],
            "top1_error_smoothed": pytest.approx([0.875, 0.875, 0.5, 0.3125, 0.3125]),
            "lr": [0.5] * 4 + [0.25],
            "images_per_second": [None] * 4 + [99.5],
            "grad_norm": [2] * 4 + [None],
            "grad_norm_max": [3] * 4 + [None],
        },
        "validation": {"epoch": [1], "top1_error": [0.75], "top5_error": [0.5], "seconds": [60]},
    }
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert curves(folder / LOG_NAME) == table


def test_smoothing_does_not_change_a_straight_line(tmp_path):
    folder = run(tmp_path / "a")
    records = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]
    for r in records:
        if r["event"] == "step":
            r["loss"] = 100 - (r["epoch"] + r["step"] / 40)
    (folder / LOG_NAME).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    train = curves(folder)["train"]
    assert len(train["loss"]) == 16
    assert train["loss_smoothed"][1:-1] == pytest.approx(train["loss"][1:-1])


def test_the_smoothed_loss_is_the_mean_of_its_window_whatever_is_before_it():
    """Against the definition, with a value that would swallow the others in a running total."""
    rng = np.random.default_rng(0)
    at = np.sort(rng.uniform(0, 3, 60)).round(1).tolist()
    values = [1e200, *rng.uniform(0, 9, 59)]
    values[30:33] = [None] * 3
    weights = rng.integers(1, 20, 60).tolist()
    for x, smoothed in zip(at, _smoothed(at, values, weights), strict=True):
        near = [(v, w) for y, v, w in zip(at, values, weights, strict=True) if abs(x - y) <= 0.25 and v is not None]
        assert smoothed == pytest.approx(sum(v * w for v, w in near) / sum(w for _, w in near))
    assert _smoothed([0.0, 1.0], [None, 2.0], [1, 2]) == [None, 2.0]


def test_a_long_log_within_half_an_epoch_is_smoothed_in_no_time():
    count = 2**18
    begin = time.perf_counter()
    smoothed = _smoothed(np.linspace(0, 0.1, count).tolist(), [3.0] * count, [2**53] * count)
    assert time.perf_counter() - begin < 10
    assert smoothed == [3.0] * count


@pytest.mark.parametrize(("epochs", "more"), [(0, 0), (0, 9)])
def test_a_run_without_figures_is_refused_in_one_line(tmp_path, epochs, more):
    folder = run(tmp_path / "a", epochs=epochs, more=more)
    if more:  # as if it was killed after logging its start
        (folder / LOG_NAME).write_text((folder / LOG_NAME).read_text().splitlines()[0] + "\n")
    for use in (curves, lambda folder: plot([folder], tmp_path / "out.png")):
        with pytest.raises(UnreadableInputError, match=r"a: nothing has been logged yet") as caught:
            use(folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "absent: not found"), ("empty", r"empty: has no log\.jsonl; expected a folder")]
)
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableInputError, match=message):
        plot([run(tmp_path / "a"), tmp_path / name], tmp_path / "out.png")


def test_a_log_without_its_start_is_refused(tmp_path):
    log = run(tmp_path / "a") / LOG_NAME
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UnreadableInputError, match="a: the log has no start"):
        curves(tmp_path / "a")


# Names.


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (["/r/a"], ["a"]),
        (["/r/a", "/r/b/"], ["a", "b"]),
        (["/r/x/a", "/r/y/a", "/r/b"], ["x/a", "y/a", "b"]),
        (["/r/x/m/a", "/r/y/m/a", "/r/n/a"], ["x/m/a", "y/m/a", "n/a"]),
        (["/r/a", "/r/r/a", "/a"], ["/r/a", "r/r/a", "/a"]),
        ([f"/r/a/{LOG_NAME}", "/r/b/../c", "/r/old.jsonl"], ["a", "c", "old.jsonl"]),
    ],
)
def test_names_have_as_many_folders_as_make_them_unique(runs, names):
    assert distinct_names([Path(run) for run in runs]) == names


def test_a_run_given_as_the_current_folder_has_the_folders_name(tmp_path, monkeypatch):
    monkeypatch.chdir(run(tmp_path / "inside"))
    assert distinct_names([Path(), Path(LOG_NAME)]) == [(tmp_path / "inside").as_posix()] * 2  # the same run
    assert distinct_names([Path()]) == ["inside"]
    assert curves(Path(LOG_NAME))["run"] == "inside"


# The picture.


def test_the_picture_is_a_png_of_its_size_and_each_run_has_a_colour(tmp_path, drawn):
    runs = [
        run(tmp_path / "x" / "a"),
        run(tmp_path / "y" / "a", loss=6.0, grad_norm=3.0),
        run(tmp_path / "b", loss=7.0),
    ]
    pictures = [drawn(*runs[:count]) for count in (1, 2, 3)]
    assert pictures[0].shape == (HEIGHT, WIDTH, 3)
    assert [[share(p, color) > 1e-4 for color in (FIRST, SECOND, THIRD)] for p in pictures] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


PANELS = {
    "loss": (slice(60, 560), slice(60, 880)),
    "error": (slice(60, 560), slice(980, 1780)),
    "lr": (slice(660, 1120), slice(80, 580)),
    "grad_norm": (slice(660, 1120), slice(690, 1170)),
    "images_per_second": (slice(660, 1120), slice(1290, 1760)),
}
"""Rows and columns of the lines of each panel."""


def test_errors_are_drawn_in_percent_and_other_figures_as_logged(tmp_path):
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "alexnet-infer[plot]"')
    from matplotlib.figure import Figure

    panels = Figure().subplot_mosaic([["loss", "error", "lr", "norm", "rate"]])
    table = curves(run(tmp_path / "a"))
    _draw(panels, table, "black")
    lines = {name: [list(line.get_ydata()) for line in panel.lines] for name, panel in panels.items()}
    train = table["train"]
    training = [100 * error for error in train["top1_error_smoothed"]]
    top1 = [100 / 2, 100 / 3, 100 / 4, 100 / 5]
    assert lines == {
        "loss": [train["loss"], train["loss_smoothed"]],
        "error": [pytest.approx(training), pytest.approx(top1), pytest.approx([error / 2 for error in top1])],
        "lr": [train["lr"]],
        "norm": [train["grad_norm_max"], train["grad_norm"]],
        "rate": [train["images_per_second"]],
    }


def test_every_panel_has_a_curve(tmp_path, drawn):
    picture = drawn(run(tmp_path / "a"))
    for name, place in PANELS.items():
        assert share(picture[place], FIRST) > 1e-3, name


@pytest.mark.parametrize(
    ("figure", "value", "panel"),
    [
        ("loss", 2.5, "loss"),
        ("top1_error", 0.9, "error"),
        ("lr", 0.005, "lr"),
        ("grad_norm", 0.5, "grad_norm"),
        ("images_per_second", 50.0, "images_per_second"),
    ],
)
def test_a_different_figure_changes_only_its_panel(tmp_path, drawn, figure, value, panel):
    """The second run differs from the first in one figure. In the other panels its curve covers the first run's."""
    runs = [run(tmp_path / "a"), run(tmp_path / "b", **{figure: value})]
    picture = drawn(*runs)
    seen = {name for name, place in PANELS.items() if share(picture[place], FIRST) > 1e-4}
    assert seen == {panel}
    assert all(share(picture[place], SECOND) > 1e-4 for place in PANELS.values())


def test_the_picture_depends_only_on_the_data(tmp_path, drawn):
    first, same = drawn(run(tmp_path / "1" / "a")), drawn(run(tmp_path / "2" / "a"))
    changed = drawn(run(tmp_path / "3" / "a", loss=5.5))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, changed)


def test_a_run_given_twice_is_drawn_once(tmp_path, drawn):
    folder = run(tmp_path / "a")
    assert np.array_equal(drawn(folder), drawn(folder, folder / LOG_NAME))


def test_a_run_of_one_window_is_a_point_and_without_errors_there_is_a_note(tmp_path, drawn):
    """The logs of earlier versions have no training error."""
    early = drawn(run(tmp_path / "early", epochs=0, more=10, top1_error=float("nan")))
    later = drawn(run(tmp_path / "later", epochs=1))
    assert share(early[PANELS["loss"]], FIRST) > 0
    assert share(early[PANELS["error"]], FIRST) == 0
    middle = (slice(280, 340), slice(1200, 1600))
    assert share(early[middle], (0, 0, 0)) > 1e-3  # the text is black
    assert share(later[middle], (0, 0, 0)) == 0
    point = drawn(run(tmp_path / "point", epochs=0, more=10))
    assert share(point[PANELS["error"]], FIRST) > 0
    assert share(point[middle], (0, 0, 0)) == 0


def test_runs_without_finite_figures_are_drawn_without_a_warning(tmp_path, drawn):
    figures = dict.fromkeys(("loss", "top1_error", "lr", "images_per_second", "grad_norm"), float("nan"))
    picture = drawn(run(tmp_path / "nan", epochs=0, more=10, **figures), run(tmp_path / "0", lr=0.0, grad_norm=0.0))
    assert share(picture, SECOND) > 1e-4


@pytest.mark.parametrize("name", ["_hidden", "$x^$", "$unclosed", "\u4e2d\u6587", "new\nline", "a" * 200, "\udcff"])
def test_any_folder_name_can_be_in_the_legend(tmp_path, drawn, name):
    try:
        folder = run(tmp_path / name)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such name")
    picture = drawn(folder)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (picture[:45] != 255).any()
    assert share(picture, FIRST) > 1e-3


def test_twelve_runs_have_twelve_colours(tmp_path, drawn):
    picture = drawn(*(run(tmp_path / f"run {i}", loss=5.0 + i) for i in range(12)))
    bright = picture[PANELS["loss"]].reshape(-1, 3)
    colors, counts = np.unique(bright[np.ptp(bright.astype(int), axis=1) > 30], axis=0, return_counts=True)
    assert len(colors[counts > 300]) >= 12


def test_the_users_settings_of_matplotlib_do_not_change_the_picture(tmp_path, drawn):
    import matplotlib

    folder = run(tmp_path / "a")
    expected = drawn(folder)
    with matplotlib.rc_context({"savefig.bbox": "tight", "figure.dpi": 30, "axes.facecolor": "black"}):
        assert np.array_equal(drawn(folder), expected)
        assert matplotlib.rcParams["axes.facecolor"] == "black"  # and stay as they are


def test_pyplot_is_not_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from train.plot import plot\n"
        "plot([Path(sys.argv[1])], Path(sys.argv[2])); print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    )
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-c", code, run(tmp_path / "a"), tmp_path / "out.png"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


# Errors.


@pytest.mark.parametrize("name", ["out", "out.pdf", "out.png.txt"])
def test_a_file_name_of_another_format_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"expected a file name that ends in \.png"):
        plot([run(tmp_path / "a")], tmp_path / name)


def test_an_empty_list_of_runs_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run to draw"):
        plot([], tmp_path / "out.png")


def test_if_a_picture_cannot_be_written_the_old_one_stays(tmp_path, drawn, monkeypatch):
    folder = run(tmp_path / "a")
    drawn(folder)
    before = (tmp_path / "out.png").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UsageError, match=r"out\.png: can't be written \(No space left on device\)"):
        plot([folder], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out.png"]


def test_without_matplotlib_the_message_has_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r'plot needs matplotlib: pip install "alexnet-infer\[plot\]"'):
        plot([run(tmp_path / "a")], tmp_path / "out.png")
    assert curves(tmp_path / "a")["train"]["loss"]  # the data need no matplotlib
