"""The choice between runtimes: the faster one is chosen and timed only once, even if the cache is damaged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from alexnet_infer.backends import choice
from alexnet_infer.backends.choice import choose_cpu_backend
from alexnet_infer.errors import BackendError, ModelFileError
from tests.nets import TINY, random_artifact

ARTIFACT = random_artifact()
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO: pip install openvino"
)
FASTER = {"onnxruntime": 0.020, "openvino": 0.010}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(choice, "installed", lambda runtime: True)
    monkeypatch.setattr(choice, "SMALL", 0)
    return tmp_path / "cache" / "cpu-backends"


@pytest.fixture
def timed(monkeypatch):
    """The nets that were timed; `seconds` is what timing returns."""

    class Timed(list):
        seconds = FASTER

        def __call__(self, backends, manifest):
            self.append(manifest)
            return self.seconds

    timed = Timed()
    monkeypatch.setattr(choice, "start", lambda net: dict.fromkeys(("onnxruntime", "openvino")))
    monkeypatch.setattr(choice, "medians", timed)
    return timed


@pytest.mark.parametrize(
    ("onnxruntime", "openvino", "expected"),
    [(0.020, 0.010, "openvino"), (0.010, 0.020, "onnxruntime"), (0.0100, 0.0099, "onnxruntime")],
    ids=["OpenVINO", "ONNX Runtime", "ONNX Runtime, which starts faster, in a tie"],
)
def test_the_faster_runtime_is_chosen(cache, timed, onnxruntime, openvino, expected):
    timed.seconds = {"onnxruntime": onnxruntime, "openvino": openvino}
    assert choose_cpu_backend(ARTIFACT) == expected


def test_the_first_choice_is_kept_even_if_the_times_change(cache, timed):
    assert choose_cpu_backend(ARTIFACT) == "openvino"
    timed.seconds = {"onnxruntime": 0.001, "openvino": 1.0}
    assert choose_cpu_backend(random_artifact(seed=1)) == "openvino"  # other weights of the same architecture
    assert len(timed) == 1
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["milliseconds"] == {"onnxruntime": 20.0, "openvino": 10.0}


@pytest.mark.parametrize(
    ("name", "value"), [("_version", lambda runtime: "0.0"), ("cpu_name", lambda: "another")], ids=["version", "CPU"]
)
def test_another_version_or_cpu_is_timed_again(cache, timed, monkeypatch, name, value):
    choose_cpu_backend(ARTIFACT)
    monkeypatch.setattr(choice, name, value)
    choose_cpu_backend(ARTIFACT)
    assert len(timed) == 2


def test_another_number_of_cores_or_architecture_is_timed_again(cache, timed, monkeypatch):
    choose_cpu_backend(ARTIFACT)
    choose_cpu_backend(random_artifact(replace(TINY, columns=1)))
    monkeypatch.setattr(choice.os, "cpu_count", lambda: 99)
    choose_cpu_backend(ARTIFACT)
    assert len(timed) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"chosen": "openvino"}',
        b'{"chosen": ["openvino"], "question": 1}',
        b'{"chosen": "rm", "question": {}}',
    ],
    ids=["empty", "not text", "list", "null", "deep", "no question", "list chosen", "unknown runtime"],
)
def test_a_damaged_cache_file_is_ignored_and_rewritten(cache, timed, content):
    choose_cpu_backend(ARTIFACT)
    (file,) = cache.iterdir()
    original = file.read_bytes()
    file.write_bytes(content)
    assert choose_cpu_backend(ARTIFACT) == "openvino"
    assert len(timed) == 2
    assert file.read_bytes() == original


def test_a_choice_stored_for_other_conditions_is_not_used(cache, timed):
    choose_cpu_backend(ARTIFACT)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"cores": ', b'"cores": 1'))
    choose_cpu_backend(ARTIFACT)
    assert len(timed) == 2


def test_without_a_writable_cache_the_runtimes_are_timed_each_time(cache, timed):
    cache.parent.write_text("a file where the folder should be")
    assert choose_cpu_backend(ARTIFACT) == choose_cpu_backend(ARTIFACT) == "openvino"
    assert len(timed) == 2


@pytest.mark.parametrize("installed", ["onnxruntime", "openvino"])
def test_if_only_one_runtime_is_installed_nothing_is_timed(cache, timed, monkeypatch, installed):
    monkeypatch.setattr(choice, "installed", lambda runtime: runtime == installed)
    assert choose_cpu_backend(ARTIFACT) == installed
    assert not timed
    assert not cache.exists()


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({"openvino": BackendError("OpenVINO is missing")}, "onnxruntime"),
        ({"openvino": ModelFileError("net.onnx: OpenVINO can't run it")}, "onnxruntime"),
        ({"onnxruntime": BackendError("ONNX Runtime is missing")}, "openvino"),
        ({"onnxruntime": BackendError("missing"), "openvino": BackendError("missing")}, "onnxruntime"),
    ],
    ids=["OpenVINO", "the file in OpenVINO", "ONNX Runtime", "both"],
)
def test_a_runtime_that_does_not_start_is_not_chosen_and_nothing_is_stored(cache, monkeypatch, broken, expected):
    from alexnet_infer.backends import onnxruntime, openvino

    def starting(runtime):
        def start(*arguments):
            if runtime in broken:
                raise broken[runtime]

        return start

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeBackend", starting("onnxruntime"))
    monkeypatch.setattr(openvino, "OpenVinoBackend", starting("openvino"))
    monkeypatch.setattr(choice, "medians", lambda backends, manifest: pytest.fail("nothing to choose from"))
    assert choose_cpu_backend(ARTIFACT) == expected
    assert not cache.exists()


@needs_openvino
def test_an_installed_runtime_is_detected_without_importing_it(monkeypatch):
    code = (
        "import sys; from alexnet_infer.backends.choice import installed, _version;"
        "assert installed('openvino') and _version('openvino') != 'unknown'; assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not choice.installed("openvino")


class _Slow:
    """A backend that takes `seconds` per call on a fake clock; the first call takes 100."""

    takes_squares = False

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock, self.seconds, self.shapes = clock, seconds, []

    def activations(self, inputs: np.ndarray) -> None:
        self.clock[0] += self.seconds if self.shapes else 100
        self.shapes.append(inputs.shape)


def test_times_are_medians_without_the_first_call_and_with_ten_patches(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    a, b = _Slow(clock, 3.0), _Slow(clock, 2.0)
    assert choice.medians({"onnxruntime": a, "openvino": b}, ARTIFACT.manifest) == {"onnxruntime": 3.0, "openvino": 2.0}
    assert a.shapes == b.shapes == [(10, 3, 57, 57)] * 6


@needs_openvino
def test_both_runtimes_are_really_timed(cache):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    chosen = choose_cpu_backend(ARTIFACT)
    (file,) = cache.iterdir()
    answer = json.loads(file.read_text())
    assert answer["chosen"] == chosen == choose_cpu_backend(ARTIFACT)
    assert all(milliseconds > 0 for milliseconds in answer["milliseconds"].values())
