"""Exported files on disk: written completely or not at all, large weights beside them, read as untrusted input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from alexnet_infer.errors import ModelFileError
from alexnet_infer.graph.file import ALIGNMENT, read_model, save_model
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from tests.nets import large_patches, random_artifact

INFO = ExportInfo(members=(Member(name="a", sha256="0" * 64),))


def saved(folder: Path, max_embedded: int = 2**31, info: ExportInfo = INFO) -> Path:
    outside: dict[str, np.ndarray] = {}
    path = folder / "net.onnx"
    with patch("alexnet_infer.graph.file.MAX_WEIGHTS", max_embedded):
        save_model(path, build_model([random_artifact()], info, outside), outside)
    return path


def test_a_file_that_holds_its_weights_is_the_model_that_was_built(tmp_path):
    path = saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert onnx.load(path) == build_model([random_artifact()], INFO)
    file = read_model(path)
    assert (file.info, file.data) == (INFO, ())
    assert file.manifest.to_json() == replace(random_artifact().manifest, name="a").to_json()


def test_weights_too_large_for_the_message_are_stored_beside_it_unchanged(tmp_path):
    path = saved(tmp_path, max_embedded=10_000)
    file = read_model(path)
    assert [data.parent for data in file.data] == [tmp_path]
    assert path.stat().st_size < 50_000 < file.data[0].stat().st_size
    inside, outside = build_model([random_artifact()], INFO), onnx.load(path)
    for embedded, external in zip(inside.graph.initializer, outside.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(embedded), onnx.numpy_helper.to_array(external))
    offsets = [
        int(entry.value)
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(offsets) > 5
    assert all(offset % ALIGNMENT == 0 for offset in offsets)


def test_onnx_runtime_gives_the_same_result_for_embedded_and_external_weights(tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    results = []
    for limit in (2**31, 10_000):
        session = ort.InferenceSession(str(saved(tmp_path, limit)), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"patches": large_patches()})[0])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("max_embedded", [2**31, 10_000])
def test_a_write_that_fails_leaves_no_partial_model(tmp_path, max_embedded):
    (tmp_path / "net.onnx" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        saved(tmp_path, max_embedded)
    assert (tmp_path / "net.onnx" / "in the way").is_dir()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def edit(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())

    return apply


def without_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def another_patch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


def another_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def fewer_classes(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def unknown_precision(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"fp32"', '"fp8"')


def another_format(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "alexnet_infer_export":
            entry.value = entry.value.replace('"format": 1', '"format": 2')


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "no alexnet-infer manifest"),
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "damaged, or not"),
    "one byte short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged, or not"),
    "a web page": (lambda path: path.write_text("<html>404</html>"), "damaged, or not"),
    "no manifest": (edit(without_metadata), "no alexnet-infer manifest"),
    "another patch": (edit(another_patch), r"its input has type 1 and shape \[0, 3, 64, 57\]: expected FLOAT"),
    "another type": (edit(another_type), "its input has type 11"),
    "fewer classes": (edit(fewer_classes), "its output probabilities has"),
    "two inputs": (edit(second_input), "has 2 inputs and the outputs probabilities: expected one input"),
    "unknown precision": (edit(unknown_precision), "precision='fp8': expected fp32 or fp16 or int8"),
    "a later format": (edit(another_format), "format 2: this version reads format 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_or_contradictory_file_is_a_one_line_error_with_exit_code_4(tmp_path, name):
    path = saved(tmp_path)
    spoil, message = BROKEN[name]
    spoil(path)
    with pytest.raises(ModelFileError, match=message) as raised:
        read_model(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 4


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelFileError, match="No such file"):
        read_model(tmp_path / "gone.onnx")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match="expected an ONNX file of less than 2 GB"):
        read_model(tmp_path / "large.onnx")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_model(tmp_path)


def located(key: str, value: str, *, key_to: str = "") -> Callable[[Path], object]:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.key, entry.value = key_to or key, value

    return edit(change)


def read_again(model: onnx.ModelProto) -> None:
    """A file of a few kilobytes that takes as much memory as its author likes."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for i in range(1000):
        model.graph.initializer.append(tensor)
        model.graph.initializer[-1].name = f"copy{i}"


