"""Every layer of a net, also of an exported ONNX file that declares other outputs, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_infer.architecture import Architecture, Dropout
from alexnet_infer.artifact import Artifact, load_artifact
from alexnet_infer.backends import failures
from alexnet_infer.backends.half import rounded
from alexnet_infer.backends.onnxruntime import FATAL, OnnxRuntimeBackend, import_runtime
from alexnet_infer.backends.opening import file_kind
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.layers import PRE, PROBABILITIES, Layer, all_layers, find_layers
from alexnet_infer.preprocess import Rescaling, Views, patches

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

    from alexnet_infer.graph.file import OnnxFile


def distinct_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """Return each value that a net computes once, in order, without those before an activation.

    An 8-bit file for CPUs has no values before a ReLU: its convolutions compute both in one step.
    """
    layers = all_layers(architecture)
    skipped = {layer.operation for layer in layers if layer.name.endswith(PRE)}
    skipped |= {operation.name for operation in architecture.operations if isinstance(operation, Dropout)}
    distinct: dict[str, Layer] = {}
    for layer in layers:
        if layer.operation not in skipped:
            distinct.setdefault(layer.operation, layer)
    return tuple(distinct.values())


def session_of(model: onnx.ModelProto, names: Sequence[str], folder: Path | None = None) -> InferenceSession:
    """Return an ONNX Runtime session whose outputs are the values `names` of `model`, for any number of images.

    `folder` has the weights that are not in the model.
    """
    import onnx

    ort = import_runtime()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del copy.graph.value_info[:], copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


class InnerLayers:
    """The layers of the net in a model file or an exported ONNX file with one net.

    `views` are the patches for which layers are computed: those that the file cuts itself, or else "center", unless
    they are given. A layer of an 8-bit file has the values that DequantizeLinear gives, if the file quantizes it: they
    are what the next layer reads. Values of a float16 file are rounded to float16.

    Raises UsageError for an engine, a file of several nets, a graph of another program, or `views` that a file does not
    cut, and the errors of `load_artifact` and `read_model`.
    """

    def __init__(self, path: Path, views: Views | None = None) -> None:
        kind = file_kind(path)
        if kind == "engine":
            raise UsageError(f"{path}: an engine, whose layers can't be read; compare the .onnx that it was built from")
        self._path = path
        if kind == "onnx":
            self._open_file(views)
        else:
            self._open_artifact(load_artifact(path), views)

    def _open_artifact(self, artifact: Artifact, views: Views | None) -> None:
        self.manifest, self.views = artifact.manifest, views or "center"
        self.layers = distinct_layers(artifact.manifest.architecture)
        backend = OnnxRuntimeBackend(artifact, "cpu", outputs=[layer.name for layer in self.layers])
        self.description, self._run = backend.description, backend.activations
        self._takes_squares = False

    def _open_file(self, views: Views | None) -> None:
        from alexnet_infer.graph.file import parsed, read_model

        file = read_model(self._path)
        info = file.info
        own: Views | None = None if info.views == "none" else info.views
        if len(info.members) > 1:
            raise UsageError(
                f"{self._path}: has {len(info.members)} nets: expected a file of one net to read its layers"
            )
        if own and views not in (None, own):
            raise UsageError(f"{self._path}: cuts views={own} itself; export it again with --views {views}")
        self.manifest, self.views, self._takes_squares = file.manifest, own or views or "center", info.takes_squares
        with failures("ONNX Runtime", self._path):
            half = info.precision == "fp16" and not file.data
            model = parsed(rounded(file.content) if half else file.content)
            values = _values(model, file)
            if not values.keys() - {PROBABILITIES}:
                raise UsageError(f"{self._path}: its layers can't be told; expected a file that `export` wrote")
            session = session_of(model, list(values.values()), self._path.parent if file.data else None)
        self.layers = tuple(layer for layer in distinct_layers(self.manifest.architecture) if layer.name in values)
        precision = "" if info.precision == "fp32" else f", {info.precision}"
        self.description = f"ONNX Runtime {import_runtime().__version__}, CPUExecutionProvider{precision}"
        (source,) = (node.name for node in session.get_inputs())

        def run(inputs: np.ndarray) -> Mapping[str, np.ndarray]:
            with failures("ONNX Runtime", self._path):
                return dict(zip(values, session.run(list(values.values()), {source: inputs}), strict=True))

        self._run = run

    @property
    def rescaling(self) -> Rescaling:
        """How an image becomes the square from which the views are cut."""
        return self.manifest.preprocessing.rescaling

    def activations(self, squares: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return each layer's values for squares uint8 [S, S, 3] RGB, by name: float32 [N * V, *shape of the layer].

        The V views of an image follow each other. Raises ModelFileError if the file computes other shapes.
        """
        parts = [self._of_one(square) for square in squares]
        return {layer.name: np.concatenate([part[layer.name] for part in parts]) for layer in self.layers}

    def _of_one(self, square: np.ndarray) -> dict[str, np.ndarray]:
        preprocessing = self.manifest.preprocessing
        inputs = square[None] if self._takes_squares else patches(square, preprocessing, self.views)
        results = self._run(inputs)
        for layer in self.layers:
            expected = (10 if self.views == "ten" else 1, *layer.shape)
            if results[layer.name].shape != expected:
                raise ModelFileError(
                    f"{self._path}: its {layer.name} has shape {list(results[layer.name].shape)}: expected "
                    f"{list(expected)}; export it again"
                )
        return {layer.name: results[layer.name].astype(np.float32, copy=False) for layer in self.layers}


def _values(model: onnx.ModelProto, file: OnnxFile) -> dict[str, str]:
    """Return the name of each layer's value in an exported graph, by the layer's name. Layers may be missing."""
    architecture, views = file.manifest.architecture, file.info.views
    outputs = find_layers(architecture, file.info.outputs)
    declared = {} if views == "ten" else {layer.operation: layer.name for layer in outputs}  # "ten" averages outputs
    made = {name for node in model.graph.node for name in node.output}
    softmax = next((node.output[0] for node in model.graph.node if node.op_type == "Softmax"), "")
    quantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    dequantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for layer in distinct_layers(architecture):
        name = softmax if layer.operation == PROBABILITIES else layer.operation
        if name in file.info.outputs:  # an output has taken its name (`Graph.output`)
            name = f"{name}.inner"
        name = declared.get(layer.operation, name)
        if name in made:
            found[layer.name] = dequantized.get(quantized.get(name, ""), name)
    return found
