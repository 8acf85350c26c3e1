"""The paper's tables as data, published figures to stand beside them, and what a run does differently from the paper.

Sources: the paper, tables 1 and 2 and section 6; the model card of BVLC AlexNet in Caffe; Yao and Miller, "Tiny
ImageNet Classification with Convolutional Neural Networks", CS231N report, Stanford 2015.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool
from alexnet_infer.preprocess import Views
from alexnet_infer.presets import preset

PAPERS_SIZE = 256
PAPERS_PATCHES = (224, 227)
"""The text's, and the same with the padding of the original program (docs/preprocessing.md)."""

VALIDATION_IMAGES = 50_000
"""In ILSVRC-2012."""

_CLASS_LISTS = {
    "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd": "ILSVRC-2012",
    "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8": "Tiny ImageNet",
}
"""SHA-256 of the WordNet ids in sorted order, a line each, to the data set. Names and numbers of classes don't tell:
ILSVRC-2010 has 1,000 classes and 50,000 validation images, too, and other classes."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published error in per cent, as printed; None where none is."""

    source: str
    data_set: str
    split: str
    net: str
    top1: float | None
    top5: float | None
    views: Views | None = None
    """None for what is no net, or where the source doesn't say."""
    trained_on: str

    @property
    def data(self) -> str:
        return f"{self.data_set} {self.split}"


_BOTH = "ImageNet autumn 2011, then ILSVRC-2012"


def _rows() -> Iterator[Published]:
    def table(source: str, data_set: str, split: str, *rows: tuple) -> Iterator[Published]:
        for net, top1, top5, views, *trained_on in rows:
            yield Published(
                source=source,
                data_set=data_set,
                split=split,
                net=net,
                top1=top1,
                top5=top5,
                views=views,
                trained_on=trained_on[0] if trained_on else data_set,
            )

    mixed = f"5 nets: ILSVRC-2012; 2: {_BOTH}"
    yield from table(
        "the paper, table 2",
        "ILSVRC-2012",
        "validation",
        ("1 CNN", 40.7, 18.2, "ten"),
        ("5 CNNs", 38.1, 16.4, "ten"),
        ("1 CNN*", 39.0, 16.6, "ten", _BOTH),
        ("7 CNNs*", 36.7, 15.4, "ten", mixed),
    )
    yield from table(
        "the paper, table 2",
        "ILSVRC-2012",
        "test",
        ("SIFT + FVs", None, 26.2, None),
        ("5 CNNs", None, 16.4, "ten"),
        ("7 CNNs*", None, 15.3, "ten", mixed),
    )
    yield from table(
        "the paper, table 1",
        "ILSVRC-2010",
        "test",
        ("sparse coding", 47.1, 28.2, None),
        ("SIFT + FVs", 45.7, 25.7, None),
        ("CNN", 37.5, 17.0, "ten"),
    )
    yield from table("the paper, section 6", "ILSVRC-2010", "test", ("CNN, one view", 39.0, 18.3, "center"))
    yield from table("Caffe", "ILSVRC-2012", "validation", ("BVLC AlexNet", 42.9, 19.8, "center"))
    yield from table(
        "Yao and Miller 2015",
        "Tiny ImageNet",
        "test",
        ("an AlexNet-like net", 58.2, None, None),
        ("an ensemble", 56.7, None, None),
    )


PUBLISHED: tuple[Published, ...] = tuple(_rows())
"""The paper's tables, and the two others that people compare with."""


def identify(wnids: Sequence[str]) -> str | None:
    """The published data set that has exactly these classes; None for any other."""
    return _CLASS_LISTS.get(hashlib.sha256("\n".join(wnids).encode()).hexdigest())


def is_papers_validation_set(wnids: Sequence[str], images: int) -> bool:
    """Whether a set of so many images has the size and the classes of ILSVRC-2012's validation set."""
    return images == VALIDATION_IMAGES and identify(wnids) == "ILSVRC-2012"


def departures(architecture: Architecture, size: int) -> tuple[str, ...]:
    """In what a net that takes images of S = `size` differs from the paper's nets, a clause each.

    What acts in training alone (dropout, data, recipe) is not looked at.
    """
    return tuple(_departures(architecture, size))


