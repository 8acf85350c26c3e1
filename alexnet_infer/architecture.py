"""The networks as data: a sequence of operations, and every figure derived from it.

The torch module, the ONNX graph, the NumPy reference and the layer table are all built by walking
`Architecture.steps`, so kernel counts, strides, groups and LRN constants are written only once, in the spec
(`presets` holds the named ones). Shapes, parameters and multiply-adds are computed here and never typed in. Standard
library only.

Source, unless a preset says otherwise: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012 (called "the paper" throughout), sections 3.1-3.5.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from alexnet_infer.errors import SpecError, check_fields, check_keys, shown

MAX_VALUES = 2**26
"""Maximum number of values in one activation: 256 MB per patch in float32, over 200 times the paper's largest map."""

MAX_PARAMETERS = 2**30
"""Maximum number of values in all tensors: 4 GB in float32. A larger spec is refused before memory is allocated."""

Shape = tuple[int, ...]
"""The shape of an activation without the batch axis: (channels, height, width) for maps, (units,) for vectors."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Convolution with `kernels` square kernels; `groups=2` keeps the paper's two columns apart (section 3.5)."""

    op: ClassVar[str] = "conv"
    name: str
    kernels: int
    size: int
    stride: int = 1
    pad: int = 0
    groups: int = 1

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map_shape(self, shape)
        if channels % self.groups or self.kernels % self.groups:
            raise SpecError(
                f"{self.name}: groups={self.groups} must divide both the {channels} input channels "
                f"and the {self.kernels} kernels"
            )
        return (self.kernels, *(_positions(self, n, 2 * self.pad) for n in (height, width)))

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {
            "weight": (self.kernels, shape[0] // self.groups, self.size, self.size),
            "bias": (self.kernels,),
        }

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * self.size**2


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Fully-connected layer. An input map is flattened in (channel, row, column) order."""

    op: ClassVar[str] = "dense"
    name: str
    units: int

    def output(self, shape: Shape) -> Shape:
        return (self.units,)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, math.prod(shape)), "bias": (self.units,)}

    def multiply_adds(self, shape: Shape) -> int:
        return self.units * math.prod(shape)


class _NoParameters:
    """Base of operations without weights. Their multiply-adds count as 0, as is usual in published tables."""

    def output(self, shape: Shape) -> Shape:
        return shape

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def multiply_adds(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Activation(_NoParameters):
    """ReLU (section 3.1), or the tanh that the paper compares it with."""

    op: ClassVar[str] = "activation"
    name: str
    kind: Literal["relu", "tanh"] = "relu"


@dataclass(frozen=True, kw_only=True)
class LRN(_NoParameters):
    """Local response normalisation across channels (section 3.3), in the paper's form.

    b_i = a_i / (k + alpha * sum of a_j^2 over the `size` channels j nearest to i) ^ beta

    `alpha` multiplies the plain sum. ONNX, PyTorch and Caffe divide alpha by `size` first; see `alpha_per_size`.
    With `groups=2` the channels form two columns, and a window never crosses from one into the other.
    """

    op: ClassVar[str] = "lrn"
    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1

    @property
    def alpha_per_size(self) -> float:
        """Alpha for libraries that compute k + (alpha / size) * sum: ONNX, PyTorch, Caffe, TensorRT."""
        return self.alpha * self.size

    def output(self, shape: Shape) -> Shape:
        channels, _, _ = _map_shape(self, shape)
        if channels % self.groups:
            raise SpecError(f"{self.name}: groups={self.groups} must divide the {channels} channels")
        return shape


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch normalisation, the modern replacement for LRN. At inference it is an affine map per channel."""

    op: ClassVar[str] = "batchnorm"
    name: str
    eps: float = 1e-5

    def output(self, shape: Shape) -> Shape:
        return _map_shape(self, shape)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (shape[0],))

    def multiply_adds(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class MaxPool(_NoParameters):
    """Max pooling; overlapping if `stride` < `size` (section 3.4).

    With `ceil`, the last window may extend past the edge if the stride does not divide the extent evenly, as in Caffe.
    A window that would start past the edge is dropped, as in PyTorch (and in Caffe with padding).
    """

    op: ClassVar[str] = "maxpool"
    name: str
    size: int = 3
    stride: int = 2
    ceil: bool = False

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map_shape(self, shape)
        return (channels, *(_positions(self, n, self.overhang(n)) for n in (height, width)))

    def overhang(self, extent: int) -> int:
        """Number of rows (or columns) by which the last window extends past `extent`; 0 unless `ceil`."""
        beyond = -(extent - self.size) % self.stride
        return beyond if self.ceil and beyond < self.size else 0


@dataclass(frozen=True, kw_only=True)
class Dropout(_NoParameters):
    """Dropout (section 4.2) in its modern form: training scales the kept units up, so inference does nothing."""

    op: ClassVar[str] = "dropout"
    name: str
    rate: float = 0.5


Operation = Conv | Dense | Activation | LRN | BatchNorm | MaxPool | Dropout
_OPERATIONS: dict[str, type] = {kind.op: kind for kind in (Conv, Dense, Activation, LRN, BatchNorm, MaxPool, Dropout)}


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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network: `operations`, in order, turn a patch of `patch` x `patch` pixels into one logit per class.

    Raises SpecError if a value is out of range or the operations do not fit together.
    """

    name: str
    patch: int
    operations: tuple[Operation, ...]
    channels: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise SpecError(f"name={shown(self.name)}: expected printable text")
        for label in ("patch", "channels"):
            _check_int(label, getattr(self, label), *_INT_RANGES[label])
        names: set[str] = set()
        for operation in self.operations:
            _check_fields(operation)
            if operation.name in names:
                raise SpecError(f"{operation.name}: two operations have this name")
            names.add(operation.name)
        steps = tuple(self._walk())
        if not steps or not isinstance(self.operations[-1], Dense):
            raise SpecError(f"{self.name}: the last operation must be a fully-connected layer")
        values = sum(math.prod(shape) for step in steps for shape in step.tensors.values())
        if values > MAX_PARAMETERS:
            raise SpecError(f"{self.name}: {values} values in all tensors: expected at most {MAX_PARAMETERS}")
        object.__setattr__(self, "_steps", steps)

    def _walk(self) -> Iterator[Step]:
        shape: Shape = (self.channels, self.patch, self.patch)
        _check_size(f"{self.name}: an input", shape)
        for operation in self.operations:
            output = operation.output(shape)
            _check_size(f"{operation.name}: an output", output)
            tensors = {f"{operation.name}.{part}": size for part, size in operation.tensors(shape).items()}
            yield Step(operation, shape, output, tensors, operation.multiply_adds(shape))
            shape = output

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operations with their shapes and costs, in order."""
        return self._steps  # type: ignore[attr-defined]

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

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds in the convolutions and fully-connected layers for one patch."""
        return sum(step.multiply_adds for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; `from_json` restores it exactly."""
        return {
            "name": self.name,
            "patch": self.patch,
            "channels": self.channels,
            "operations": [{"op": o.op, **dataclasses.asdict(o)} for o in self.operations],
        }

    @classmethod
    def from_json(cls, data: Any) -> Architecture:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown or out of range."""
        check_keys("architecture", data, ("name", "patch", "channels", "operations"))
        if not isinstance(data["operations"], list):
            raise SpecError(f"operations={shown(data['operations'])}: expected a list")
        return cls(
            name=data["name"],
            patch=data["patch"],
            channels=data["channels"],
            operations=tuple(_operation_from_json(item) for item in data["operations"]),
        )


def _operation_from_json(item: Any) -> Operation:
    fields = dict(item) if isinstance(item, dict) else {}
    op = fields.pop("op", None)
    kind = _OPERATIONS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise SpecError(f"operation {shown(op)}: expected one of {', '.join(_OPERATIONS)}")
    check_fields(f"{op} {shown(fields.get('name'))}", fields, kind)
    return kind(**fields)


_INT_RANGES = {
    "patch": (1, 4096),
    "channels": (1, 8192),
    "kernels": (1, 8192),  # LRN's convolution form holds channels x channels values
    "units": (1, 2**16),
    "size": (1, 4096),
    "stride": (1, 4096),
    "pad": (0, 4096),
    "groups": (1, 8192),
}
_FLOAT_RANGES = {
    "alpha": (0.0, 1e6),
    "beta": (0.0, 10.0),
    "k": (1e-6, 1e6),  # with 0, the zeros that ReLU outputs would be divided by zero
    "eps": (1e-12, 1.0),
    "rate": (0.0, 0.999),
}


def _check_int(where: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SpecError(f"{where}={shown(value)}: expected a whole number from {low} to {high}")


def _check_fields(operation: Operation) -> None:
    """Check the type and range of every field, since a spec may come from an edited file."""
    name = operation.name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise SpecError(
            f"{operation.op}: name={shown(name)}: expected at most 64 letters, digits, _ or -, starting with a letter"
        )
    for field in dataclasses.fields(operation):
        value, where = getattr(operation, field.name), f"{name}: {field.name}"
        if field.type == "int":
            _check_int(where, value, *_INT_RANGES[field.name])
        elif field.type == "float":
            low, high = _FLOAT_RANGES[field.name]
            # A comparison with NaN is False. bool is a subclass of int, but is not accepted as a number.
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise SpecError(f"{where}={shown(value)}: expected a number from {low:g} to {high:g}")
        elif field.type == "bool" and not isinstance(value, bool):
            raise SpecError(f"{where}={shown(value)}: expected true or false")
    if isinstance(operation, Activation) and operation.kind not in ("relu", "tanh"):
        raise SpecError(f"{name}: kind={shown(operation.kind)}: expected relu or tanh")
    if isinstance(operation, LRN) and operation.size % 2 == 0:
        raise SpecError(f"{name}: size={operation.size}: expected an odd number of channels")


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
