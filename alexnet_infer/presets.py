"""Named architectures, all built by one dataclass from different values, and the switches that the paper measures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from alexnet_infer.architecture import (
    LRN,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Operation,
)
from alexnet_infer.errors import SpecError, UsageError, shown


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Everything in which this project's nets differ. The defaults are the paper's net.

    The paper measures the effect of `activation` (section 3.1), `columns` (3.2), `normalization` (3.3) and
    `pool_size`/`pool_stride` (3.4). LRN follows the activation, as in the paper. Batch norm precedes it, as in Ioffe
    and Szegedy (2015).
    """

    name: str = "alexnet"
    patch: int = 227
    kernels: tuple[int, ...] = (96, 256, 384, 384, 256)
    """Kernels of conv1, conv2 and so on. LRN follows the first two, and pooling those and the last."""
    conv1: tuple[int, int, int] = (11, 4, 0)
    """Size, stride, pad."""
    columns: int = 2
    """1 or more. With 2, conv2, conv4 and conv5 see only their own column."""
    activation: Literal["relu", "tanh"] = "relu"
    normalization: Literal["lrn", "batchnorm", "none"] = "lrn"
    lrn_constants: tuple[float, float] = (1e-4, 2.0)
    """alpha and k. alpha is in the paper's form: it multiplies the plain sum of squares."""
    lrn_columns: int | None = None
    """Number of columns that LRN keeps apart; None for the value of `columns`."""
    pool_size: int = 3
    pool_stride: int = 2
    ceil_pools: tuple[int, ...] = ()
    """The pooling layers, by their convolution's number, whose last window may extend past the edge."""
    pool_first: bool = False
    """Pool before LRN, as CaffeNet does."""
    sixth_conv: int = 0
    """Kernels of one more convolution after the last pooling, connected to both columns ("1 CNN*" in section 6); 0 for
    none."""
    hidden: int = 4096
    """Units of fc6 and fc7; 0 for a net without hidden fully-connected layers."""
    classes: int = 1000
    dropout: float = 0.5
    dropout_first: bool = False
    """Drop inputs of fc6 and fc7, as torchvision does, rather than their outputs, as the paper does."""
    width: float = 1.0
    """Multiplies the kernel counts; results are rounded to a multiple of 16, at least 2. 1 changes nothing."""

    def build(self) -> Architecture:
        """Return the architecture. Raises SpecError if the values don't describe a net (empty maps, uneven columns)."""
        if not self.kernels:
            raise SpecError("kernels=(): expected at least one number, of conv1")
        if self.normalization not in ("lrn", "batchnorm", "none"):
            raise SpecError(f"normalization={shown(self.normalization)}: expected lrn, batchnorm or none")
        if not 0 < self.width <= 64:
            raise SpecError(f"width={shown(self.width)}: expected more than 0 and at most 64")
        return Architecture(name=self.name, patch=self.patch, operations=tuple(self._operations()))

    def _operations(self) -> Iterator[Operation]:
        for i, count in enumerate(self.kernels, start=1):
            size, stride, pad = {1: self.conv1, 2: (5, 1, 2)}.get(i, (3, 1, 1))
            groups = self.columns if i in (2, 4, 5) else 1
            yield Conv(name=f"conv{i}", kernels=self._scaled(count), size=size, stride=stride, pad=pad, groups=groups)
            yield from self._after_conv(i)
        dense = len(self.kernels) + 1
        if self.sixth_conv:
            yield Conv(name=f"conv{dense}", kernels=self._scaled(self.sixth_conv), size=3, pad=1)
            yield from self._activation(str(dense))
        if self.hidden:
            for i in (dense, dense + 1):
                yield from self._hidden(i)
            dense += 2
        yield Dense(name=f"fc{dense}", units=self.classes)

    def _scaled(self, kernels: int) -> int:
        return kernels if self.width == 1 or kernels < 1 else max(2, round(kernels * self.width / 16) * 16)

    def _activation(self, suffix: str) -> Iterator[Operation]:
        if self.normalization == "batchnorm":
            yield BatchNorm(name=f"bn{suffix}")
        yield Activation(name=f"act{suffix}", kind=self.activation)

    def _hidden(self, i: int) -> Iterator[Operation]:
        drop = Dropout(name=f"drop{i}", rate=self.dropout)
        if self.dropout_first:
            yield drop
        yield Dense(name=f"fc{i}", units=self.hidden)
        yield Activation(name=f"act_fc{i}", kind=self.activation)
        if not self.dropout_first:
            yield drop

    def _after_conv(self, i: int) -> Iterator[Operation]:
        yield from self._activation(str(i))
        tail: list[Operation] = []
        if self.normalization == "lrn" and i in (1, 2):
            alpha, k = self.lrn_constants
            columns = self.columns if self.lrn_columns is None else self.lrn_columns
            tail.append(LRN(name=f"norm{i}", alpha=alpha, k=k, groups=columns))
        if i in (1, 2, len(self.kernels)):
            tail.append(
                MaxPool(name=f"pool{i}", size=self.pool_size, stride=self.pool_stride, ceil=i in self.ceil_pools)
            )
        yield from reversed(tail) if self.pool_first else tail