def _departures(net: Architecture, size: int) -> Iterator[str]:
    def some(kind: type, of: Architecture = net) -> list:
        return [o for o in of.operations if isinstance(o, kind)]

    paper = preset("alexnet")
    if size != PAPERS_SIZE:
        yield f"S is {size}, not {PAPERS_SIZE}"
    if net.patch not in PAPERS_PATCHES:
        yield f"patches are {net.patch} x {net.patch}, not 224 x 224 (227 x 227 here)"
    kernels, papers_kernels = ([o.kernels for o in some(Conv, of)] for of in (net, paper))
    if kernels not in (papers_kernels, [*papers_kernels, 256]):  # the second is "1 CNN*"
        yield f"kernels are {_dashed(kernels)}, not {_dashed(papers_kernels)}"
    hidden, papers_hidden = ([o.units for o in some(Dense, of)[:-1]] for of in (net, paper))
    if hidden != papers_hidden:
        yield f"hidden fully-connected units are {_dashed(hidden)}, not {_dashed(papers_hidden)}"
    if all(o.groups == 1 for o in some(Conv)):
        yield "one column, not two"
    if some(BatchNorm):
        yield "batch norm, which the paper hasn't"
    if not some(LRN):
        yield "no LRN"
    elif [_constants(o) for o in some(LRN)] != [_constants(o) for o in some(LRN, paper)]:
        first = some(LRN)[0]
        across = "inside each column" if first.groups > 1 else "across columns"
        yield (
            f"LRN in {len(some(LRN))} places, {across}, with k={first.k:g} n={first.size} alpha={first.alpha:g} "
            f"beta={first.beta:g}, not in 2 places, inside each column, with k=2 n=5 alpha=0.0001 beta=0.75"
        )
    elif _pools_first(net):
        yield "LRN after pooling, not before"
    if any(o.kind != "relu" for o in some(Activation)):
        yield "tanh, not ReLU"
    if any(o.stride >= o.size for o in some(MaxPool)):
        yield "pooling without overlap"


def _constants(lrn: LRN) -> tuple[float, ...]:
    return lrn.size, lrn.alpha, lrn.beta, lrn.k, lrn.groups


def _pools_first(net: Architecture) -> bool:
    tail = [type(o) for o in net.operations if isinstance(o, LRN | MaxPool)]
    return tail[:1] == [MaxPool]


def _dashed(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers)) or "none"


@dataclass(frozen=True, kw_only=True)
class TestedNet:
    """What `deviations` needs to know of a net."""

    __test__ = False  # no test, whatever pytest makes of the name

    name: str
    departures: tuple[str, ...]
    unknown_classes: int
    """Classes of the data that the net hasn't."""


def deviations(
    *, wnids: Sequence[str], images: int, views: Views, nets: Sequence[TestedNet], sample_of: int | None = None
) -> tuple[str, ...]:
    """Where a run departs from the paper's protocol, a sentence each; empty when it doesn't.

    `wnids` are the data's classes in sorted order, `images` those evaluated, `sample_of` the size of the whole set when
    they are a sample.
    """
    return tuple(_deviations(wnids, images, views, nets, sample_of))


def _deviations(
    wnids: Sequence[str], images: int, views: Views, nets: Sequence[TestedNet], sample_of: int | None
) -> Iterator[str]:
    whole = images if sample_of is None else sample_of
    if not is_papers_validation_set(wnids, whole):
        same = identify(wnids) == "ILSVRC-2012"
        yield (
            f"The data is not ILSVRC-2012's validation set (50,000 images of 1,000 classes): {whole:,} images of "
            f"{'the same' if same else f'{len(wnids):,}'} classes."
        )
    if sample_of is not None:
        yield f"Only a sample of {images:,} of the {sample_of:,} images was evaluated."
    if views == "center":
        yield "Only the central view of an image was taken; the paper averages ten."
    clauses = dict.fromkeys(clause for net in nets for clause in net.departures)  # distinct, in order
    for clause in clauses:
        yield f"{_names([net.name for net in nets if clause in net.departures], nets)}: {clause}."
    for count in sorted({net.unknown_classes for net in nets} - {0}):
        names = _names([net.name for net in nets if net.unknown_classes == count], nets)
        yield f"{names}: {count:,} of the {len(wnids):,} classes are unknown, and all their images count as wrong."


def _names(names: Sequence[str], nets: Sequence[TestedNet]) -> str:
    return "All nets" if len(names) == len(nets) > 1 else ", ".join(names)
