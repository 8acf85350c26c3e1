"""Model repositories for Triton: the config against Triton's own definition, and versions that are always complete."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from alexnet_infer.errors import UsageError
from alexnet_infer.export.triton import ServedModel, repository, write_repository
from alexnet_infer.export.triton.config import QUEUE_DELAY, net_config
from alexnet_infer.export.triton.readme import readme
from alexnet_infer.export.triton.repository import versions
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.manifest import ClassName, Manifest
from tests.nets import random_artifact

MANIFEST = random_artifact().manifest
SIZE, PATCH, CLASSES = MANIFEST.preprocessing.size, MANIFEST.preprocessing.patch, len(MANIFEST.classes)
MEMBERS = (Member(name="net", sha256="0" * 64),)


def served(path: Path, *, tensorrt: str | None = None, manifest: Manifest = MANIFEST, **info: object) -> ServedModel:
    """Make a file with arbitrary content, which the repository must not parse."""
    if not path.exists():
        path.write_bytes(b"the model of " + path.name.encode())
    return ServedModel(path=path, manifest=manifest, info=ExportInfo(members=MEMBERS, **info), tensorrt=tensorrt)


@pytest.fixture
def onnx(tmp_path: Path) -> ServedModel:
    return served(tmp_path / "net.onnx", views="ten", batch=Batch(min=1, opt=8, max=64))


@pytest.fixture(scope="module")
def model_config():
    """Triton's own definition of a config. Only its module is loaded, because the rest of the package needs gRPC."""
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("needs Triton's definition of a config: pip install tritonclient")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_of_an_onnx_file_fits_tritons_definition(model_config, onnx):
    from google.protobuf import text_format

    parsed = text_format.Parse(net_config(onnx), model_config.ModelConfig())
    assert (parsed.name, parsed.backend, parsed.max_batch_size) == ("random-alexnet-64", "onnxruntime", 64)
    (source,), (target,) = parsed.input, parsed.output
    assert (source.name, source.data_type) == ("images", model_config.TYPE_UINT8)
    assert list(source.dims) == [SIZE, SIZE, 3]
    assert (target.name, target.data_type) == ("probabilities", model_config.TYPE_FP32)
    assert (list(target.dims), target.label_filename) == ([CLASSES], "labels.txt")
    assert list(parsed.dynamic_batching.preferred_batch_size) == [8]
    assert parsed.dynamic_batching.max_queue_delay_microseconds == QUEUE_DELAY == 1000
    assert [group.kind for group in parsed.instance_group] == [model_config.ModelInstanceGroup.KIND_AUTO]
    assert parsed.version_policy.latest.num_versions == 1


def test_the_config_of_an_onnx_file_turns_tf32_off_on_a_gpu(model_config, onnx):
    from google.protobuf import text_format

    parsed = text_format.Parse(net_config(onnx), model_config.ModelConfig())
    (accelerator,) = parsed.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert parsed.parameters["cudnn_conv_algo_search"].string_value == "1", "heuristic, in the backend's numbering"


def test_the_config_of_an_engine_fits_tritons_definition(model_config, tmp_path):
    from google.protobuf import text_format

    engine = served(tmp_path / "net.engine", tensorrt="11.4.0", lrn="plugin")
    parsed = text_format.Parse(net_config(engine), model_config.ModelConfig())
    assert parsed.backend == "tensorrt"
    (source,) = parsed.input
    assert (source.name, source.data_type) == ("patches", model_config.TYPE_FP32)
    assert list(source.dims) == [3, PATCH, PATCH]
    assert [group.kind for group in parsed.instance_group] == [model_config.ModelInstanceGroup.KIND_GPU]
    assert not parsed.HasField("optimization"), "options of ONNX Runtime don't apply to TensorRT"
    assert parsed.parameters.keys() == {"alexnet_infer", "alexnet_infer_export"}, "none of ONNX Runtime's"


def test_a_fixed_batch_is_in_the_dimensions_and_requests_are_not_batched(model_config, tmp_path):
    from google.protobuf import text_format

    model = served(tmp_path / "net.onnx", views="center", batch=Batch(min=4, opt=4, max=4))
    parsed = text_format.Parse(net_config(model), model_config.ModelConfig())
    assert parsed.max_batch_size == 0  # dimensions are then those of the complete tensor
    assert list(parsed.input[0].dims) == [4, SIZE, SIZE, 3]
    assert list(parsed.output[0].dims) == [4, CLASSES]
    assert not parsed.HasField("dynamic_batching")


def test_a_repository_has_config_labels_and_the_first_version(onnx, tmp_path):
    version = write_repository(tmp_path / "models", onnx)
    place = tmp_path / "models" / "random-alexnet-64"
    assert version == place / "1"
    assert (version / "model.onnx").read_bytes() == onnx.path.read_bytes()
    assert {path.name for path in place.iterdir()} == {
        *("1", "config.pbtxt", "labels.txt", "README.md", "model-analyzer.yaml")
    }
    assert 'name: "random-alexnet-64"' in (place / "config.pbtxt").read_text()  # Triton requires the folder's name
    assert (place / "labels.txt").read_text().splitlines() == [c.name for c in MANIFEST.classes]


