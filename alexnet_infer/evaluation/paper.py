"""Published errors, and the differences between a run and the paper's protocol.

Sources: the paper, tables 1 and 2 and section 6; the model card of BVLC AlexNet in Caffe; Yao and Miller, "Tiny
ImageNet Classification with Convolutional Neural Networks", CS231N report, Stanford 2015.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool
from alexnet_infer.datasets.ilsvrc import identify
from alexnet_infer.preprocess import Views
from alexnet_infer.presets import preset

PAPERS_SIZE = 256
PAPERS_PATCHES = (224, 227)
"""The size in the paper's text, and the size with the original program's padding (docs/preprocessing.md)."""

VALIDATION_IMAGES = 50_000
"""Images in the validation split of ILSVRC-2012."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published errors in per cent, with as many digits as published. An error is None if it is not published."""

    source: str
    data_set: str
    split: str
    net: str
    top1: float | None
    top5: float | None
    views: Views | None = None
    """None if the method is not a net, or if the source does not say."""
    ensemble: bool | None = None
    """True for the mean of several nets, False for a single net, None if the method is not a net."""
    trained_on: str

    @property
    def data(self) -> str:
        return f"{self.data_set} {self.split}"


_BOTH = "ImageNet autumn 2011, then ILSVRC-2012"


def _rows() -> Iterator[Published]:
    def table(source: str, data_set: str, split: str, *rows: tuple) -> Iterator[Published]:
        for net, top1, top5, views, ensemble, *trained_on in rows:
            yield Published(
                source=source,
                data_set=data_set,
                split=split,
                net=net,
                top1=top1,
                top5=top5,
                views=views,
                ensemble=ensemble,
                trained_on=trained_on[0] if trained_on else data_set,
            )

    mixed = f"5 nets: ILSVRC-2012; 2: {_BOTH}"
    yield from table(
        "the paper, table 2",
        "ILSVRC-2012",
        "validation",
        ("1 CNN", 40.7, 18.2, "ten", False),
        ("5 CNNs", 38.1, 16.4, "ten", True),
        ("1 CNN*", 39.0, 16.6, "ten", False, _BOTH),
        ("7 CNNs*", 36.7, 15.4, "ten", True, mixed),
    )
    yield from table(
        "the paper, table 2",
        "ILSVRC-2012",
        "test",
        ("SIFT + FVs", None, 26.2, None, None),
        ("5 CNNs", None, 16.4, "ten", True),
        ("7 CNNs*", None, 15.3, "ten", True, mixed),
    )
    yield from table(
        "the paper, table 1",
        "ILSVRC-2010",
        "test",
        ("sparse coding", 47.1, 28.2, None, None),
        ("SIFT + FVs", 45.7, 25.7, None, None),
        ("CNN", 37.5, 17.0, "ten", False),
    )
    yield from table("the paper, section 6", "ILSVRC-2010", "test", ("CNN, one view", 39.0, 18.3, "center", False))
    yield from table("Caffe", "ILSVRC-2012", "validation", ("BVLC AlexNet", 42.9, 19.8, "center", False))
    yield from table(
        "Yao and Miller 2015",
        "Tiny ImageNet",
        "test",
        ("AlexNet-like", 58.2, None, None, False),
        ("ensemble", 56.7, None, None, True),
    )


PUBLISHED: tuple[Published, ...] = tuple(_rows())
"""The rows of the paper's tables, then those of Caffe and of Yao and Miller."""


def is_papers_validation_set(wnids: Sequence[str], images: int) -> bool:
    """Return whether an image set has the classes and the number of images of ILSVRC-2012's validation split."""
    return images == VALIDATION_IMAGES and identify(wnids) == "ILSVRC-2012"


