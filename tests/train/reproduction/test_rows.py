"""Figures of each kind of row, from made records, against sums by hand."""

from __future__ import annotations

import json
from statistics import fmean, variance

import numpy as np
import pytest

from alexnet_infer.errors import UnreadableInputError, UsageError
from tests.train.reproduction.made import IMAGES, PLAN, VALIDATION, Folder, both, mask, neighbors, random_wrong
from train.reproduction.intervals import SeedVariance, difference, gap_difference, within
from train.reproduction.plan import Mean, Training
from train.reproduction.record import Data, Errors
from train.reproduction.rows import color_verdict


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def quarter(run: str, seed: int) -> Training:
    return Training("quarter", run, seed)


def nested(counts: dict[tuple[str, int], int], folder: Folder) -> None:
    """Add nets of the scale quarter. Each gets the first `count` images wrong in top-1, half of them in top-5."""
    for (run, seed), count in counts.items():
        folder.add(quarter(run, seed), both(mask(range(count)), mask(range(count // 2))))


COUNTS = {
    ("paper", 0): 10,
    ("paper", 1): 12,
    ("no-lrn", 0): 20,
    ("no-lrn", 1): 24,
    ("pool-2", 0): 14,
    ("pool-2", 1): 14,
}


def test_an_ablation_is_the_error_of_the_net_without_the_part_minus_that_of_the_net(folder):
    nested(COUNTS, folder)
    result = folder.of("lrn", "quarter")
    assert result.done
    assert result.images == IMAGES
    assert result.figures.keys() == {"top1", "top5"}
    assert result.figures["top1"].value == pytest.approx((20 + 24 - 10 - 12) / 2 / IMAGES)
    assert result.figures["top5"].value == pytest.approx((10 + 12 - 5 - 6) / 2 / IMAGES)
    assert [(e.run, e.seeds) for e in result.runs] == [("paper", 2), ("no-lrn", 2)]
    assert [(e.top1, e.top5) for e in result.runs] == [
        pytest.approx((11 / IMAGES, 5.5 / IMAGES)),
        pytest.approx((22 / IMAGES, 11 / IMAGES)),
    ]


def test_the_interval_has_the_variance_between_seeds_of_all_runs_of_the_scale(folder):
    nested(COUNTS, folder)
    runs = [[10, 12], [20, 24], [14, 14]]
    pooled = SeedVariance(sum(variance(x / IMAGES for x in of_run) for of_run in runs) / 3, 3)
    against = np.stack([mask(range(20)), mask(range(24))])
    net = np.stack([mask(range(10)), mask(range(12))])
    expected = difference(against, net, pooled)
    found = folder.of("lrn", "quarter").figures["top1"]
    assert expected is not None
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_runs_on_the_other_part_of_the_data_and_single_nets_are_not_pooled(folder):
    nested(COUNTS, folder)
    before = folder.of("lrn", "quarter").figures
    nested({("six-first", 0): 0, ("six-first", 1): 40, ("no-color", 0): 3}, folder)
    assert folder.of("lrn", "quarter").figures == before
    nested({("no-color", 1): 9}, folder)
    assert folder.of("lrn", "quarter").figures != before


def test_without_seeds_of_other_runs_an_interval_needs_two_degrees_of_freedom(folder):
    nested({key: count for key, count in COUNTS.items() if key[0] in ("paper", "no-lrn")}, folder)
    assert folder.of("lrn", "quarter").figures, "one degree of freedom for each of the two runs"


def test_overfitting_compares_the_gaps_between_validation_and_training_errors(folder):
    rng = np.random.default_rng(2)
    training = {("paper", 0): 8, ("paper", 1): 9, ("one-view", 0): 2, ("one-view", 1): 1}
    for (run, seed), wrong in training.items():
        ten, center = random_wrong(rng, share=0.4), random_wrong(rng, share=0.6)
        folder.add(quarter(run, seed), ten, center, training=Errors(images=IMAGES, top1=wrong, top5=0))

    def center(run: str) -> np.ndarray:
        return np.stack([folder.made[quarter(run, seed)].wrong("center")[:, 0] for seed in (0, 1)])

    gaps = {
        run: [float(center(run)[seed].mean()) - training[run, seed] / IMAGES for seed in (0, 1)]
        for run in ("paper", "one-view")
    }
    result = folder.of("patches", "quarter")
    assert result.figures.keys() == {"top1", "top5", "gap"}
    gap = result.figures["gap"]
    assert gap.value == pytest.approx(fmean(gaps["one-view"]) - fmean(gaps["paper"]))
    expected = gap_difference(
        center("one-view"),
        center("paper"),
        np.array([2, 1]) / IMAGES,
        np.array([8, 9]) / IMAGES,
        images=IMAGES,
        seeds=SeedVariance(fmean(map(variance, gaps.values())), 2),
    )
    assert expected is not None
    assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high))
    assert result.verdict == gap.verdict
    errors = {e.run: e for e in result.runs}
    assert errors["one-view"].training == pytest.approx(1.5 / IMAGES)
    assert errors["one-view"].center == pytest.approx(center("one-view").mean())


def test_views_compare_the_central_view_with_ten_net_by_net(folder):
    wrong = {0: (range(8), range(12)), 1: (range(9), range(15)), 2: (range(7), range(10))}
    for seed, (ten, center) in wrong.items():
        folder.add(Training("half", "paper", seed), both(mask(ten)), both(mask(center)))
    result = folder.of("views", "half")
    assert result.figures["top1"].value == pytest.approx((4 + 6 + 3) / 3 / IMAGES)
    first, second = (np.stack([mask(w[i]) for w in wrong.values()]) for i in (1, 0))
    gains = SeedVariance.pooled([np.array([4, 6, 3]) / IMAGES])
    assert result.figures["top1"] == within(first, second, gains)
    assert [e.run for e in result.runs] == ["paper"]


def test_views_of_two_seeds_have_no_interval(folder):
    folder.add_row("views", "quarter")
    result = folder.of("views", "quarter")
    assert result.done
    assert (result.figures, result.verdict) == ({}, None)


def test_an_ensemble_is_compared_with_the_mean_of_its_nets(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask(range(10 + seed))))
    folder.add(Mean("bundled"), both(mask(range(6))))
    result = folder.of("five", "bundled")
    assert result.figures["top1"].value == pytest.approx((10 + 11 + 12 + 13 + 14) / 5 / IMAGES - 6 / IMAGES)
    assert result.figures["top5"].value == pytest.approx(fmean([5, 5, 6, 6, 7]) / IMAGES - 3 / IMAGES)
    assert [(e.run, e.seeds) for e in result.runs] == [("paper", 5)]
    assert result.verdict == "agrees"


def test_color_has_the_shares_of_each_net_of_both_runs(folder):
    shares = {
        ("paper", 0): (0.9, 0.1),
        ("paper", 1): (0.2, 0.8),
        ("one-column", 0): (0.5, 0.4),
        ("one-column", 1): (0.5, 0.5),
    }
    for (run, seed), color in shares.items():
        folder.add(quarter(run, seed), both(mask([1])), color=color)
    result = folder.of("color-columns", "quarter")
    assert result.color == tuple((run, seed, color) for (run, seed), color in shares.items())
    assert result.figures == {}
    assert result.verdict == "undecided", "two and two nets: chance gives this order in one of 6 cases"


def test_color_of_nets_that_come_with_the_program_alone_is_undecided(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask([1])), color=(0.9, 0.1))
    result = folder.of("color-columns", "bundled")
    assert len(result.color) == 5
    assert result.verdict == "undecided"


