"""The networks as data: a sequence of operations, and every figure derived from it.

The torch module, the ONNX graph, the NumPy reference and the layer table are all built by walking
`Architecture.steps`, so kernel counts, strides, groups and LRN constants are written only once, in the spec
(`presets` holds the named ones). Shapes, parameters and multiply-adds are computed here and never typed in. The
operations and the net that they make are one subject, and so one file.

Source, unless a preset says otherwise: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012 (called "the paper" throughout), sections 3.1-3.5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import msgspec

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, shown
from alexnet_infer.strict_json import Record, Text, matching, number, whole

MAX_VALUES = 2**24
"""Maximum number of values in one activation: 67 MB per patch in float32, 57 times the paper's largest map."""

MAX_PARAMETERS = 2**30
"""Maximum number of values in all tensors: 4 GB in float32. A larger spec is refused before memory is allocated."""

MAX_OPERATIONS = 500
"""Maximum number of operations. The paper's net has 24."""

SLOW = 16
"""How many multiply-adds of a matrix product take as long as one value of any other operation, or one comparison."""

MAX_BAND = 2**24
"""Maximum number of values in the convolutions that LRN becomes on a CPU: 67 MB in float32, 450 times the paper's."""

RESERVED = ("patches", "images", "probabilities")
"""Names that no operation may have: those of the inputs and the output of a net's graph."""

Shape = tuple[int, ...]
"""The shape of an activation without the batch axis: (channels, height, width) for maps, (units,) for vectors."""

Name = Annotated[
    str, matching("[A-Za-z][A-Za-z0-9_-]{0,63}", "at most 64 letters, digits, _ or -, starting with a letter")
]
Count = Annotated[int, whole(1, 8192)]
"""LRN's convolution form has channels x channels values."""
Length = Annotated[int, whole(1, 4096)]


def most_work(values: int) -> int:
    """Return how many multiply-adds one patch may take in a net with this many weights.

    2^33 are 10 times as many as the paper's net takes. It uses each weight 14 times; 2^10 more times are allowed. So a
    file can't ask for more work than its size justifies.
    """
    return 2**33 + 2**10 * values


class _Operation(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=str.lower):
    """Base of the operations; as it stands, one without weights. Its multiply-adds count as 0, as in published tables.

    `Architecture` checks the values, not the constructor, because importers describe other programs' layers by
    operations.
    """

    name: Name

    @property
    def op(self) -> str:
        """The kind of operation: its class's name in lower case."""
        return type(self).__name__.lower()

    def output(self, shape: Shape) -> Shape:
        return shape

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def multiply_adds(self, shape: Shape) -> int:
        return 0

    def work(self, shape: Shape) -> int:
        """Multiply-adds that take as long as the operation does for one patch, to limit the time."""
        return max(self.multiply_adds(shape), SLOW * math.prod(self.output(shape)))


class Conv(_Operation, kw_only=True):
    """Convolution with `kernels` square kernels; `groups=2` keeps the paper's two columns apart (section 3.5)."""

    kernels: Count
    size: Length
    stride: Length = 1
    pad: Annotated[int, whole(0, 4096)] = 0
    groups: Count = 1

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map_shape(self, shape)
        if channels % self.groups or self.kernels % self.groups:
            raise SpecError(
                f"{self.name}: groups={self.groups} must divide both the {channels} input channels "
                f"and the {self.kernels} kernels"
            )
        return (self.kernels, *(_positions(self, n, 2 * self.pad) for n in (height, width)))

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.kernels, shape[0] // self.groups, self.size, self.size), "bias": (self.kernels,)}

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * self.size**2


class Dense(_Operation, kw_only=True):
    """Fully-connected layer. An input map is flattened in (channel, row, column) order."""

    units: Annotated[int, whole(1, 2**16)]

    def output(self, shape: Shape) -> Shape:
        return (self.units,)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, math.prod(shape)), "bias": (self.units,)}

    def multiply_adds(self, shape: Shape) -> int:
        return self.units * math.prod(shape)


class Activation(_Operation, kw_only=True):
    """ReLU (section 3.1), or the tanh that the paper compares it with."""

    kind: Literal["relu", "tanh"] = "relu"


