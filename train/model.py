"""The torch module of an architecture: the same operations in the same order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, Dropout, MaxPool, Step
from train import dropout
from train.lrn import lrn


class LocalResponseNorm(nn.Module):
    """The paper's LRN, applied to each column separately; see `alexnet_infer.architecture.LRN` for the formula."""

    def __init__(self, spec: LRN) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return lrn(x, self.spec)


class AlexNet(nn.Module):
    """Patches float [N, channels, patch, patch], mean subtracted, in grey levels -> logits [N, classes].

    `state_dict()` has the names and shapes of `architecture.tensors`, and `num_batches_tracked` of each batch norm.

    `unit`: the grey levels that count as 1 inside the net. The paper's LRN constants suit activations in the tens
    and hundreds, but with such activations no learning rate above a few hundredths works. Dividing every activation of
    a net of ReLU, LRN and max pooling by `unit` gives the same net with alpha * unit^2. So the net can train with
    activations near 1, and `artifact_tensors` converts it back exactly: it multiplies the biases by `unit` and divides
    the last weights by it. With tanh or batch norm, the activations are near 1 anyway, and only the input is divided:
    then `artifact_tensors` divides the first weights by `unit`. Raises SpecError as `Architecture.levels` does.
    """

    def __init__(self, architecture: Architecture, unit: float = 1.0) -> None:
        super().__init__()
        self.architecture, self.unit = architecture, unit
        self.levels = architecture.levels(unit)
        """Factor of each tensor from this net to the artifact."""
        for position, step in enumerate(architecture.steps):
            self.add_module(step.operation.name, _module(step, position, unit if architecture.scales else 1.0))

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return the logits. `keys`: int64 [N], the numbers that decide each image's dropout masks; training only."""
        if self.unit != 1:
            x = x / self.unit
        for module in self.children():
            x = module(x, keys) if isinstance(module, dropout.Dropout) else module(x)
        return x

    @torch.no_grad()
    def artifact_tensors(self) -> dict[str, np.ndarray]:
        """Return the weights of the same net with `unit` = 1, for activations in grey levels, as float32 arrays."""
        own = self.state_dict()
        tensors = {name: own[name].float().cpu() * factor for name, factor in self.levels.items()}
        return {name: np.array(tensor.numpy(), order="C") for name, tensor in tensors.items()}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Load weights as `artifact_tensors` returns them; tensors that are not given keep their values."""
        own = self.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(torch.from_numpy(np.array(tensor)) / self.levels[name])


class _Dense(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _module(step: Step, position: int, unit: float) -> nn.Module:
    match step.operation:
        case Conv() as o:
            return nn.Conv2d(step.input[0], o.kernels, o.size, o.stride, o.pad, groups=o.groups)
        case Dense() as o:
            return _Dense(step.tensors[f"{o.name}.weight"][1], o.units)
        case Activation() as o:
            return nn.Tanh() if o.kind == "tanh" else nn.ReLU(inplace=True)
        case LRN() as o:
            return LocalResponseNorm(replace(o, alpha=o.alpha * unit**2))
        case BatchNorm() as o:
            return nn.BatchNorm2d(step.input[0], eps=o.eps)
        case MaxPool() as o:
            return nn.MaxPool2d(o.size, o.stride, ceil_mode=o.ceil)
        case Dropout() as o:
            return dropout.Dropout(o.rate, salt=position)


@torch.no_grad()
def initialise(model: AlexNet, scheme: str) -> None:
    """Set the initial weights in place, with torch's global generator.

    "paper" (section 5): N(0, 0.01); biases 1 in conv2, conv4, conv5, conv6 and the hidden fully-connected layers, 0 in
    the others. The paper gives no bias for conv6.
    "he" (He et al. 2015): variance 2 / fan-in; the last layer has the standard deviation 0.01; biases 0.
    """
    layers = [(name, m) for name, m in model.named_children() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, layer in layers:
        last = layer is layers[-1][1]
        if scheme == "he" and not last:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            layer.weight.normal_(0, 0.01)
        ones = scheme == "paper" and not last and name not in ("conv1", "conv3")
        layer.bias.fill_(1 / model.levels[f"{name}.bias"] if ones else 0)
