"""One training step: the parts of a batch, the update, the values it returns, and that it compiles."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
import torch.nn.functional as F

from tests.train.toys import TINY, images
from train.augment import Augment, ColorPCA, EpochPlan
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD
from train.step import Batch, QueuedStep, TrainingStep

CPU = torch.device("cpu")
ROWS = torch.tensor([3, 8, 1, 0, 11, 5])


def batch(*, whole_set: bool) -> Batch:
    """Return six of twelve images, with the squares of the whole set or only their own."""
    packed = images(12)
    if whole_set:
        return Batch(ROWS, packed.labels[ROWS], packed.shards[0], ROWS)
    return Batch(ROWS, packed.labels[ROWS], packed.shards[0][ROWS])


def net() -> AlexNet:
    torch.manual_seed(0)
    model = AlexNet(TINY.build(), unit=16.0)
    initialise(model, "he")
    return model.to(memory_format=torch.channels_last)


def step_of(model: AlexNet, **options) -> TrainingStep:
    packed = images(12)
    augment = Augment(packed.mean, ColorPCA.from_covariance(packed.covariance), TINY.patch, 0.1, CPU)
    return TrainingStep(model, PaperSGD(list(model.parameters()), 0.9, 0.0005), augment, **options)


@pytest.mark.parametrize("whole_set", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_parts_of_a_batch_are_its_images_in_order(whole_set, count):
    whole, squares = batch(whole_set=whole_set), []
    for part in whole.parts(count):
        assert len(part) == len(whole) // count
        squares.append(part.squares if part.index is None else part.squares[part.index])
    assert torch.equal(torch.cat([part.rows for part in whole.parts(count)]), ROWS)
    assert torch.equal(torch.cat([part.labels for part in whole.parts(count)]), whole.labels)
    assert torch.equal(torch.cat(squares), images(12).shards[0][ROWS])


def test_squares_of_a_set_and_squares_of_a_batch_give_the_same_update():
    plan, weights = EpochPlan.draw(12, 0, 0), []
    for whole_set in (True, False):
        model = net()
        step_of(model)(batch(whole_set=whole_set), plan, 0.01)
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
    assert torch.equal(*weights)


def test_a_step_returns_loss_error_and_squared_norm_and_applies_the_update_rule():
    plan, model = EpochPlan.draw(12, 0, 0), net()
    step, inputs = step_of(model, label_smoothing=0.1), batch(whole_set=True)
    twin = copy.deepcopy(model).train()
    patches = step.augment.training(inputs.squares, plan, ROWS, ROWS)
    logits = twin(patches, plan.key[ROWS])
    loss = F.cross_entropy(logits, inputs.labels, label_smoothing=0.1)
    wrong = sum(int(row.argmax()) != label for row, label in zip(logits, inputs.labels.tolist(), strict=True))
    gradients = torch.autograd.grad(loss, [*twin.parameters()])
    before = [w.detach().clone() for w in model.parameters()]
    values = step(inputs, plan, 0.5)
    norm = torch.cat([gradient.flatten().double() for gradient in gradients]).norm()
    torch.testing.assert_close(values[0], loss.detach(), rtol=1e-5, atol=0)
    assert values[1].item() == pytest.approx(wrong / len(ROWS))
    torch.testing.assert_close(values[2].double(), norm**2, rtol=1e-4, atol=0)
    for old, new, gradient in zip(before, model.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.5 * (gradient + 0.0005 * old), rtol=1e-4, atol=1e-6)


def test_a_queued_step_has_its_position_and_its_values():
    queued = QueuedStep(2, 7, 0.25, torch.tensor([1.5, 0.5, 9.0]))
    assert (queued.epoch, queued.step, queued.lr) == (2, 7, 0.25)
    assert queued.read() == [1.5, 0.5, 9.0]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_compiler_gets_one_graph(precision):
    """A graph break would cost a launch from Python in every step. The graph is only traced, not compiled."""
    plan, traced = EpochPlan.draw(12, 0, 0), []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        traced.append(graph)
        return graph

    weights = []
    for compiled in (True, False):
        model = net()
        if compiled:
            torch.compiler.reset()
            model.compile(backend=backend, fullgraph=True)
        step_of(model, precision=precision)(batch(whole_set=True), plan, 0.01)
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
    assert len(traced) == 1
    assert torch.equal(*weights)