class LRN(_Operation, kw_only=True):
    """Local response normalisation across channels (section 3.3), in the paper's form.

    b_i = a_i / (k + alpha * sum of a_j^2 over the `size` channels j nearest to i) ^ beta

    `alpha` multiplies the plain sum. ONNX, PyTorch and Caffe divide alpha by `size` first; see `alpha_per_size`.
    With `groups=2` the channels form two columns, and a window never crosses from one into the other.
    """

    size: Length = 5
    alpha: Annotated[float, number(0, 1e6)] = 1e-4
    beta: Annotated[float, number(0, 10)] = 0.75
    k: Annotated[float, number(1e-6, 1e6)] = 2.0
    """Not 0: the zeros that ReLU outputs would be divided by zero."""
    groups: Count = 1

    @property
    def alpha_per_size(self) -> float:
        """Alpha for libraries that compute k + (alpha / size) * sum: ONNX, PyTorch, Caffe, TensorRT."""
        return self.alpha * self.size

    def output(self, shape: Shape) -> Shape:
        channels, _, _ = _map_shape(self, shape)
        if channels % self.groups:
            raise SpecError(f"{self.name}: groups={self.groups} must divide the {channels} channels")
        return shape

    def work(self, shape: Shape) -> int:
        # As squares, a convolution, a power (or two roots and a product) and a division; or as ONNX's operator.
        return math.prod(shape) * max(shape[0] // self.groups + 8 * SLOW, SLOW * self.size)


class BatchNorm(_Operation, kw_only=True):
    """Batch normalisation, the modern replacement for LRN. At inference it is an affine map per channel."""

    eps: Annotated[float, number(1e-12, 1)] = 1e-5

    def output(self, shape: Shape) -> Shape:
        return _map_shape(self, shape)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (shape[0],))


class MaxPool(_Operation, kw_only=True):
    """Max pooling; overlapping if `stride` < `size` (section 3.4).

    With `ceil`, the last window may extend past the edge if the stride does not divide the extent evenly, as in Caffe.
    A window that would start past the edge is dropped, as in PyTorch (and in Caffe with padding).
    """

    size: Length = 3
    stride: Length = 2
    ceil: bool = False

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map_shape(self, shape)
        return (channels, *(_positions(self, n, self.overhang(n)) for n in (height, width)))

    def overhang(self, extent: int) -> int:
        """Number of rows (or columns) by which the last window extends past `extent`; 0 unless `ceil`."""
        beyond = -(extent - self.size) % self.stride
        return beyond if self.ceil and beyond < self.size else 0

    def work(self, shape: Shape) -> int:
        return SLOW * math.prod(self.output(shape)) * self.size**2


class Dropout(_Operation, kw_only=True):
    """Dropout (section 4.2) in its modern form: training scales the kept units up, so inference does nothing."""

    rate: Annotated[float, number(0, 0.999)] = 0.5


Operation = Conv | Dense | Activation | LRN | BatchNorm | MaxPool | Dropout
_OPERATIONS = {kind.__name__.lower(): kind for kind in get_args(Operation)}


@dataclass(frozen=True)
class Step:
    """One operation of a network with its input and output shapes, its tensors and its cost for one patch."""

    operation: Operation
    input: Shape
    output: Shape
    tensors: Mapping[str, Shape]
    """Full tensor name ("conv1.weight") to shape."""
    multiply_adds: int

    @property
    def parameters(self) -> int:
        """Number of trainable parameters. Batch norm's running statistics are state, not parameters."""
        return sum(math.prod(shape) for name, shape in self.tensors.items() if ".running_" not in name)


