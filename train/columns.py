"""Two columns on two processes (section 3.2 of the paper): each holds half of the kernels of every layer.

`split_into_columns` cuts the weights of an `AlexNet` in place and adds an exchange before the layers that are connected
to both columns: conv3, the sixth convolution and the fully-connected layers. A last exchange completes the logits.
Nothing else about the net changes. An exchange is an all-gather over channels. Its backward pass is the matching
reduce-scatter, so gradients need no other traffic between columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from alexnet_infer.architecture import LRN, Architecture, BatchNorm, Conv, Dense, Operation
from alexnet_infer.errors import UsageError
from train.dropout import Dropout
from train.model import AlexNet


def split_into_columns(model: AlexNet, group: ProcessGroup) -> None:
    """Keep only this rank's column of `model`, which must have the same weights on every rank of `group`.

    The model still takes patches of all channels and returns all logits, the same on every rank. Its backward pass sums
    the gradients of all ranks, so each rank must scale its loss by 1 / ranks. Raises UsageError if the net has a layer
    that can't be split.
    """
    rank, ranks = group.rank(), group.size()
    gather = partial(_gather, all_gather=_all_gather(), group=group)
    split = False  # whether the activations at this point are only this column's
    for step, module in zip(model.architecture.steps, model.children(), strict=True):
        operation = step.operation
        _check(operation, ranks, split)
        if _uses_both(operation) and split:
            module.register_forward_pre_hook(lambda _, inputs: (gather(inputs[0]), *inputs[1:]))
        match operation:
            case Conv() | Dense():
                _keep_part(module, rank, ranks)
                split = True
            case BatchNorm():
                _keep_part(module, rank, ranks)
            case LRN():
                module.spec = replace(module.spec, groups=1)
        if isinstance(module, Dropout):
            module.first_unit = rank * step.output[0] // ranks
    model.register_forward_hook(lambda _, inputs, logits: gather(logits))


def exchanged_values(architecture: Architecture) -> int:
    """Return how many activations of one image each column sends in a forward pass; the backward pass sends as many.

    They are half of the input of every layer that is connected to both columns, and half of the logits. A training step
    of B images with b bytes per value sends 2 * B * b * exchanged_values(architecture) bytes from each of two ranks.
    """
    values, split = architecture.classes // 2, False
    for step in architecture.steps:
        if _uses_both(step.operation) and split:
            values += math.prod(step.input) // 2
        split = split or isinstance(step.operation, Conv)
    return values


def _uses_both(operation: Operation) -> bool:
    return isinstance(operation, Dense) or (isinstance(operation, Conv) and operation.groups == 1)


def _check(operation: Operation, ranks: int, split: bool) -> None:
    groups = getattr(operation, "groups", ranks)
    if isinstance(operation, Conv) and groups not in ((1, ranks) if split else (1,)):
        raise UsageError(
            f"--split-columns: {operation.name} has {groups} groups: expected 1 or {ranks}, the number of columns"
        )
    if isinstance(operation, LRN) and groups != ranks:
        raise UsageError(f"--split-columns: {operation.name} has {groups} groups: expected {ranks}, one per column")
    size = operation.kernels if isinstance(operation, Conv) else operation.units if isinstance(operation, Dense) else 0
    if size % ranks:
        raise UsageError(f"--split-columns: the {size} outputs of {operation.name} don't split evenly into {ranks}")


@torch.no_grad()
def _keep_part(module: nn.Module, rank: int, ranks: int) -> None:
    """Cut every tensor of a layer along its first axis: kernels, units or channels."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.ndim:
            part = tensor.chunk(ranks)[rank].clone(memory_format=torch.contiguous_format)
            setattr(module, name, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)
    if isinstance(module, nn.Conv2d):
        module.groups = 1
    if isinstance(module, nn.BatchNorm2d):
        module.num_features //= ranks


def _gather(x: Tensor, all_gather: Callable[..., Tensor], group: ProcessGroup) -> Tensor:
    """Return the activations of all columns [N, ranks * C, ...]; `x` [N, C, ...] is this column's part."""
    parts = all_gather(x.contiguous(), gather_dim=0, group=group)
    return torch.cat(_ContiguousGradient.apply(parts).chunk(group.size()), dim=1)


class _ContiguousGradient(torch.autograd.Function):
    """The identity with a contiguous gradient: the reduce-scatter in PyTorch 2.11 accepts no other."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _all_gather() -> Callable[..., Tensor]:
    """Return PyTorch's differentiable all-gather, by its new name if it has one, because the old name then warns.

    The module is private, so it is imported here: only runs with columns depend on it.
    """
    from torch.distributed import _functional_collectives as collectives

    if hasattr(collectives, "all_gather_single_autograd"):
        return collectives.all_gather_single_autograd
    return collectives.all_gather_tensor_autograd