def test_weights_beside_the_file_are_copied_under_their_names(onnx, tmp_path):
    weights = tmp_path / "net-0123456789ab.data"
    weights.write_bytes(b"weights")
    version = write_repository(tmp_path / "models", replace(onnx, weights=(weights,)))
    assert (version / weights.name).read_bytes() == b"weights"


def test_an_engine_gets_the_name_that_triton_expects(tmp_path):
    version = write_repository(tmp_path / "models", served(tmp_path / "net.engine", tensorrt="11.4.0"))
    assert [path.name for path in version.iterdir()] == ["model.plan"]


def test_the_next_export_is_the_next_version_and_changes_nothing_else(onnx, tmp_path):
    first = write_repository(tmp_path / "models", onnx)
    edited = (first.parent / "config.pbtxt").read_text().replace("delay_microseconds: 1000", "delay_microseconds: 7")
    assert "microseconds: 7" in edited
    (first.parent / "config.pbtxt").write_text(edited)
    newer = served(tmp_path / "newer.onnx", views="ten")
    assert write_repository(tmp_path / "models", newer) == first.parent / "2"
    assert (first / "model.onnx").read_bytes() == onnx.path.read_bytes()
    assert (first.parent / "2" / "model.onnx").read_bytes() == newer.path.read_bytes()
    assert (first.parent / "config.pbtxt").read_text() == edited


def test_a_version_after_a_gap_is_the_highest(onnx, tmp_path):
    first = write_repository(tmp_path / "models", onnx)
    first.rename(first.parent / "9")
    (first.parent / "old").mkdir()
    assert write_repository(tmp_path / "models", onnx) == first.parent / "10"
    assert versions(first.parent) == [9, 10]


def test_a_copy_that_fails_leaves_no_version(onnx, tmp_path, monkeypatch):
    first = write_repository(tmp_path / "models", onnx)
    before = sorted(first.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "copy_atomically", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_repository(tmp_path / "models", onnx)
    assert sorted(first.parent.iterdir()) == before


def test_what_a_killed_export_left_is_removed_by_the_next_one(onnx, tmp_path):
    place = write_repository(tmp_path / "models", onnx).parent
    left, mine = place / ".version.0123abcd.tmp", place / ".mine.tmp"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    (place / ".README.md.0123abcd.tmp").write_bytes(b"half")
    before = {path.name for path in place.iterdir()}
    write_repository(tmp_path / "models", onnx)
    after = {path.name for path in place.iterdir()}
    assert before - after == {left.name, ".README.md.0123abcd.tmp"}
    assert after - before == {"2"}


def test_an_export_killed_before_the_config_was_written_is_repeated(onnx, tmp_path):
    place = write_repository(tmp_path / "models", onnx).parent
    for name in ("config.pbtxt", "README.md"):
        (place / name).unlink()
    (place / "1" / "model.onnx").unlink()
    (place / "1").rmdir()
    assert write_repository(tmp_path / "models", onnx) == place / "1"


@pytest.mark.parametrize("name", ["README.md", "labels.txt"])
def test_a_file_of_another_program_is_kept(onnx, tmp_path, name):
    place = tmp_path / "models" / "random-alexnet-64"
    place.mkdir(parents=True)
    (place / name).write_text("mine")
    with pytest.raises(UsageError, match=f"has {name} but no config.pbtxt"):
        write_repository(tmp_path / "models", onnx)
    assert [path.read_text() for path in place.iterdir()] == ["mine"]


def test_while_a_version_is_written_no_folder_has_a_number_as_its_name(onnx, tmp_path, monkeypatch):
    seen = []
    real = repository.copy_atomically

    def watched(source: Path, target: Path) -> None:
        place = target.parents[1]
        seen.append(
            [path.name for path in place.iterdir() if re.match(r"[\s+-]*\d", path.name)]
        )  # as std::stoll parses
        real(source, target)

    monkeypatch.setattr(repository, "copy_atomically", watched)
    write_repository(tmp_path / "models", onnx)
    assert seen == [[]]


def test_a_version_that_another_process_wrote_meanwhile_is_kept(onnx, tmp_path, monkeypatch):
    first = write_repository(tmp_path / "models", onnx)
    other = first.parent / "2" / "model.onnx"
    real = Path.rename

    def slower(self: Path, target: Path) -> Path:
        if target.name == "2" and not target.exists():
            target.mkdir()
            other.write_bytes(b"other")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", slower)
    assert write_repository(tmp_path / "models", onnx) == first.parent / "3"
    assert other.read_bytes() == b"other"


OTHER_NAMES = structs.replace(
    MANIFEST, classes=(*MANIFEST.classes[:-1], structs.replace(MANIFEST.classes[-1], name="something else"))
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": "none"}, "input="),
        ({"batch": Batch(min=1, opt=8, max=32)}, "batch="),
        ({"batch": Batch(min=64, opt=64, max=64)}, "fixed="),
        ({"tensorrt": "11.4.0"}, "backend="),
        ({"manifest": OTHER_NAMES}, "different class names"),
    ],
)
def test_a_model_that_contradicts_the_existing_one_is_refused(onnx, tmp_path, change, words):
    first = write_repository(tmp_path / "models", onnx)
    other = served(tmp_path / "other.onnx", **{"views": "ten", **change})
    with pytest.raises(UsageError, match=words) as refused:
        write_repository(tmp_path / "models", other)
    assert "\n" not in str(refused.value)
    assert versions(first.parent) == [1]


