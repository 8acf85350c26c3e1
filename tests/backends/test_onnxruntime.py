"""ONNX Runtime as a backend: agreement with the reference, and honest words about devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import BackendError, ModelFileError
from alexnet_infer.export.info import ExportInfo, Member
from alexnet_infer.export.onnx_file import read_model
from alexnet_infer.export.onnx_model import build_model
from tests.nets import large_patches, random_artifact


@pytest.fixture
def ort():
    return pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def test_probabilities_are_the_references_and_the_provider_is_named(ort):
    artifact = random_artifact()
    backend = OnnxRuntimeBackend(artifact, "cpu")
    patches = large_patches(count=5)
    np.testing.assert_allclose(backend.infer(patches), ReferenceBackend(artifact).infer(patches), atol=1e-5)
    assert backend.description == f"ONNX Runtime {ort.__version__}, CPUExecutionProvider"


def test_a_missing_runtime_is_one_line_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "alexnet-infer\[cpu\]"') as raised:
        OnnxRuntimeBackend(random_artifact())
    assert raised.value.exit_code == 5


def test_nothing_is_reported_and_no_number_is_kept_for_this_user(ort, tmp_path):
    """In a process of its own: what ONNX Runtime does, it does when it is imported."""
    program = (
        "from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend\n"
        "from tests.nets import large_patches, random_artifact\n"
        "OnnxRuntimeBackend(random_artifact(), 'cpu').infer(large_patches())\n"
    )
    hidden = ("ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    own = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run([sys.executable, "-c", program], env=environment | own, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cuda_asked_for_but_not_built_in_is_refused(ort):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA support")
    with pytest.raises(BackendError, match=r"--device cuda: this ONNX Runtime has no CUDA support"):
        OnnxRuntimeBackend(random_artifact(), "cuda")


class _GpuLess:
    """Stands in for onnxruntime-gpu on a machine whose driver doesn't work: sessions silently run on the CPU."""

    def __init__(self, ort) -> None:
        self._ort = ort
        self.requested: list[list[str]] = []

    def __getattr__(self, name):
        return getattr(self._ort, name)

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self):
        pass

    def InferenceSession(self, model, options, providers):  # noqa: N802 (the name that ONNX Runtime gives it)
        self.requested.append(providers)
        return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_a_gpu_that_was_asked_for_and_fails_is_an_error_not_a_silent_cpu(ort, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", _GpuLess(ort))
    with pytest.raises(BackendError, match="could not start CUDA"):
        OnnxRuntimeBackend(random_artifact(), "cuda")


def test_auto_on_a_gpu_that_fails_runs_on_the_cpu_and_says_so(ort, monkeypatch):
    fake = _GpuLess(ort)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    backend = OnnxRuntimeBackend(random_artifact(), "auto")
    exact = ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert fake.requested == [[exact, "CPUExecutionProvider"], ["CPUExecutionProvider"]]
    assert backend.description.endswith("CPUExecutionProvider")


def test_cpu_asked_for_never_tries_a_gpu(ort, monkeypatch):
    fake = _GpuLess(ort)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    OnnxRuntimeBackend(random_artifact(), "cpu")
    assert fake.requested == [["CPUExecutionProvider"]]


def ending_in(path: Path, op: str, numbers: list[int], **attributes: int) -> Path:
    """An exported file in which one more operation follows the softmax, whatever the file declares."""
    from onnx import helper, numpy_helper

    model = build_model([random_artifact()], ExportInfo(members=(Member(name="a", sha256="0" * 64),)))
    model.graph.node[-1].output[0] = "softmax"
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers), "numbers"))
    model.graph.node.append(helper.make_node(op, ["softmax", "numbers"], ["probabilities"], **attributes))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.usefixtures("ort")
@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (("Gather", [0, 1], {"axis": 1}), r"gives \[3, 2\] for 3 inputs: expected \[3, 7\]"),
        (("Gather", [0, 1], {"axis": 0}), r"gives \[2, 7\] for 3 inputs: expected \[3, 7\]"),
        (("Reshape", [1000, -1], {}), "ONNX Runtime can't run it"),
    ],
)
def test_a_file_that_gives_something_else_than_it_declares_is_refused(tmp_path, operation, words):
    op, numbers, attributes = operation
    path = ending_in(tmp_path / "net.onnx", op, numbers, **attributes)
    backend = OnnxRuntimeBackend(read_model(path), "cpu")
    with pytest.raises(ModelFileError, match=words) as raised:
        backend.infer(large_patches(count=3))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
