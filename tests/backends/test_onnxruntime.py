"""ONNX Runtime as a backend: agreement with the reference, and honest words about devices."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import BackendError
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
