"""`export`: which files are written and where, and that no file is written if the export fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import sha256
from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import EngineOptions, read_engine
from alexnet_infer.errors import BackendError, ModelFileError, UsageError
from alexnet_infer.export import job
from alexnet_infer.export.calibration import Calibration
from alexnet_infer.export.job import ExportRequest, export, file_stem, folder_name
from alexnet_infer.graph.file import read_model
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.nets import load
from tests.nets import random_artifact

RTX = EngineOptions(flavor="rtx", capabilities=("8.9",))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """A separate cache for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> tuple[Path, ...]:
    paths = tuple(tmp_path_factory.mktemp("nets") / f"net{seed}.safetensors" for seed in range(2))
    for seed, path in enumerate(paths):
        random_artifact(seed=seed).save(path)
    return paths


def info_of(*names: str, **values: object) -> ExportInfo:
    return ExportInfo(members=tuple(Member(name=name, sha256="0" * 64) for name in names), **values)


def test_the_result_describes_the_files_that_were_written(nets, tmp_path):
    exported = export(ExportRequest(models=nets[:1], out=tmp_path / "a" / "b", views="ten", lrn="conv"))
    assert exported.folder == tmp_path / "a" / "b"
    assert exported.files == [exported.folder / "random-alexnet-64.onnx"]
    assert {path.name for path in exported.folder.iterdir()} == {"random-alexnet-64.onnx", "README.md"}
    file = read_model(exported.onnx)
    assert (file.info, file.manifest.to_json()) == (exported.info, exported.manifest.to_json())
    member = Member(name="random-alexnet-64", sha256=sha256(nets[0]))
    assert file.info == ExportInfo(members=(member,), views="ten", lrn="conv")
    assert (exported.engine, exported.built, exported.weights) == (None, None, ())


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("PATCH_BYTES", 10, "bytes of values"),
        ("most_work", lambda weights: 10, "multiply-adds"),
        ("MAX_NODES", 10, "nodes"),
    ],
)
def test_a_file_that_a_reader_would_refuse_is_not_written(nets, tmp_path, monkeypatch, limit, value, words):
    monkeypatch.setattr(f"alexnet_infer.graph.check.{limit}", value)
    with pytest.raises(UsageError, match=rf"too much for an ONNX file: .*{words}.*; export fewer") as raised:
        export(ExportRequest(models=nets, out=tmp_path / "out"))
    assert raised.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_weights_too_large_for_the_file_are_stored_beside_it_and_listed(nets, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    monkeypatch.setattr("alexnet_infer.graph.file.MAX_WEIGHTS", 10_000)
    exported = export(ExportRequest(models=nets[:1], out=tmp_path / "out"))
    assert [path.suffix for path in exported.files] == [".onnx", ".data"]
    assert {path.name for path in exported.folder.iterdir()} == {path.name for path in exported.files} | {"README.md"}
    square = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    actual, expected = (
        load(path, device="cpu", backend="onnxruntime").probabilities([square]) for path in (exported.onnx, nets[0])
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_an_engine_is_stored_beside_its_description_and_the_onnx_file_it_was_built_from(nets, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    exported = export(ExportRequest(models=nets, out=tmp_path / "out", engine=RTX, precision="fp16", views="center"))
    stem = "random-alexnet-64-and-1-more"
    assert [path.name for path in exported.files] == [f"{stem}.onnx", f"{stem}.engine", f"{stem}.engine.json"]
    built = read_engine(exported.engine)
    assert built.plan == exported.built.plan
    assert built.description.to_json() == exported.built.description.to_json()
    assert built.description.info == exported.info == read_model(exported.onnx).info
    assert built.description.model_sha256 == sha256(exported.onnx)


def test_without_onnx_only_the_engine_is_written(nets, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    exported = export(ExportRequest(models=nets[:1], out=tmp_path / "out", engine=RTX, onnx=False))
    assert {path.suffix for path in exported.folder.iterdir()} == {".engine", ".json", ".md"}
    assert exported.onnx is None


@pytest.mark.parametrize(
    ("info", "folder"),
    [
        (info_of("alexnet-64"), "alexnet-64-fp32"),
        (info_of("alexnet-64", precision="fp16", views="ten"), "alexnet-64-fp16-ten"),
        (info_of("a", "b", "c", precision="int8", int8_for="cpu", views="center"), "a-and-2-more-int8-center"),
        (info_of("../../etc/passwd"), "etc-passwd-fp32"),
        (info_of("a b\\c:d*e"), "a-b-c-d-e-fp32"),
        (info_of("猫"), "alexnet-fp32"),
        (info_of("..."), "alexnet-fp32"),
        (info_of("x" * 300), "x" * 80 + "-fp32"),
    ],
)
def test_folders_are_named_after_net_and_form_in_characters_that_every_file_system_allows(info, folder):
    assert folder_name(info) == folder
    assert folder.startswith(file_stem(info))


def test_int8_is_for_tensorrt_with_an_engine_and_for_cpus_otherwise():
    int8 = {"models": (Path("a"),), "precision": "int8", "calibration": Calibration(source=Path("b"))}
    assert ExportRequest(**int8).kind_of_int8 == "cpu"
    assert ExportRequest(**int8, int8_for="tensorrt").kind_of_int8 == "tensorrt"
    assert ExportRequest(**int8, engine=RTX).kind_of_int8 == "tensorrt"
    assert ExportRequest(models=(Path("a"),)).kind_of_int8 is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"onnx": False}, "nothing to export"),
        ({"precision": "int8"}, "needs images"),
        ({"calibration": Calibration(source=Path("b"))}, "--calibrate b: applies to --precision int8 only"),
        ({"int8_for": "tensorrt"}, "--int8-for tensorrt: applies to --precision int8 only"),
        ({"engine": RTX, "lrn": "plugin"}, "TensorRT-RTX does not support plugins"),
    ],
)
def test_contradictory_requests_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        ExportRequest(models=(Path("a"),), **values)


