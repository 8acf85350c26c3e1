"""What each kind of operation is and why the paper has it, in words for a reader who meets it for the first time.

Each sentence about this net is made from its architecture. Figures of the paper are named as the paper's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

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
    Step,
)
from alexnet_infer.explain.numbers import counted, exact
from alexnet_infer.layers import columns_of
from alexnet_infer.presets import preset

TIMES = "\N{MULTIPLICATION SIGN}"
PAPER = "alexnet"
"""The preset that is the paper's net."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """A paragraph on an operation: what it is, and why the paper has it."""

    what: str
    why: str = ""
    section: str = ""
    """The paper's section that `why` is from, such as "3.3"."""


def size(shape: tuple[int, ...]) -> str:
    """Return a shape for a reader: "55 x 55 x 96" (rows, columns, maps) for maps, "4,096 units" for a vector."""
    if len(shape) == 1:
        return counted(shape[0], "unit")
    return f" {TIMES} ".join(f"{n:,}" for n in (*shape[1:], shape[0]))


def describe(step: Step) -> str:
    """Return what an operation does with its numbers, as in "96 kernels of 11 x 11 x 3, stride 4"."""
    o = step.operation
    match o:
        case Conv():
            parts = [f"{counted(o.kernels, 'kernel')} of {o.size} {TIMES} {o.size} {TIMES} {step.input[0] // o.groups}"]
            parts += [f"stride {o.stride}"]
            parts += [f"padding {o.pad}"] if o.pad else []
            parts += [f"{o.groups} columns"] if o.groups > 1 else []
        case Dense():
            parts = [f"{counted(o.units, 'unit')}, each with {counted(math.prod(step.input), 'weight')}"]
        case Activation():
            parts = ["ReLU" if o.kind == "relu" else "tanh"]
        case LRN():
            parts = [f"LRN with k = {exact(o.k)}, n = {o.size}, \u03b1 = {exact(o.alpha)}, \u03b2 = {exact(o.beta)}"]
            parts += [f"inside each of {o.groups} columns"] if o.groups > 1 else []
        case BatchNorm():
            parts = ["batch normalisation"]
        case MaxPool():
            parts = [f"max pooling, {o.size} {TIMES} {o.size} windows, stride {o.stride}"]
            parts += ["the last windows may reach beyond the edge"] if o.ceil else []
        case Dropout():
            parts = [f"dropout of {100 * o.rate:.3g} % in training"]
    return ", ".join(parts)


def against_paper(step: Step, architecture: Architecture) -> str:
    """Return how the paper's operation of the same kind and place differs from this one of a net, in a sentence.

    Convolutions are counted from the first one, fully-connected layers from the last one, and other operations among
    those of their kind after the same layer with weights.
    """
    paper = preset(PAPER)
    places = {place: (own, before) for own, place, before in _places(paper)}
    place, before = next((place, before) for own, place, before in _places(architecture) if own == step)
    if place not in places:
        if place[:2] == ("Conv", 5):
            return "The paper's net has no sixth convolution; the paper's 1 CNN* has one."
        return f"The paper's net has no {title(step.operation)} here."
    its, its_before = places[place]
    if describe(its) != describe(step):
        return f"The paper's {its.operation.name}: {describe(its)}."
    if before is not its_before:
        earlier = paper.steps[paper.steps.index(its) - 1].operation.name
        return f"The paper's net has the same, but right after {earlier}."
    return "The paper's net has the same."


def _places(architecture: Architecture) -> Iterator[tuple[Step, tuple[str, int, str, int], type | None]]:
    """Yield each step, its place, and the kind of the operation before it, None for layers with weights.

    A place is the layer with weights (its kind, its number), and the step's kind and number after that layer.
    """
    dense = sum(isinstance(o, Dense) for o in architecture.operations)
    layer, convs, seen = ("", 0), 0, Counter[str]()
    for i, step in enumerate(architecture.steps):
        o = step.operation
        if isinstance(o, Conv | Dense):
            seen = Counter()
            if isinstance(o, Conv):
                layer, convs = ("Conv", convs), convs + 1
            else:
                layer, dense = ("Dense", -dense), dense - 1
        yield (
            step,
            (*layer, o.op, seen[o.op]),
            type(architecture.operations[i - 1]) if i and not isinstance(o, Conv | Dense) else None,
        )
        seen[o.op] += 1


