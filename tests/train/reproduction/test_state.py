"""In which order missing nets are run, and what they are estimated to take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from tests.train.reproduction.made import PLAN, Folder, both, mask
from train.reproduction.cost import FORWARD, VIEWS, Costs
from train.reproduction.plan import Mean, Task, Training
from train.reproduction.record import Data
from train.reproduction.request import Request
from train.reproduction.state import image_counts, in_order, states

CPU = torch.device("cpu")
QUARTER = PLAN.scales["quarter"]
MAIN, OTHER = QUARTER.parts["main"], QUARTER.parts["other"]
COUNTS = {MAIN: (40_000, 12_500), OTHER: (30_000, 10_000)}


def request(*only: str, scale: str = "quarter") -> Request:
    return Request(plan=PLAN, scale=scale, only=only, results=Path("reproduction"))


class Timed(Costs):
    """Costs with a step of one second per multiply-add, so that nothing is timed."""

    def __init__(self, folder: Folder, counts=COUNTS) -> None:
        super().__init__(PLAN, folder.results, CPU, 1, counts)
        self.steps = 0

    def _step(self, architecture, batch: int = 128) -> float:
        self.steps += 1
        return float(architecture.multiply_adds)


def multiply_adds(task: Training) -> int:
    return PLAN.variant(task).build().multiply_adds


def test_a_cost_is_that_of_training_validation_and_measurement(tmp_path):
    costs = Timed(Folder(tmp_path))
    for run, train, validation in (("paper", 40_000, 12_500), ("six-first", 30_000, 10_000)):
        task = Training("quarter", run, 0)
        images = 8 * train + FORWARD * (8 + VIEWS) * validation
        assert costs.seconds(task) == pytest.approx(images * multiply_adds(task))
    assert costs.steps == 1, "other nets are in proportion to their multiply-adds"


def test_the_cost_of_a_run_that_was_made_on_this_processor_is_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr("train.reproduction.cost.hardware", lambda device: "this processor, 1 of 2 cores")
    folder, wrong = Folder(tmp_path), both(mask([1]))
    task = Training("quarter", "paper", 1)
    own = FORWARD * (8 + VIEWS) * 12_500 * multiply_adds(task)
    folder.add(Training("quarter", "paper", 0), wrong, seconds=1e8, hardware="this processor, 1 of 2 cores")
    assert Timed(folder).seconds(task) == pytest.approx(1e8 + own)
    for other in ("another processor, 1 of 2 cores", "this processor, 2 of 2 cores"):
        folder.add(Training("quarter", "paper", 0), wrong, seconds=1e8, hardware=other)
        assert Timed(folder).seconds(task) == pytest.approx(8 * 40_000 * multiply_adds(task) + own)


def test_a_net_of_the_program_costs_its_measurement_and_a_mean_that_of_its_nets(tmp_path):
    main = PLAN.scales["bundled"].parts["main"]
    costs = Timed(Folder(tmp_path), {main: (100_000, 5000)})
    one, mean = (costs.seconds(task) for task in (Training("bundled", "paper", 0), Mean("bundled")))
    assert mean == pytest.approx(5 * one)
    assert Timed(Folder(tmp_path), {}).seconds(Mean("bundled")) is None


def test_a_measured_step_is_timed_on_the_device(tmp_path):
    costs = Costs(PLAN, Folder(tmp_path).results, CPU, 1, {PLAN.scales["miniature"].parts["main"]: (10, 10)})
    assert 0 < costs.seconds(Training("miniature", "paper", 0)) < 3600


def test_image_counts_come_from_the_records_and_parts_without_one_have_those_of_the_other(tmp_path):
    folder = Folder(tmp_path)
    assert image_counts(PLAN, QUARTER, folder.results, None) == {}
    data = Data(train={"images": 77}, validation={"images": 40})
    folder.add(Training("quarter", "no-lrn", 1), both(mask([1])), data=data)
    assert image_counts(PLAN, QUARTER, folder.results, None) == {MAIN: (77, 40), OTHER: (77, 40)}


def runs_in_order(tasks: list[Task]) -> list[str]:
    return list(dict.fromkeys(task.run for task in tasks if isinstance(task, Training)))


def test_the_cheapest_rows_come_first_and_each_net_once(tmp_path):
    folder = Folder(tmp_path)
    costs = Timed(folder)
    tasks = in_order(request(), folder.results, costs, undecided_first=False)
    assert len(tasks) == len({*tasks}) == 2 * len(PLAN.possible_runs(QUARTER))
    assert runs_in_order(tasks)[0] == "paper"
    assert runs_in_order(tasks)[-1].startswith("six"), "three nets in a row, and the largest"
    prices = [
        sum(costs.seconds(task) for task in PLAN.tasks(PLAN.row(name), QUARTER)) for name in ("views", "columns", "lrn")
    ]
    assert prices == sorted(prices)
    only = in_order(request("lrn", "columns"), folder.results, costs, undecided_first=False)
    assert runs_in_order(only) == ["paper", "half-kernels", "no-lrn"]


def test_nets_with_a_record_are_not_run(tmp_path):
    folder = Folder(tmp_path)
    folder.add(Training("quarter", "paper", 0), both(mask([1])))
    left = in_order(request("lrn"), folder.results, Timed(folder), undecided_first=False)
    assert {str(task) for task in left} == {"quarter/paper-1", "quarter/no-lrn-0", "quarter/no-lrn-1"}


def test_undecided_rows_come_first_then_those_that_are_nearest_to_it(tmp_path):
    folder, images = Folder(tmp_path), 1000
    rng = np.random.default_rng(0)
    for run, extra in (("paper", 0), ("no-lrn", 200), ("pool-2", 10), ("no-color", 60)):
        for seed in (0, 1):
            wrong = rng.random(images) < 0.5
            wrong[np.flatnonzero(~wrong)[:extra]] = True
            folder.add(Training("quarter", run, seed), both(wrong))
    tasks = in_order(
        request("lrn", "pooling", "color", "patches", scale="half"), folder.results, Timed(folder), undecided_first=True
    )
    order = [run for run in runs_in_order(tasks) if run != "paper"]
    assert order[0] == "one-view", "nothing is known of it"
    assert order[-1] == "no-lrn", "clearest at the other scale"
    assert len(tasks) == 15


def test_the_state_of_a_row_has_its_missing_nets_and_hours(tmp_path):
    folder = Folder(tmp_path)
    folder.add_row("pooling", "quarter")
    costs = Timed(folder)
    lrn, pooling = states(request("lrn", "pooling"), folder.results, costs, 2)
    assert (len(lrn.tasks), [str(task) for task in lrn.result.missing]) == (4, ["quarter/no-lrn-0", "quarter/no-lrn-1"])
    assert lrn.hours == pytest.approx(costs.seconds(lrn.result.missing[0]) / 3600), "two at once"
    assert (pooling.result.missing, pooling.hours) == ((), 0)
    assert pooling.result.verdict in ("agrees", "disagrees", "undecided")
    assert states(request("lrn"), folder.results, Timed(folder, {}), 2)[0].hours is None
