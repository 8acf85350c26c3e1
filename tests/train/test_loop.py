"""The training loop: learning, reproducibility, and resuming after any kind of end."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import load_artifact
from alexnet_infer.errors import AlexNetInferError, ModelFileError, UsageError
from alexnet_infer.reading import Unreadable
from tests.train.toys import (
    BRIEF,
    TINY,
    KilledError,
    assert_bit_identical,
    finished,
    images,
    in_memory,
    kill_after,
    tensors,
    trainer,
)
from train import checkpoint, loop
from train.augment import EpochPlan
from train.checkpoint import RunState
from train.dropout import Dropout
from train.evaluate import DivergedError
from train.feed import Feed
from train.loop import Trainer
from train.optimizer import onecycle
from train.ranks import Ranks
from train.step import StepReport

ROOT = Path(__file__).parents[2]
BATCH_NORM = replace(TINY, normalization="batchnorm").build()
NO_UNIT = replace(BRIEF, unit=1.0)


def test_the_error_on_a_separable_set_falls_from_chance_to_almost_zero(tmp_path):
    recipe = replace(BRIEF, epochs=8, batch=8, lr=0.01)
    architecture = replace(TINY, hidden=64).build()
    run = trainer(tmp_path, architecture, recipe, train=images(96), validation=images(60, seed=1))
    before, losses = run.validation_error()[0], []
    state = run.run(lambda report: losses.append(report.loss))
    assert before >= 0.5
    assert state.errors[-1] <= 0.05
    assert sum(losses[-12:]) < 0.6 * sum(losses[:12])
    assert (state.epoch, state.step, len(state.errors), len(losses)) == (8, 0, 8, 96)


def test_the_paper_recipe_runs_with_its_own_initialisation_and_schedule(tmp_path):
    recipe = replace(NO_UNIT, schedule="plateau", init="paper", epochs=12, patience=1, lr=1e-8, label_smoothing=0.0)
    rates = []
    state = trainer(tmp_path, recipe=recipe).run(lambda report: rates.append(report.lr))
    # The rate is too small to change the error, so every epoch after the first is a wait. After the waits, the rate is
    # 1/10, 1/100 and 1/1000 of the first, and training ends.
    assert rates[::3] == pytest.approx([1e-8, 1e-8, 1e-9, 1e-10, 1e-11])
    assert state.epoch == 5


def test_the_rate_follows_the_schedule_over_the_whole_run(tmp_path):
    rates = []
    trainer(tmp_path).run(lambda report: rates.append(report.lr))
    assert rates == pytest.approx([onecycle(BRIEF, step / 6) for step in range(6)])


def test_every_epoch_has_all_images_in_another_order_with_other_patches(tmp_path):
    run, seen = trainer(tmp_path), []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    first_labels = [run.train.labels[EpochPlan.draw(12, 0, epoch).order].tolist() for epoch in range(2)]
    run.run()
    epochs = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not any((patch == other).all() for patch in epochs[0] for other in epochs[1])
    for patches, labels in zip(epochs, first_labels, strict=True):
        assert patches.mean((2, 3)).argmax(1).tolist() == labels  # the brightest channel is the label
    assert first_labels[0] != first_labels[1]


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones(tmp_path):
    runs = [trainer(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for run in runs:
        run.run()
    a, b, c = map(tensors, runs)
    assert_bit_identical(a, b)
    assert not torch.equal(a["model.fc6.weight"], c["model.fc6.weight"])


@pytest.fixture
def save_every_step(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_MINUTES", 0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("architecture", [TINY.build(), BATCH_NORM], ids=["LRN", "batch norm"])
def test_a_run_killed_after_any_step_and_resumed_ends_bit_identical(tmp_path, save_every_step, steps, architecture):
    recipe = BRIEF if architecture is not BATCH_NORM else NO_UNIT
    undisturbed = trainer(tmp_path / "whole", architecture, recipe)
    errors = undisturbed.run().errors
    with pytest.raises(KilledError):  # with a checkpoint after every step, the last is from the step before
        trainer(tmp_path / "killed", architecture, recipe).run(kill_after(steps))
    resumed = trainer(tmp_path / "killed", architecture, recipe)
    assert 3 * resumed.state.epoch + resumed.state.step == steps - 1
    assert resumed.run().errors == errors
    assert_bit_identical(tensors(resumed), tensors(undisturbed))


def test_saving_between_two_steps_loses_no_step(tmp_path):
    undisturbed = trainer(tmp_path / "whole")
    undisturbed.run()
    killed = trainer(tmp_path / "killed")
    with pytest.raises(KilledError):
        killed.run(kill_after(3))
    killed.save()
    resumed, reports = trainer(tmp_path / "killed"), []
    resumed.run(reports.append)
    assert len(reports) == 3
    assert_bit_identical(tensors(resumed), tensors(undisturbed))


CHILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.train.toys import trainer
from train import loop
loop.CHECKPOINT_MINUTES = 0
trainer(Path(sys.argv[1])).run(lambda report: time.sleep(0.2))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_killed_by_the_system_and_resumed_ends_bit_identical(tmp_path):
    undisturbed = trainer(tmp_path / "whole")
    undisturbed.run()
    out = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (out / "last.safetensors").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the child must not have ended before it was killed"
    resumed = trainer(out)
    assert 0 < 3 * resumed.state.epoch + resumed.state.step < 6
    resumed.run()
    assert_bit_identical(tensors(resumed), tensors(undisturbed))


def test_a_finished_run_does_nothing_more(tmp_path):
    first = trainer(tmp_path)
    first.run()
    again, reports = trainer(tmp_path), []
    again.run(reports.append)
    assert not reports
    assert again.state == first.state
    assert_bit_identical(tensors(again), tensors(first))


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    good = trainer(tmp_path)
    with pytest.raises(KilledError):
        good.run(kill_after(4))  # after the checkpoint of the first epoch
    before = good.saved.last.read_bytes()
    monkeypatch.setattr(loop, "CHECKPOINT_MINUTES", 0)
    broken = trainer(tmp_path)
    with torch.no_grad():
        broken.model.conv3.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(AlexNetInferError, match=r"loss is nan in epoch 2, step 1: .* --lr"):
        broken.run()
    assert good.saved.last.read_bytes() == before
    assert trainer(tmp_path).state.epoch == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"recipe": replace(BRIEF, epochs=3)}, r"recipe\.epochs \(2, now 3\)"),
        ({"architecture": replace(TINY, hidden=32).build()}, r"architecture\.operations\.fc6\.units \(16, now 32\)"),
        ({"recipe": replace(BRIEF, dropout=0.5)}, r"architecture\.operations\.drop6\.rate \(0\.2, now 0\.5\)"),
        ({"seed": 1}, r"seed"),
        ({"train": images(15)}, r"data\.images of training \(12, now 15\)"),
        ({"train": images(12, seed=5)}, r"data\.pixels of training"),
        ({"validation": images(5, seed=1)}, r"data\.images of validation \(6, now 5\)"),
        ({"validation": images(6, seed=2)}, r"data\.pixels of validation"),
        ({"train": images(12, size=70), "validation": images(6, size=70)}, r"data\.(size|mean)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, changed, named):
    run = trainer(tmp_path)
    run.save()
    before = run.saved.last.read_bytes()
    with pytest.raises(ModelFileError, match=f"a different {named}") as caught:
        trainer(tmp_path, **changed)
    assert caught.value.exit_code == 4
    assert run.saved.last.read_bytes() == before


def test_the_recipe_alone_sets_the_dropout_rate(tmp_path):
    run = trainer(tmp_path, replace(TINY, dropout=0.9).build(), replace(BRIEF, dropout=0.3))
    assert [module.rate for module in run.model.modules() if isinstance(module, Dropout)] == [0.3, 0.3]
    architecture = replace(TINY, dropout=0.3).build()
    assert run.model.architecture == Architecture.from_json(run.config["architecture"]) == architecture
    assert run.config["recipe"]["dropout"] == 0.3


def test_a_checkpoint_from_before_recipes_had_a_dropout_rate_resumes_only_with_its_rate(tmp_path):
    run = trainer(tmp_path)
    recipe = {name: value for name, value in run.config["recipe"].items() if name != "dropout"}
    checkpoint.save(run.saved.last, run.config | {"recipe": recipe}, RunState(step=2), tensors(run), {})
    assert trainer(tmp_path).state.step == 2
    with pytest.raises(ModelFileError, match=r"a different architecture\.operations\.drop6\.rate \(0\.2, now 0\.5\)"):
        trainer(tmp_path, recipe=replace(BRIEF, dropout=0.5))


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--batch 13: expected at most 12, the number of training images"):
        trainer(tmp_path, recipe=replace(BRIEF, batch=13))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_layers_compute_in_the_working_precision_and_weights_stay_float32(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(loop, "working_precision", lambda device: precision)
    run, seen = trainer(tmp_path), set()
    run.model.conv3.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    run.run()
    assert seen == {precision}
    assert {t.dtype for t in tensors(run).values()} == {torch.float32}


def test_validation_counts_every_image_once(tmp_path):
    run = trainer(tmp_path, validation=images(1003, seed=2))
    errors = run.validation_error()[0] * 1003
    assert errors == pytest.approx(round(errors))
    run.validation = Feed(images(3, seed=2), torch.device("cpu"))
    assert run.validation_error()[0] in (0, 1 / 3, 2 / 3, 1)


@pytest.fixture
def float32(monkeypatch) -> None:
    monkeypatch.setattr(loop, "working_precision", lambda device: torch.float32)


def largest_difference(a: Trainer, b: Trainer) -> float:
    tensors_a, tensors_b = tensors(a), tensors(b)
    assert tensors_a.keys() == tensors_b.keys()
    return max((tensors_a[name] - tensors_b[name]).abs().max().item() for name in tensors_a)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch_with_dropout(tmp_path, float32, accumulate):
    recipes = {"whole": BRIEF, "parts": BRIEF, "another rate": replace(BRIEF, dropout=0.4)}
    runs = {
        name: trainer(tmp_path / name, recipe=recipe, accumulate=accumulate if name == "parts" else 1)
        for name, recipe in recipes.items()
    }
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        run.run(lambda report, losses=losses[name]: losses.append(report.loss))
    assert largest_difference(runs["parts"], runs["whole"]) < 1e-6
    assert losses["parts"] == pytest.approx(losses["whole"], abs=1e-5)
    assert largest_difference(runs["another rate"], runs["whole"]) > 1e-3, "the masks must have an effect"


@pytest.mark.parametrize("accumulate", [3, 8])
def test_a_batch_that_cannot_be_split_evenly_is_refused(tmp_path, accumulate):
    with pytest.raises(UsageError, match=rf"--batch 4: expected a multiple of {accumulate} \(--accumulate \d\)$"):
        trainer(tmp_path, accumulate=accumulate)


@pytest.mark.parametrize(
    ("ranks", "accumulate", "parts"),
    [
        (Ranks(data_ranks=3), 1, "3 (3 processes that share a batch)"),
        (Ranks(data_ranks=3), 2, "6 (3 processes that share a batch, --accumulate 2)"),
        (Ranks(data_ranks=3, columns=2), 1, "3 (3 pairs of processes that share a batch)"),
    ],
)
def test_a_batch_that_processes_cannot_share_evenly_is_refused(tmp_path, ranks, accumulate, parts):
    with pytest.raises(UsageError) as caught:
        trainer(tmp_path, ranks=ranks, accumulate=accumulate)
    assert str(caught.value) == f"--batch 4: expected a multiple of {parts}"


def test_epochs_with_a_number_of_steps_draw_different_images_each_time(tmp_path, monkeypatch):
    run = trainer(tmp_path, recipe=replace(BRIEF, epochs=4, steps_per_epoch=2))
    sources, drawn, reports = run.train.sources, [], []

    def recorded(rows: Iterable[torch.Tensor]):
        rows = [*rows]
        drawn.append(torch.cat(rows).tolist())
        return sources(rows)

    monkeypatch.setattr(run.train, "sources", recorded)
    run.run(reports.append)
    assert [(r.epoch, r.step) for r in reports] == [(epoch, step) for epoch in range(4) for step in (1, 2)]
    assert [r.lr for r in reports] == pytest.approx([onecycle(run.recipe, step / 8) for step in range(8)])
    assert all(len(rows) == len(set(rows)) == 8 for rows in drawn)
    assert len({frozenset(rows) for rows in drawn}) == 4
    assert set().union(*drawn) == set(range(12))


def test_more_steps_than_the_set_has_batches_are_refused(tmp_path):
    assert trainer(tmp_path, recipe=replace(BRIEF, steps_per_epoch=3)).steps_per_epoch == 3
    with pytest.raises(UsageError, match="--steps-per-epoch 4: expected at most 3, the number of training batches"):
        trainer(tmp_path / "other", recipe=replace(BRIEF, steps_per_epoch=4))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_reported_norm_is_that_of_the_gradient_of_the_mean_loss(tmp_path, float32, accumulate):
    recipe = replace(BRIEF, schedule="plateau", momentum=0.0, weight_decay=0.0, lr=1.0)
    run, reports = trainer(tmp_path, recipe=recipe, accumulate=accumulate), []
    plan = EpochPlan.draw(12, 0, 0)
    rows = plan.order[:4]
    copied = copy.deepcopy(run.model).train()
    patches = run.augment.training(run.train.images.shards[0][rows], plan, rows)
    logits = copied(patches, plan.key[rows])
    picked = torch.nn.functional.one_hot(run.train.labels[rows], 3) * (1 - 0.1) + 0.1 / 3
    loss = -(picked * logits.log_softmax(1)).sum(1).mean()
    gradients = torch.autograd.grad(loss, [*copied.parameters()])
    before = [w.detach().clone() for w in run.model.parameters()]
    run.run(reports.append, until=0)
    moved = [a - b.detach() for a, b in zip(before, run.model.parameters(), strict=True)]  # the rate is 1
    assert reports[0].loss == pytest.approx(loss.item(), rel=1e-5)
    assert reports[0].grad_norm == pytest.approx(flat_norm(gradients), rel=1e-4)
    assert reports[0].grad_norm == pytest.approx(flat_norm(moved), rel=1e-3)
    assert flat_norm(gradients) > 1.01 * flat_norm(gradients[:-2]), "the last layer has an effect"


def flat_norm(parts: Iterable[torch.Tensor]) -> float:
    return torch.cat([part.flatten().double() for part in parts]).norm().item()


def test_a_gradient_that_is_not_finite_ends_the_run_before_a_checkpoint(tmp_path, save_every_step):
    run = trainer(tmp_path)
    with pytest.raises(KilledError):
        run.run(kill_after(3))  # two steps are saved
    before = run.saved.last.read_bytes()
    broken = trainer(tmp_path)
    broken.model.conv2.weight.register_hook(lambda gradient: gradient * float("inf"))
    match = r"the norm of the gradient is (nan|inf) in epoch 1, step 3: .* --lr"
    with pytest.raises(DivergedError, match=match) as caught:
        broken.run()
    assert "\n" not in str(caught.value)
    assert run.saved.last.read_bytes() == before


def test_an_expired_time_limit_stops_after_one_step_and_resuming_ends_bit_identical(tmp_path):
    undisturbed = trainer(tmp_path / "whole")
    undisturbed.run()
    steps: list[tuple[int, int]] = []
    while not (run := trainer(tmp_path / "short")).finished:
        reports: list[StepReport] = []
        state = run.run(reports.append, until=time.monotonic() - 1)
        assert len(reports) == (0 if run.finished else 1)
        assert trainer(tmp_path / "short").state == state, "the state must be saved"
        steps += [(report.epoch, report.step) for report in reports]
    assert steps == [(epoch, step) for epoch in range(2) for step in (1, 2, 3)]
    assert run.state.errors == undisturbed.state.errors
    assert_bit_identical(tensors(run), tensors(undisturbed))


def test_a_time_limit_that_is_not_reached_changes_nothing(tmp_path):
    runs = [trainer(tmp_path / name) for name in ("limited", "free")]
    runs[0].run(until=time.monotonic() + 3600)
    runs[1].run()
    assert runs[0].finished
    assert_bit_identical(*map(tensors, runs))


@pytest.mark.parametrize("views", ["ten", "center"])
def test_unreadable_images_count_as_wrong(tmp_path, views):
    recipe, readable = replace(BRIEF, validation_views=views), images(9, seed=2)
    top1, top5 = trainer(tmp_path / "a", recipe=recipe, validation=readable).validation_error()
    assert 0 < top1 < 1
    assert top5 == 0, "there are three classes"
    missing = replace(readable, unreadable=(Unreadable(image="a.png", reason="empty"),) * 3)
    errors = trainer(tmp_path / "b", recipe=recipe, validation=missing).validation_error()
    assert errors == pytest.approx(((9 * top1 + 3) / 12, 3 / 12))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_every_process_counts_its_share_of_the_validation_images(tmp_path, count):
    run = trainer(tmp_path)  # six images
    whole, right = run.validation_error()[0], 0
    for rank in range(count):
        run.ranks = Ranks(data_rank=rank, data_ranks=count)  # without groups, so nothing is summed
        right += round(6 * (1 - run.validation_error()[0]))
    assert right == round(6 * (1 - whole)) > 0


@pytest.mark.parametrize("mean", ["pixel", "channel"])
def test_the_model_file_has_the_mean_that_was_subtracted(tmp_path, mean):
    run = trainer(tmp_path, recipe=replace(BRIEF, mean=mean, epochs=1))
    run.run()
    stored = load_artifact(finished(run, tmp_path / "net.safetensors").path).manifest.preprocessing.mean
    pixels = run.train.images.shards[0].numpy().astype(np.float64)
    expected = pixels.mean(0) if mean == "pixel" else pixels.mean((0, 1, 2))
    assert stored.shape == ((64, 64, 3) if mean == "pixel" else (3,))
    np.testing.assert_allclose(stored, expected, rtol=1e-6)
    assert pixels.mean(0).std((0, 1)).min() > 5, "the pixels must have different means"


def test_the_mean_at_the_position_of_a_patch_is_subtracted(tmp_path):
    recipe = replace(BRIEF, mean="pixel", color_sigma=0.0)
    ramp = (np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(1, 64, 64, 3)
    same = in_memory(ramp.repeat(12, axis=0), np.arange(12) % 3)
    run, seen = trainer(tmp_path, recipe=recipe, train=same, validation=same), []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs().max().item()))
    run.run()
    assert seen == [0] * len(seen)  # all images equal the mean, so every patch is 0
    assert len(seen) > 6


def test_the_time_of_a_step_includes_waiting_for_images(tmp_path, monkeypatch):
    run, clock, reports = trainer(tmp_path), [0.0], []
    sources = run.train.sources

    def slow(rows):
        for source in sources(rows):
            clock[0] += 0.5
            yield source

    monkeypatch.setattr(run.train, "sources", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    state = run.run(reports.append)
    assert state.seconds == 6 * 0.5
    assert [report.images_per_second for report in reports] == [4 / 0.5] * 6


@pytest.mark.parametrize(("ranks", "accumulate"), [(Ranks(), 2), (Ranks(data_ranks=2), 1)])
def test_batch_norm_over_parts_of_a_batch_is_refused(tmp_path, ranks, accumulate):
    with pytest.raises(UsageError, match="--normalization batchnorm: needs whole batches; use --accumulate 1"):
        trainer(tmp_path, BATCH_NORM, NO_UNIT, ranks=ranks, accumulate=accumulate)


@pytest.fixture
def read_late(monkeypatch) -> None:
    """Report a step only while the next one runs, as on a GPU."""
    monkeypatch.setitem(loop.BEHIND, "cpu", 1)


def test_reading_a_step_late_changes_neither_weights_nor_reports(tmp_path, monkeypatch):
    runs, reports = {}, {}
    for behind in (0, 1):
        monkeypatch.setitem(loop.BEHIND, "cpu", behind)
        runs[behind], reports[behind] = trainer(tmp_path / str(behind)), []
        runs[behind].run(lambda report, kept=reports[behind]: kept.append(replace(report, images_per_second=0.0)))
    assert reports[0] == reports[1]
    assert len(reports[0]) == 6
    assert runs[0].state.errors == runs[1].state.errors
    assert_bit_identical(tensors(runs[0]), tensors(runs[1]))


def test_a_late_step_is_reported_when_the_next_one_is_queued(tmp_path, read_late):
    run, queued = trainer(tmp_path), []
    run.run(lambda report: queued.append((report.step, len(run._queued))))
    assert queued == [(1, 1), (2, 1), (3, 0)] * 2, "all are read before an epoch ends"


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_a_run_that_reads_late_killed_after_any_step_and_resumed_ends_bit_identical(
    tmp_path, read_late, save_every_step, steps
):
    undisturbed = trainer(tmp_path / "whole")
    undisturbed.run()
    with pytest.raises(KilledError):
        trainer(tmp_path / "killed").run(kill_after(steps))
    killed = trainer(tmp_path / "killed")
    killed.run()
    assert_bit_identical(tensors(killed), tensors(undisturbed))


def test_saving_includes_a_step_that_was_not_read_yet(tmp_path, read_late):
    undisturbed = trainer(tmp_path / "whole")
    undisturbed.run()
    killed = trainer(tmp_path / "killed")
    with pytest.raises(KilledError):
        killed.run(kill_after(1))
    killed.save()
    resumed = trainer(tmp_path / "killed")
    assert (resumed.state.epoch, resumed.state.step) == (0, 2)
    resumed.run()
    assert_bit_identical(tensors(resumed), tensors(undisturbed))


def test_saving_reports_a_step_that_was_not_read_yet(tmp_path, read_late):
    run, reports = trainer(tmp_path), []
    with pytest.raises(KilledError):
        run.run(kill_after(1))
    run.save(reports.append)
    assert [(report.epoch, report.step) for report in reports] == [(0, 2)]
    run.save(reports.append)
    assert len(reports) == 1


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_with_late_reading_a_time_limit_stops_one_step_later_or_at_the_end_of_the_epoch(
    tmp_path, read_late, monkeypatch, until
):
    now, reports = [0.0], []

    def on_step(report: StepReport) -> None:
        reports.append((report.epoch, report.step))

    def queued(*arguments: object, **options: object) -> None:
        queue(*arguments, **options)
        now[0] += 1

    run = trainer(tmp_path)
    queue = run._queue
    monkeypatch.setattr(run, "_queue", queued)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    state = run.run(on_step, until=until - 1)  # the step numbered `until` begins at that time
    assert (state.epoch, state.step) == {1: (0, 2), 2: (0, 3), 3: (1, 0), 4: (1, 2)}[until]
    assert len(reports) == 3 * state.epoch + state.step
    assert len(state.errors) == state.epoch


def test_no_checkpoint_is_written_after_an_unread_step_that_diverged(tmp_path, read_late):
    run = trainer(tmp_path)
    with pytest.raises(KilledError):
        run.run(kill_after(1))
    run.save()
    before = run.saved.last.read_bytes()
    broken = trainer(tmp_path)

    def spoil(report: StepReport) -> None:
        raise KilledError

    broken.model.conv2.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(DivergedError, match="the norm of the gradient is nan in epoch 1, step 3"):
        broken.run(spoil)
    with pytest.raises(KilledError):
        trainer(tmp_path).run(spoil)
    assert run.saved.last.read_bytes() == before


def test_training_continues_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    write, may_write, steps = checkpoint.save, threading.Event(), []

    def slowly(*arguments: object) -> None:
        assert may_write.wait(60)
        write(*arguments)

    def on_step(report: StepReport) -> None:
        steps.append(report.step)
        if (report.epoch, report.step) == (1, 2):
            assert not run.saved.last.exists(), "the first checkpoint is still being written"
            may_write.set()

    monkeypatch.setattr(checkpoint, "save", slowly)
    run = trainer(tmp_path)
    state = run.run(on_step)
    assert steps == [1, 2, 3, 1, 2, 3]
    assert trainer(tmp_path).state == state, "the last checkpoint is complete when the run ends"


def test_a_checkpoint_has_the_weights_of_its_step_although_it_is_written_later(tmp_path, monkeypatch, save_every_step):
    write, weights, reference = checkpoint.save, [], []

    def late(path, config, state, saved, net) -> None:
        time.sleep(0.05)
        weights.append({name: tensor.clone() for name, tensor in saved.items()})
        write(path, config, state, saved, net)

    monkeypatch.setattr(checkpoint, "save", late)
    run = trainer(tmp_path)
    run.run(on_save=lambda state: reference.append(tensors(run)))
    for written, expected in zip(weights, reference, strict=True):
        assert_bit_identical(written, expected)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise UsageError("last.safetensors: can't be written (No space left on device)")

    monkeypatch.setattr(checkpoint, "save", full)
    reports = []
    with pytest.raises(UsageError, match="No space left"):
        trainer(tmp_path).run(reports.append)
    assert 3 <= len(reports) <= 6