ALEXNET_64 = Variant(name="alexnet-64", patch=57, conv1=(3, 1, 0))
CAFFE = Variant(name="caffe", lrn_constants=(1e-4 / 5, 1.0), lrn_columns=1)

PRESETS: dict[str, tuple[Variant, str]] = {
    variant.name: (variant, summary)
    for variant, summary in (
        (Variant(), "the paper's net: two columns, 227 x 227 patches"),
        (Variant(name="alexnet-onecol", columns=1), "the paper's net in one column (no groups)"),
        (Variant(name="alexnet-6conv", sixth_conv=256), 'the paper\'s "1 CNN*": a sixth convolution after pool5'),
        (ALEXNET_64, "the paper's net for 64 x 64 images: 57 x 57 patches"),
        (CAFFE, "BVLC AlexNet (Caffe): two columns, LRN across both, k=1, alpha/n"),
        (replace(CAFFE, name="caffenet", pool_first=True), "CaffeNet (Caffe): BVLC AlexNet with pooling before LRN"),
        (
            Variant(
                name="owt",
                patch=224,
                kernels=(64, 192, 384, 256, 256),
                conv1=(11, 4, 2),
                columns=1,
                normalization="none",
                dropout_first=True,
            ),
            "torchvision's AlexNet (Krizhevsky 2014): one column, no LRN",
        ),
        (
            Variant(
                name="four-layer",
                patch=28,
                kernels=(32, 32, 64),
                conv1=(5, 1, 2),
                columns=1,
                normalization="none",
                hidden=0,
            ),
            "a net of four layers as in the paper's Figure 1: 28 x 28 patches",
        ),
    )
}


def kernel_counts(text: str, base: Variant) -> dict[str, Any]:
    """Return the fields of `Variant` that `text` sets: the numbers of kernels of the layers of `base`.

    One more number is that of `sixth_conv`. Raises UsageError if `text` is not such numbers, as in "N,N,N,N,N".
    """
    count = len(base.kernels)
    if not re.fullmatch(rf"[1-9]\d{{0,3}}(,[1-9]\d{{0,3}}){{{count - 1},{count}}}", text, re.ASCII):
        raise UsageError(
            f"--kernels {shown(text)}: expected the numbers of kernels of conv1 to conv{count}, such as "
            f"{','.join(map(str, base.kernels))}, and of conv{count + 1} if the net has one"
        )
    counts = tuple(map(int, text.split(",")))
    return {"kernels": counts[:count], "sixth_conv": counts[count] if len(counts) > count else 0}


def variant(name: str) -> Variant:
    """Return the preset called `name`. Raises UsageError, listing the presets, for an unknown name."""
    try:
        return PRESETS[name][0]
    except KeyError:
        raise UsageError(f"no preset is called {name!r}: expected one of {', '.join(PRESETS)}") from None


def preset(name: str) -> Architecture:
    """Return the architecture of the preset called `name`. Raises UsageError for an unknown name."""
    return variant(name).build()
