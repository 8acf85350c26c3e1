"""AlexNet in torchvision's layout, written for these tests from its published description."""

from __future__ import annotations

import torch
from torch import nn


class AlexNet(nn.Module):
    """One column of 64-192-384-256-256 kernels ("one weird trick", 2014), images [N, 3, 224, 224] -> logits."""

    def __init__(self, classes: int = 1000, hidden: int = 4096, kernels=(64, 192, 384, 256, 256)) -> None:
        super().__init__()
        a, b, c, d, e = kernels

        def pooled() -> nn.Module:
            return nn.MaxPool2d(3, 2)

        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), pooled(),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), pooled(),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), pooled(),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(36 * e, hidden), nn.ReLU(),
            nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, classes),
        )  # fmt: skip
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.normal_(parameter, 0, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