def fail(monkeypatch, name: str, error: BaseException) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(job, name, failing)


@pytest.mark.parametrize("name", ["build_model", "save_model", "readme"])
@pytest.mark.parametrize("error", [BackendError("no"), KeyboardInterrupt(), MemoryError()])
def test_after_a_failure_no_new_folder_is_left_empty(nets, tmp_path, monkeypatch, name, error):
    fail(monkeypatch, name, error)
    out = tmp_path / "a" / "b" / "c"
    with pytest.raises(type(error)):
        export(ExportRequest(models=nets[:1], out=out))
    assert out.exists() == (name == "readme")  # the ONNX file is complete by then, and is kept
    assert (tmp_path / "a").exists() == (name == "readme")


def test_an_existing_folder_is_kept_with_its_contents_after_a_failure(nets, tmp_path, monkeypatch):
    fail(monkeypatch, "build_model", BackendError("no"))
    for out in (tmp_path / "empty", tmp_path / "full"):
        out.mkdir()
    (tmp_path / "full" / "mine").touch()
    for out in (tmp_path / "empty", tmp_path / "full", tmp_path / "empty" / "new"):
        with pytest.raises(BackendError):
            export(ExportRequest(models=nets[:1], out=out))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == [
        Path("empty"),
        Path("full"),
        Path("full/mine"),
    ]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(nets, tmp_path, monkeypatch):
    fail(monkeypatch, "build_model", AssertionError("too late"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UsageError, match=r"--out .*out: can't be written \(Read-only file system\)"):
        export(ExportRequest(models=nets[:1], out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_readme_that_export_has_not_written_is_not_overwritten(nets, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# My project\n")
    with monkeypatch.context() as patched:
        fail(patched, "build_model", AssertionError("too late"))
        with pytest.raises(
            UsageError, match=r"its README\.md was not written by alexnet-infer and would be overwritten"
        ):
            export(ExportRequest(models=nets[:1], out=tmp_path))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["# My project\n"]
    (tmp_path / "README.md").unlink()
    for _ in range(2):  # its own README is overwritten
        export(ExportRequest(models=nets[:1], out=tmp_path))


def test_nets_with_more_weights_than_the_quantizer_accepts_are_refused_before_they_are_embedded(
    nets, tmp_path, monkeypatch
):
    monkeypatch.setattr(job, "MAX_WEIGHTS", 1000)
    monkeypatch.setattr(job, "embed", None)  # a message of more than 2 GB can't report its size
    request = ExportRequest(
        models=nets, precision="int8", calibration=Calibration(source=tmp_path), out=tmp_path / "out"
    )
    with pytest.raises(UsageError, match=r"--precision int8: the nets have 0\.0 GB .*fewer nets"):
        export(request)
    assert not (tmp_path / "out").exists()


def test_the_same_net_twice_is_refused_whatever_the_files_are_called(nets, tmp_path):
    twin = tmp_path / "twin.safetensors"
    twin.write_bytes(nets[0].read_bytes())
    for models in ((nets[0], nets[1], twin), (nets[1], nets[1])):
        with pytest.raises(UsageError, match="an ensemble needs different nets"):
            export(ExportRequest(models=models, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_net_that_cannot_be_read_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ModelFileError, match="No such file"):
        export(ExportRequest(models=(tmp_path / "absent",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_exports_to_one_folder_replace_each_other_completely(nets, tmp_path):
    out = tmp_path / "out"
    first = export(ExportRequest(models=nets[:1], out=out))
    first.onnx.write_bytes(b"damaged")
    again = export(ExportRequest(models=nets[:1], out=out))
    assert read_model(again.onnx).info == first.info
    assert len(list(out.iterdir())) == 2