def deviations_of_net(net: Architecture, size: int) -> Iterator[str]:
    """Yield the differences between a net and the paper's nets at inference, one clause for each.

    `size` is the side S of the net's squares. Training (dropout, data, recipe) is not compared.
    """

    def operations(kind: type, architecture: Architecture = net) -> list:
        return [o for o in architecture.operations if isinstance(o, kind)]

    paper = preset("alexnet")
    if size != PAPERS_SIZE:
        yield f"S is {size}, not {PAPERS_SIZE}"
    if net.patch not in PAPERS_PATCHES:
        yield f"patches are {net.patch} x {net.patch}, not 224 x 224 (227 x 227 with padding)"
    kernels, papers_kernels = ([o.kernels for o in operations(Conv, architecture)] for architecture in (net, paper))
    if kernels not in (papers_kernels, [*papers_kernels, 256]):  # the latter is the paper's "1 CNN*"
        yield f"kernels are {_dashed(kernels)}, not {_dashed(papers_kernels)}"
    hidden, papers_hidden = ([o.units for o in operations(Dense, architecture)[:-1]] for architecture in (net, paper))
    if not hidden:
        yield "no hidden fully-connected layers"
    elif hidden != papers_hidden:
        yield f"hidden fully-connected units are {_dashed(hidden)}, not {_dashed(papers_hidden)}"
    if all(o.groups == 1 for o in operations(Conv)):
        yield "one column, not two"
    if operations(BatchNorm):
        yield "batch norm, which the paper does not use"
    if not operations(LRN):
        yield "no LRN"
    elif [_constants(o) for o in operations(LRN)] != [_constants(o) for o in operations(LRN, paper)]:
        first = operations(LRN)[0]
        across = "inside each column" if first.groups > 1 else "across columns"
        yield (
            f"LRN in {len(operations(LRN))} places, {across}, with k={first.k:g} n={first.size} alpha={first.alpha:g} "
            f"beta={first.beta:g}, not in 2 places, inside each column, with k=2 n=5 alpha=0.0001 beta=0.75"
        )
    elif _pools_first(net):
        yield "LRN after pooling, not before"
    if any(o.kind != "relu" for o in operations(Activation)):
        yield "tanh, not ReLU"
    if any(o.stride >= o.size for o in operations(MaxPool)):
        yield "pooling without overlap"


def _constants(lrn: LRN) -> tuple[float, ...]:
    return lrn.size, lrn.alpha, lrn.beta, lrn.k, lrn.groups


def _pools_first(net: Architecture) -> bool:
    tail = [type(o) for o in net.operations if isinstance(o, LRN | MaxPool)]
    return tail[:1] == [MaxPool]


def _dashed(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers)) or "none"


def deviations(
    *,
    wnids: Sequence[str],
    images: int,
    views: Views,
    nets: Mapping[str, Sequence[str]],
    sample_of: int | None = None,
    scored: Iterable[str] = (),
) -> Iterator[str]:
    """Yield the differences between a run and the paper's protocol, one sentence for each.

    `wnids` are the data's classes in sorted order. `images` is the number of images evaluated. `nets` has the
    `deviations_of_net` of each net by its name. `sample_of` is the size of the full set if only a sample was evaluated,
    and None otherwise. `scored` are the differences in the scoring.
    """
    full = images if sample_of is None else sample_of
    if not is_papers_validation_set(wnids, full):
        same = identify(wnids) == "ILSVRC-2012"
        yield (
            f"The data is not ILSVRC-2012's validation split (50,000 images of 1,000 classes): {full:,} images of "
            f"{'the same' if same else f'{len(wnids):,}'} classes."
        )
    if sample_of is not None:
        yield f"Only a sample of {images:,} of the {sample_of:,} images was evaluated."
    if views == "center":
        yield "Only the central view of each image was used; the paper averages ten views."
    yield from scored
    distinct = dict.fromkeys(clause for clauses in nets.values() for clause in clauses)  # in order
    for clause in distinct:
        yield f"{_names([name for name, clauses in nets.items() if clause in clauses], nets)}: {clause}."


def _names(names: Sequence[str], nets: Mapping[str, Sequence[str]]) -> str:
    return "All nets" if len(names) == len(nets) > 1 else ", ".join(names)
