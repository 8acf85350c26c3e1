"""The progress of a run: smoothed figures, time left, and one line per epoch without a terminal."""

from __future__ import annotations

import io
import re

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from rich.console import Console

from train.checkpoint import RunState
from train.display import Display, Smoothed, TrainingView
from train.step import StepReport


def report(epoch: int, step: int, loss: float = 2.0, rate: float = 100.0, error: float = 0.75) -> StepReport:
    return StepReport(epoch, step, loss, error, 0.0123, rate, 1.0)


def test_the_mean_of_equal_values_is_their_value_from_the_first_on():
    smoothed = Smoothed(50)
    for _ in range(3):
        smoothed.add(7.0)
        assert smoothed.value == pytest.approx(7.0)


def test_the_weight_of_past_values_falls_by_e_in_the_number_of_steps():
    smoothed = Smoothed(100)
    for value in [0.0] * 5000 + [1.0] * 100:
        smoothed.add(value)
    assert smoothed.value == pytest.approx(1 - 1 / 2.71828, abs=0.01)


def view(seconds_per_step: float = 2.0) -> tuple[TrainingView, list[tuple[str, int]], list[str]]:
    """Return a view of four epochs of ten steps, with a clock that advances by `seconds_per_step` at each reading."""
    times = iter(seconds_per_step * i for i in range(100))
    shown: list[tuple[str, int]] = []
    lines: list[str] = []
    return TrainingView(4, 10, lambda *args: shown.append(args), lines.append, lambda: next(times)), shown, lines


def test_the_time_left_is_that_of_the_remaining_steps():
    watched, shown, _ = view(seconds_per_step=2.0)
    for step in (1, 2, 3):
        watched.on_step(report(1, step))
    text, done = shown[-1]
    assert done == 13
    assert text == "epoch 2/4  loss 2.000  lr 0.012  100 images/s  0:00:54 left"


def test_the_first_step_does_not_count_for_speed():
    watched, shown, _ = view()
    watched.on_step(report(0, 1, rate=1.0))
    assert "  - images/s" in shown[-1][0]
    watched.on_step(report(0, 2, rate=300.0))
    assert "  300 images/s" in shown[-1][0]


def test_an_epoch_ends_with_one_line():
    watched, _, lines = view()
    watched.on_step(report(0, 1))
    watched.on_step(report(0, 2))
    watched.on_epoch(RunState(epoch=1, errors=[0.8766]))
    assert lines == [
        "epoch 1/4  validation error 87.66%  training error 75.00%  loss 2.000  lr 0.012  100 images/s  0:01:00 left"
    ]


def test_the_training_error_of_an_epoch_is_the_mean_of_its_own_steps():
    watched, _, lines = view()
    for epoch, errors in enumerate([(1.0, 0.5), (0.25, 0.125, 0.0)]):
        for step, error in enumerate(errors, 1):
            watched.on_step(report(epoch, step, error=error))
        watched.on_epoch(RunState(epoch=epoch + 1, errors=[0.5]))
    watched.on_epoch(RunState(epoch=3, errors=[0.5]))  # of a run that was resumed after the last step of an epoch
    assert [line.split("  ")[2] for line in lines[:2]] == ["training error 75.00%", "training error 12.50%"]
    assert "training error" not in lines[2]


def test_without_a_terminal_only_lines_are_written():
    stream = io.StringIO()
    display = Display(Console(file=stream, force_terminal=False, width=40))
    with display.counting("decoding", 3) as advance:
        for _ in range(3):
            advance(1)
    with display.training(2, 10, 0) as watched:
        for epoch in range(2):
            for step in range(1, 11):
                watched.on_step(report(epoch, step))
            watched.on_epoch(RunState(epoch=epoch + 1, errors=[0.5]))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "decoding: 3 images in 0 s"
    assert [line.split("  ")[:2] for line in lines[1:]] == [
        ["epoch 1/2", "validation error 50.00%"],
        ["epoch 2/2", "validation error 50.00%"],
    ]
    assert "\x1b" not in stream.getvalue()


def test_the_bar_of_a_resumed_run_starts_at_its_progress():
    stream = io.StringIO()
    display = Display(Console(file=stream, force_terminal=True, width=120))
    with display.training(4, 10, 20) as watched:
        watched.on_step(report(2, 1))
    assert "\x1b" in stream.getvalue()
    assert "epoch 3/4" in stream.getvalue()
    assert " 52%" in stream.getvalue()


def test_brackets_in_a_message_are_not_markup():
    stream = io.StringIO()
    Display(Console(file=stream)).note("[red]/data/[1]")
    assert stream.getvalue() == "[red]/data/[1]\n"


def shown_on_a_terminal(width: int, use) -> str:
    """Return the text that `use` makes a display show, without control sequences."""
    stream = io.StringIO()
    use(Display(Console(file=stream, force_terminal=True, width=width, legacy_windows=False)))
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize(("epochs", "rate"), [(22, 230.0), (10_000, 123_456.0)])
def test_the_progress_of_training_is_not_cut(width, epochs, rate):
    def train(display: Display) -> None:
        with display.training(epochs, 10**6, 0) as watched:
            for step in (1, 2):
                watched.on_step(report(epochs - 2, step, loss=123.456, rate=rate))

    text = shown_on_a_terminal(width, train)
    assert "\u2026" not in text
    words = text.split()
    for word in (f"{epochs - 1}/{epochs}", "123.456", "0.012", f"{rate:.0f}", "images/s", "left"):
        assert word in words, word


@pytest.mark.parametrize(
    ("description", "total"), [("decoding the validation split", 1_281_167), ("checking", 250_000_000_000)]
)
def test_the_progress_of_a_count_is_not_cut_at_80_columns(description, total):
    def count(display: Display) -> None:
        with display.counting(description, total) as advance:
            advance(total)

    text = shown_on_a_terminal(80, count)
    assert "\u2026" not in text
    assert description in text
    assert f"{total}/{total}" in text
