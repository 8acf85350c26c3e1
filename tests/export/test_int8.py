"""The record of the calibration in an int8 file: which images, how, and which layers stay in float."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export import int8
from alexnet_infer.export.calibration import CALIBRATION_BATCH, Calibration
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.export.quantize import Calibrated
from alexnet_infer.graph.file import read_model, save_model
from alexnet_infer.graph.info import EXPORT_KEY, Batch, CalibrationRecord, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from tests.evaluation.toys import save_net, write_set
from tests.nets import random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

PHOTOS = 11


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(PHOTOS):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def exported(net: Path, out: Path, **calibration: object):
    request = {"models": (net,), "precision": "int8", "views": "center", "out": out}
    return export(ExportRequest(**request, calibration=Calibration(method="minmax", **calibration)))


def digests(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in folder.rglob("*.*g")}


def test_the_file_names_the_images_that_it_was_calibrated_on(net, photos, tmp_path):
    (photos / "02.png").write_bytes(b"not an image")
    (photos / "03.png").write_bytes((photos / "04.png").read_bytes())
    result = exported(net, tmp_path / "out", source=photos)
    record = read_model(result.onnx).info.calibration
    assert record == result.info.calibration
    readable = digests(photos) - {hashlib.sha256(b"not an image").hexdigest()[:16]}
    assert record.images == tuple(sorted(readable))
    assert len(record.images) == PHOTOS - 2
    assert (record.method, record.keep_float) == ("minmax", ())
    assert [image.image for image in result.unreadable] == [str(photos / "02.png")]
    metadata = [entry.key for entry in onnx.load(result.onnx).metadata_props]
    assert sorted(metadata) == ["alexnet_infer", EXPORT_KEY]


def test_only_the_images_that_were_used_are_named(net, photos, tmp_path):
    result = exported(net, tmp_path / "out", source=photos, images=3)
    used = [photos / f"{i:02}.png" for i in (0, 5, 10)]
    assert set(result.info.calibration.images) == {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in used}


def test_the_images_of_a_labelled_set_are_named_by_their_bytes(net, tmp_path):
    images = write_set(tmp_path / "set", 6)
    assert set(exported(net, tmp_path / "out", source=images).info.calibration.images) == digests(images)


def test_layers_in_float_are_in_the_order_of_the_net(net, photos, tmp_path):
    result = exported(net, tmp_path / "out", source=photos, keep_float=("fc8", "conv2"))
    assert result.info.calibration.keep_float == ("conv2", "fc8")
    stored = {tensor.name for tensor in onnx.load(result.onnx).graph.initializer}
    assert {"conv2.weight", "fc8.weight", "conv1.weight_quantized"} <= stored
    readme = (result.folder / "README.md").read_text()
    assert f"measured on {PHOTOS} different images (method: minmax). In float are the layers `conv2`, `fc8`. " in readme
    assert "verify the file on images that it was not calibrated on" in readme


def test_other_precisions_have_no_record(net, tmp_path):
    result = export(ExportRequest(models=(net,), out=tmp_path / "out"))
    assert read_model(result.onnx).info.calibration is None
    assert "calibrated" not in (result.folder / "README.md").read_text()


@pytest.mark.parametrize(("views", "per_image"), [("none", 10), ("ten", 1)])
@pytest.mark.parametrize("batch", ["3"])
def test_few_images_are_in_memory_at_once_whatever_the_files_batch(
    net, photos, tmp_path, monkeypatch, views, per_image, batch
):
    sizes: list[int] = []

    class Counting(Calibrated):
        def __init__(self, model, batches, options) -> None:
            super().__init__(model, (sizes.append(len(inputs)) or inputs for inputs in batches), options)

    monkeypatch.setattr(int8, "Calibrated", Counting)
    request = {"models": (net,), "precision": "int8", "views": views, "batch": Batch.parse(batch)}
    export(ExportRequest(**request, calibration=Calibration(source=photos), out=tmp_path / "out"))
    assert sizes == [CALIBRATION_BATCH * per_image, (PHOTOS - CALIBRATION_BATCH) * per_image]


def test_an_unknown_layer_is_refused_before_images_are_read(net, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_infer.export.calibration.read_square", None)
    with pytest.raises(UsageError, match="--keep-float 'fc9': no such layer; expected some of conv1, conv2"):
        exported(net, tmp_path / "out", source=photos, keep_float=("fc9",))


def test_without_a_readable_image_nothing_is_written(net, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableInputError, match="no image can be read"):
        exported(net, tmp_path / "out", source=tmp_path / "photos")
    assert not (tmp_path / "out").exists()


def test_a_file_can_name_as_many_images_as_can_be_used(tmp_path):
    images = tuple(f"{i:016x}" for i in range(100_000))
    info = ExportInfo(
        members=(Member(name="net", sha256="0" * 64),),
        precision="int8",
        int8_for="cpu",
        calibration=CalibrationRecord(method="entropy", images=images),
    )
    weights: dict[str, np.ndarray] = {}
    save_model(tmp_path / "net.onnx", build_model([random_artifact()], info, weights), weights)
    assert read_model(tmp_path / "net.onnx").info.calibration.images == images


def test_the_labels_of_a_set_are_those_of_the_net_or_none():
    manifest = random_artifact().manifest
    swapped = manifest.classes[::-1]
    assert int8._to_net(swapped, manifest) == tuple(range(len(swapped)))[::-1]
    assert int8._to_net((), manifest) is None
    others = tuple(type(c)(wnid=f"n9{i:07}", name="x") for i, c in enumerate(swapped))
    assert int8._to_net(others, manifest) is None
