"""Two columns on two processes (section 3.2 of the paper): each holds half of the kernels of every layer.

`split_into_columns` cuts the weights of an ordinary `AlexNet` in place and puts an exchange before the layers that look
at both columns; nothing else about the net changes. Those layers are conv3, a sixth convolution and the fully-connected
ones; a last exchange makes the logits whole. An exchange is an all-gather over channels, whose backward pass is the
matching reduce-scatter, so that gradients need no other traffic between columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from alexnet_infer.architecture import LRN, Architecture, BatchNorm, Conv, Dense, Operation
from alexnet_infer.errors import UsageError
from train.dropout import Dropout
from train.model import AlexNet


def split_into_columns(model: AlexNet, group: ProcessGroup) -> None:
    """Keeps this rank's column of `model`, which must hold the same weights on every rank of `group`.

    Afterwards the model still takes whole images and gives whole logits, on every rank the same. Its backward pass adds
    up what the ranks pass in, so each must scale its loss by 1 / ranks. Raises UsageError when the net has a layer that
    can't be split.
    """
    rank, ranks = group.rank(), group.size()
    gather = partial(_gather, all_gather=_all_gather(), group=group)
    split = False  # whether the activations at this point are this column's only
    for step, module in zip(model.architecture.steps, model.children(), strict=True):
        operation = step.operation
        _check(operation, ranks, split)
        if _sees_both(operation) and split:
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
    """Activations of one image that leave each column in a forward pass; the backward pass sends as many back.

    Half of every map or vector that a layer sees whole, and half of the logits. A training step of B images with b
    bytes a value moves 2 * B * b * exchanged_values(architecture) bytes out of each of two ranks.
    """
    values, split = architecture.classes // 2, False
    for step in architecture.steps:
        if _sees_both(step.operation) and split:
            values += math.prod(step.input) // 2
        split = split or isinstance(step.operation, Conv)
    return values


def _sees_both(operation: Operation) -> bool:
    return isinstance(operation, Dense) or (isinstance(operation, Conv) and operation.groups == 1)


def _check(operation: Operation, ranks: int, split: bool) -> None:
    groups = getattr(operation, "groups", ranks)
    if isinstance(operation, Conv) and groups not in ((1, ranks) if split else (1,)):
        raise UsageError(
            f"--columns: {operation.name} has {groups} groups: expected 1 or {ranks}, the number of columns"
        )
    if isinstance(operation, LRN) and groups != ranks:
        raise UsageError(f"--columns: {operation.name} has {groups} groups: expected {ranks}, the number of columns")
    size = operation.kernels if isinstance(operation, Conv) else operation.units if isinstance(operation, Dense) else 0
    if size % ranks:
        raise UsageError(f"--columns: the {size} outputs of {operation.name} can't be shared by {ranks} columns evenly")


@torch.no_grad()
def _keep_part(module: nn.Module, rank: int, ranks: int) -> None:
    """Cuts every tensor of a layer along its first axis: kernels, units or channels."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.ndim:
            part = tensor.chunk(ranks)[rank].clone(memory_format=torch.contiguous_format)
            setattr(module, name, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)
    if isinstance(module, nn.Conv2d):
        module.groups = 1
    if isinstance(module, nn.BatchNorm2d):
        module.num_features //= ranks


def _gather(x: Tensor, all_gather: Callable[..., Tensor], group: ProcessGroup) -> Tensor:
    """The whole activations [N, ranks * C, ...] of which `x` [N, C, ...] is this column's part."""
    parts = all_gather(x.contiguous(), gather_dim=0, group=group)
    return torch.cat(_ContiguousGradient.apply(parts).chunk(group.size()), dim=1)


class _ContiguousGradient(torch.autograd.Function):
    """The identity, with a contiguous gradient: the reduce-scatter behind it takes no other in PyTorch 2.11."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _all_gather() -> Callable[..., Tensor]:
    """PyTorch's all-gather with a gradient, by its new name where there is one: the old name warns there.

    Its module is private, so it is imported here, and only runs with columns depend on it.
    """
    from torch.distributed import _functional_collectives as collectives

    if hasattr(collectives, "all_gather_single_autograd"):
        return collectives.all_gather_single_autograd
    return collectives.all_gather_tensor_autograd
