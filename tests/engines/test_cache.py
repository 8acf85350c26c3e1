import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import save_engine
from alexnet_infer.errors import BackendError
from tests.engines.made import build, engine_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A separate cache for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "engines"


def never():
    raise AssertionError("built again")


def test_an_engine_is_built_once():
    first = engine_cache.cached("name", lambda: engine_of(b"plan"))
    second = engine_cache.cached("name", never)
    assert first.plan == second.plan == b"plan"
    assert first.description.to_json() == second.description.to_json()


def test_another_name_is_another_engine():
    engine_cache.cached("name", lambda: engine_of(b"plan"))
    assert engine_cache.cached("other", lambda: engine_of(b"other")).plan == b"other"
    assert engine_cache.cached("name", never).plan == b"plan"


@pytest.mark.parametrize("suffix", [".engine", ".engine.json"])
def test_a_damaged_entry_is_built_again(cache, suffix):
    engine_cache.cached("name", lambda: engine_of(b"plan"))
    (cache / f"name{suffix}").write_bytes(b"damaged")
    assert engine_cache.cached("name", lambda: engine_of(b"new")).plan == b"new"
    assert engine_cache.cached("name", never).plan == b"new"


def test_a_build_that_fails_leaves_nothing_and_the_next_one_builds(cache):
    def fail():
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        engine_cache.cached("name", fail)
    assert not list(cache.glob("*.engine*"))
    assert engine_cache.cached("name", lambda: engine_of(b"plan"), never).plan == b"plan"


def test_a_second_caller_waits_and_gets_the_engine_of_the_first():
    building, waiting = threading.Event(), threading.Event()

    def build():
        building.set()
        assert waiting.wait(30)
        return engine_of(b"first")

    first = threading.Thread(target=lambda: engine_cache.cached("name", build))
    first.start()
    assert building.wait(30)
    second = engine_cache.cached("name", never, on_wait=waiting.set)  # the first ends only once this call waits
    first.join()
    assert second.plan == b"first"


def test_a_second_caller_builds_if_the_first_fails():
    building, waiting = threading.Event(), threading.Event()

    def fail():
        building.set()
        assert waiting.wait(30)
        raise BackendError("no")

    def first():
        with pytest.raises(BackendError, match="no"):
            engine_cache.cached("name", fail)

    thread = threading.Thread(target=first)
    thread.start()
    assert building.wait(30)
    assert engine_cache.cached("name", lambda: engine_of(b"second"), on_wait=waiting.set).plan == b"second"
    thread.join()


BUILD = """
import sys
from pathlib import Path
from alexnet_infer.artifact import load_manifest
from alexnet_infer.engines.files import EngineOptions
from alexnet_infer.export.engine_build import build_engine
from alexnet_infer.graph.info import ExportInfo, Member

phases = set()
info = ExportInfo(members=(Member(name="net", sha256="1" * 64),))
built = build_engine(
    Path("net.onnx").read_bytes(),
    load_manifest(Path("net.safetensors")),
    info,
    EngineOptions(flavor="rtx", capabilities=("8.6",)),
    on_progress=lambda phase, done, total: phases.add(phase),
)
print(built.description.sha256, "Building engine" in phases)
"""


def test_two_processes_at_once_build_one_engine(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    from alexnet_infer.graph.net import build_onnx
    from tests.nets import random_artifact

    artifact = random_artifact()
    artifact.save(tmp_path / "net.safetensors")
    (tmp_path / "net.onnx").write_bytes(build_onnx(artifact).SerializeToString())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (first, first_built), (second, second_built) = results
    assert first == second  # two builds of one net differ, as the next test shows
    assert {first_built, second_built} == {"True", "False"}


def test_two_builds_of_one_net_differ(tmp_path, monkeypatch):
    """Shows that the test above would fail with two builds."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    first = build()
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "another")
    assert build().description.sha256 != first.description.sha256


def test_an_engine_that_this_cache_built_is_recognised_in_any_folder(tmp_path):
    built = engine_cache.cached("name", lambda: engine_of(b"ours"))
    save_engine(tmp_path / "elsewhere.engine", built)
    assert engine_cache.is_ours(built.description)
    assert not engine_cache.is_ours(engine_of(b"theirs").description)


def test_another_description_of_a_cached_engine_is_not_recognised():
    """It could name other classes, or more classes than fit in memory."""
    built = engine_cache.cached("name", lambda: engine_of(b"ours"))
    forged = replace(built.description, manifest=replace(built.description.manifest, name="forged"))
    assert forged.sha256 == built.description.sha256
    assert not engine_cache.is_ours(forged)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_cache_that_others_can_write_is_not_used(cache, monkeypatch):
    built = engine_cache.cached("name", lambda: engine_of(b"ours"))
    assert cache.stat().st_mode & 0o777 == 0o700

    def refused() -> None:
        for use in (lambda: engine_cache.is_ours(built.description), lambda: engine_cache.cached("name", never)):
            with pytest.raises(BackendError, match=r"other users can write to it.*set XDG_CACHE_HOME") as raised:
                use()
            assert "\n" not in str(raised.value)

    for mode in (0o702, 0o720):
        cache.chmod(mode)
        refused()
    cache.chmod(0o755)
    assert engine_cache.is_ours(built.description)
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    refused()


def test_an_empty_cache_recognises_no_engine():
    assert not engine_cache.is_ours(engine_of(b"plan").description)


def test_an_engine_with_a_damaged_record_is_not_recognised(cache):
    built = engine_cache.cached("name", lambda: engine_of(b"ours"))
    record = cache / "name.engine.json"
    data = json.loads(record.read_text())
    del data["manifest"]
    record.write_text(json.dumps(data))
    assert not engine_cache.is_ours(built.description)


def test_a_cache_that_cannot_be_written_is_a_one_line_error_with_the_fix(cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(BackendError, match="set XDG_CACHE_HOME") as raised:
        engine_cache.cached("name", lambda: engine_of(b"plan"))
    assert "\n" not in str(raised.value)


def test_timings_are_kept_and_empty_at_first(cache):
    assert engine_cache.read_timings("gpu") == b""
    engine_cache.write_timings("gpu", b"lost")  # no folder yet: not an error
    cache.mkdir(parents=True)
    engine_cache.write_timings("gpu", b"kept")
    assert engine_cache.read_timings("gpu") == b"kept"


def test_the_key_depends_on_the_facts_and_not_on_their_order():
    assert engine_cache.key({"a": 1, "b": 2}) == engine_cache.key({"b": 2, "a": 1})
    assert engine_cache.key({"a": 1, "b": 2}) != engine_cache.key({"a": 1, "b": 3})


def test_compiled_kernels_are_read_back_and_a_missing_file_is_no_error(cache):
    assert engine_cache.read_kernels("name") == b""
    engine_cache.write_kernels("name", b"kernels")
    assert engine_cache.read_kernels("name") == b"kernels"
    assert engine_cache.read_kernels("other") == b""
    assert cache.stat().st_mode & 0o777 == 0o700


def test_kernels_are_neither_read_nor_written_if_other_users_can_write_to_the_cache(cache):
    engine_cache.write_kernels("name", b"kernels")
    cache.chmod(0o777)
    assert engine_cache.read_kernels("name") == b""
    engine_cache.write_kernels("name", b"other")
    cache.chmod(0o700)
    assert engine_cache.read_kernels("name") == b"kernels"
