"""The loop: learning, reproducibility, and going on after every kind of end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.errors import AlexNetInferError, ModelFileError, UsageError
from tests.train.toys import BRIEF, TINY, assert_bit_identical, images, tensors, trainer
from train import loop
from train.augment import EpochPlan
from train.feed import Feed
from train.loop import StepReport
from train.optimizer import onecycle

ROOT = Path(__file__).parents[2]
BATCH_NORM = replace(TINY, normalization="batchnorm").build()
NO_UNIT = replace(BRIEF, unit=1.0)


class KilledError(Exception):
    pass


def kill_after(steps: int):
    def on_step(report: StepReport) -> None:
        if 3 * report.epoch + report.step == steps:
            raise KilledError

    return on_step


def test_learns_a_separable_set_from_chance_to_few_errors(tmp_path):
    recipe = replace(BRIEF, epochs=8, batch=8, lr=0.01)
    architecture = replace(TINY, hidden=64, dropout=0.2).build()
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
    # A rate this small changes no error, so that every epoch after the first is a wait: 1, 1/10, 1/100, 1/1000, end.
    assert rates[::3] == pytest.approx([1e-8, 1e-8, 1e-9, 1e-10, 1e-11])
    assert state.epoch == 5


def test_the_rate_follows_the_schedule_over_the_whole_run(tmp_path):
    rates = []
    trainer(tmp_path).run(lambda report: rates.append(report.lr))
    assert rates == pytest.approx([onecycle(BRIEF, step / 6) for step in range(6)])


def test_every_epoch_shows_all_images_in_another_order_and_other_views(tmp_path):
    run, seen = trainer(tmp_path), []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    first_labels = [run.train.labels[EpochPlan.draw(12, 0, epoch).order].tolist() for epoch in range(2)]
    run.run()
    epochs = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not any((patch == other).all() for patch in epochs[0] for other in epochs[1])
    for patches, labels in zip(epochs, first_labels, strict=True):
        assert patches.mean((2, 3)).argmax(1).tolist() == labels  # the brightest channel is the label
    assert first_labels[0] != first_labels[1]


def test_equal_seeds_give_equal_weights_and_other_seeds_others(tmp_path):
    runs = [trainer(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for run in runs:
        run.run()
    a, b, c = map(tensors, runs)
    assert_bit_identical(a, b)
    assert not torch.equal(a["model.fc6.weight"], c["model.fc6.weight"])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("architecture", [TINY.build(), BATCH_NORM], ids=["LRN", "batch norm"])
def test_a_run_killed_after_any_step_and_resumed_ends_bit_identical(tmp_path, steps, architecture):
    recipe = BRIEF if architecture is not BATCH_NORM else NO_UNIT
    undisturbed = trainer(tmp_path / "whole", architecture, recipe)
    errors = undisturbed.run().errors
    with pytest.raises(KilledError):  # a checkpoint after every step: the one before the kill is what counts
        trainer(tmp_path / "killed", architecture, recipe, checkpoint_minutes=0).run(kill_after(steps))
    resumed = trainer(tmp_path / "killed", architecture, recipe)
    assert 3 * resumed.state.epoch + resumed.state.step == steps - 1
    assert resumed.run().errors == errors
    assert_bit_identical(tensors(resumed), tensors(undisturbed))


def test_saving_between_two_steps_loses_none(tmp_path):
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
trainer(Path(sys.argv[1]), checkpoint_minutes=0).run(lambda report: time.sleep(0.2))
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
    assert child.wait() == -signal.SIGKILL, "the child must not have ended by itself"
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


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint(tmp_path):
    good = trainer(tmp_path)
    with pytest.raises(KilledError):
        good.run(kill_after(4))  # the checkpoint of the first epoch is there
    before = good.last_checkpoint.read_bytes()
    broken = trainer(tmp_path, checkpoint_minutes=0)
    with torch.no_grad():
        broken.model.conv3.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(AlexNetInferError, match=r"loss is nan in epoch 2, step 1: .* --lr"):
        broken.run()
    assert good.last_checkpoint.read_bytes() == before
    assert trainer(tmp_path).state.epoch == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"recipe": replace(BRIEF, epochs=3)}, r"recipe\.epochs \(2, now 3\)"),
        ({"architecture": replace(TINY, hidden=32).build()}, r"architecture\.operations\.fc6\.units \(16, now 32\)"),
        ({"seed": 1}, r"seed"),
        ({"train": images(15)}, r"data\.images \(12, now 15\)"),
        ({"train": images(12, seed=5)}, r"data\.mean"),
        ({"train": images(12, size=70), "validation": images(6, size=70)}, r"data\.(size|mean)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, changed, named):
    run = trainer(tmp_path)
    run.save()
    before = run.last_checkpoint.read_bytes()
    with pytest.raises(ModelFileError, match=f"another {named}") as caught:
        trainer(tmp_path, **changed)
    assert caught.value.exit_code == 4
    assert run.last_checkpoint.read_bytes() == before


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--batch 13: the training set has only 12 images"):
        trainer(tmp_path, recipe=replace(BRIEF, batch=13))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_layers_compute_in_the_working_precision_and_weights_stay_float32(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(loop, "working_precision", lambda device: precision)
    run, seen = trainer(tmp_path), set()
    run.model.conv3.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    run.run()
    assert seen == {precision}
    assert {t.dtype for t in tensors(run).values()} == {torch.float32}


def test_validation_counts_every_image_once_whatever_the_batches(tmp_path):
    run = trainer(tmp_path, validation=images(1003, seed=2))
    wrong = run.validation_error()[0] * 1003
    assert wrong == pytest.approx(round(wrong))
    run.validation = Feed(images(3, seed=2), torch.device("cpu"))
    assert run.validation_error()[0] in (0, 1 / 3, 2 / 3, 1)
