"""ONNX Runtime as a backend: agreement with the reference, and correct descriptions and errors for devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import BackendError, ModelFileError
from alexnet_infer.graph.file import OnnxFile, read_model
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.preprocess import patches
from tests.nets import large_patches, random_artifact


@pytest.fixture
def ort():
    return pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def test_probabilities_match_the_reference_and_the_provider_is_named(ort):
    artifact = random_artifact()
    backend = OnnxRuntimeBackend(artifact, "cpu")
    patches = large_patches(count=5)
    np.testing.assert_allclose(backend.infer(patches), ReferenceBackend(artifact).infer(patches), atol=1e-5)
    assert backend.description == f"ONNX Runtime {ort.__version__}, CPUExecutionProvider"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("onnxruntime", r'^ONNX Runtime is missing .*pip install "alexnet-infer\[cpu\]"'),
        ("onnx", "^the package onnx is missing: pip install onnx$"),
        ("google.protobuf.message", "^the package protobuf is missing: pip install protobuf$"),
    ],
)
def test_a_missing_package_is_a_one_line_error_with_the_pip_command(monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=words) as raised:
        OnnxRuntimeBackend(random_artifact())
    assert raised.value.exit_code == 5


def test_no_telemetry_identifier_is_stored_for_this_user(ort, tmp_path):
    """In a separate process, because ONNX Runtime starts its telemetry on import."""
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


def test_cuda_is_refused_if_onnx_runtime_has_no_cuda_support(ort):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA support")
    with pytest.raises(BackendError, match=r"--device cuda: this ONNX Runtime has no CUDA support"):
        OnnxRuntimeBackend(random_artifact(), "cuda")


GPU_OPTIONS = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})


class _StandIn:
    """A fake onnxruntime-gpu. Its sessions run on the CPU, but a session with CUDA names `provider` as its provider.

    `start` is called before a session with CUDA opens, and `call` before each run of it.
    """

    def __init__(self, ort, provider: str = "CPUExecutionProvider", start=lambda: None, call=lambda: None) -> None:
        self._ort, self.provider, self.start, self.call = ort, provider, start, call
        self.requested: list[list] = []
        self.runs: list[tuple[int, ...]] = []

    def __getattr__(self, name):
        return getattr(self._ort, name)

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self):
        print("Failed to load libcublasLt.so.13")  # ONNX Runtime prints this to standard output

    def InferenceSession(self, model, options, *, providers, enable_fallback):  # noqa: N802 (ONNX Runtime's name)
        assert enable_fallback == 0, "its own fallback prints to standard output"
        self.requested.append(providers)
        on_gpu = providers[0] == GPU_OPTIONS
        if on_gpu:
            self.start()
        session = self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return _Session(self, session) if on_gpu else session


class _Session:
    def __init__(self, ort: _StandIn, session) -> None:
        self._ort, self._session = ort, session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def get_providers(self):
        return [self._ort.provider, "CPUExecutionProvider"]

    def run(self, outputs, inputs):
        (values,) = inputs.values()
        self._ort.runs.append(values.shape)
        self._ort.call()
        return self._session.run(outputs, inputs)


@pytest.fixture
def stand_in(ort, monkeypatch):
    def install(**settings) -> _StandIn:
        fake = _StandIn(ort, **settings)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        return fake

    return install


def failing(message: str):
    def fail() -> None:
        raise RuntimeError(message)

    return fail


BROKEN = [{}, {"start": failing("CUDA failure 35: CUDA driver version\nis insufficient")}]
"""Settings for a GPU that doesn't work: ONNX Runtime silently omits it, or raises."""


@pytest.mark.parametrize("broken", BROKEN, ids=["omitted", "raised"])
def test_a_requested_gpu_that_fails_is_an_error_and_not_a_silent_fallback_to_the_cpu(stand_in, capsys, broken):
    stand_in(**broken)
    with pytest.raises(BackendError, match=r"--device cuda: ONNX Runtime could not start CUDA .* nvidia-smi") as raised:
        OnnxRuntimeBackend(random_artifact(), "cuda")
    assert ("driver version is insufficient" in str(raised.value)) == bool(broken)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("broken", BROKEN, ids=["omitted", "raised"])
def test_auto_falls_back_to_the_cpu_in_its_description_without_printing(stand_in, capsys, broken):
    fake = stand_in(**broken)
    backend = OnnxRuntimeBackend(random_artifact(), "auto", "ten")
    assert fake.requested == [[GPU_OPTIONS, "CPUExecutionProvider"], ["CPUExecutionProvider"]]
    assert backend.description.endswith("CPUExecutionProvider")
    assert not backend.takes_squares
    assert capsys.readouterr() == ("", "")