class Architecture(Record, kw_only=True, dict=True):
    """A network: `operations`, in order, turn a patch of `patch` x `patch` pixels into one logit per class.

    Raises SpecError if a value is out of range or the operations do not fit together.
    """

    name: Text
    patch: Length
    channels: Count = 3
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.operations) > MAX_OPERATIONS:
            raise SpecError(f"{self.name}: {len(self.operations)} operations: expected at most {MAX_OPERATIONS}")
        names: set[str] = set()
        for i, operation in enumerate(self.operations):
            strict_json.check_value(operation.name, Name, f"operations[{i}].name")
            strict_json.check(operation, f"{operation.name}: ")
            if isinstance(operation, LRN) and operation.size % 2 == 0:
                raise SpecError(f"{operation.name}: size={operation.size}: expected an odd number of channels")
            if operation.name in RESERVED:
                raise SpecError(f"{operation.name}: an operation's name: expected none of {', '.join(RESERVED)}")
            if operation.name in names:
                raise SpecError(f"{operation.name}: two operations have this name")
            names.add(operation.name)
        steps = self.steps
        if not steps or not isinstance(self.operations[-1], Dense):
            raise SpecError(f"{self.name}: the last operation must be a fully-connected layer")
        values = sum(math.prod(shape) for step in steps for shape in step.tensors.values())
        if values > MAX_PARAMETERS:
            raise SpecError(f"{self.name}: {values} values in all tensors: expected at most {MAX_PARAMETERS}")
        work = sum(step.operation.work(step.input) for step in steps)
        if work > (most := most_work(values)):
            raise SpecError(
                f"{self.name}: takes {work:,} multiply-adds for a patch: expected at most {most:,} with {values:,} "
                "weights"
            )
        band = sum(s.input[0] ** 2 // s.operation.groups for s in steps if isinstance(s.operation, LRN))
        if band > MAX_BAND:
            raise SpecError(f"{self.name}: {band} values in LRN's convolutions: expected at most {MAX_BAND}")

    def _walk(self) -> Iterator[Step]:
        shape: Shape = (self.channels, self.patch, self.patch)
        _check_size(f"{self.name}: an input", shape)
        for operation in self.operations:
            output = operation.output(shape)
            _check_size(f"{operation.name}: an output", output)
            tensors = {f"{operation.name}.{part}": size for part, size in operation.tensors(shape).items()}
            yield Step(operation, shape, output, tensors, operation.multiply_adds(shape))
            shape = output

    @functools.cached_property
    def steps(self) -> tuple[Step, ...]:
        """The operations with their shapes and costs, in order."""
        return tuple(self._walk())

    @property
    def classes(self) -> int:
        """Number of classes, which is the number of outputs."""
        return self.steps[-1].output[0]

    @property
    def tensors(self) -> dict[str, Shape]:
        """Name and shape of every tensor of a trained net with this architecture, in order."""
        return {name: shape for step in self.steps for name, shape in step.tensors.items()}

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(step.parameters for step in self.steps)

    @property
    def scales(self) -> bool:
        """Whether every activation can be divided by a constant u without changing the logits.

        The hidden biases are then divided by u, LRN's alpha is multiplied by u^2 and the last layer's weights by u.
        True with ReLU, LRN and max pooling; False with tanh or batch norm (docs/lrn.md).
        """
        return not any(
            isinstance(o, BatchNorm) or (isinstance(o, Activation) and o.kind == "tanh") for o in self.operations
        )

    def levels(self, unit: float) -> dict[str, float]:
        """Return, by tensor, the factor from weights for inputs in units of `unit` grey levels to grey levels.

        In a net that `scales`, all activations are in those units. In any other net, only the input is. Raises
        SpecError for a `unit` other than 1 if the latter does not begin with a convolution or fully-connected layer.
        """
        factors = dict.fromkeys(self.tensors, 1.0)
        if unit == 1:
            return factors
        if not self.scales:
            first = self.operations[0]
            if not isinstance(first, Conv | Dense):
                raise SpecError(f"{first.name}: a net with tanh or batch norm that begins with it can't have a unit")
            return factors | {f"{first.name}.weight": 1 / unit}
        factors |= {name: unit for name in factors if name.endswith(".bias")}
        last = self.operations[-1].name
        return factors | {f"{last}.weight": 1 / unit, f"{last}.bias": 1.0}

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds in the convolutions and fully-connected layers for one patch."""
        return sum(step.multiply_adds for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; `from_json` restores it exactly."""
        return msgspec.structs.asdict(self) | {"operations": [msgspec.to_builtins(o) for o in self.operations]}

    @classmethod
    def from_json(cls, data: Any, where: str = "architecture") -> Architecture:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown or out of range."""
        return strict_json.build(data, cls, where, operations=_operation_from_json)


def _operation_from_json(item: Any, where: str) -> Operation:
    fields = dict(item) if isinstance(item, dict) else {}
    op = fields.pop("op", None)
    kind = _OPERATIONS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise SpecError(f"{where}: op={shown(op)}: expected one of {', '.join(_OPERATIONS)}")
    return strict_json.build(fields, kind, where)


def _check_size(label: str, shape: Shape) -> None:
    if math.prod(shape) > MAX_VALUES:
        raise SpecError(f"{label} of {' x '.join(map(str, shape))}: expected at most {MAX_VALUES} values")


def _map_shape(operation: Conv | MaxPool | LRN | BatchNorm, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise SpecError(f"{operation.name}: needs a map as its input, but it follows a fully-connected layer")
    return shape


def _positions(operation: Conv | MaxPool, extent: int, beyond: int) -> int:
    """Number of window positions along `extent` pixels with `beyond` more pixels added at the edges."""
    if extent + beyond < operation.size:
        added = f" plus {beyond} pixels beyond its edges" if beyond else ""
        raise SpecError(
            f"{operation.name}: its {operation.size}-pixel window is larger than the {extent}-pixel map{added}"
        )
    return (extent + beyond - operation.size) // operation.stride + 1
