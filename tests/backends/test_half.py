"""Half precision on a CPU: values are rounded where a GPU rounds them, and an overflow is an error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.half import rounded
from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import ModelFileError
from alexnet_infer.graph.file import read_model, save_model
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.graph.model import build_model
from tests.nets import large_patches, random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

INFO = ExportInfo(members=(Member(name="a", sha256="0" * 64),), precision="fp16")


def half_weights(artifact: Artifact) -> Artifact:
    """Weights that float16 holds exactly, so that only rounding between operations makes a difference."""
    return Artifact(artifact.manifest, {name: value.astype(np.float16) for name, value in artifact.tensors.items()})


def probabilities(artifact: Artifact, tmp_path, patches: np.ndarray) -> np.ndarray:
    outside: dict[str, np.ndarray] = {}
    save_model(tmp_path / "net.onnx", build_model([artifact], INFO, outside), outside)
    return OnnxRuntimeBackend(read_model(tmp_path / "net.onnx"), "cpu").infer(patches)


def test_activations_are_rounded_though_weights_need_no_rounding(tmp_path):
    artifact = half_weights(random_artifact())
    difference = np.abs(probabilities(artifact, tmp_path, large_patches()) - ReferenceBackend(artifact).infer(
        large_patches()
    )).max()  # fmt: skip
    assert 1e-5 < difference < 3e-3, "float32 would differ by 1e-7"


def test_an_activation_beyond_half_precision_is_an_error(tmp_path):
    tensors = dict(half_weights(random_artifact()).tensors)
    tensors["conv1.weight"] = tensors["conv1.weight"] * 3000
    artifact = Artifact(random_artifact().manifest, tensors)
    assert np.isfinite(ReferenceBackend(artifact).infer(large_patches())).all()
    with pytest.raises(ModelFileError, match=r"not probabilities.*precision is too low.*export it as fp32"):
        probabilities(artifact, tmp_path, large_patches())


@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
def test_every_value_between_operations_is_rounded_to_half_precision(lrn):
    info = ExportInfo(members=INFO.members, precision="fp16", lrn=lrn, views="ten")
    model = build_model([half_weights(random_artifact())], info)
    emulated = onnx.load_model_from_string(rounded(model.SerializeToString()))
    onnx.checker.check_model(emulated, full_check=True)
    assert not [t.name for t in emulated.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    made_by = {node.output[0]: node for node in emulated.graph.node}
    for node in emulated.graph.node:
        if node.op_type in ("Conv", "Gemm", "MaxPool", "Relu") and not node.output[0].endswith(".d"):
            before = made_by[node.input[0]]
            assert before.op_type == "Cast", node.name
            assert made_by[before.input[0]].attribute[0].i == onnx.TensorProto.FLOAT16
    weights = {t.name: numpy_helper.to_array(t) for t in emulated.graph.initializer}
    np.testing.assert_array_equal(weights["conv1.weight"], half_weights(random_artifact()).tensors["conv1.weight"])