def stated_twice(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.external_data:
            tensor.external_data.append(tensor.external_data[0])


def replaced(how: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    """Move the weights' file away, and call `how(moved, place)` to replace it."""

    def apply(path: Path) -> None:
        (data,) = read_model(path).data
        moved = path.parent / "elsewhere"
        data.rename(moved)
        how(moved, data)

    return apply


def hidden_in_a_node(model: onnx.ModelProto) -> None:
    """External data in a constant's attribute, which a check of the initializers alone would miss."""
    tensor = TensorProto(name="t", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["secret"], value=tensor))


def hidden_in_a_sparse_constant(model: onnx.ModelProto) -> None:
    """The same in the values of a sparse tensor."""
    values = TensorProto(name="t", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "16")):
        values.external_data.add(key=key, value=value)
    places = onnx.numpy_helper.from_array(np.arange(4), "places")
    sparse = onnx.SparseTensorProto(values=values, indices=places, dims=[8])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["secret"], sparse_value=sparse))


def hidden_in_a_function(model: onnx.ModelProto) -> None:
    """The same in the default of a function's attribute."""
    tensor = TensorProto(name="t", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    function = helper.make_function("d", "f", [], [], [], [], attribute_protos=[helper.make_attribute("t", tensor)])
    model.functions.append(function)


OUTSIDE = {
    "absolute": (located("location", "/etc/passwd"), "expected a file beside the model"),
    "parent": (located("location", "../secret"), "expected a file beside the model"),
    "deeper": (located("location", "a/b"), "expected a file beside the model"),
    "Windows": (located("location", "..\\secret"), "expected a file beside the model"),
    "empty": (located("location", ""), "expected a file beside the model"),
    "missing": (located("location", "gone"), "its weights are missing: expected gone beside it"),
    "in a node": (edit(hidden_in_a_node), "expected a file beside the model"),
    "in a sparse constant": (edit(hidden_in_a_sparse_constant), "expected a file beside the model"),
    "in a function": (edit(hidden_in_a_function), "expected a file beside the model"),
    "symbolic link": (replaced(lambda moved, place: place.symlink_to(moved)), "is a link"),
    "hard link": (replaced(lambda moved, place: os.link(moved, place)), "is a link"),
    "truncated": (replaced(lambda moved, place: place.write_bytes(moved.read_bytes()[:-5000])), "is outside of it"),
    "beyond the end": (located("offset", "999999999"), "is outside of it"),
    "before the start": (located("offset", "-4096"), "expected an offset and a length"),
    "no number": (located("length", "many"), "expected an offset and a length"),
    "digits that are not ASCII": (located("length", "\u0661\u0662"), "expected an offset and a length"),
    "a number with an underscore": (located("offset", "1_0"), "expected an offset and a length"),
    "another length": (located("length", "4"), "has 4 bytes in net-.*expected"),
    "all in one place": (edit(read_again), "several weights are in the same place"),
    "twice": (edit(stated_twice), "expected location, offset and length"),
    "an unknown key": (located("location", "a", key_to="basepath"), "expected location, offset and length"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_weights_outside_of_a_regular_file_beside_the_model_are_refused(tmp_path, name):
    path = saved(tmp_path, max_embedded=10_000)
    spoil, message = OUTSIDE[name]
    spoil(path)
    with pytest.raises(ModelFileError, match=message):
        read_model(path)


def test_a_fixed_batch_is_read_back(tmp_path):
    info = ExportInfo(members=INFO.members, views="ten", batch=Batch(min=4, opt=4, max=4))
    assert read_model(saved(tmp_path, info=info)).info == info
