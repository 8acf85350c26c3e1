"""`alexnet-infer export` on the command line: the files, other commands on these files, exit codes, one line per
mistake, and no files left behind if nothing was exported."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from alexnet_infer.artifact import Artifact, embedded_model, load_artifact, sha256
from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.library import load_library
from alexnet_infer.evaluation.agreement import TOLERANCES
from alexnet_infer.graph.file import read_model
from alexnet_infer.nets import load
from tests.evaluation.toys import OTHER_WNIDS, save_net, write_set
from tests.published.server import Server

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 12
CLOSE = {"fp32": 1e-6, "fp16": 0.002, "int8": 0.04}
"""Largest difference between the probabilities of an exported file and its net. Different photos differ by more."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A separate cache and working directory for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("nets")
    return [save_net(folder / f"{name}.safetensors", seed) for seed, name in enumerate(("red", "blue"))]


@pytest.fixture(scope="module")
def net(nets) -> Path:
    return nets[0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three photos with different probabilities: a landscape, a portrait, a square."""
    folder = tmp_path_factory.mktemp("photos")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8))
    noise.resize((130, 80), Image.Resampling.BICUBIC).save(folder / "0.png")
    Image.linear_gradient("L").resize((90, 140)).convert("RGB").save(folder / "1.png")
    Image.new("RGB", (64, 64), "white").save(folder / "2.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), IMAGES)


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")


def probabilities(run: Callable, model: Path, photos: Path, *options: str) -> np.ndarray:
    """Probabilities that `classify` prints for the photos: [photos, classes]."""
    code, out, err = run("classify", photos, "--model", model, "--json", "--top", "6", "--device", "cpu", *options)
    assert (code, err) == (0, "")
    rows = [json.loads(line)["labels"] for line in out.splitlines()]
    by_class = (sorted(row, key=lambda label: label["index"]) for row in rows)
    return np.array([[label["probability"] for label in row] for row in by_class])


def refused(run: Callable, code: int, words: str, *arguments: object) -> None:
    """Check that the command exits with `code`, prints one line and leaves no files."""
    exit_code, out, err = run("export", *arguments)
    assert (exit_code, out) == (code, ""), err
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


# The files, and other commands on them


@pytest.mark.parametrize("views", ["none", "center", "ten"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_classify_gives_the_same_probabilities_for_the_exported_file_and_the_net(run, net, photos, precision, views):
    calibrate = ["--calibrate", photos, "--calibration-method", "minmax"] if precision == "int8" else []
    arguments = ["--precision", precision, "--views", views, *calibrate, "--photo", photos]
    code, out, err = run("export", net, "-o", "out", *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("out/red.onnx  ")
    assert f"within {TOLERANCES[precision]:g}; in " in out
    assert {path.name for path in Path("out").iterdir()} == {"red.onnx", "README.md"}
    info = read_model(Path("out/red.onnx")).info
    assert (info.precision, info.views, info.lrn) == (precision, views, "conv")
    assert [(member.name, member.sha256) for member in info.members] == [("red", sha256(net))]
    taken = ["--views", "center"] if views == "center" else []
    expected = probabilities(run, net, photos, "--backend", "onnxruntime", *taken)
    actual = probabilities(run, Path("out/red.onnx"), photos, "--backend", "onnxruntime")
    assert np.abs(np.diff(expected, axis=0)).max(1).min() > 2 * CLOSE["int8"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=CLOSE[precision])
    if precision != "fp32":
        assert np.abs(actual - expected).max() > 1e-6


@pytest.mark.parametrize("views", ["none", "center", "ten"])
def test_a_file_of_two_nets_gives_their_mean(run, nets, photos, views):
    code, out, err = run("export", *nets, "--views", views, "--photo", photos)
    assert (code, err) == (0, "")
    folder = Path("red-and-1-more-fp32" + ("" if views == "none" else f"-{views}"))
    assert f"{folder}/red-and-1-more.onnx" in out
    taken = ["--views", "center" if views == "center" else "ten", "--backend", "onnxruntime"]
    net_outputs = [probabilities(run, path, photos, *taken) for path in nets]
    actual = probabilities(run, folder / "red-and-1-more.onnx", photos, "--backend", "onnxruntime")
    assert np.abs(net_outputs[0] - net_outputs[1]).max() > 0.05
    np.testing.assert_allclose(actual, (net_outputs[0] + net_outputs[1]) / 2, rtol=0, atol=1e-6)
    assert "mean of 2 nets: red (SHA-256" in (folder / "README.md").read_text()


@pytest.mark.parametrize("options", [[], ["--views", "ten"], ["--batch", "3"], ["--views", "ten", "--batch", "3"]])
def test_eval_counts_the_same_errors_with_the_file_as_with_the_net(run, net, images, options):
    assert run("export", net, "-o", "out", "--no-verify", *options)[0] == 0
    results = []
    for model in (net, "out/red.onnx"):
        arguments = ["--model", model, "--cache", "cache", "--batch", "5", "--backend", "onnxruntime", "--json"]
        rows = f"{Path(model).suffix[1:]}.csv"
        code, out, err = run("eval", "--data", images, *arguments, "--save-predictions", rows)
        assert (code, err) == (0, "")
        results.append(json.loads(out)["nets"][0])
    assert results[0]["top1"]["wrong"] == results[1]["top1"]["wrong"] < IMAGES
    assert results[0]["top5"]["wrong"] == results[1]["top5"]["wrong"]
    assert results[0]["sha256"] != results[1]["sha256"]
    assert Path("onnx.csv").read_text().count("\n") == IMAGES + 1


def test_eval_refuses_a_net_beside_its_own_export_and_a_file_of_several_nets_beside_others(run, net, nets, images):
    run("export", nets[0], "-o", "out", "--no-verify")
    run("export", *nets[:2], "-o", "both", "--no-verify")
    several = next(Path("both").glob("*.onnx"))
    arguments = ["--data", images, "--cache", "cache"]
    code, out, err = run("eval", *arguments, "--model", nets[0], "--model", "out/red.onnx")
    assert (code, out) == (2, "")
    assert err.endswith(f"out/red.onnx: the same net as {nets[0]}; an ensemble needs different nets\n")
    code, out, err = run("eval", *arguments, "--model", net, "--model", several)
    assert (code, out) == (2, "")
    assert err == f"error: {several}: contains 2 nets and would count as one; give one file per net\n"
    assert run("eval", *arguments, "--model", several, "--json")[0] == 0


def test_eval_writes_its_report_for_an_exported_file(run, net, images):
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    run("export", net, "-o", "out", "--views", "center", "--no-verify")
    arguments = ["--data", images, "--model", "out/red.onnx", "--cache", "cache"]
    code, _, err = run("eval", *arguments, "--views", "center", "--report", "report")
    assert (code, err) == (0, "report: report/index.html\n")
    assert "red" in Path("report/index.html").read_text()
    code, out, err = run("eval", *arguments, "--views", "ten")
    assert (code, out) == (2, "")
    assert err == (
        "error: out/red.onnx: was exported with views=center; leave out views=ten, or export again with --views ten\n"
    )


def test_eval_averages_the_center_view_of_an_exported_file_and_a_net_if_told_to(run, nets, images):
    run("export", nets[0], "-o", "out", "--views", "center", "--no-verify")
    arguments = ["--data", images, "--model", "out/red.onnx", "--model", nets[1], "--cache", "cache"]
    code, out, err = run("eval", *arguments)
    assert (code, out) == (2, "")
    assert err.endswith("; expected the same: set --views center\n")
    code, out, _ = run("eval", *arguments, "--views", "center", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["protocol"]["views"], len(result["nets"])) == ("center", 2)
    assert result["ensemble"] is not None


def test_eval_refuses_files_exported_with_different_views(run, nets, images):
    for net, views in zip(nets[:2], ("center", "ten"), strict=True):
        run("export", net, "-o", views, "--views", views, "--no-verify")
    models = [argument for file in sorted(Path().glob("*/*.onnx")) for argument in ("--model", file)]
    code, out, err = run("eval", "--data", images, *models, "--cache", "cache")
    assert (code, out) == (2, "")
    assert err.endswith("; expected the same: export again with the same --views\n")


def test_compare_accepts_the_file_of_a_net_and_rejects_that_of_another(run, nets, photos):
    run("export", nets[0], "-o", "out", "--no-verify")
    code, out, _ = run("compare", nets[0], "out/red.onnx", photos, "--json", "--device", "cpu")
    assert code == 0
    assert 0 < json.loads(out)["largest"] < 1e-5
    code, _, err = run("compare", nets[1], "out/red.onnx", photos, "--json", "--device", "cpu")
    assert code == 1
    assert err.startswith("error: probabilities differ by up to 0.")


def test_a_fixed_batch_is_written_to_the_file_which_still_classifies_any_number_of_photos(run, net, photos):
    onnx = pytest.importorskip("onnx")
    code, _, err = run("export", net, "-o", "out", "--batch", "4", "--photo", photos)
    assert (code, err) == (0, "")
    shape = onnx.load("out/red.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_value for dimension in shape] == [4, 3, 57, 57]
    expected = probabilities(run, net, photos, "--backend", "onnxruntime")
    actual = probabilities(run, Path("out/red.onnx"), photos, "--backend", "onnxruntime")  # 30 patches, four at a time
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_int8_with_a_fixed_batch_and_a_layer_in_float(run, net, photos, images):
    arguments = ["--batch", "3", "--precision", "int8", "--calibrate", images, "--int8-for", "tensorrt"]
    code, _, err = run("export", net, "-o", "out", *arguments, "--keep-float", "fc8", "--photo", photos)
    assert (code, err) == (0, "")
    file = read_model(Path("out/red.onnx"))
    assert (file.info.int8_for, file.info.batch.fixed) == ("tensorrt", True)
    assert b"fc8.weight_quantized" not in file.content
    assert b"fc7.weight_quantized" in file.content


def test_the_default_folder_is_in_the_working_directory_and_named_after_net_and_form(run, net):
    assert run("export", net, "--no-verify")[0] == 0
    assert run("export", net, "--precision", "fp16", "--views", "ten", "--no-verify")[0] == 0
    assert sorted(path.name for path in Path().iterdir()) == ["red-fp16-ten", "red-fp32"]


def test_by_default_the_bundled_net_is_exported_and_verified_on_the_example_photos(run):
    code, out, err = run("export")
    assert (code, err) == (0, "")
    name = embedded_model().stem
    assert Path(f"{name}-fp32/{name}.onnx").is_file()
    assert any(line.split()[:2] == ["images", "15"] for line in out.splitlines())


@pytest.mark.parametrize("name", ["a/b c", "../../etc/x", "猫", "a`b | <b>c</b> [d](e)", ".", "n" * 300, '"q" \\n'])
def test_a_net_with_any_name_is_exported_to_a_file_in_the_folder(run, net, photos, name):
    artifact = load_artifact(net)
    Artifact(replace(artifact.manifest, name=name), artifact.tensors).save(Path("net.safetensors"))
    code, _, err = run("export", "net.safetensors", "--photo", photos, "--triton", "repository")
    assert (code, err) == (0, "")
    Path("net.safetensors").unlink()
    (folder,) = (path for path in Path().iterdir() if path.name != "repository")
    (path,) = folder.glob("*.onnx")
    assert path.name.isascii()
    assert not path.name.startswith(".")
    assert read_model(path).manifest.name == name
    assert len(list(Path().glob("repository/*/1/model.onnx"))) == 1


def test_a_net_of_one_class_gives_it_probability_1(run, photos):
    save_net(Path("one.safetensors"), wnids=["n00000001"])
    assert run("export", "one.safetensors", "-o", "out", "--photo", photos)[0] == 0
    code, out, _ = run("classify", photos / "0.png", "--model", "out/one.onnx", "--top", "1", "--json")
    assert (code, json.loads(out)["labels"][0]["probability"]) == (0, 1)


# Verification


def test_json_is_one_object_with_files_form_and_verdict(run, net, photos):
    code, out, err = run("export", net, "-o", "out", "--views", "ten", "--photo", photos, "--json", "--triton", "t")
    assert (code, err) == (0, "")
    result = json.loads(out)
    form = {"net", "folder", "files", "export", "runtime", "float_layers", "passport"}
    assert result.keys() == form | {"unreadable", "verified", "triton"}
    size = Path("out/red.onnx").stat().st_size
    assert (result["net"], result["folder"], result["triton"]) == ("red", "out", "t/red/1")
    assert result["files"] == [{"path": "out/red.onnx", "bytes": size}]
    assert result["runtime"] is None
    assert (result["export"]["views"], result["export"]["precision"]) == ("ten", "fp32")
    assert result["export"]["batch"] == {"min": 1, "opt": 8, "max": 64}
    (verdict,) = result["verified"].values()
    assert (verdict["within"], verdict["tolerance"], verdict["images"]) == (True, 1e-5, 15)
    assert verdict["largest"] < 1e-5


def test_a_file_that_differs_by_more_than_the_tolerance_exits_1_and_is_kept_but_not_served(run, net, photos):
    arguments = ["-o", "out", "--precision", "fp16", "--photo", photos, "--tolerance", "0", "--triton", "served"]
    code, out, err = run("export", net, *arguments)
    assert code == 1
    assert "above 0; in " in out
    assert err.startswith("error: probabilities differ by up to ")
    assert err.splitlines()[1:] == ["--triton served: nothing was written, because the verification did not pass"]
    assert read_model(Path("out/red.onnx")).info.precision == "fp16"
    assert not Path("served").exists()
    code, out, _ = run("export", net, *arguments, "--json")
    result = json.loads(out)
    assert (code, result["triton"]) == (1, None)
    assert result["verified"]["out/red.onnx"]["within"] is False


def test_a_labelled_set_shows_the_change_in_error(run, net, images):
    code, out, err = run("export", net, "-o", "out", "--data", images, "--limit", "6", "--json")
    assert (code, err) == (0, "")
    verdict = json.loads(out)["verified"]["out/red.onnx"]
    assert verdict["images"] == 6
    assert verdict["top1"]["difference"] == 0


def test_without_verification_nothing_is_compared(run, net, monkeypatch):
    monkeypatch.setattr("alexnet_infer.commands.export_verify.load", None)
    code, out, err = run("export", net, "-o", "out", "--no-verify")
    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["out/red.onnx", "out/README.md"]
    assert json.loads(run("export", net, "-o", "out", "--no-verify", "--json")[1])["verified"] == {}


# Engines


@pytest.mark.usefixtures("rtx", "no_gpu")
@pytest.mark.parametrize("also", [[], ["--onnx"]])
def test_an_rtx_engine_is_built_without_a_gpu_and_reported_as_unverified(run, net, photos, also):
    arguments = ["-o", "out", "--trt", "--flavor", "rtx", "--compute-capability", "8.9,12.0", "--photo", photos, *also]
    code, out, err = run("export", net, *arguments)
    assert code == 0
    files = ["red.engine", "red.engine.json", "README.md"]
    files = ["red.onnx", *files] if also else files
    assert [line.split("  ")[0] for line in out.splitlines()[: len(files)]] == [f"out/{name}" for name in files]
    assert {path.name for path in Path("out").iterdir()} == set(files)
    assert err.startswith("out/red.engine: not verified, because it can't run here (")
    assert err.endswith(
        f"verify it on a machine that can run it: alexnet-infer compare {net} out/red.engine --trust-engine\n"
    )
    assert err.count("\n") == 1
    assert ("within 1e-05" in out) == bool(also)
    assert "capability 8.9, 12.0" in Path("out/README.md").read_text()
    result = json.loads(run("export", net, *arguments, "--json")[1])
    assert result["runtime"]["compute_capabilities"] == ["8.9", "12.0"]
    assert [Path(file["path"]).name for file in result["files"]] == files[:-1]
    assert result["verified"]["out/red.engine"] is None


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_an_unverified_engine_of_several_nets_is_compared_with_their_mean_and_not_with_one_net(run, nets, photos):
    arguments = ["-o", "my out", "--trt", "--flavor", "rtx", "--compute-capability", "8.9", "--photo", photos]
    assert "add --onnx" in run("export", *nets, *arguments)[2]
    err = run("export", *nets, *arguments, "--onnx")[2]
    assert err.endswith(
        "alexnet-infer compare 'my out/red-and-1-more.onnx' 'my out/red-and-1-more.engine' --trust-engine\n"
    )


@pytest.mark.usefixtures("rtx", "no_gpu")
@pytest.mark.parametrize("form", [["--precision", "fp16", "--views", "ten"], ["--precision", "int8", "--batch", "3"]])
def test_rtx_engines_have_the_requested_form(run, net, photos, form):
    if "int8" in form:
        form = [*form, "--calibrate", str(photos)]
    code, out, _ = run("export", net, *form, "--trt", "--flavor", "rtx", "--compute-capability", "8.9", "--json")
    exported = json.loads(out)["export"]
    assert (code, exported["precision"], exported["lrn"]) == (0, form[1], "op")
    assert exported["flavor"] == ("tensorrt" if "int8" in form else None)


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_running_an_engine_without_a_gpu_is_refused_in_one_line(run, net, photos, images):
    run("export", net, "-o", "out", "--trt", "--flavor", "rtx", "--compute-capability", "8.9", "--no-verify")
    for command in (
        ["classify", photos, "--model", "out/red.engine"],
        ["classify", photos, "--model", "out/red.engine", "--device", "cpu"],
        ["classify", photos, "--model", "out/red.engine", "--backend", "openvino"],
        ["compare", net, "out/red.engine", photos],
        ["eval", "--data", images, "--model", "out/red.engine", "--cache", "cache"],
    ):
        code, out, err = run(*command)
        assert (code, out) == (5, ""), err
        assert err.count("\n") == 1


@pytest.mark.usefixtures("rtx")
def test_a_damaged_engine_is_refused_before_it_is_run(run, net, photos):
    run("export", net, "-o", "out", "--trt", "--flavor", "rtx", "--compute-capability", "8.9", "--no-verify")
    path = Path("out/red.engine")
    path.write_bytes(path.read_bytes()[:-100])
    code, out, err = run("classify", photos, "--model", path, "--trust-engine")
    assert (code, out) == (4, "")
    assert err.startswith("error: out/red.engine: damaged")
    assert err.count("\n") == 1


# For Triton


def test_a_repository_for_triton_gets_the_file_and_then_its_next_version(run, net, photos):
    for version in (1, 2):
        code, out, err = run("export", net, "-o", "out", "--photo", photos, "--triton", "models")
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == f"models/red/{version}  for Triton"
        assert Path(f"models/red/{version}/model.onnx").read_bytes() == Path("out/red.onnx").read_bytes()
    assert "labels.txt" in Path("models/red/config.pbtxt").read_text()


def test_a_repository_that_cannot_be_written_is_a_one_line_error_and_the_export_is_kept(run, net):
    Path("models").write_text("in the way")
    code, _, err = run("export", net, "-o", "out", "--no-verify", "--triton", "models")
    assert code == 2
    assert err.startswith("error: --triton models: can't be written (")
    assert err.count("\n") == 1
    assert Path("out/red.onnx").is_file()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "8,4,16"], "--batch 8,4,16: expected MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX"),
        (["--batch", "1,2"], "--batch '1,2': expected MIN,OPT,MAX as in 1,8,64, or one number"),
        (["--batch", "many"], "--batch 'many'"),
        (["--batch", "0"], "--batch 0,0,0"),
        (["--int8-for", "cpu"], "--int8-for cpu: applies to --precision int8 only"),
        (["--precision", "int8"], "--precision int8: needs images"),
        (["--calibrate", "photos"], "--calibrate photos: applies to --precision int8 only"),
        (["--calibration-images", "3"], "--calibration-images 3: needs --precision int8 and --calibrate PATH"),
        (["--calibration-method", "minmax"], "--calibration-method minmax: needs --precision int8"),
        (["--keep-float", "fc8", "--precision", "int8"], "--keep-float fc8: needs --precision int8 and --calibrate"),
        (["--precision", "int8", "--calibrate", "x", "--calibration-images", "0"], "--calibration-images 0"),
        (["--flavor", "rtx"], "--flavor rtx: applies to engines only; add --trt"),
        (["--workspace", "2GiB"], "--workspace 2GiB: applies to engines only; add --trt"),
        (["--optimization-level", "0"], "--optimization-level 0: applies to engines only; add --trt"),
        (["--compute-capability", "8.6"], "--compute-capability 8.6: applies to engines only; add --trt"),
        (["--trt", "--workspace", "2GB"], "--workspace '2GB': expected MiB or GiB"),
        (["--trt", "--optimization-level", "6"], "--optimization-level 6: expected 0 to 5"),
        (["--trt", "--compute-capability", "8.6"], "TensorRT builds for the GPU in this machine"),
        (["--trt", "--flavor", "rtx", "--compute-capability", "8"], "as in 8.6,8.9,12.0"),
        (["--trt", "--flavor", "rtx", "--lrn", "plugin"], "--lrn plugin: TensorRT-RTX does not support plugins"),
        (["--trt", "--int8-for", "cpu", "--precision", "int8", "--calibrate", "x"], "accepts only signed activations"),
        (["--trt", "--flavor", "rtx", "--triton", "t"], "Triton can't run TensorRT-RTX engines"),
        (["--ensemble", "2"], "--ensemble 2: expected at most 1, the number of nets available (red.safetensors)"),
        (["--ensemble", "0"], "--ensemble 0: expected at least 1"),
        (["--tolerance", "-1"], "--tolerance -1"),
        (["--tolerance", "nan"], "--tolerance nan"),
        (["--no-verify", "--tolerance", "0.1"], "--no-verify: makes no comparison"),
        (["--no-verify", "--photo", "cat.jpg"], "--no-verify: makes no comparison"),
        (["--limit", "3"], "--limit 3: needs a labelled set"),
    ],
)
def test_invalid_options_are_refused_in_one_line_and_leave_no_files(run, net, arguments, words):
    refused(run, 2, words, net, *arguments)


@pytest.mark.parametrize("options", [["--precision", "fp8"], ["--views", "five"], ["--lrn", "fast"], ["--colour"]])
def test_unknown_values_are_refused_without_a_traceback(run, net, options):
    code, out, err = run("export", net, *options)
    assert (code, out) == (2, "")
    assert options[-1] in err
    assert "Traceback" not in err


def test_a_sample_larger_than_the_set_is_refused_before_anything_is_exported(run, net, images):
    for limit in ("0", "13"):
        refused(run, 2, f"--limit {limit}: expected 1 to 12", net, "--data", images, "--limit", limit)


def test_a_missing_set_and_missing_photos_are_refused_before_anything_is_exported(run, net, photos):
    refused(run, 3, "absent", net, "--data", "absent")
    refused(run, 2, "not both", net, "--data", "absent", "--photo", photos)
    for photo in ("absent.jpg", "absent/*.jpg", "-", ""):
        refused(run, 3, f"--photo {photo}: no photo found", net, "--photo", photo)


def test_a_file_is_verified_on_a_photo_at_a_url(run, net, photos):
    server = Server(next(path for path in sorted(Path(photos).iterdir()) if path.is_file()).read_bytes())
    try:
        code, out, _ = run("export", net, "-o", "out", "--photo", server.url, "--json")
    finally:
        server.close()
    assert code == 0
    assert len(server.requests) == 1
    assert json.loads(out)["verified"]["out/red.onnx"]["images"] == 5  # the photo and its quarters


def test_nets_that_cannot_be_averaged_are_refused(run, nets, tmp_path):
    other = save_net(tmp_path / "other.safetensors", 2, wnids=OTHER_WNIDS)
    refused(run, 2, "red and other have different classes", nets[0], other)
    twin = tmp_path / "twin.safetensors"
    twin.write_bytes(nets[0].read_bytes())
    refused(run, 2, f"twin.safetensors: the same net as {nets[0]}", nets[0], nets[1], twin)
    refused(run, 2, "named twice", nets[0], nets[0])


def test_model_files_that_cannot_be_read_are_refused(run, net, tmp_path):
    refused(run, 4, "absent.safetensors: No such file", tmp_path / "absent.safetensors")
    (tmp_path / "short.safetensors").write_bytes(net.read_bytes()[:-10])
    refused(run, 4, "short.safetensors: damaged", tmp_path / "short.safetensors")
    refused(run, 4, "is not a regular file", tmp_path)
    for name in ("net.onnx", "net.engine"):
        refused(run, 2, f"{name}: is an exported file; expected the trained net that it was made from", name)


def test_a_weight_that_does_not_fit_float16_is_named(run, net, tmp_path):
    artifact = load_artifact(net)
    path = tmp_path / "huge.safetensors"
    tensors = {**artifact.tensors, "fc8.bias": artifact.tensors["fc8.bias"] + 1e5}
    Artifact(artifact.manifest, tensors).save(path, np.float32)
    refused(run, 2, "fc8.bias", path, "--precision", "fp16")


def test_calibration_without_a_readable_image_is_refused(run, net, tmp_path):
    folder = tmp_path / "photos"
    int8 = [net, "--precision", "int8", "--calibrate", folder]
    refused(run, 3, "expected a labelled set or a folder of photos", *int8)
    folder.mkdir()
    refused(run, 3, "no image can be read", *int8)
    (folder / "a.jpg").write_bytes(b"not an image")
    refused(run, 3, "no image can be read", *int8)
    Image.new("RGB", (70, 70), "green").save(folder / "b.png")
    refused(run, 2, "'conv9': no such layer", *int8, "--keep-float", "conv9")
    code, _, err = run("export", *int8, "--no-verify")
    assert code == 1
    assert err.startswith(f"error: {folder}/a.jpg: not an image, or damaged at its start")
    code, out, _ = run("export", *int8, "--no-verify", "--json")
    assert code == 1
    assert [Path(image["image"]).name for image in json.loads(out)["unreadable"]] == ["a.jpg"]
    (folder / "a.jpg").unlink()
    code, _, err = run("export", *int8, "--no-verify")
    assert (code, err) == (0, "")


def test_a_target_that_is_a_file_is_refused(run, net, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        refused(run, 2, f"--out {out}: can't be written (", net, "-o", out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_no_partial_file_and_no_folder(run, net, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # larger writes fail, as on a full disk
    try:
        refused(run, 2, "--out out/deeper: can't be written (File too large)", net, "-o", "out/deeper", "--no-verify")
        (tmp_path / "kept").mkdir()
        refused(run, 2, "File too large", net, "-o", tmp_path / "kept", "--no-verify")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "kept").iterdir())


def test_an_older_export_is_kept_unchanged_when_the_next_one_fails(run, net, photos):
    run("export", net, "-o", "out", "--no-verify")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    code, _, err = run("export", net, "-o", "out", "--precision", "int8", "--calibrate", photos, "--keep-float", "no")
    assert (code, err.count("\n")) == (2, 1)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


@pytest.mark.parametrize(
    ("package", "arguments", "words"),
    [
        ("tensorrt_rtx", ["--trt", "--flavor", "rtx"], 'pip install "alexnet-infer[rtx]"'),
        ("tensorrt", ["--trt"], 'pip install "alexnet-infer[trt]"'),
    ],
)
def test_a_missing_builder_exits_5_with_the_pip_command(run, net, monkeypatch, package, arguments, words):
    monkeypatch.setattr("alexnet_infer.export.engine_build.load_library", load_library.__wrapped__)  # not cached
    monkeypatch.setitem(sys.modules, package, None)
    refused(run, 5, words, net, *arguments)


def test_without_onnx_runtime_an_export_is_written_and_only_its_verification_fails(run, net, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(run, 5, 'pip install "alexnet-infer[cpu]"', net, "--precision", "int8", "--calibrate", photos)
    assert run("export", net, "-o", "out", "--no-verify")[0] == 0
    code, _, err = run("export", net, "-o", "out", "--photo", photos)
    assert (code, err.count("\n")) == (5, 1)
    assert 'pip install "alexnet-infer[cpu]"' in err


def test_an_interrupt_exits_130_and_leaves_no_files(run, net, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("alexnet_infer.export.job.build_model", interrupt)
    code, out, err = run("export", net)
    assert (code, out, err) == (130, "", "interrupted\n")
    assert not list(Path().iterdir())


# Files from elsewhere


def foreign(path: Path) -> None:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", ends[:1], ends[1:])
    path.write_bytes(helper.make_model(graph).SerializeToString())


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def weights_elsewhere(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    Path("secret").write_bytes(b"secret")
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (foreign, "has no alexnet-infer manifest: expected a file that `alexnet-infer export` wrote; `alexnet-"),
        (truncated, "damaged, or not an ONNX file"),
        (weights_elsewhere, "expected a file beside the model"),
        (Path.unlink, "No such file"),
    ],
)
def test_a_foreign_or_damaged_onnx_file_is_refused_by_every_command(run, net, photos, images, damage, words):
    run("export", net, "-o", "out", "--no-verify")
    damage(Path("out/red.onnx"))
    for command in (
        ["classify", photos, "--model", "out/red.onnx"],
        ["compare", net, "out/red.onnx", photos],
        ["eval", "--data", images, "--model", "out/red.onnx", "--cache", "cache"],
        ["info", "out/red.onnx"],
    ):
        code, out, err = run(*command)
        assert (code, out) == (4, "")
        assert err.startswith("error: out/red.onnx: ")
        assert words in err
        assert err.count("\n") == 1


# The choice of runtime


def test_openvino_gives_the_same_probabilities_for_the_net_and_its_exports(run, net, photos):
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    expected = probabilities(run, net, photos, "--backend", "onnxruntime")
    for form in ([], ["--views", "ten"], ["--lrn", "plugin"], ["--lrn", "op", "--batch", "3"]):
        run("export", net, "-o", "out", *form, "--no-verify")
        actual = probabilities(run, Path("out/red.onnx"), photos, "--backend", "openvino")
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities(run, net, photos, "--backend", "openvino"), expected, rtol=0, atol=1e-5)
    assert load(net, backend="openvino").backend.description.startswith("OpenVINO")


@pytest.mark.parametrize("exported", [False, True])
def test_openvino_on_a_gpu_is_refused(run, net, photos, exported):
    run("export", net, "-o", "out", "--no-verify")
    model = Path("out/red.onnx") if exported else net
    code, out, err = run("classify", photos, "--model", model, "--backend", "openvino", "--device", "cuda")
    assert (code, out) == (5, "")
    assert err == "error: --backend openvino --device cuda: OpenVINO runs on the CPU only; leave out one of the two\n"
