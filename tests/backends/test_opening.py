"""Which backend runs which file, and which files and options are refused before anything runs."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends.opening import ENGINE_SUFFIXES, describe, file_kind, is_exported, open_model
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import save_engine
from alexnet_infer.errors import BackendError, ModelFileError, UsageError
from alexnet_infer.export.job import ExportRequest, export
from tests.engines.made import engine_of
from tests.nets import large_patches, random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """An empty cache for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """One net in every kind of file. The engines are fake; the tests need them only to be refused."""
    folder = tmp_path_factory.mktemp("files")
    net = folder / "net.safetensors"
    random_artifact().save(net, np.float32)
    paths = {"artifact": net}
    for views in ("none", "center", "ten"):
        paths[views] = export(ExportRequest(models=(net,), views=views, out=folder / views)).onnx
    for suffix in ("engine", "plan", "trt"):
        paths[suffix] = folder / f"net.{suffix}"
        save_engine(paths[suffix], engine_of(b"plan"))
    return paths


RUNTIMES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["artifact", "none"])
def test_a_runtime_given_by_name_runs_the_net(files, kind, runtime):
    pytest.importorskip(runtime, reason=f"needs {runtime}: pip install {runtime}")
    opened = open_model(files[kind], device="cpu", backend=runtime)
    title = {"onnxruntime": "ONNX Runtime ", "openvino": "OpenVINO "}[runtime]
    assert opened.backend.description.startswith(title)
    assert (opened.views, opened.backend.takes_squares) == (None, False)
    expected = ReferenceBackend(random_artifact()).infer(large_patches())
    assert expected.max() < 0.9  # a saturated softmax would hide differences
    np.testing.assert_allclose(opened.backend.infer(large_patches()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("views", ["center", "ten"])
def test_the_views_of_a_file_that_cuts_its_views_are_read_from_it(files, views, runtime):
    pytest.importorskip(runtime, reason=f"needs {runtime}: pip install {runtime}")
    opened = open_model(files[views], device="cpu", backend=runtime)
    assert (opened.views, opened.backend.takes_squares) == (views, True)


@pytest.mark.parametrize("kind", ["artifact", "none", "ten"])
def test_by_default_an_installed_runtime_runs_the_net(files, kind, monkeypatch):
    opened = open_model(files[kind], device="cpu")
    assert opened.backend.description.startswith(("ONNX Runtime", "OpenVINO"))
    assert opened.manifest.name == "random-alexnet-64"


@pytest.mark.parametrize("kind", ["artifact", "none", "ten"])
@pytest.mark.parametrize(("backend", "name"), [("openvino", "OpenVINO"), ("reference", "the reference")])
def test_what_runs_on_the_cpu_only_is_refused_on_a_gpu_and_does_not_fall_back(files, kind, backend, name):
    with pytest.raises(BackendError, match=f"--backend {backend} --device cuda: {name} runs on the CPU only"):
        open_model(files[kind], device="cuda", backend=backend)


def test_the_reference_runs_model_files_and_refuses_exported_files(files):
    opened = open_model(files["artifact"], backend="reference")
    backend = opened.backend
    assert (backend.runtime, backend.device, backend.precision) == ("reference", "cpu", "fp32")
    others = open_model(files["artifact"], device="cpu", backend="onnxruntime").backend
    patch = opened.manifest.preprocessing.patch
    patches = np.random.default_rng(0).normal(0, 70, (2, 3, patch, patch)).astype(np.float32)
    probabilities = backend.infer(patches)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, others.infer(patches), atol=1e-5)
    with pytest.raises(BackendError, match=r"--backend reference: .* is an exported file; expected the trained net"):
        open_model(files["ten"], backend="reference")


@pytest.mark.parametrize("kind", ["artifact", "none", "ten"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_backend_says_what_it_is(files, kind, runtime):
    opened = open_model(files[kind], device="cpu", backend=runtime)
    backend = opened.backend
    assert (backend.runtime, backend.device, backend.precision) == (runtime, "cpu", "fp32")
    assert (opened.path, opened.views) == (files[kind], "ten" if kind == "ten" else None)
    assert opened.sha256 == hashlib.sha256(files[kind].read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["artifact", "none"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_missing_runtime_is_a_one_line_error_that_names_the_package(files, kind, runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(BackendError, match=r'is missing .*pip install "alexnet-infer\[') as raised:
        open_model(files[kind], backend=runtime)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["engine", "plan", "trt"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cpu"}, "--device cpu: "),
        ({"backend": "openvino"}, "--backend openvino: "),
        ({"backend": "onnxruntime"}, "--backend onnxruntime: "),
        ({"backend": "reference"}, "--backend reference: "),
    ],
)
def test_an_engine_runs_only_in_the_runtime_that_built_it(files, kind, options, words):
    with pytest.raises(BackendError, match="is an engine, which runs in TensorRT on a GPU") as raised:
        open_model(files[kind], **options, trust_engine=True)
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize("kind", ["engine", "plan", "trt"])
def test_an_engine_built_elsewhere_is_refused(files, kind):
    with pytest.raises(ModelFileError, match="--trust-engine"):
        open_model(files[kind])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "device='tpu': expected auto, cpu or cuda"),
        ({"backend": "tensorrt"}, "backend='tensorrt': expected auto, onnxruntime, openvino, reference"),
    ],
)
def test_unknown_devices_and_runtimes_are_refused_before_the_file_is_opened(options, words):
    with pytest.raises(UsageError, match=words):
        open_model(Path("absent"), **options)


@pytest.mark.parametrize("suffix", [".safetensors", "", ".onnx", *ENGINE_SUFFIXES])
def test_a_missing_file_of_any_kind_is_a_model_file_error(tmp_path, suffix):
    for function in (open_model, describe):
        with pytest.raises(ModelFileError, match=f"absent{suffix}"):
            function(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("artifact", "net", "model"),
        ("artifact", "net.bin", "model"),
        ("artifact", "net.onnx", "model"),
        ("artifact", "net.engine", "model"),
        ("none", "net", "onnx"),
        ("none", "net.ONNX", "onnx"),
        ("none", "net.safetensors", "onnx"),
        ("none", "net.plan", "onnx"),
        ("engine", "net.engine", "engine"),
        ("engine", "net.safetensors", "model"),  # the content of this engine says nothing
    ],
)
def test_a_net_is_told_by_its_content_whatever_its_name(files, tmp_path, kind, name, expected):
    path = tmp_path / name
    path.write_bytes(files[kind].read_bytes())
    assert (file_kind(path), is_exported(path)) == (expected, expected != "model")
    if kind != "engine":
        manifest, info = describe(path)
        assert (manifest.name, info is None) == ("random-alexnet-64", kind == "artifact")
        opened = open_model(path, device="cpu", backend="onnxruntime")
        expected_probabilities = ReferenceBackend(random_artifact()).infer(large_patches())
        np.testing.assert_allclose(opened.backend.infer(large_patches()), expected_probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["net", "net.bin", "net.onnx", "net.engine", "net.safetensors"])
def test_another_programs_file_is_refused_with_the_command_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x02}q\x00.")  # a pickle
    for function in (open_model, describe):
        with pytest.raises(
            ModelFileError, match=rf"{name}: is a PyTorch file: .* import {path} --as PRESET` converts it"
        ):
            function(path)


def test_an_engine_without_its_suffix_is_refused_with_the_suffixes(tmp_path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"ftrt" + bytes(100))
    for function in (open_model, describe):
        with pytest.raises(
            ModelFileError, match=r"net.bin: is a TensorRT engine, .* ends in \.engine, \.plan or \.trt"
        ):
            function(path)


def test_every_kind_of_file_is_described_without_a_runtime(files, monkeypatch):
    for package in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, package, None)
    name = "random-alexnet-64"
    assert describe(files["artifact"])[1] is None
    for kind, path in files.items():
        manifest, info = describe(path)
        assert manifest.name == name
        if kind in ("none", "center", "ten"):
            assert (info.views, info.members[0].name) == (kind, name)
        assert (info is None) == (kind == "artifact")
