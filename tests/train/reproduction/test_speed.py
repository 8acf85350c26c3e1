"""The updates that a run takes to a training error, on curves whose crossing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from tests.train.reproduction.made import PLAN, Folder, both, curve, mask
from train.reproduction.plan import Training
from train.reproduction.publish import SPEED, write_page
from train.reproduction.request import Request
from train.reproduction.speed import TARGET, updates

ROW = PLAN.row("relu")


def test_the_target_is_the_papers():
    assert f"{100 * TARGET:.0f}%" in ROW.claim


@pytest.mark.parametrize(
    ("errors", "epochs"),
    [
        ((0.75, 0.25, 0.2), 1.5),  # in the middle of the second epoch
        ((0.5, 0.375, 0.125), 2.0),  # half of the way from the middle of the second to that of the third
        ((0.5, 0.2, 0.4, 0.1), 0.5 + 5 / 6),  # the first time counts
        ((0.2, 0.1), 0.5),  # in the first epoch
    ],
)
def test_the_error_is_on_a_line_between_the_middles_of_epochs(errors, epochs):
    assert updates(curve(errors, steps_per_epoch=39)) == pytest.approx(39 * epochs)


def test_the_updates_are_exact_for_an_error_that_falls_evenly():
    """Of errors 1 - t / 10 after t epochs, the mean of an epoch is that in its middle, and 1/4 is reached at 7.5."""
    errors = tuple(1 - (epoch + 0.5) / 10 for epoch in range(10))
    assert updates(curve(errors, steps_per_epoch=7)) == pytest.approx(7 * 7.5)


def test_without_the_error_or_without_a_curve_there_are_no_updates():
    assert updates(curve((0.5, 0.26))) is None
    assert updates(None) is None
    assert updates(structs.replace(curve((0.5, 0.2)), training_error=())) is None


def four_layer(folder: Folder, epochs: dict[str, tuple[int, ...]]) -> None:
    """Add the nets of the row, which reach the error in the middle of these epochs (from 1), each seed in its own."""
    for run, of_run in epochs.items():
        for seed, reached in enumerate(of_run):
            errors = (*[0.5] * (reached - 1), TARGET, 0.125)
            folder.add(Training("four-layer", run, seed), both(mask([seed])), curve=curve(errors, 39))


EPOCHS = {
    "relu": (10, 11, 12),
    "tanh": (60, 66, 72),
    "relu-slow": (20, 22, 21),
    "relu-fast": (13, 13, 14),
    "tanh-slow": (80, 81, 82),
    "tanh-fast": (70, 75, 80),
    "relu-unit": (9, 10, 11),
    "relu-small": (10, 10, 11),
    "tanh-small": (9, 10, 10),
}


def test_the_row_has_the_ratio_of_updates_and_agrees_with_the_paper(tmp_path):
    folder = Folder(tmp_path)
    four_layer(folder, EPOCHS)
    result = folder.of("relu", "four-layer")
    middles = [[39 * (epoch - 0.5) for epoch in EPOCHS[run]] for run in ("tanh", "relu")]
    tanh, relu = (a * b * c for a, b, c in middles)
    ratio = result.figures["ratio"]
    assert ratio.value == pytest.approx((tanh / relu) ** (1 / 3))
    assert 1 < ratio.low < ratio.value < ratio.high
    assert result.verdict == "agrees"
    assert result.updates["relu-slow"] == pytest.approx((39 * 19.5, 39 * 21.5, 39 * 20.5))
    text = folder.page()
    shown = f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"
    assert f"| 3.1 | 6 times | updates {shown} | four-layer | agrees |" in text
    assert f"`tanh` takes {shown} as many updates as `relu`" in text.replace("\n", " ")
    rate = PLAN.recipe(Training("four-layer", "tanh", 0)).lr
    assert f"| four-layer | tanh | {rate:g} | 2,320, 2,554, 2,788 |" in text


def test_the_page_has_the_picture_only_if_the_row_is_done(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    folder = Folder(tmp_path / "reproduction")
    four_layer(folder, EPOCHS)
    request = Request(plan=PLAN, scale="four-layer", results=folder.path)
    picture = folder.path / SPEED
    assert f"(reproduction/{SPEED})" in write_page(request).read_text(encoding="utf-8")
    assert b"<svg" in picture.read_bytes()
    folder.records.path(Training("four-layer", "tanh", 2)).unlink()
    assert SPEED not in write_page(request).read_text(encoding="utf-8")
    assert not picture.exists()


def test_nets_that_reach_the_error_at_the_same_time_leave_it_undecided(tmp_path):
    folder = Folder(tmp_path)
    four_layer(folder, EPOCHS | {"tanh": (11, 12, 10)})
    result = folder.of("relu", "four-layer")
    assert result.verdict == "undecided"
    assert "Undecided: the interval contains 1 (updates)" in folder.page().replace("\n", " ")


def test_a_net_that_does_not_reach_the_error_is_named_and_there_is_no_ratio(tmp_path):
    folder = Folder(tmp_path)
    four_layer(folder, EPOCHS)
    folder.add(Training("four-layer", "tanh", 1), both(mask([1])), curve=curve((0.5, 0.5), 39))
    result = folder.of("relu", "four-layer")
    assert (result.done, result.figures, result.verdict) == (True, {}, None)
    assert result.updates["tanh"][1] is None
    text = folder.page().replace("\n", " ")
    assert "2,320, not reached, 2,788" in text
    assert "there is no interval: some nets did not reach the error." in text
    assert "| 3.1 | 6 times | | four-layer | not reached |" in text.replace("|  |", "| |")
    assert result.shown_verdict == "not reached"


def test_a_run_that_is_only_shown_need_not_reach_the_error(tmp_path):
    folder = Folder(tmp_path)
    four_layer(folder, EPOCHS)
    folder.add(Training("four-layer", "tanh-fast", 1), both(mask([1])), curve=curve((0.5, 0.5), 39))
    assert folder.of("relu", "four-layer").verdict == "agrees"


def test_the_runs_differ_in_nothing_but_activation_learning_rate_and_scale():
    def content(run: str):
        net = Training("four-layer", run, 0)
        return replace(PLAN.variant(net), activation="relu"), replace(PLAN.recipe(net), lr=1.0)

    assert len({content(run) for run in EPOCHS if not run.endswith(("-small", "-unit"))}) == 1
    assert {replace(recipe, init="he", unit=64) for _, recipe in map(content, EPOCHS)} == {content("relu")[1]}
    assert {PLAN.recipe(Training("four-layer", run, 0)).init for run in ("relu", "tanh")} == {"he"}
    recipe = PLAN.recipe(Training("four-layer", "relu", 0))
    assert (recipe.weight_decay, recipe.dropout, recipe.label_smoothing, recipe.color_sigma) == (0, 0, 0, 0)
    assert recipe.training_views == "center", "No regularization of any kind was employed"
    for run in ("relu", "tanh"):
        names = (f"{run}-slow", run, f"{run}-fast")
        slow, own, fast = (PLAN.recipe(Training("four-layer", name, 0)).lr for name in names)
        assert (slow, fast) == (own / 2, own * 2)
