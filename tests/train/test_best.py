"""The best checkpoint is from the right epoch, even if the run was killed around that time."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.errors import ModelFileError
from tests.train.toys import BRIEF, KilledError, assert_bit_identical, kill_after, tensors, trainer
from train import checkpoint
from train.loop import Trainer


def with_errors(monkeypatch, *errors: float) -> None:
    """Give epochs these top-1 validation errors, and top-5 errors that rank the epochs differently."""
    monkeypatch.setattr(
        Trainer, "validation_error", lambda run: (errors[run.state.epoch], 0.3 - errors[run.state.epoch] / 2)
    )


FOUR = replace(BRIEF, epochs=4)
"""Four epochs of three steps."""


@pytest.mark.parametrize(
    ("errors", "best"),
    [((0.5, 0.3, 0.3, 0.4), 2), ((0.1, 0.2, 0.1, 0.1), 1), ((0.4, 0.3, 0.2, 0.1), 4), ((0.3, 0.3, 0.3, 0.3), 1)],
    ids=str,
)
def test_the_best_checkpoint_is_from_the_first_epoch_with_the_lowest_top_1_error(tmp_path, monkeypatch, errors, best):
    with_errors(monkeypatch, *errors)
    run, after = trainer(tmp_path, recipe=FOUR), []
    run.run(on_epoch=lambda state: after.append(tensors(run)))
    state, saved = checkpoint.load(run.saved.best, run.config, {n: tuple(t.shape) for n, t in after[0].items()})
    assert run.state.best_epoch == state.epoch == best
    assert_bit_identical(saved, after[best - 1])
    weights = {f"model.{name}": tensor for name, tensor in run.result("best")[0].state_dict().items()}
    assert_bit_identical(weights, {name: after[best - 1][name] for name in weights})
    assert not torch.equal(after[0]["model.fc6.weight"], after[1]["model.fc6.weight"])


def best_state(run: Trainer) -> tuple[int, dict[str, torch.Tensor]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(run).items()}
    state, saved = checkpoint.load(run.saved.best, run.config, shapes)
    return state.epoch, saved


def killed(*arguments: object) -> None:
    raise KilledError


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("where", ["after both files", "between the two", "in the next epoch"])
def test_a_run_killed_around_its_best_checkpoint_and_resumed_ends_with_the_same_best(
    tmp_path, monkeypatch, epoch, where
):
    with_errors(monkeypatch, 0.5, 0.3, 0.2, 0.4)
    undisturbed = trainer(tmp_path / "whole", recipe=FOUR)
    undisturbed.run()
    first = trainer(tmp_path / "killed", recipe=FOUR)
    callbacks = {
        "after both files": {"on_epoch": lambda state: state.epoch == epoch and killed()},
        "between the two": {},
        "in the next epoch": {"on_step": kill_after(3 * epoch + 1)},
    }
    with monkeypatch.context() as patched:
        if where == "between the two":
            keep, whole = checkpoint.keep, iter(range(1, epoch))
            patched.setattr(checkpoint, "keep", lambda *paths: keep(*paths) if next(whole, 0) else killed())
        with pytest.raises(KilledError):
            first.run(**callbacks[where])
    resumed = trainer(tmp_path / "killed", recipe=FOUR)
    assert resumed.state.epoch == epoch
    assert best_state(resumed)[0] == epoch
    resumed.run()
    assert best_state(resumed)[0] == best_state(undisturbed)[0] == 3
    assert_bit_identical(best_state(resumed)[1], best_state(undisturbed)[1])


def test_before_the_first_epoch_ends_the_best_net_is_the_current_one(tmp_path):
    run = trainer(tmp_path)
    run.run(until=0)
    assert run.state.best_epoch == 0
    assert run.result("best")[1] == run.trained_epochs == 1 / 3
    assert not run.saved.best.exists()
    assert_bit_identical(run.result("best")[0].state_dict(), run.model.state_dict())


def test_a_missing_best_checkpoint_is_refused_with_a_remedy(tmp_path):
    run = trainer(tmp_path)
    run.run()
    run.saved.best.unlink()
    with pytest.raises(ModelFileError, match=r"best\.safetensors: not found; .* --result last"):
        run.result("best")
