import json
import os

import pytest
from msgspec import structs

from alexnet_infer.engines.files import (
    RTX_CAPABILITIES,
    EngineOptions,
    description_path,
    parse_workspace,
    read_description,
    read_engine,
    save_engine,
)
from alexnet_infer.errors import ModelFileError, SpecError, UsageError
from tests.engines.made import INFO, RTX, TENSORRT, engine_of


@pytest.mark.parametrize("platform", [RTX, TENSORRT], ids=["rtx", "tensorrt"])
def test_what_is_saved_is_read_back(tmp_path, platform):
    built = engine_of(b"plan", platform)
    written = save_engine(tmp_path / "net.engine", built)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.engine", "net.engine.json"]
    assert written == [tmp_path / "net.engine", tmp_path / "net.engine.json"]
    read = read_engine(tmp_path / "net.engine")
    assert read.plan == b"plan"
    assert (read.description.info, read.description.platform) == (INFO, platform)
    assert read.description.to_json() == built.description.to_json()


def test_the_engine_file_is_the_bare_plan(tmp_path):
    save_engine(tmp_path / "net.engine", engine_of(b"plan"))
    assert (tmp_path / "net.engine").read_bytes() == b"plan"


def test_an_engine_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "net.engine"
    save_engine(path, engine_of(b"plan"))
    path.write_bytes(b"plam")
    with pytest.raises(ModelFileError, match="SHA-256 differs") as raised:
        read_engine(path)
    assert raised.value.exit_code == 4


def test_a_new_engine_with_the_old_description_is_refused(tmp_path):
    path = tmp_path / "net.engine"
    save_engine(path, engine_of(b"old"))
    old = description_path(path).read_bytes()
    save_engine(path, engine_of(b"new"))
    description_path(path).write_bytes(old)
    with pytest.raises(ModelFileError, match=r"not the engine that net\.engine\.json describes"):
        read_engine(path)


def test_an_engine_without_a_description_is_refused_and_the_missing_file_named(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    with pytest.raises(ModelFileError, match=r"expected net\.engine\.json beside it"):
        read_engine(path)


def test_a_missing_engine_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"net\.engine: no such file"):
        read_engine(tmp_path / "net.engine")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    path = tmp_path / "net.engine"
    save_engine(path, engine_of(b"plan"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_engine(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data.pop("sha256"), "engine: missing fields: sha256"),
        (lambda data: data.update(extra=1), "engine: unknown fields: extra"),
        (lambda data: data.update(format=2), "format 2: this version reads format 1"),
        (lambda data: data.update(format=True), "format True"),
        (lambda data: data.update(sha256="f" * 63), "64 hexadecimal digits"),
        (lambda data: data.update(sha256="F" * 64), "64 hexadecimal digits"),
        (lambda data: data.update(model_sha256=None), "model_sha256"),
        (lambda data: data.update(manifest={}), "manifest.*expected JSON as text"),
        (lambda data: data.update(manifest="{}"), "manifest: format None"),
        (lambda data: data.update(export="{}"), "export: format None"),
        (lambda data: data.update(runtime=[]), r"runtime=\[\]: expected an object"),
        (lambda data: data["runtime"].update(flavor="trt"), "flavor='trt': expected tensorrt or rtx"),
        (lambda data: data["runtime"].update(version=""), "version=''"),
        (lambda data: data["runtime"].update(version="1\x1b[2J"), "version=.*printable"),
        (lambda data: data["runtime"].update(compute_capabilities="8.6"), "expected a list"),
        (lambda data: data["runtime"].update(compute_capabilities=[]), r"such as .8\.6"),
        (lambda data: data["runtime"].update(compute_capabilities=[8.6]), r"such as .8\.6"),
        (lambda data: data["runtime"].update(compute_capabilities=["\u0668.\u0666"]), r"such as .8\.6"),
        (lambda data: data["runtime"].update(plugin=0), "plugin=0"),
        (lambda data: data["runtime"].update(gpu=3), "gpu=3"),
    ],
)
def test_an_invalid_description_is_refused_and_the_field_named(tmp_path, change, complaint):
    path = tmp_path / "net.engine"
    save_engine(path, engine_of(b"plan"))
    data = json.loads(description_path(path).read_text())
    change(data)
    description_path(path).write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match=complaint) as raised:
        read_engine(path)
    assert str(raised.value).startswith(str(description_path(path)))
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 1'])
def test_a_file_that_is_not_a_description_is_refused(tmp_path, content):
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    description_path(path).write_bytes(content)
    with pytest.raises(ModelFileError):
        read_description(path)


def test_a_tensorrt_engine_must_name_its_gpu_and_driver():
    for name in ("gpu", "driver"):
        with pytest.raises(SpecError, match=f"{name}=None"):
            structs.replace(TENSORRT, **{name: None})


@pytest.mark.parametrize(
    ("text", "expected"), [("1MiB", 1048576), ("512MiB", 536870912), ("2GiB", 2147483648), ("2 GiB", 2147483648)]
)
def test_workspaces_are_in_binary_units(text, expected):
    assert parse_workspace(text) == expected


@pytest.mark.parametrize("text", ["", "2", "2GB", "2gib", "-1GiB", "1.5GiB", "9999999GiB", "2GiB\n", "\u0662GiB"])
def test_workspaces_in_another_format_are_refused(text):
    with pytest.raises(UsageError, match=r"--workspace .*512MiB or 2GiB"):
        parse_workspace(text)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"flavor": "trt"}, "--flavor 'trt': expected tensorrt or rtx"),
        ({"workspace": 1000}, "--workspace 1000"),
        ({"optimization_level": 6}, "--optimization-level 6: expected 0 to 5"),
        ({"optimization_level": -1}, "--optimization-level -1"),
        ({"capabilities": ("8.6",)}, "--compute-capability 8.6: TensorRT builds for the GPU in this machine"),
        ({"flavor": "rtx", "capabilities": ("8.6", "sm_89")}, "--compute-capability '8.6,sm_89'"),
        ({"flavor": "rtx", "capabilities": ("8.6", "8.6")}, "distinct compute capabilities"),
    ],
)
def test_invalid_options_are_refused(values, complaint):
    with pytest.raises(UsageError, match=complaint) as raised:
        EngineOptions(**values)
    assert raised.value.exit_code == 2


def test_rtx_builds_for_the_requested_gpus_or_for_all_that_support_every_precision():
    assert EngineOptions(flavor="rtx", capabilities=("8.9",)).targets == ("8.9",)
    assert EngineOptions(flavor="rtx").targets == RTX_CAPABILITIES
    assert EngineOptions().targets == ()
