"""Files of many programs, as their writers or their published formats define them, are told by their content."""

from __future__ import annotations

import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_infer import recognize as module
from alexnet_infer.artifact import embedded_model
from alexnet_infer.errors import SpecError
from alexnet_infer.recognize import (
    ARCHIVE,
    CAFFEMODEL,
    COREML,
    ENGINE,
    IMAGE,
    KERAS,
    NUMPY,
    OLD_TORCH,
    ONNX,
    PAGE,
    POINTER,
    PROTOTXT,
    SAFETENSORS,
    TENSORFLOW,
    TFLITE,
    TORCH,
    by_content,
    by_suffix,
    recognize,
)
from tests.importing.caffe_files import caffemodel, number, part, prototxt
from tests.nets import random_artifact

EXAMPLES = Path(__file__).parents[1] / "examples"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


def tarred(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def numpy_file(name: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3)) if name == "npy" else np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


def of_net(write) -> bytes:
    net = random_artifact()
    return write(net.manifest.architecture, net.tensors)


CONTENTS = {
    "safetensors": (SAFETENSORS, lambda: embedded_model().read_bytes()),
    "caffemodel": (CAFFEMODEL, lambda: of_net(caffemodel)),
    "caffemodel of 2014": (CAFFEMODEL, lambda: of_net(lambda a, t: caffemodel(a, t, v1=True))),
    "caffemodel without a name": (CAFFEMODEL, lambda: part(100, part(1, b"conv1"))),
    "prototxt": (PROTOTXT, lambda: prototxt(random_artifact().manifest.architecture).encode()),
    "prototxt with a comment": (PROTOTXT, lambda: b'# AlexNet\n\nname: "AlexNet"\n'),
    # The formats' published layouts: TensorFlow's GraphDef has nodes, a version and a library; Core ML's Model has its
    # specification's version, a description and, in field 403, a neural network.
    "GraphDef": (TENSORFLOW, lambda: part(1, b"\x0a\x01a") * 3 + part(4, number(1, 21))),
    "Core ML": (COREML, lambda: number(1, 3) + part(2, b"") + part(403, b"")),
    "Keras 2": (KERAS, lambda: b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "Keras 3": (KERAS, lambda: zipped("metadata.json", "config.json", "model.weights.h5")),
    "TFLite": (TFLITE, lambda: b"\x1c\0\0\0TFL3" + bytes(100)),
    "TensorRT": (ENGINE, lambda: b"ftrt" + bytes(100)),
    "TensorRT-RTX": (ENGINE, lambda: b"vtrt" + bytes(100)),
    "npy": (NUMPY, lambda: numpy_file("npy")),
    "npz": (NUMPY, lambda: numpy_file("npz")),
    "torch": (TORCH, lambda: zipped("net/data.pkl", "net/data/0", "net/version")),
    "torch, cut": (TORCH, lambda: zipped("net/data.pkl", "net/data/0", "net/version")[:150]),
    "TorchScript": (TORCH, lambda: zipped("net/code/__torch__.py", "net/constants.pkl", "net/data.pkl")),
    "old torch": (OLD_TORCH, lambda: tarred("sys_info", "pickle", "storages", "tensors")),
    "LFS": (POINTER, lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"),
    "page": (PAGE, lambda: b"\n<!doctype HTML>\n<html>"),
    "JPEG": (IMAGE, lambda: (EXAMPLES / "cat.jpg").read_bytes()),
    "tar": (ARCHIVE, lambda: tarred("net/net.onnx")),
    "zip": (ARCHIVE, lambda: zipped("net/net.onnx")),
    "gzip": (ARCHIVE, lambda: b"\x1f\x8b\x08" + bytes(100)),
}


@pytest.mark.parametrize("name", ["net", "net.bin", "net.onnx", "net.safetensors"])
@pytest.mark.parametrize("example", CONTENTS)
def test_a_file_is_told_by_its_content_whatever_its_name(tmp_path, example, name):
    kind, content = CONTENTS[example]
    (tmp_path / name).write_bytes(content())
    assert by_content(tmp_path / name) is kind
    assert recognize(tmp_path / name) is kind


def test_each_kind_has_an_example():
    kinds = {kind for kind in vars(module).values() if isinstance(kind, module.Kind)}
    assert {kind for kind, _ in CONTENTS.values()} | {ONNX} == kinds


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes_is_told_by_its_content(tmp_path, new):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "x", _use_new_zipfile_serialization=new)
    assert by_content(tmp_path / "x") is TORCH


def test_every_model_in_the_onnx_package_is_told_by_its_content(tmp_path):
    models = sorted(Path(onnx.__file__).parent.rglob("*.onnx"))
    assert len(models) > 100
    assert {path.name for path in models if by_content(path) is not ONNX} == set()


def test_exported_files_are_told_by_their_content(tmp_path):
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="x" * 200)
    model.metadata_props.add(key="a", value="b")
    for content in (model.SerializeToString(), model.SerializeToString()[:-1]):  # the second is cut short
        (tmp_path / "x").write_bytes(content)
        assert by_content(tmp_path / "x") is ONNX


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\xff" * 100, bytes(100), b"hello, world", b"PK", b"{}", b"<?xml version='1.0'?><net/>", b"\x08\x03"],
)
def test_other_content_is_not_taken_for_a_model(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert by_content(tmp_path / "x") is None


def test_random_bytes_raise_nothing_and_are_rarely_taken_for_a_model(tmp_path):
    rng = random.Random(0)
    path, found = tmp_path / "x", 0
    for _ in range(2000):
        path.write_bytes(rng.randbytes(rng.choice((1, 9, 100, 5000))))
        found += by_content(path) is not None
    assert found < 20


def test_damaged_files_raise_nothing(tmp_path):
    rng = random.Random(1)
    path = tmp_path / "x"
    for _, content in CONTENTS.values():
        whole = content()[:20_000]
        for _ in range(50):
            damaged = bytearray(whole[: rng.randint(1, len(whole))])
            for _ in range(3):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path.write_bytes(damaged)
            by_content(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.ONNX", ONNX), ("a.b.pt", TORCH), ("checkpoint.pth.tar", TORCH), ("net.h5", KERAS), ("net.tar", None),
        ("net", None), ("net.bin", None), (".onnx", None),
    ],
)  # fmt: skip
def test_if_the_content_says_nothing_the_suffix_counts(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"\xff" * 100)
    assert by_suffix(tmp_path / name) is kind
    assert recognize(tmp_path / name) is kind


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(SpecError, match="is not a regular file"):
        recognize(tmp_path / "pipe.onnx")
    with pytest.raises(IsADirectoryError):
        recognize(tmp_path)
    with pytest.raises(FileNotFoundError):
        recognize(tmp_path / "gone")