def test_neighbours_are_compared_net_by_net(folder):
    counts = [((6, 3, 0, 6), (1, 0, 0, 2)), ((5, 4, 1, 5), (1, 1, 0, 2)), ((6, 4, 0, 4), (0, 0, 0, 3))]
    for seed, (features, pixels) in enumerate(counts):
        folder.add(Training("half", "paper", seed), both(mask([1])), neighbors=neighbors(features, pixels))
    result = folder.of("neighbors", "half")
    gains = [(sum(features) - sum(pixels)) / 24 for features, pixels in counts]
    same = result.figures["same"]
    assert same.value == pytest.approx(fmean(gains))
    first, second = (np.array([pair[i] for pair in counts]) / 6 for i in (0, 1))
    assert same == within(first, second, SeedVariance(variance(gains), 2))
    assert (result.verdict, len(result.neighbors)) == (same.verdict, 3)


def test_a_result_without_neighbours_is_missing_for_the_papers_net(folder):
    nested(COUNTS, folder)
    folder.add(quarter("paper", 0), both(mask([1])), neighbors=None)
    assert folder.of("lrn", "quarter").missing == (quarter("paper", 0),)


def nets(two: list[float], one: list[float]) -> tuple[tuple[str, int, tuple[float, ...]], ...]:
    """Return nets whose halves differ by these shares, now in one direction and now in the other."""
    kinds = [("paper", two), ("one-column", one)]
    return tuple(
        (run, i, (0.0, value) if i % 2 else (value, 0.0)) for run, values in kinds for i, value in enumerate(values)
    )


@pytest.mark.parametrize(
    ("two", "one", "verdict"),
    [
        ([0.5, 0.6, 0.7, 0.5], [0.1, 0.2, 0.3], "undecided"),
        ([0.5, 0.6, 0.7, 0.5], [0.1, 0.2, 0.3, 0.1], "agrees"),
        ([0.1, 0.2, 0.3, 0.1], [0.5, 0.6, 0.7, 0.5], "disagrees"),
        ([0.5, 0.6, 0.2], [0.1, 0.2, 0.3], "undecided"),
        ([0.5, 0.6, 0.3], [0.1, 0.2, 0.3], "undecided"),
        ([0.5, 0.6], [0.1, 0.2], "undecided"),
        ([0.5] * 8, [0.1, 0.2], "agrees"),
        ([0.5] * 7, [0.1, 0.2], "undecided"),
        ([0.5] * 39, [0.1], "agrees"),
        ([0.5] * 38, [0.1], "undecided"),
        ([0.5] * 30, [], "undecided"),
    ],
)
def test_color_is_decided_if_the_order_of_the_nets_has_a_chance_of_at_most_one_in_40(two, one, verdict):
    assert color_verdict([nets(two, one)]) == verdict