def title(operation: Operation) -> str:
    """Return what kind of operation it is, for a heading."""
    if isinstance(operation, Activation):
        return "ReLU" if operation.kind == "relu" else "tanh"
    return _TITLES[type(operation)]


_TITLES = {
    Conv: "convolution",
    Dense: "fully-connected layer",
    LRN: "local response normalisation",
    BatchNorm: "batch normalisation",
    MaxPool: "max pooling",
    Dropout: "dropout",
}


def position(architecture: Architecture, operation: Operation) -> str:
    """Return the part that an operation plays: its kind, and for layers with weights what is special about it."""
    match operation:
        case Conv():
            divided = columns_of(architecture)
            if operation == next(o for o in architecture.operations if isinstance(o, Conv)):
                return "conv-first"
            if operation.groups > 1:
                return "conv-columns"
            return "conv-meet" if divided[_before(architecture, operation)] > 1 else "conv"
        case Dense():
            return "dense-last" if operation == architecture.operations[-1] else "dense"
        case Activation():
            return operation.kind
        case MaxPool():
            return "pool-overlap" if operation.stride < operation.size else "pool"
    return operation.op


def _before(architecture: Architecture, operation: Operation) -> str:
    return architecture.operations[architecture.operations.index(operation) - 1].name


def about(operation: Operation, architecture: Architecture, said: dict[str, str]) -> tuple[Words | None, str]:
    """Return the paragraph on an operation, or the name of the operation that it is said of already.

    `said` has the name of the first operation of each part. It is added to.
    """
    part = position(architecture, operation)
    if part in said:
        return None, said[part]
    said[part] = operation.name
    return _WORDS[part], operation.name