def test_device_cpu_never_tries_a_gpu(stand_in):
    fake = stand_in()
    OnnxRuntimeBackend(random_artifact(), "cpu")
    assert fake.requested == [["CPUExecutionProvider"]]


@pytest.mark.parametrize("views", ["ten", "center"])
def test_on_a_gpu_a_net_takes_squares_and_averages_its_views_itself(stand_in, views):
    stand_in(provider="CUDAExecutionProvider")
    artifact = random_artifact()
    backend, reference = OnnxRuntimeBackend(artifact, "cuda", views), ReferenceBackend(artifact)
    assert backend.takes_squares
    assert backend.description.endswith(f"CUDAExecutionProvider, {views} views in the graph")
    preprocessing = artifact.manifest.preprocessing
    shape = (5, preprocessing.size, preprocessing.size, 3)
    squares = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = [reference.infer(patches(square, preprocessing, views)).mean(0) for square in squares]
    np.testing.assert_allclose(backend.infer(squares), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3, "squares must differ, or any order would pass"


def test_on_a_gpu_without_views_a_net_takes_patches(stand_in):
    stand_in(provider="CUDAExecutionProvider")
    artifact = random_artifact()
    backend = OnnxRuntimeBackend(artifact, "auto")
    assert not backend.takes_squares
    inputs = large_patches(count=3)
    np.testing.assert_allclose(backend.infer(inputs), ReferenceBackend(artifact).infer(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [1]), (1, [1]), (3, [4]), (8, [8]), (33, [64]), (64, [64]), (67, [64, 64])]
)
def test_squares_on_a_gpu_are_padded_to_a_power_of_two_or_to_full_batches(stand_in, count, sizes):
    """All calls for one batch have one size: cuDNN may round differently in a smaller call, and results would vary."""
    fake, artifact = stand_in(provider="CUDAExecutionProvider"), random_artifact()
    size = artifact.manifest.preprocessing.size
    probabilities = OnnxRuntimeBackend(artifact, "cuda", "center").infer(np.zeros((count, size, size, 3), np.uint8))
    assert probabilities.shape == (count, len(artifact.manifest.classes))
    assert [shape[0] for shape in fake.runs] == sizes


MEMORY = "Non-zero status code: bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 96"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (MEMORY, r"the GPU's memory is full .* --batch"),
        ("CUDA failure 2: out of memory ; GPU=0", r"the GPU's memory is full .* --batch"),
        ("CUDNN_STATUS_EXECUTION_FAILED\nin a second line", "failed on the GPU .* --device cpu"),
    ],
)
def test_a_gpu_that_fails_while_a_net_runs_is_a_one_line_error_with_a_fix(stand_in, message, words):
    stand_in(provider="CUDAExecutionProvider", call=failing(message))
    backend = OnnxRuntimeBackend(random_artifact(), "cuda", "ten")
    size = random_artifact().manifest.preprocessing.size
    with pytest.raises(BackendError, match=words) as raised:
        backend.infer(np.zeros((1, size, size, 3), np.uint8))
    assert raised.value.exit_code == 5
    assert "\n" not in str(raised.value)


def test_full_gpu_memory_is_also_reported_when_a_net_is_loaded(stand_in):
    stand_in(start=failing(MEMORY))
    with pytest.raises(BackendError, match="the GPU's memory is full"):
        OnnxRuntimeBackend(random_artifact(), "cuda")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (MEMORY, BackendError),
        ("CUDNN failure 8", BackendError),
        ("CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0", BackendError),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", BackendError),
        ("bad node", ModelFileError),
    ],
)
def test_a_failure_of_the_gpu_is_distinguished_from_a_failure_of_the_file(stand_in, tmp_path, message, kind):
    path = tmp_path / "net.onnx"
    info = ExportInfo(members=(Member(name="a", sha256="0" * 64),))
    path.write_bytes(build_model([random_artifact()], info).SerializeToString())
    stand_in(provider="CUDAExecutionProvider", call=failing(message))
    backend = OnnxRuntimeBackend(read_model(path), "cuda")
    with pytest.raises(kind):
        backend.infer(large_patches(count=2))


