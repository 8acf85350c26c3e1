"""The plugin's interface with TensorRT, as far as it can be tested without a GPU and without TensorRT's library."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_infer.errors import BackendError
from alexnet_infer.export.lrn_plugin import plugin
from alexnet_infer.export.lrn_plugin.kernel import import_nvrtc

ROOT = Path(__file__).parents[3]

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
"""The libraries that TensorRT's compiled Python classes are linked with."""

ABSENT = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""The functions that they use from those libraries. The tests replace them by functions that do nothing."""


@pytest.fixture
def empty_libraries(tmp_path) -> list[Path]:
    source = tmp_path / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ABSENT))
    for name in LIBRARIES:
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", source, "-o", tmp_path / name]
        subprocess.run(command, check=True)
    return [tmp_path / name for name in LIBRARIES]


@pytest.mark.skipif(not importlib.util.find_spec("tensorrt_bindings"), reason="needs TensorRT's Python files")
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_tensorrts_own_checks_accept_the_plugin_and_pass_on_its_kernels(empty_libraries):
    """tensorrt_check.py says which parts of TensorRT are real in this test.

    It runs in a separate process, because it imports an incomplete module under TensorRT's name.
    """
    try:
        import_nvrtc()
    except BackendError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name("tensorrt_check.py"), *empty_libraries],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("16 kernels of 4 layers accepted\n")


@pytest.fixture
def fresh():
    """`register` as if it had not been called, before and after."""
    plugin.register.cache_clear()
    yield
    plugin.register.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_tensorrt_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r'needs TensorRT \(.*\): pip install "alexnet-infer\[trt\]"') as raised:
        plugin.register()
    assert "\n" not in str(raised.value)


def test_without_a_driver_the_kernel_is_made_for_the_oldest_gpu_of_its_kind(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert plugin.device_capability() == (8, 0)
