"""OpenVINO as a backend: agreement with the reference for every form of file, full precision, no telemetry or files."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import openvino as backend_module
from alexnet_infer.backends.openvino import OpenVinoBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import BackendError, ModelFileError
from alexnet_infer.graph.file import OnnxFile, read_model, save_model
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.preprocess import patches
from tests.nets import TINY, large_patches, random_artifact


@pytest.fixture
def ov():
    if importlib.util.find_spec("openvino") is None:  # importorskip would also import OpenVINO's converter
        pytest.skip("needs OpenVINO: pip install openvino")
    return backend_module.import_runtime()


def exported(folder: Path, artifact: Artifact, *, max_embedded: int = 2**30, **info: object) -> OnnxFile:
    weights: dict[str, np.ndarray] = {}
    member = Member(name=artifact.manifest.name, sha256="0" * 64)
    model = build_model([artifact], ExportInfo(members=(member,), **info), weights)
    path = folder / "net.onnx"
    with patch("alexnet_infer.graph.file.MAX_WEIGHTS", max_embedded):
        save_model(path, model, weights)
    return read_model(path)


@pytest.mark.parametrize(
    "variant", [TINY, replace(TINY, columns=1), replace(TINY, activation="tanh")], ids=["paper", "one column", "tanh"]
)
def test_probabilities_match_the_reference_for_any_number_of_patches(ov, variant):
    artifact = random_artifact(variant)
    backend, inputs = OpenVinoBackend(artifact), large_patches(variant, count=5)
    expected = ReferenceBackend(artifact).infer(inputs)
    assert 0.15 < expected.max() < 0.9  # neither uniform nor saturated, where every net would agree
    for count in (5, 1, 2):
        probabilities = backend.infer(inputs[:count])
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    assert backend.description == f"OpenVINO {ov.__version__.split('-')[0]}, CPU"
    assert not backend.takes_squares


@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
@pytest.mark.parametrize("batch", [Batch(), Batch(min=2, opt=2, max=2)], ids=["any", "two"])
def test_files_with_every_form_of_lrn_and_batch_match_the_reference(ov, tmp_path, lrn, batch):
    artifact, inputs = random_artifact(), large_patches(count=5)
    backend = OpenVinoBackend(exported(tmp_path, artifact, lrn=lrn, batch=batch))
    np.testing.assert_allclose(backend.infer(inputs), ReferenceBackend(artifact).infer(inputs), atol=1e-5)


def test_a_half_precision_file_is_near_the_reference_and_its_description_names_the_precision(ov, tmp_path):
    artifact, inputs = random_artifact(), large_patches(count=3)
    backend = OpenVinoBackend(exported(tmp_path, artifact, precision="fp16"))
    difference = np.abs(backend.infer(inputs) - ReferenceBackend(artifact).infer(inputs)).max()
    assert 1e-6 < difference < 2e-3  # bfloat16 would be off by 0.01
    assert backend.description.endswith(", CPU, fp16 computed in float32")


def test_a_file_that_cuts_its_views_takes_squares(ov, tmp_path):
    artifact = random_artifact()
    preprocessing = artifact.manifest.preprocessing
    squares = np.random.default_rng(0).integers(0, 256, (2, preprocessing.size, preprocessing.size, 3), np.uint8)
    backend = OpenVinoBackend(exported(tmp_path, artifact, views="ten"))
    assert backend.takes_squares
    reference = ReferenceBackend(artifact)
    expected = [reference.infer(patches(square, preprocessing, "ten")).mean(0) for square in squares]
    np.testing.assert_allclose(backend.infer(squares), expected, atol=1e-5)


def test_weights_in_a_separate_file_are_read(ov, tmp_path):
    artifact, inputs = random_artifact(), large_patches(count=2)
    file = exported(tmp_path, artifact, max_embedded=1000)
    assert file.data
    np.testing.assert_allclose(OpenVinoBackend(file).infer(inputs), ReferenceBackend(artifact).infer(inputs), atol=1e-5)


def test_float32_is_computed_in_float32_even_if_the_cpu_supports_bfloat16(ov):
    artifact, inputs = random_artifact(), large_patches(count=2)
    compiled = OpenVinoBackend(artifact)._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    np.testing.assert_allclose(
        OpenVinoBackend(artifact).infer(inputs), ReferenceBackend(artifact).infer(inputs), atol=1e-5
    )
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return
    # Without the hint, OpenVINO uses bfloat16. This runs in a separate process, because OpenVINO then installs a signal
    # stack that it frees, and a later Ctrl-C would end the process.
    program = (
        "import numpy as np\n"
        "from alexnet_infer.backends.openvino import build_onnx, import_runtime\n"
        "from alexnet_infer.backends.reference import ReferenceBackend\n"
        "from tests.nets import large_patches, random_artifact\n"
        "artifact, inputs = random_artifact(), large_patches(count=2)\n"
        "core = import_runtime().Core()\n"
        "model = core.read_model(build_onnx(artifact, 'op').SerializeToString())\n"
        "default = core.compile_model(model, 'CPU')({0: inputs})[0]\n"
        "assert np.abs(default - ReferenceBackend(artifact).infer(inputs)).max() > 1e-4\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are checked on Linux only")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_signal_handlers_keep_their_stack_after_the_net_is_freed(ov, tmp_path, precision):
    """Otherwise a later Ctrl-C ends the process with a segmentation fault."""

    def stack() -> tuple[object, ...]:
        current = backend_module._SignalStack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(current))
        return current.pointer, current.flags, current.size

    before, outside = stack(), {}
    info = ExportInfo(members=(Member(name="a", sha256="0" * 64),), precision=precision)
    save_model(tmp_path / "net.onnx", build_model([random_artifact()], info, outside), outside)
    backend = OpenVinoBackend(read_model(tmp_path / "net.onnx"))
    backend.infer(large_patches())
    assert stack() == before
    del backend
    gc.collect()
    assert stack() == before


def test_several_threads_can_call_a_backend_at_once(ov):
    artifact, inputs = random_artifact(), large_patches(count=8)
    backend = OpenVinoBackend(artifact)
    alone = [backend.infer(inputs[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: backend.infer(inputs[i : i + 1]), range(8)))
    np.testing.assert_array_equal(together, alone)


def test_a_result_is_not_overwritten_by_the_next_call(ov):
    backend, inputs = OpenVinoBackend(random_artifact()), large_patches(count=2)
    first = backend.infer(inputs[:1])
    copy = first.copy()
    backend.infer(inputs[1:])
    np.testing.assert_array_equal(first, copy)


SILENT = """
import socket, sys
def refuse(*arguments, **options):
    raise SystemExit("a connection was opened")
