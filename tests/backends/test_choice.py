"""The choice between runtimes: the faster one, asked once, whatever became of the cache."""

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
    monkeypatch.setattr(choice, "_installed", lambda runtime: True)
    monkeypatch.setattr(choice, "SMALL", 0)
    return tmp_path / "cache" / "cpu-backends"


@pytest.fixture
def asked(monkeypatch):
    """The nets that were timed, with the answer `seconds`."""

    class Asked(list):
        seconds = FASTER

        def __call__(self, backends, manifest):
            self.append(manifest)
            return self.seconds

    asked = Asked()
    monkeypatch.setattr(choice, "start", lambda net: dict.fromkeys(("onnxruntime", "openvino")))
    monkeypatch.setattr(choice, "medians", asked)
    return asked


@pytest.mark.parametrize(
    ("onnxruntime", "openvino", "expected"),
    [(0.020, 0.010, "openvino"), (0.010, 0.020, "onnxruntime"), (0.0100, 0.0099, "onnxruntime")],
    ids=["OpenVINO", "ONNX Runtime", "a draw goes to the one that starts sooner"],
)
def test_the_faster_one_is_chosen(cache, asked, onnxruntime, openvino, expected):
    asked.seconds = {"onnxruntime": onnxruntime, "openvino": openvino}
    assert choose_cpu_backend(ARTIFACT) == expected


def test_the_answer_is_remembered_even_when_the_machine_changes_its_mind(cache, asked):
    assert choose_cpu_backend(ARTIFACT) == "openvino"
    asked.seconds = {"onnxruntime": 0.001, "openvino": 1.0}
    assert choose_cpu_backend(random_artifact(seed=1)) == "openvino"  # other weights of the same architecture
    assert len(asked) == 1
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["milliseconds"] == {"onnxruntime": 20.0, "openvino": 10.0}


@pytest.mark.parametrize(
    ("name", "value"), [("_version", lambda runtime: "0.0"), ("_cpu", lambda: "another")], ids=["version", "CPU"]
)
def test_another_version_or_cpu_is_another_question(cache, asked, monkeypatch, name, value):
    choose_cpu_backend(ARTIFACT)
    monkeypatch.setattr(choice, name, value)
    choose_cpu_backend(ARTIFACT)
    assert len(asked) == 2


def test_another_number_of_cores_or_architecture_is_another_question(cache, asked, monkeypatch):
    choose_cpu_backend(ARTIFACT)
    choose_cpu_backend(random_artifact(replace(TINY, columns=1)))
    monkeypatch.setattr(choice.os, "cpu_count", lambda: 99)
    choose_cpu_backend(ARTIFACT)
    assert len(asked) == 3


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
def test_a_damaged_cache_file_is_ignored_and_rewritten(cache, asked, content):
    choose_cpu_backend(ARTIFACT)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    assert choose_cpu_backend(ARTIFACT) == "openvino"
    assert len(asked) == 2
    assert file.read_bytes() == good


def test_an_answer_to_another_question_is_not_taken(cache, asked):
    choose_cpu_backend(ARTIFACT)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"cores": ', b'"cores": 1'))
    choose_cpu_backend(ARTIFACT)
    assert len(asked) == 2


def test_without_a_cache_that_can_be_written_it_works_and_asks_again(cache, asked):
    cache.parent.write_text("a file where the folder should be")
    assert choose_cpu_backend(ARTIFACT) == choose_cpu_backend(ARTIFACT) == "openvino"
    assert len(asked) == 2


@pytest.mark.parametrize(("there", "missing"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_where_only_one_is_installed_nothing_is_timed(cache, asked, monkeypatch, there, missing):
    monkeypatch.setattr(choice, "_installed", lambda runtime: runtime == there)
    assert choose_cpu_backend(ARTIFACT) == there
    assert not asked
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
def test_a_runtime_that_does_not_start_is_not_chosen_and_that_is_not_remembered(cache, monkeypatch, broken, expected):
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
def test_what_is_installed_is_found_without_importing_it(monkeypatch):
    code = (
        "import sys; from alexnet_infer.backends.choice import _installed, _version;"
        "assert _installed('openvino') and _version('openvino') != 'unknown'; assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not choice._installed("openvino")


class _Slow:
    """Takes a second on a clock of its own; the first call, which prepares what later ones use, takes a hundred."""

    takes_squares = False

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock, self.seconds, self.shapes = clock, seconds, []

    def infer(self, inputs: np.ndarray) -> None:
        self.clock[0] += self.seconds if self.shapes else 100
        self.shapes.append(inputs.shape)


def test_times_are_medians_of_later_calls_with_the_ten_patches_of_a_photo(monkeypatch):
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