class _Failing:
    """A session that fails as `error` says when it runs."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: object) -> None:
        raise self.error


NUMPYS = np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype(np.float32))


@pytest.mark.usefixtures("ort")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "^random-alexnet-64: not enough memory to run it in ONNX Runtime .*--views center"),
        (NUMPYS, "not enough memory .*Unable to allocate .* smaller --batch"),
        (RuntimeError("bfc_arena.cc:376 Failed to allocate\nmemory"), "not enough memory"),
        (RuntimeError("std::bad_alloc"), "not enough memory"),
        (RuntimeError("bad\nnode"), r"ONNX Runtime can't run it \(bad node\): use another --backend"),
    ],
)
def test_a_model_file_that_cannot_be_loaded_or_run_on_a_cpu_is_a_one_line_error(monkeypatch, error, words):
    backend = OnnxRuntimeBackend(random_artifact(), "cpu")
    backend._session = _Failing(error)
    monkeypatch.setattr("alexnet_infer.backends.onnxruntime._session", lambda *_: _Failing(error).run())
    for run in (lambda: backend.infer(large_patches()), lambda: OnnxRuntimeBackend(random_artifact(), "cpu")):
        with pytest.raises(BackendError, match=words) as raised:
            run()
        assert raised.value.exit_code == 5
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 600


@pytest.mark.usefixtures("ort")
def test_memory_for_the_padding_of_a_fixed_batch_that_is_missing_is_a_one_line_error(tmp_path, monkeypatch):
    what = ExportInfo(members=(Member(name="a", sha256="0" * 64),), batch=Batch.parse("8"))
    path = tmp_path / "net.onnx"
    path.write_bytes(build_model([random_artifact()], what).SerializeToString())
    backend = OnnxRuntimeBackend(read_model(path), "cpu")

    def full(*_: object) -> None:
        raise NUMPYS

    inputs = large_patches()
    monkeypatch.setattr(np, "zeros", full)
    with pytest.raises(BackendError, match=r"net\.onnx: not enough memory") as raised:
        backend.infer(inputs)
    assert raised.value.exit_code == 5


def test_a_file_that_no_device_can_run_is_not_blamed_on_the_gpu(stand_in, tmp_path):
    file = ending_in(tmp_path / "net.onnx", "NoSuchOperator", [0])
    stand_in(provider="CUDAExecutionProvider")
    for device in ("cuda", "auto"):
        with pytest.raises(ModelFileError, match=r"ONNX Runtime can't run it .*NoSuchOperator") as raised:
            OnnxRuntimeBackend(file, device)
        assert str(raised.value).startswith(f"{file.path}: ")


def ending_in(path: Path, op: str, numbers: list[int], **attributes: int) -> OnnxFile:
    """An exported file in which one more operation follows the softmax, whatever the file declares.

    `read_model` would refuse it. A runtime may still differ from what `read_model` expects of it.
    """
    from onnx import helper, numpy_helper

    model = build_model([random_artifact()], ExportInfo(members=(Member(name="a", sha256="0" * 64),)))
    path.write_bytes(model.SerializeToString())
    model.graph.node[-1].output[0] = "softmax"
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers), "numbers"))
    model.graph.node.append(helper.make_node(op, ["softmax", "numbers"], ["probabilities"], **attributes))
    return replace(read_model(path), content=model.SerializeToString())


@pytest.mark.usefixtures("ort")
@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (("Gather", [0, 1], {"axis": 1}), r"returns \[3, 2\] for 3 inputs: expected \[3, 7\]"),
        (("Gather", [0, 1], {"axis": 0}), r"returns \[2, 7\] for 3 inputs: expected \[3, 7\]"),
        (("Reshape", [1000, -1], {}), "ONNX Runtime can't run it"),
    ],
)
def test_a_file_whose_output_differs_from_its_declaration_is_refused(tmp_path, capfd, operation, words):
    op, numbers, attributes = operation
    file = ending_in(tmp_path / "net.onnx", op, numbers, **attributes)
    backend = OnnxRuntimeBackend(file, "cpu")
    with pytest.raises(ModelFileError, match=words) as raised:
        backend.infer(large_patches(count=3))
    assert str(raised.value).startswith(f"{file.path}: ")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", ""), "ONNX Runtime logs the error, too"


@pytest.mark.usefixtures("ort")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_weights_that_give_no_probabilities_are_refused(tmp_path, capfd, value):
    from onnx import numpy_helper

    model = build_model([random_artifact()], ExportInfo(members=(Member(name="a", sha256="0" * 64),)))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.weight")
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), value, np.float32), bias.name))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    backend = OnnxRuntimeBackend(read_model(path), "cpu")
    with pytest.raises(ModelFileError, match="returns values that are not probabilities") as raised:
        backend.infer(large_patches(count=2))
    assert raised.value.exit_code == 4
    assert capfd.readouterr() == ("", "")