def test_an_existing_model_of_another_program_is_refused(onnx, tmp_path):
    place = tmp_path / "models" / "random-alexnet-64"
    (place / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has versions but no config\.pbtxt"):
        write_repository(tmp_path / "models", onnx)
    for text in ('name: "net"\n', "# alexnet-infer: {", "# alexnet-infer: " + "[" * 100_000, "\xff"):
        (place / "config.pbtxt").write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match="was not written by alexnet-infer"):
            write_repository(tmp_path / "models", onnx)
    assert sorted(path.name for path in place.iterdir()) == ["1", "config.pbtxt"]


@pytest.mark.parametrize(
    ("net", "name"),
    [
        ("../../etc", "etc"),
        ('my "best" net', "my-best-net"),
        ("日本", "alexnet"),
        ("a.b_c-1", "a.b_c-1"),
        ("..", "alexnet"),
        ("x" * 101, "x" * 100),
    ],
)
def test_a_nets_name_becomes_a_safe_folder_name(onnx, tmp_path, net, name):
    model = replace(onnx, manifest=structs.replace(MANIFEST, name=net))
    assert write_repository(tmp_path / "models", model) == tmp_path / "models" / name / "1"


def test_an_engine_that_does_not_accept_a_single_image_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--batch 2,8,64: .* expected 1,8,64"):
        served(tmp_path / "net.engine", tensorrt="11.4.0", batch=Batch(min=2, opt=8, max=64))


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(onnx, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UsageError, match=r"can't be written \(") as refused:
        write_repository(tmp_path / "models", onnx)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("views", ["ten", "none"])
@pytest.mark.parametrize("batch", [Batch(), Batch(min=4, opt=4, max=4)])
def test_the_readmes_example_sends_what_the_config_expects(tmp_path, monkeypatch, views, batch):
    """Run the example against a fake client that records the request."""
    import sys
    from types import ModuleType

    from PIL import Image

    model = served(tmp_path / "net.onnx", views=views, batch=batch)
    version = write_repository(tmp_path / "models", model)
    text = (version.parent / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    sent = {}

    class InferInput:
        def __init__(self, name: str, shape: list[int], kind: str) -> None:
            sent.update(name=name, shape=shape, kind=kind)

        def set_data_from_numpy(self, values) -> None:
            sent["dtype"] = str(values.dtype)
            assert list(values.shape) == sent["shape"]

    class InferenceServerClient:
        def __init__(self, address: str) -> None:
            pass

        def infer(self, name: str, inputs: list) -> InferenceServerClient:
            sent["model"] = name
            return self

        def as_numpy(self, name: str):
            import numpy as np

            assert name == "probabilities"
            return np.full((sent["shape"][0], CLASSES), 1 / CLASSES, np.float32)

    package, client = ModuleType("tritonclient"), ModuleType("tritonclient.http")
    client.InferInput, client.InferenceServerClient = InferInput, InferenceServerClient
    package.http = client
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)
    monkeypatch.chdir(version.parent)
    random_artifact().save(Path("net.safetensors"))
    Image.new("RGB", (90, 80), "red").save("photo.jpg")
    if views == "none":
        pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    exec(compile(program, "README.md", "exec"), {})
    dims = [SIZE, SIZE, 3] if views == "ten" else [3, PATCH, PATCH]
    count = 4 if batch.fixed else 1 if views == "ten" else 10
    kind = ("UINT8", "uint8") if views == "ten" else ("FP32", "float32")
    assert sent == {
        "name": "images" if views == "ten" else "patches",
        "shape": [count, *dims],
        "kind": kind[0],
        "dtype": kind[1],
        "model": "random-alexnet-64",
    }


def test_an_engines_readme_names_the_tensorrt_version_that_runs_it(tmp_path):
    text = readme(served(tmp_path / "net.engine", tensorrt="11.4.0", lrn="plugin"))
    assert "TensorRT 11.4.0" in text
    assert "--gpus all" in text
    assert "The LRN plugin's code is in the engine" in text
    assert "plugin" not in readme(served(tmp_path / "net.engine", tensorrt="11.4.0"))


def test_class_names_in_any_script_are_one_per_line(tmp_path):
    classes = tuple(ClassName(wnid=c.wnid, name=f'"{i}" \\ 猫, it\'s') for i, c in enumerate(MANIFEST.classes))
    model = served(tmp_path / "net.onnx", manifest=structs.replace(MANIFEST, classes=classes))
    version = write_repository(tmp_path / "models", model)
    lines = (version.parent / "labels.txt").read_bytes().decode("utf-8").split("\n")
    assert lines == [*(c.name for c in classes), ""]