def test_orders_of_colour_within_several_scales_are_judged_together():
    quarter, half = nets([0.5, 0.6], [0.1, 0.2]), nets([0.9, 0.8, 0.9], [0.7, 0.6, 0.7])
    bundled, other = nets([0.05] * 5, []), nets([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert color_verdict([quarter, half, bundled]) == "agrees", "one of 6 x 20; nets of one kind do not count"
    assert color_verdict([quarter, bundled]) == "undecided"
    assert color_verdict([quarter, other]) == "undecided"
    assert color_verdict([bundled]) == "undecided"


def test_missing_nets_are_listed_and_there_are_no_figures(folder):
    nested({("paper", 0): 10, ("no-lrn", 1): 12}, folder)
    result = folder.of("lrn", "quarter")
    assert result.missing == (quarter("no-lrn", 0), quarter("paper", 1))
    assert not result.done
    assert (result.runs, result.images, result.figures, result.verdict) == ((), 0, {}, None)
    everything = [quarter(run, seed) for seed in (0, 1) for run in ("six-first", "six-tuned", "paper")]
    everything.remove(quarter("paper", 0))
    assert folder.of("six", "quarter").missing == tuple(everything)


def test_a_mean_without_a_record_is_missing(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask([seed])))
    assert folder.of("five", "bundled").missing == (Mean("bundled"),)
    assert folder.of("views", "bundled").done


def test_a_net_trained_with_other_settings_is_missing(folder):
    nested(COUNTS, folder)
    task = quarter("no-lrn", 1)
    other = folder.made[task].settings | {"options": {}}
    folder.add(task, both(mask([1])), settings=other)
    assert folder.of("lrn", "quarter").missing == (task,)


def test_a_row_that_a_scale_can_not_have_has_no_result(folder):
    for row, scale in (("five", "quarter"), ("lrn", "bundled"), ("six", "full")):
        assert folder.results.of(folder.row(row), PLAN.scales[scale]) is None


@pytest.mark.parametrize("change", [{"pixels": "0"}, {"labels": "0"}])
def test_nets_measured_on_different_images_are_refused_naming_the_row(folder, change):
    nested(COUNTS, folder)
    other = Data(train={"images": 1000}, validation=VALIDATION | change)
    folder.add(quarter("no-lrn", 1), both(mask([1])), data=other)
    with pytest.raises(UsageError, match="row lrn: its nets are of different data") as caught:
        folder.of("lrn", "quarter")
    assert "\n" not in str(caught.value)
    assert folder.of("pooling", "quarter").done, "only rows with that net"


def test_a_mean_measured_on_different_images_is_refused(folder):
    for seed in range(5):
        folder.add(Training("bundled", "paper", seed), both(mask([seed])))
    other = Data(train={"images": 1000}, validation=VALIDATION | {"pixels": "0"})
    folder.add(Mean("bundled"), both(mask([1])), data=other)
    with pytest.raises(UsageError, match="row five"):
        folder.of("five", "bundled")


def test_another_run_measured_on_different_images_does_not_change_the_pooled_variance(folder):
    """Its variance is of other images, and may be of another data set."""
    nested(COUNTS, folder)
    before = folder.of("lrn", "quarter").figures
    other = Data(train={"images": 1000}, validation=VALIDATION | {"pixels": "0"})
    for seed, wrong in enumerate((0, 40)):
        folder.add(quarter("no-color", seed), both(mask(range(wrong))), data=other)
    assert folder.of("lrn", "quarter").figures == before


def test_one_net_has_the_same_result_in_each_row_that_needs_it(folder):
    nested(COUNTS, folder)
    lrn, pooling = folder.of("lrn", "quarter"), folder.of("pooling", "quarter")
    assert lrn.runs[0] == pooling.runs[0]


HOSTILE = {
    "training-of-no-images": {"training": {"images": 0, "top1": 0, "top5": 0}},
    "no-training": {"training": None},
    "no-validation": {"data": {"train": {"images": 1000}}},
    "empty-data": {"data": {}},
    "one-share-of-color": {"color": [0.5]},
}


@pytest.mark.parametrize("row", ["lrn", "patches", "views", "color-columns"])
@pytest.mark.parametrize("damage", HOSTILE)
def test_an_edited_record_is_the_programs_own_error_in_every_row(folder, damage, row):
    for run in ("paper", "no-lrn", "one-view", "one-column"):
        for seed in (0, 1):
            folder.add(quarter(run, seed), both(mask(range(10 + seed))))
    path = folder.records.path(quarter("paper", 1))
    path.write_text(json.dumps(json.loads(path.read_text()) | HOSTILE[damage]))
    with pytest.raises(UnreadableInputError, match=r"paper-1\.json: .*; remove it") as caught:
        folder.of(row, "quarter")
    assert "\n" not in str(caught.value)
