"""Build the ONNX graph of a net from its spec and weights, operation by operation, without tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, BatchNorm, Conv, Dense, Dropout, MaxPool, Step
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import SpecError
from alexnet_infer.graph.info import LRNForm
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.layers import PROBABILITIES, Layer, find_layers
from alexnet_infer.manifest import METADATA_KEY

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
PLUGIN_DOMAIN, PLUGIN = "alexnet_infer", "GroupedLRN"
"""The node is not called LRN, because a parser that doesn't know it looks only at its type. That parser would silently
run ONNX's LRN, which divides alpha by the size and has no groups."""

INPUT = "patches"
OUTPUT = PROBABILITIES


def build_onnx(
    artifact: Artifact,
    lrn: LRNForm = "op",
    outside: dict[str, np.ndarray] | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """Return the net as an ONNX model: float32 `patches` [N, 3, patch, patch] -> float32 `probabilities` [N, classes].

    `outputs` are the names of the layers to return (`alexnet_infer.layers`), each float32 [N, ...]. The model ends with
    the last operation that they need.

    N is free. The manifest is in the model's metadata under "alexnet_infer". With `outside`, the weights are put into
    that dictionary, and the model declares them as external data. A runtime can then take them from memory. Copying
    hundreds of megabytes into a protobuf message and out of it would take longer than running the net.

    Backends run this model when they load a model file. To export a file, use `build_model` in model.py. Raises
    BackendError if onnx is missing.
    """
    types = import_onnx().TensorProto
    architecture = artifact.manifest.architecture
    graph = Graph(outside)
    layers = find_layers(architecture, outputs)
    values = graph.net(artifact, INPUT, lrn, layers)
    for value, layer in zip(values, layers, strict=True):
        graph.output(value, layer.name)
    shape = [architecture.channels, architecture.patch, architecture.patch]
    return graph.model(
        artifact.manifest.name,
        (INPUT, types.FLOAT, ["N", *shape]),
        [(layer.name, types.FLOAT, ["N", *layer.shape]) for layer in layers],
        {METADATA_KEY: artifact.manifest.to_json()},
    )


def band_weights(spec: LRN, channels: int) -> np.ndarray:
    """Return LRN's window sum as the weights of a grouped 1x1 convolution: float32 [C, C / groups, 1, 1].

    A weight is `alpha` if channel j is in channel i's window, otherwise 0. Each column is a group of the convolution,
    so no window extends into another column.
    """
    width = channels // spec.groups
    index = np.arange(width)
    band = np.abs(index[:, None] - index) <= spec.size // 2
    return np.tile(band * np.float32(spec.alpha), (spec.groups, 1))[:, :, None, None].astype(np.float32)


class Graph:
    """The nodes and initializers of a graph under construction. Values are named after the operation that makes them.

    With `outside`, tensors of 1024 bytes and more are put into that dictionary by name and declared as external data.
    """

    def __init__(self, outside: dict[str, np.ndarray] | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.outside = outside
        self._outputs: set[str] = set()
        self._renamed: dict[str, str] = {}

    def model(
        self,
        name: str,
        source: tuple[str, int, list[int | str]],
        targets: Sequence[tuple[str, int, list[int | str]]],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """Return the model. `source` and `targets` are the (name, element type, shape) of the input and the outputs."""
        from onnx import helper

        plugin = any(node.domain == PLUGIN_DOMAIN for node in self.nodes)
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [helper.make_tensor_value_info(*source)],
                [helper.make_tensor_value_info(*target) for target in targets],
                self.initializers,
            ),
            opset_imports=[
                helper.make_opsetid("", OPSET),
                *([helper.make_opsetid(PLUGIN_DOMAIN, 1)] if plugin else []),
            ],
            ir_version=IR_VERSION,
            producer_name="alexnet-infer",
            functions=[lrn_function()] if plugin else None,
        )
        helper.set_model_props(model, metadata)
        return model

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output and return the name of the output, which is also the node's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def cast(self, x: str, to: type[np.generic], output: str) -> str:
        """Append a Cast of `x` to a NumPy type and return the name of its output."""
        from onnx import helper

        return self.node("Cast", [x], output, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer and return its name."""
        from onnx import TensorProto, helper, numpy_helper

        # Small tensors, such as shapes, stay inside: runtimes read them while they optimise.
        if self.outside is None or value.nbytes < 1024:
            self.initializers.append(numpy_helper.from_array(value, name))
            return name
        tensor = TensorProto(
            name=name,
            dims=value.shape,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value="in memory")
        self.initializers.append(tensor)
        self.outside[name] = value
        return name

    def net(
        self,
        artifact: Artifact,
        patches: str,
        lrn: LRNForm,
        layers: Sequence[Layer],
        *,
        half: bool = False,
        prefix: str = "",
    ) -> list[str]:
        """Append a net that reads float32 `patches`, up to the last of `layers`. Return the names of their values.

        The values are float32. With `half`, weights and activations are float16. LRN's sum, batch norm and the softmax
        stay in float32, because squares of values of 256 or more overflow float16. `prefix` keeps the names of several
        nets distinct. Raises SpecError if a weight is too large for float16.
        """
        value = self.cast(patches, np.float16, f"{prefix}half") if half else patches
        missing = {layer.operation for layer in layers}
        values: dict[str, str] = {}
        for step in artifact.manifest.architecture.steps:
            name = step.operation.name
            value = self.operation(artifact, step, value, lrn, half=half, prefix=prefix)
            if name in missing:
                values[name] = self.cast(value, np.float32, f"{prefix}{name}.output") if half else value
                missing.remove(name)
            if not missing:
                break
        if missing:
            logits = self.cast(value, np.float32, f"{prefix}logits") if half else value
            values[PROBABILITIES] = self.node("Softmax", [logits], f"{prefix}softmax", axis=1)
        return [values[layer.operation] for layer in layers]

    def operation(
        self, artifact: Artifact, step: Step, x: str, lrn: LRNForm, *, half: bool = False, prefix: str = ""
    ) -> str:
        """Append one operation of a net on the value `x` and return the name of its output."""
        return _Builder(self, artifact, step, lrn, half, prefix).add(x)

    def output(self, value: str, name: str) -> None:
        """Give a value the name of an output of the model.

        A value inside the model that has this name gets another one. Then each output can have the name by which users
        know the layer, whatever its operation is called: the paper's fc7 is the output of the operation after fc7.
        """
        if name != self._renamed.get(value, value) and any(name in node.output for node in self.nodes):
            self._rename(name, f"{name}.inner")
        current = self._renamed.get(value, value)
        if current in self._outputs:  # two names of one value
            current = self.node("Identity", [current], f"{name}.again")
        self._rename(current, name)
        self._outputs.add(name)

    def _rename(self, old: str, new: str) -> None:
        """Give a value another name, and its node too if no other node has it."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        if new not in (node.name for node in self.nodes):
            for node in self.nodes:
                node.name = new if node.name == old else node.name
        self._renamed |= {first: new for first, now in self._renamed.items() if now == old} | {old: new}


class _Builder:
    """One operation of a net, translated to ONNX nodes."""

    def __init__(self, graph: Graph, artifact: Artifact, step: Step, lrn: LRNForm, half: bool, prefix: str) -> None:
        self.graph, self.artifact, self.step, self.lrn, self.half, self.prefix = (
            graph, artifact, step, lrn, half, prefix,
        )  # fmt: skip
        self.name = f"{prefix}{step.operation.name}"

    def add(self, x: str) -> str:
        """Append the operation on the value `x` and return the name of its output."""
        o, g, name = self.step.operation, self.graph, self.name
        match o:
            case Conv():
                window = {"kernel_shape": [o.size] * 2, "strides": [o.stride] * 2, "pads": [o.pad] * 4}
                return g.node("Conv", [x, *self._tensors(self.half)], name, group=o.groups, **window)
            case Dense():
                flat = g.node("Flatten", [x], f"{name}.input", axis=1) if len(self.step.input) == 3 else x
                return g.node("Gemm", [flat, *self._tensors(self.half)], name, transB=1)
            case Activation():
                return g.node({"relu": "Relu", "tanh": "Tanh"}[o.kind], [x], name)
            case LRN() if self.lrn == "plugin":
                return self._lrn_plugin(o, x)
            case LRN():
                return self._in_float(x, self._lrn_node if self.lrn == "op" else self._lrn_conv)
            case BatchNorm():
                return self._in_float(x, self._batch_norm)
            case MaxPool():
                rows, columns = (o.overhang(extent) for extent in self.step.input[1:])
                window = {"kernel_shape": [o.size] * 2, "strides": [o.stride] * 2, "pads": [0, 0, rows, columns]}
                return g.node("MaxPool", [x], name, **window)
            case Dropout():
                return x

    def _tensors(self, half: bool = False) -> list[str]:
        values = {name: self.artifact.tensors[name] for name in self.step.tensors}
        if half:
            with np.errstate(over="ignore"):
                values = {name: value.astype(np.float16) for name, value in values.items()}
            for name, value in values.items():
                if not np.isfinite(value).all():
                    raise SpecError(f"{name} has weights too large for float16: export with --precision fp32")
        return [self.graph.constant(f"{self.prefix}{name}", value) for name, value in values.items()]

    def _in_float(self, x: str, add: Callable[[str, str], str]) -> str:
        """Call `add` on `x` in float32, whatever the precision of the net, and return the name of the output."""
        if not self.half:
            return add(x, self.name)
        wide = self.graph.cast(x, np.float32, f"{self.name}.wide")
        return self.graph.cast(add(wide, f"{self.name}.float"), np.float16, self.name)

    def _batch_norm(self, x: str, name: str) -> str:
        return self.graph.node("BatchNormalization", [x, *self._tensors()], name, epsilon=self.step.operation.eps)

    def _lrn_node(self, x: str, name: str) -> str:
        """ONNX's LRN divides alpha by the size. It has no groups, so columns are folded into the batch axis."""
        o, g = self.step.operation, self.graph
        constants = {"size": o.size, "alpha": o.alpha_per_size, "beta": o.beta, "bias": o.k}
        if o.groups == 1:
            return g.node("LRN", [x], name, **constants)
        channels, height, width = self.step.input
        apart = np.array([-1, channels // o.groups, height, width], np.int64)
        joined = np.array([-1, channels, height, width], np.int64)
        columns = g.node("Reshape", [x, g.constant(f"{name}.apart", apart)], f"{name}.columns")
        normalised = g.node("LRN", [columns], f"{name}.normalised", **constants)
        return g.node("Reshape", [normalised, g.constant(f"{name}.joined", joined)], name)

    def _lrn_conv(self, x: str, name: str) -> str:
        """d = k + alpha * window sum of squares is one 1x1 convolution. d^0.75 is computed with two square roots."""
        o, g, channels = self.step.operation, self.graph, self.step.input[0]
        weights = g.constant(f"{name}.band", band_weights(o, channels))
        bias = g.constant(f"{name}.k", np.full(channels, o.k, np.float32))
        squares = g.node("Mul", [x, x], f"{name}.squares")
        d = g.node("Conv", [squares, weights, bias], f"{name}.d", group=o.groups, kernel_shape=[1, 1])
        if o.beta == 0.75:
            root = g.node("Sqrt", [d], f"{name}.root")
            three_halves = g.node("Mul", [d, root], f"{name}.three_halves")
            power = g.node("Sqrt", [three_halves], f"{name}.power")
        else:
            power = g.node("Pow", [d, g.constant(f"{name}.beta", np.float32(o.beta))], f"{name}.power")
        return g.node("Div", [x, power], name)

    def _lrn_plugin(self, o: LRN, x: str) -> str:
        """Append a GroupedLRN node. TensorRT's parser replaces it with the plugin of that name and namespace."""
        constants = {"size": o.size, "alpha": o.alpha, "beta": o.beta, "k": o.k, "groups": o.groups}
        plugin = {"plugin_version": "1", "plugin_namespace": PLUGIN_DOMAIN}
        return self.graph.node(PLUGIN, [x], self.name, domain=PLUGIN_DOMAIN, **constants, **plugin)


def lrn_function() -> onnx.FunctionProto:
    """Return the definition of `alexnet_infer::GroupedLRN` in ONNX operators, so that every runtime can run the node.

    ONNX's LRN divides alpha by the size, and a function can't compute a new value for an attribute. So x is multiplied
    by the square root of the size before LRN, and the result is divided by the same root.
    """
    from onnx import AttributeProto, TensorProto, helper

    def reference(to: str, attribute: str, kind: int) -> onnx.AttributeProto:
        return AttributeProto(name=to, ref_attr_name=attribute, type=kind)

    def integer(name: str) -> onnx.NodeProto:
        node = helper.make_node("Constant", [], [name])
        node.attribute.append(reference("value_int", name, AttributeProto.INT))
        return node

    normalise = helper.make_node("LRN", ["folded"], ["normalised"])
    normalise.attribute.append(reference("size", "size", AttributeProto.INT))
    for to, attribute in (("alpha", "alpha"), ("beta", "beta"), ("bias", "k")):
        normalise.attribute.append(reference(to, attribute, AttributeProto.FLOAT))
    nodes = [
        integer("size"),
        integer("groups"),
        helper.make_node("Cast", ["size"], ["float_size"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["float_size"], ["root"]),
        helper.make_node("Cast", ["x"], ["float_x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float_x", "root"], ["scaled"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Shape", ["x"], ["channels"], start=1, end=2),
        helper.make_node("Shape", ["x"], ["extent"], start=2),
        helper.make_node("Div", ["channels", "groups"], ["width"]),
        helper.make_node("Constant", [], ["any"], value_ints=[-1]),
        helper.make_node("Concat", ["any", "width", "extent"], ["apart"], axis=0),
        helper.make_node("Reshape", ["scaled", "apart"], ["folded"]),
        normalise,
        helper.make_node("Reshape", ["normalised", "shape"], ["joined"]),
        helper.make_node("Div", ["joined", "root"], ["float_y"]),
        helper.make_node("CastLike", ["float_y", "x"], ["y"]),
    ]
    attributes = ["size", "alpha", "beta", "k", "groups", "plugin_version", "plugin_namespace"]
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(PLUGIN_DOMAIN, PLUGIN, ["x"], ["y"], nodes, opsets, attributes)