socket.create_connection = socket.getaddrinfo = socket.socket.connect = refuse
from alexnet_infer.backends.openvino import import_runtime
assert import_runtime().Core()
import threading
assert threading.active_count() == 1, threading.enumerate()
assert not [name for name in sys.modules if "telemetry" in name]
assert "openvino.tools.ovc" not in sys.modules
"""


def test_importing_openvino_sends_nothing_and_writes_no_file(ov, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    environment.pop("CI", None)  # with CI set, telemetry is off
    done = subprocess.run([sys.executable, "-c", SILENT], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("openvino", r'^OpenVINO is missing .*pip install "alexnet-infer\[openvino\]"'),
        ("onnx", "^the package onnx is missing: pip install onnx$"),
        ("google.protobuf.message", "^the package protobuf is missing: pip install protobuf$"),
    ],
)
def test_a_missing_package_is_a_one_line_error_with_the_pip_command(monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=words) as raised:
        OpenVinoBackend(random_artifact())
    assert (raised.value.exit_code, "\n" in str(raised.value)) == (5, False)


def test_a_file_that_openvino_cannot_run_is_named_in_one_line(ov, tmp_path):
    import onnx
    from onnx import helper

    file = exported(tmp_path, random_artifact())
    model = onnx.load_model_from_string(file.content)
    model.graph.node[0].CopyFrom(
        helper.make_node("Unheard", model.graph.node[0].input, model.graph.node[0].output, domain="elsewhere")
    )
    with pytest.raises(ModelFileError, match=r"net\.onnx: OpenVINO can't run it \(") as raised:
        OpenVinoBackend(replace(file, content=model.SerializeToString()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (("Gather", [0, 1], {"axis": 1}), r"returns \[3, 2\] for 3 inputs: expected \[3, 7\]"),
        (("Reshape", [1000, 7], {}), "OpenVINO can't run it"),
    ],
    ids=["other classes", "fails"],
)
def test_a_file_whose_output_differs_from_its_declaration_is_refused(ov, tmp_path, operation, words):
    import onnx
    from onnx import helper, numpy_helper

    file = exported(tmp_path, random_artifact())
    model = onnx.load_model_from_string(file.content)
    op, numbers, attributes = operation
    model.graph.node[-1].output[0] = "softmax"
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers), "numbers"))
    model.graph.node.append(helper.make_node(op, ["softmax", "numbers"], ["probabilities"], **attributes))
    backend = OpenVinoBackend(replace(file, content=model.SerializeToString()))
    with pytest.raises(ModelFileError, match=words) as raised:
        backend.infer(large_patches(count=3))
    assert str(raised.value).startswith(f"{file.path}: ")
    assert "\n" not in str(raised.value)


def test_a_net_too_large_for_one_message_is_refused_with_an_alternative(ov, monkeypatch):
    monkeypatch.setattr(backend_module, "MAX_WEIGHTS", 1000)
    with pytest.raises(BackendError, match="use --backend onnxruntime, or export the net to ONNX first"):
        OpenVinoBackend(random_artifact())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            MemoryError(),
            r"^random-alexnet-64: not enough memory to run it in OpenVINO \(MemoryError\): use --views center",
        ),
        (RuntimeError("Failed to\nallocate 9 bytes"), "not enough memory .* smaller --batch"),
        (
            RuntimeError("could not append\nan operation"),
            r"OpenVINO can't run it \(could not append an operation\): use an",
        ),
    ],
)
def test_a_model_file_that_cannot_be_compiled_or_run_is_a_one_line_error(ov, monkeypatch, error, words):
    def fail(*_: object, **__: object) -> None:
        raise error

    backend = OpenVinoBackend(random_artifact())
    backend._request = type("Request", (), {"infer": fail})()
    monkeypatch.setattr(backend_module, "_request", fail)
    for run in (lambda: backend.infer(large_patches()), lambda: OpenVinoBackend(random_artifact())):
        with pytest.raises(BackendError, match=words) as raised:
            run()
        assert (raised.value.exit_code, "\n" in str(raised.value)) == (5, False)
