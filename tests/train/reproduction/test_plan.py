"""The experiments: the file that is read, the nets that it stands for, and what a damaged file gives."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from alexnet_infer.errors import AlexNetInferError, SpecError, UsageError
from alexnet_infer.presets import variant
from tests.nets import random_artifact
from tests.train.reproduction.made import PLAN
from train.job import Job
from train.recipe import FAST, PAPER
from train.reproduction.command_lines import arguments, command
from train.reproduction.experiments import EXPERIMENTS, read_plan
from train.reproduction.plan import ENSEMBLE, Mean, Training
from train.reproduction.request import Request

TEXT = EXPERIMENTS.read_text(encoding="utf-8")
TRAINED = [
    task
    for scale in PLAN.scales.values()
    if not scale.nets
    for run in PLAN.possible_runs(scale)
    for task in [Training(scale.title, run, scale.seeds[-1])]
]
"""Every run of every scale that trains, with the last seed."""


def test_the_command_line_offers_the_scales_of_the_file():
    from typing import get_args, get_type_hints

    from train.cli import reproduce

    assert get_args(get_type_hints(reproduce)["scale"]) == tuple(PLAN.scales)


def test_every_row_is_possible_at_some_scale_that_trains_or_measures():
    for row in PLAN.rows:
        assert [scale.title for scale in PLAN.scales.values() if PLAN.runs_of(row, scale)], row.name


def test_every_run_is_needed_by_a_row():
    needed = {
        task.run
        for row in PLAN.rows
        for scale in PLAN.scales.values()
        for task in PLAN.tasks(row, scale)
        if isinstance(task, Training)
    }
    assert needed == PLAN.runs.keys()


def test_rows_and_their_titles_are_distinct():
    for names in ([row.name for row in PLAN.rows], [row.title for row in PLAN.rows]):
        assert len({*names}) == len(names)


def test_seeds_are_distinct_and_an_ensemble_has_five_nets():
    for scale in PLAN.scales.values():
        assert len({*PLAN.seeds(scale)}) == len(PLAN.seeds(scale))
    members = PLAN.members(Mean("bundled"))
    assert [PLAN.net_file(net).name for net in members] == [f"alexnet-64-{i}.safetensors" for i in range(ENSEMBLE)]
    assert all(PLAN.net_file(net).is_file() for net in members)


@pytest.mark.parametrize(
    ("name", "without", "with_it"),
    [("views", (39.0, 18.3), (37.5, 17.0)), ("five", (40.7, 18.2), (38.1, 16.4)), ("six", (40.7, 18.2), (39.0, 16.6))],
)
def test_the_papers_gain_is_the_difference_of_the_errors_in_its_claim(name, without, with_it):
    row = PLAN.row(name)
    for k, figure in enumerate(("top1", "top5")):
        assert row.paper[figure] == pytest.approx(without[k] - with_it[k])
        assert f"{without[k]}%" in row.claim
        assert f"{with_it[k]}%" in row.claim


@pytest.mark.parametrize("scale", PLAN.scales)
def test_tasks_are_distinct_and_come_after_those_they_are_made_from(scale):
    for row in PLAN.rows:
        tasks = PLAN.tasks(row, PLAN.scales[scale])
        assert len({*tasks}) == len(tasks)
        for position, task in enumerate(tasks):
            start = None if isinstance(task, Mean) or PLAN.scales[scale].nets else PLAN.start(task)
            needed = PLAN.members(task) if isinstance(task, Mean) else [start] if start else []
            assert {*needed} <= {*tasks[:position]}


def test_a_tuned_net_starts_from_the_net_with_its_own_seed_on_the_other_part_of_the_data():
    tuned = Training("quarter", "six-tuned", 1)
    start = PLAN.start(tuned)
    assert start == Training("quarter", "six-first", 1)
    quarter = PLAN.scales["quarter"]
    assert (PLAN.part(tuned), PLAN.part(start)) == (quarter.parts["main"], quarter.parts["other"])
    assert PLAN.variant(tuned) == PLAN.variant(start)
    assert PLAN.start(start) is None


def test_runs_that_start_on_other_data_are_not_possible_at_a_scale_without_it():
    runs = PLAN.possible_runs(PLAN.scales["full"])
    four_layer = PLAN.possible_runs(PLAN.scales["four-layer"])
    assert {PLAN.runs[run].data for run in four_layer} == {"ten"}
    assert {*PLAN.runs} - {*runs} == {"six-first", "six-tuned", *four_layer}
    assert PLAN.possible_runs(PLAN.scales["quarter"]) == [run for run in PLAN.runs if run not in four_layer]


def test_trained_nets_serve_only_rows_that_look_at_them_alone():
    bundled = PLAN.scales["bundled"]
    possible = {row.name: PLAN.tasks(row, bundled) for row in PLAN.rows if PLAN.runs_of(row, bundled)}
    nets = [Training("bundled", "paper", i) for i in range(5)]
    alone = dict.fromkeys(("views", "color-columns", "neighbors"), nets)
    assert possible == alone | {"five": [*nets, Mean("bundled")]}
    assert not any(PLAN.trained(task) for task in possible["five"])


def test_an_ensemble_needs_five_seeds():
    five = PLAN.row("five")
    possible = {name for name, scale in PLAN.scales.items() if PLAN.runs_of(five, scale)}
    assert possible == {"full", "bundled"}


def test_the_paper_run_at_full_scale_is_the_papers_net_and_recipe():
    paper = Training("full", "paper", 0)
    assert PLAN.variant(paper) == variant("alexnet")
    assert PLAN.recipe(paper) == PAPER
    assert PLAN.epochs(paper) == 90


def test_runs_change_what_their_titles_say():
    def net(run: str) -> dict:
        own, usual = PLAN.variant(Training("full", run, 0)), variant("alexnet")
        values = [(field.name, getattr(own, field.name), getattr(usual, field.name)) for field in fields(usual)]
        return {name: value for name, value, paper in values if value != paper}

    half = (48, 128, 192, 192, 256)  # conv5 and the fully-connected layers keep theirs: the paper's footnote 2
    assert net("no-lrn") == {"normalization": "none"}
    assert net("pool-2") == {"pool_size": 2}
    assert net("half-kernels") == {"columns": 1, "kernels": half}
    assert net("one-column") == {"columns": 1}
    assert net("six") == {"sixth_conv": 256}
    recipes = {run: PLAN.recipe(Training("quarter", run, 0)) for run in PLAN.runs}
    usual = replace(FAST, epochs=8)
    assert recipes["paper"] == usual
    assert recipes["no-color"] == replace(usual, color_sigma=0)
    assert recipes["one-view"] == replace(usual, training_views="center")
    assert recipes["no-dropout"] == replace(usual, dropout=0)
    assert recipes["dropout"] == replace(usual, dropout=0.5)
    assert recipes["six-tuned"] == replace(usual, lr=0.01)


def jobs(monkeypatch) -> list[Job]:
    """Return a list of the jobs that commands start; the jobs do nothing."""
    from train import launch

    seen: list[Job] = []

    def no_launch(job: Job, display: object) -> None:
        seen.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", no_launch)
    return seen


@pytest.mark.parametrize("task", TRAINED, ids=str)
def test_the_trainers_command_line_accepts_a_run_and_gives_its_net_and_recipe(task, run, monkeypatch, tmp_path):
    seen, start = jobs(monkeypatch), PLAN.start(task)
    options = PLAN.options(task) | {"data": tmp_path, "out": tmp_path / "out"}
    if start is not None:
        path = tmp_path / "start.safetensors"
        small = replace(PLAN.variant(start), width=0.02, hidden=8, classes=5)  # with the layers of the run's own
        random_artifact(small).save(path)
        options["init-from"] = path
    code, _, stderr = run(*arguments(options))
    assert (code, len(seen)) == (130, 1), stderr
    (job,) = seen
    assert job.recipe == PLAN.recipe(task)
    assert job.seed == task.seed
    if start is None:
        assert job.variant == PLAN.variant(task)
        assert job.init_from is None
    else:
        assert replace(job.variant, classes=small.classes).build() == small.build()
        assert job.init_from == path


def data_of(task: Training) -> str:
    return PLAN.runs[task.run].data


@pytest.mark.parametrize("task", TRAINED, ids=str)
def test_the_command_for_readers_is_the_command_of_the_run(task, run, monkeypatch, tmp_path):
    import shlex

    text = command(PLAN, task)
    words = shlex.split(text)
    assert words[:3] == ["python", "-m", "train"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    start = PLAN.start(task)
    assert given.pop("--data") == {"main": "packed", "other": "packed-larger", "ten": "packed-ten"}[data_of(task)]
    assert given.pop("--out") == f"runs/{task.run}-{task.seed}"
    assert ("--init-from" in given) == (start is not None)
    if start:
        preset = PLAN.scales[task.scale].options["preset"]
        assert given.pop("--init-from") == f"runs/{start.run}-{start.seed}/{preset}.safetensors"
    own = arguments(PLAN.options(task))
    assert given == dict(zip(own[::2], own[1::2], strict=True))


def test_a_learning_rate_is_written_with_all_its_digits():
    rates = [0.01, 1e-7, 0.123456789, 1 / 3]
    assert [float(arguments({"lr": rate})[1]) for rate in rates] == rates


def changed(old: str, new: str, after: str = "[scale.quarter]") -> str:
    """Return the file with the first occurrence of a text after another one replaced."""
    place = TEXT.index(after)
    assert old in TEXT[place:]
    return TEXT[:place] + TEXT[place:].replace(old, new, 1)


LRN = 'name = "lrn"\n'

DAMAGED = {
    "not-toml": (TEXT + "\n[[[", "experiments.toml"),
    "empty": ("", "scale"),
    "no-rows": (TEXT[: TEXT.index("[[row]]")], "row"),
    "rows-as-table": (TEXT[: TEXT.index("[[row]]")] + '[row]\nname = "x"\n', "row"),
    "rows-of-numbers": ("row = [1]\n" + TEXT[: TEXT.index("[[row]]")], "row"),
    "scale-not-a-table": (changed("[scale.quarter]", "[scale]\nsmall = 3\n[scale.quarter]"), "scale"),
    "scale-unknown-field": (changed("seeds = [0, 1]", "seeds = [0, 1]\ncolour = 1"), "scale.quarter"),
    "scale-without-about": (changed('about = "a quarter', 'abuot = "a quarter'), "scale.quarter"),
    "scale-without-main": (changed('main = { image-size = 64, classes = "0', 'mian = { classes = "0'), "scale.quarter"),
    "scale-other-title": (changed('title = "quarter"', 'title = "quart"'), "scale.quarter"),
    "scale-without-seeds": (changed("seeds = [0, 1]\n", ""), "scale.quarter"),
    "scale-seeds-no-list": (changed("seeds = [0, 1]", "seeds = 3"), "scale.quarter"),
    "scale-seeds-of-text": (changed("seeds = [0, 1]", 'seeds = ["a"]'), "scale.quarter"),
    "scale-seed-below-0": (changed("seeds = [0, 1]", "seeds = [-1]"), "scale.quarter"),
    "scale-same-seed-twice": (changed("seeds = [0, 1]", "seeds = [0, 0]"), "scale.quarter"),
    "scale-options-no-table": (changed('options = { preset = "alexnet-64"', "options = 3 #"), "scale.quarter"),
    "scale-unknown-preset": (changed('preset = "alexnet-64"', 'preset = "alexnet-65"'), "quarter"),
    "scale-without-preset": (changed('preset = "alexnet-64", ', ""), "quarter"),
    "scale-unknown-recipe": (changed('recipe = "fast"', 'recipe = "slow"'), "quarter"),
    "scale-width-of-text": (changed("width = 0.25", 'width = "x"'), "quarter"),
    "part-not-a-table": (changed("main = {", "main = 3 # {"), "scale.quarter.main"),
    "part-size-of-text": (changed("image-size = 64", 'image-size = "64"'), "scale.quarter.main"),
    "part-unknown-field": (changed("image-size = 64", "image-size = 64, x = 1"), "scale.quarter.main"),
    "part-classes-no-slice": (changed('"0::2"', '"even"'), "scale.quarter.main"),
    "run-not-a-table": (changed("[run.paper]", "[run]\nother = 3\n[run.paper]"), "run"),
    "run-unknown-field": (changed("[run.paper]", "[run.paper]\ncolour = 1"), "run.paper"),
    "run-without-title": (changed("title = \"the paper's net\"", ""), "run.paper"),
    "run-name-with-capitals": (changed("[run.no-lrn]", "[run.No-LRN]"), "run.No-LRN"),
    "run-on-unknown-data": (changed('data = "other"', 'data = "third"'), "run.six-first"),
    "run-from-unknown-start": (changed('start = "six-first"', 'start = "seven"'), "run.six-tuned"),
    "run-from-itself": (changed('start = "six-first"', 'start = "six-tuned"'), "run.six-tuned"),
    "run-unknown-option": (changed('normalization = "none"', 'normalisation = "none"'), "run.no-lrn"),
    "run-option-of-no-use": (changed('normalization = "none"', 'normalization = "nothing"'), "run.no-lrn"),
    "run-like-unknown": (changed('like = "relu"', 'like = "rule"'), "run.relu-slow"),
    "run-like-a-list": (changed('like = "relu"', 'like = ["relu"]'), "run.relu-slow"),
    "run-like-one-that-is-like": (changed('like = "relu"', 'like = "relu-slow"', "[run.relu-fast]"), "run.relu-fast"),
    "scale-parts": (changed("seeds = [0, 1]", "seeds = [0, 1]\nparts = 5"), "scale.quarter"),
    "scale-full-without-main": (changed("main = {", "ten = {", "[scale.full]"), "scale.full"),
    "run-kernels-number": (changed('kernels = "48,128,192,192,256"', "kernels = 3"), "run.half-kernels"),
    "row-without-name": (changed(LRN, ""), "row"),
    "row-same-name-twice": (changed('name = "pooling"', LRN.strip()), "row lrn"),
    "row-same-title-twice": (changed('title = "Overlapping pooling"', 'title = "LRN"'), "row pooling"),
    "row-unknown-field": (changed(LRN, LRN + "colour = 1\n"), "row lrn"),
    "row-unknown-net": (changed('net = "paper"', 'net = "papre"'), "row lrn"),
    "row-unknown-measure": (changed('measure = "ablation"', 'measure = "oblation"', LRN), "row lrn"),
    "row-nothing-to-compare": (changed('against = "no-lrn"\n', ""), "row lrn"),
    "row-paper-unknown-figure": (changed("top1 = 1.4", "top2 = 1.4"), "row lrn"),
    "row-ratio-of-an-ablation": (changed("top1 = 1.4", "ratio = 1.4"), "row lrn"),
    "row-possible-at-no-scale": (changed('against = "no-lrn"', 'against = "tanh"'), "row lrn"),
    "row-unknown-also": (changed('also = ["relu-slow"', 'also = ["relu-slower"'), "row relu"),
    "row-paper-text": (changed("top1 = 1.4", 'top1 = "a"'), "row lrn"),
    "row-paper-nan": (changed("top1 = 1.4", "top1 = nan"), "row lrn"),
    "row-title-of-two-lines": (changed('title = "LRN"', 'title = "L\\nRN"'), "row lrn"),
    "row-ensemble-of-another-run": (changed('"ensemble"\nnet = "paper"', '"ensemble"\nnet = "six"'), "row five"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_the_place(damage, tmp_path):
    text, place = DAMAGED[damage]
    path = tmp_path / "experiments.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        read_plan(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert place in message


def test_a_missing_file_and_one_that_is_not_utf_8_are_one_line_with_the_path(tmp_path):
    path = tmp_path / "experiments.toml"
    for content in (None, b"\xff\xfe"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SpecError, match=r"experiments\.toml: ") as caught:
            read_plan(path)
        assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"--only LRN: expected one of relu, relu-deep, lrn, .*color-columns"):
        PLAN.row("LRN")
    with pytest.raises(UsageError, match=f"--scale whole: expected one of {', '.join(PLAN.scales)}"):
        Request(plan=PLAN, scale="whole", results=Path("r"))
    with pytest.raises(UsageError, match=r"--only nothing: expected one of relu, relu-deep"):
        Request(plan=PLAN, scale="quarter", only=("nothing",), results=Path("r"))


@pytest.mark.parametrize(
    ("row", "scale"), [("five", "quarter"), ("six", "full"), ("lrn", "bundled"), ("relu", "quarter")]
)
def test_a_row_that_a_scale_can_not_have_is_refused_by_name(row, scale):
    with pytest.raises(UsageError, match=rf"--only {row}: is not possible at the scale {scale}"):
        Request(plan=PLAN, scale=scale, only=("views", row), results=Path("r"))


def test_a_request_without_names_has_the_possible_rows_in_the_order_of_the_file():
    rows = Request(plan=PLAN, scale="full", results=Path("r")).rows
    assert [row.name for row in rows] == [r.name for r in PLAN.rows if r.name not in ("relu", "six", "pre-training")]
    chosen = Request(plan=PLAN, scale="full", only=("views", "lrn"), results=Path("r")).rows
    assert [row.name for row in chosen] == ["views", "lrn"]


def test_the_plan_needs_no_torch():
    import subprocess

    code = "import sys, train.reproduction.plan, train.reproduction.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_errors_of_the_plan_are_the_programs_own():
    assert issubclass(SpecError, AlexNetInferError)