_WORDS = {
    "conv-first": Words(
        what="A convolution slides each of its kernels, small pictures of weights, over the patch. At every position "
        "it multiplies the kernel with the pixels below it, and adds up the products and one more number, the bias. "
        "The sums form a map: one number per position, high where the patch looks like the kernel. The stride is the "
        "step from one position to the next, in pixels.",
        why="The same kernel is used at every position, so a convolution has far fewer weights than a layer in which "
        "every unit has its own, and is easier to train. The paper's first kernels, once trained, look for edges of "
        "different directions and widths, and for blobs of colour (its Figure 3).",
        section="1, 3.5 and 6.1",
    ),
    "conv-columns": Words(
        what="The kernels of this convolution read maps instead of colours: a kernel has one slice of weights for "
        "each map that it reads, and so looks for a pattern of patterns. The net is divided into columns here: a "
        "kernel reads only the maps of its own column.",
        why="The paper trains its net on two GPUs with 3 GB of memory each, too little for the whole net. Each GPU "
        "has half of the kernels, its column, and the GPUs exchange maps only in certain layers. Against a net on one "
        "GPU with half as many kernels in each convolution, that lowers the top-1 and top-5 errors by 1.7 and 1.2 "
        "percentage points.",
        section="3.2",
    ),
    "conv-meet": Words(
        what="Here the columns meet: each kernel of this convolution reads the maps of all columns.",
        why="Where the GPUs exchange their maps is chosen by trial on images kept apart from training "
        "(cross-validation), such that the exchange is an acceptable part of the work. The paper's third convolution "
        "is the only one that reads both columns.",
        section="3.2 and 3.5",
    ),
    "conv": Words(
        what="The kernels of this convolution read maps instead of colours: a kernel has one slice of weights for "
        "each map that it reads, and so looks for a pattern of patterns.",
        why="The paper stacks five convolutions. Leaving out any one of its middle layers costs it about 2 percentage "
        "points of top-1 accuracy.",
        section="3.5 and 7",
    ),
    "dense": Words(
        what="A fully-connected layer consists of units. Each unit multiplies every value that it reads, of all maps "
        "at all positions, with a weight of its own, and adds up the products and a bias. The units have no place in "
        "the picture: together they describe the whole patch.",
        why="The paper's net ends with three such layers, which have most of its weights. The values of the second, "
        "fc7, are close to each other for photos of similar things, even if the pixels differ (its Figure 4).",
        section="3.5 and 6.1",
    ),
    "dense-last": Words(
        what="The last layer has one unit per class. Its value for a class is the class's score, or logit. It can be "
        "any number: the higher it is above the others, the more probable the class.",
        why="Training changes the weights such that the logarithm of the right class's probability rises, on average "
        "over the training images.",
        section="3.5",
    ),
    "relu": Words(
        what="ReLU keeps positive values and replaces negative ones by 0: f(x) = max(0, x).",
        why="It does not level off for large values as tanh does, and so learns faster: in the paper, a small net "
        "reaches a training error of 25 % on CIFAR-10 six times as fast as an equal one with tanh (its Figure 1).",
        section="3.1",
    ),
    "tanh": Words(
        what="tanh squeezes every value into the range from \N{MINUS SIGN}1 to 1.",
        why="It is the earlier custom that the paper replaces by ReLU: a small net with ReLU reaches a training error "
        "of 25 % on CIFAR-10 six times as fast (its Figure 1).",
        section="3.1",
    ),
    "lrn": Words(
        what="Local response normalisation (LRN) lets neighbouring maps compete. Each value is divided by a number "
        "that grows with the squares of the values at the same position in its own map and in those with the nearest "
        "numbers: a value among strong neighbours shrinks more than a value alone.",
        why="It is a form of the lateral inhibition of nerve cells, which damp their neighbours. It lowers the "
        "paper's top-1 and top-5 errors by 1.4 and 1.2 percentage points.",
        section="3.3",
    ),
    "batchnorm": Words(
        what="Batch normalisation subtracts a fixed number from each map, and multiplies it by another. The numbers "
        "bring the values of the training images to a common mean and spread, which a learned scale and shift change.",
        why="The paper does not have it: Ioffe and Szegedy published it in 2015. Later nets use it instead of LRN.",
    ),
    "pool-overlap": Words(
        what="Max pooling keeps the largest value of each small window of a map, and so makes the map smaller. It "
        "records that a pattern is there, and only roughly where. Here the windows overlap: the step from one to the "
        "next is smaller than a window.",
        why="With windows of 3 and steps of 2 instead of 2 and 2, the paper's top-1 and top-5 errors are 0.4 and 0.3 "
        "percentage points lower. Its authors also find such nets slightly harder to overfit, that is, to fit to "
        "accidents of the training images.",
        section="3.4",
    ),
    "pool": Words(
        what="Max pooling keeps the largest value of each small window of a map, and so makes the map smaller. It "
        "records that a pattern is there, and only roughly where. Here the windows don't overlap.",
        why="The paper's windows overlap, of 3 with steps of 2, which lowers its top-1 and top-5 errors by 0.4 and "
        "0.3 percentage points.",
        section="3.4",
    ),
    "dropout": Words(
        what="Dropout acts only in training: for each training image, a random part of the values is replaced by 0. "
        "For this photo, all values are used, and dropout changes nothing.",
        why="A unit can't rely on certain other units to be there, and must learn what is useful in many "
        "combinations. Without dropout, the paper's net overfits substantially: it learns its training images instead "
        "of their classes. At test time, none of the values is replaced by 0: the paper, which drops 50 %, halves "
        "them; here the kept values are scaled up in training.",
        section="4.2",
    ),
}
