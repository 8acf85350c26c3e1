"""Import files of every kind as model files."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer import load
from alexnet_infer.architecture import MaxPool
from alexnet_infer.artifact import load_artifact
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.graph import file as reading
from alexnet_infer.importing import convert as module
from alexnet_infer.importing.conventions import OF_PRESETS
from alexnet_infer.importing.convert import ImportRequest, import_net
from alexnet_infer.manifest import ClassName
from alexnet_infer.presets import PRESETS, variant
from tests.importing.caffe_files import caffemodel
from tests.importing.zoo import patches, quantized_zoo, run, zoo_graph
from tests.nets import random_artifact

SMALL = {"kernels": (8, 16, 12, 12, 16), "hidden": 24}
CLASSES = tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in (5, 3, 9, 0, 1, 2, 4, 8, 7, 6))
"""Ten classes that are not in order of their ids."""


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Shrink the presets to keep the tests fast."""
    small = {name: (replace(variant(name), **SMALL), "") for name in ("caffe", "caffenet", "owt", "alexnet-onecol")}
    # The graph in the onnx package has the full numbers of kernels.
    small["zoo"] = (replace(variant("caffe"), name="zoo", hidden=32), "")
    for name, entry in small.items():
        monkeypatch.setitem(PRESETS, name, entry)
    monkeypatch.setitem(OF_PRESETS, "zoo", "caffe")


@pytest.fixture
def caffe(tmp_path) -> Path:
    net = random_artifact(replace(variant("caffe"), classes=10))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(net.manifest.architecture, net.tensors))
    return path


@pytest.fixture
def zoo(tmp_path) -> Path:
    path = tmp_path / "zoo.onnx"
    path.write_bytes(zoo_graph().SerializeToString())
    return path


def request(source: Path, **fields) -> ImportRequest:
    defaults = {"out": source.with_name("out.safetensors"), "name": "imported", "preset": "caffe", "classes": CLASSES}
    return ImportRequest(source=source, **{**defaults, **fields})


def refused(wanted: ImportRequest, kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        import_net(wanted)
    assert str(caught.value).isprintable()
    for part in parts:
        assert part in str(caught.value)
    assert not wanted.out.exists()


def test_the_written_file_can_classify(caffe):
    net = load(import_net(request(caffe)), device="cpu")
    manifest = net.manifest
    assert manifest.name == "imported"
    assert manifest.preprocessing.fit == "stretch"
    assert manifest.preprocessing.channel_order == "RGB"
    assert manifest.provenance.seed is None
    assert manifest.provenance.recipe["file"] == "net.caffemodel"
    probabilities = net.probabilities([np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)])
    assert probabilities.shape == (1, 10)


def test_weights_are_kept_exactly_except_for_the_order_of_channels_and_classes(caffe):
    original = random_artifact(replace(variant("caffe"), classes=10)).tensors
    tensors = load_artifact(import_net(request(caffe))).tensors
    for name in tensors:
        if not name.startswith(("conv1.", "fc8.")):
            assert np.array_equal(tensors[name], original[name])
    assert np.array_equal(tensors["conv1.weight"], original["conv1.weight"][:, ::-1])


def test_outputs_are_sorted_by_wordnet_id(caffe):
    original = random_artifact(replace(variant("caffe"), classes=10)).tensors
    artifact = load_artifact(import_net(request(caffe)))
    assert [c.wnid for c in artifact.manifest.classes] == [f"n{i:08}" for i in range(10)]
    for before, c in enumerate(CLASSES):
        after = artifact.manifest.classes.index(c)
        assert np.array_equal(artifact.tensors["fc8.weight"][after], original["fc8.weight"][before])
        assert artifact.tensors["fc8.bias"][after] == original["fc8.bias"][before]


def test_the_default_classes_are_ilsvrcs_thousand(tmp_path):
    net = random_artifact(variant("caffe"))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(net.manifest.architecture, net.tensors))
    classes = load_artifact(import_net(request(path, classes=None))).manifest.classes
    assert len(classes) == 1000
    assert classes[281].short == "tabby"


@pytest.mark.parametrize(("patch", "ceil"), [(None, True), (224, True), (227, False)])
def test_the_zoos_graph_becomes_a_net_on_224_or_on_227_pixels_with_the_same_weights(zoo, patch, ceil):
    artifact = load_artifact(import_net(request(zoo, preset="zoo", patch=patch)))
    assert artifact.manifest.architecture.patch == artifact.manifest.preprocessing.patch == (patch or 224)
    assert [o.ceil for o in artifact.manifest.architecture.operations if isinstance(o, MaxPool)][-1] == ceil
    assert artifact.tensors["fc6.weight"].shape == (32, 9216)


@pytest.mark.parametrize(("patch", "size"), [(None, 224), (224, 224), (227, 256)])
def test_the_default_convention_is_the_published_one_for_the_patch(zoo, patch, size):
    """It is the Zoo's for the Zoo's patches, and Caffe's for Caffe's patches."""
    preprocessing = load_artifact(import_net(request(zoo, preset="zoo", patch=patch))).manifest.preprocessing
    assert (preprocessing.size, preprocessing.fit) == (size, "stretch")


def test_a_patch_that_does_not_fit_is_refused_with_the_sizes_that_fit(zoo, caffe):
    refused(request(zoo, preset="zoo", patch=200), UsageError, "--patch 200", "fits patches of 224 or 227")
    refused(request(caffe, patch=224), UsageError, "--patch 224", "fits patches of 227")
    refused(request(caffe, convention="caffe-zoo"), UsageError, "images of 224 pixels", "choose another --preproc")


def test_the_imported_net_gives_the_zoos_results_for_bgr(zoo):
    net = load(
        import_net(request(zoo, preset="zoo", classes=tuple(sorted(CLASSES, key=lambda c: c.wnid)))), device="cpu"
    )
    rgb = patches(2)
    expected = run(zoo_graph(), rgb[:, ::-1])  # the same images in the Zoo's channel order
    np.testing.assert_allclose(net.backend.infer(rgb), expected, rtol=0, atol=1e-5)


def test_a_pytorch_file_is_imported(tmp_path):
    torch = pytest.importorskip("torch", minversion="2.13")
    net = random_artifact(replace(variant("owt"), classes=10))
    path = tmp_path / "net.pth"
    torch.save({name: torch.from_numpy(t) for name, t in net.tensors.items()}, path)
    artifact = load_artifact(import_net(request(path, preset="owt")))
    assert artifact.manifest.preprocessing.value_range == "0-1"
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    np.testing.assert_allclose(artifact.tensors["conv1.weight"] * std, net.tensors["conv1.weight"], rtol=1e-6)


def test_a_preset_without_a_published_net_needs_preprocessing(tmp_path):
    net = random_artifact(replace(variant("alexnet-onecol"), classes=10))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(net.manifest.architecture, net.tensors))
    refused(
        request(path, preset="alexnet-onecol"),
        UsageError,
        "no published net has the preset alexnet-onecol; choose --preprocessing caffe, caffe-zoo, torchvision or a ",
    )
    assert import_net(request(path, preset="alexnet-onecol", convention="caffe")).exists()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    net = random_artifact(replace(variant("caffe"), classes=10))
    for bad in (np.nan, np.inf):
        tensors = {**net.tensors, "conv3.bias": net.tensors["conv3.bias"] * np.float32(bad)}
        path = tmp_path / "net.caffemodel"
        path.write_bytes(caffemodel(net.manifest.architecture, tensors))
        refused(request(path), ModelFileError, str(path), "conv3.bias has weights that are NaN, infinite")


def test_a_different_number_of_classes_is_refused(caffe, zoo):
    refused(request(caffe, classes=CLASSES[:9]), ModelFileError, "units=10: expected dense units=9", "--classes")
    refused(request(zoo, preset="zoo", classes=CLASSES[:9]), ModelFileError, "units=10", "units=9")
    refused(request(caffe, classes=None), ModelFileError, "units=10: expected dense units=1000")


def test_repeated_classes_are_refused(caffe):
    refused(request(caffe, classes=(*CLASSES[:9], CLASSES[0])), ModelFileError, "distinct WordNet ids")


@pytest.mark.parametrize("suffix", [".onnx", ".caffemodel", ".pth", ".pt", ".safetensors"])
def test_invalid_files_of_every_kind_are_refused_in_one_line_with_their_path(tmp_path, suffix):
    if suffix in (".pth", ".pt"):
        pytest.importorskip("torch", minversion="2.13")
    path = tmp_path / f"bad{suffix}"
    refused(request(path, preset="owt"), ModelFileError, str(path), "No such file")
    for content in (b"", b"<html>"):
        path.write_bytes(content)
        refused(request(path, preset="owt"), ModelFileError, str(path))
    path.unlink()
    path.mkdir()
    refused(request(path, preset="owt"), ModelFileError, str(path), "not a regular file")


def test_invalid_requests_are_refused(tmp_path):
    with pytest.raises(UsageError, match="Name the preset with --as"):
        request(tmp_path / "net.pth", preset=None)
    with pytest.raises(UsageError, match="no preset is called 'alex'"):
        request(tmp_path / "net.pth", preset="alex")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.safetensors"):
        request(tmp_path / "net.pth", out=tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.onnx"):
        request(tmp_path / "net.onnx", format="onnx-quantized")


def test_an_existing_file_is_kept_when_the_import_fails(caffe):
    out = caffe.with_name("out.safetensors")
    import_net(request(caffe))
    before = out.read_bytes()
    caffe.write_bytes(caffe.read_bytes()[:-1000])
    with pytest.raises(ModelFileError):
        import_net(request(caffe))
    assert out.read_bytes() == before


# Quantized graphs.


@pytest.fixture
def quantized(tmp_path) -> Path:
    pytest.importorskip("onnxruntime.quantization")
    return quantized_zoo(tmp_path, zoo_graph())


def quantized_request(source: Path, **fields) -> ImportRequest:
    return request(
        source,
        **{
            "format": "onnx-quantized",
            "out": source.with_name("out.onnx"),
            "preset": "zoo",
            "classes": tuple(sorted(CLASSES, key=lambda c: c.wnid)),
            **fields,
        },
    )


def test_a_quantized_graph_is_kept_and_can_classify(quantized):
    before = run(quantized.read_bytes(), patches(2))
    out = import_net(quantized_request(quantized))
    assert np.array_equal(run(out.read_bytes(), patches(2)), before)
    net = load(out, device="cpu", backend="onnxruntime")
    assert (net.manifest.preprocessing.size, net.manifest.preprocessing.fit) == (224, "stretch")
    assert net.manifest.preprocessing.channel_order == "BGR"
    assert net.probabilities([np.zeros((224, 224, 3), np.uint8)]).shape == (1, 10)


def test_requests_that_would_change_a_quantized_graph_are_refused(quantized):
    refused(quantized_request(quantized, classes=CLASSES), UsageError, "outputs in order of WordNet ids")
    refused(quantized_request(quantized, convention="torchvision"), UsageError, "expected one without std")
    refused(quantized_request(quantized, patch=227), UsageError, "--patch 227", "takes only patches of 224")
    refused(quantized_request(quantized, preset="caffenet"), ModelFileError, "expected maxpool", "pool1 of caffenet")
    refused(quantized_request(quantized, preset="owt", convention="caffe-zoo"), ModelFileError, "int8.onnx: ")
    refused(request(quantized, preset="zoo"), ModelFileError, "is quantized", ".onnx")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match="format='pickle': expected onnx, "):
        request(tmp_path / "net.onnx", format="pickle")


NAMES = ["net", "net.bin", "net.ckpt", "checkpoint.pth.tar", "net.onnx", "net.pth", "net.caffemodel", "net.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_caffemodel_is_told_by_its_content_whatever_its_name(caffe, name):
    source = caffe.rename(caffe.with_name(name))
    for v1 in (False, True):
        net = random_artifact(replace(variant("caffe"), classes=10))
        source.write_bytes(caffemodel(net.manifest.architecture, net.tensors, v1=v1))
        assert request(source).resolved_format == "caffemodel"
        assert load_artifact(import_net(request(source))).manifest.architecture.classes == 10


@pytest.mark.parametrize("name", NAMES)
def test_an_onnx_graph_is_told_by_its_content_whatever_its_name(zoo, name):
    source = zoo.rename(zoo.with_name(name))
    assert request(source, preset="zoo").resolved_format == "onnx"
    assert load_artifact(import_net(request(source, preset="zoo"))).manifest.architecture.patch == 224


@pytest.mark.parametrize("new", [True, False])
def test_a_pytorch_file_is_told_by_its_content_whatever_its_name(tmp_path, new):
    torch = pytest.importorskip("torch", minversion="2.13")
    net = random_artifact(replace(variant("owt"), classes=10))
    content = {"epoch": 3, "state_dict": {key: torch.from_numpy(t) for key, t in net.tensors.items()}}
    source = tmp_path / "saved"
    torch.save(content, source, _use_new_zipfile_serialization=new)
    for name in NAMES:
        source = source.rename(tmp_path / name)
        wanted = request(source, preset="owt")
        assert wanted.resolved_format == "state-dict"
    tensors = load_artifact(import_net(wanted)).tensors
    assert np.array_equal(tensors["fc7.weight"], net.tensors["fc7.weight"])


def test_a_quantized_graph_is_told_by_its_content_and_the_target(quantized):
    source = quantized.rename(quantized.with_name("net.bin"))
    wanted = quantized_request(source, format=None)
    assert wanted.resolved_format == "onnx-quantized"
    assert import_net(wanted).exists()
    refused(request(source, preset="zoo"), ModelFileError, "net.bin: is quantized")


def test_a_format_that_is_named_overrides_the_content(caffe):
    for name, reason in (("onnx", "expected an ONNX file"), ("checkpoint", "damaged, or not a checkpoint")):
        assert request(caffe, format=name).resolved_format == name
        refused(request(caffe, format=name), ModelFileError, reason)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NET.ONNX", "onnx"), ("net.pt", "state-dict"), ("net.pth.tar", "state-dict"), ("last.safetensors", "checkpoint")],
)
def test_if_the_content_says_nothing_the_format_follows_from_the_suffix(tmp_path, name, expected):
    assert request(tmp_path / name).resolved_format == expected  # a missing file
    (tmp_path / name).write_bytes(b"\xff" * 100)
    assert request(tmp_path / name).resolved_format == expected


@pytest.mark.parametrize("name", ["net", "net.bin", "net.ckpt"])
def test_a_file_of_no_known_format_is_refused_with_the_formats(tmp_path, name):
    source = tmp_path / name
    refused(request(source, preset="owt"), ModelFileError, f"{source}: No such file")
    source.write_bytes(b"\xff" * 100)
    refused(request(source), ModelFileError, f"{source}: its format is not recognised", "--format names the format")
    source.unlink()
    source.mkdir()
    refused(request(source), ModelFileError, f"{source}: is not a regular file")


@pytest.mark.parametrize(
    ("content", "what", "help_"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
            "is a Git LFS pointer",
            "`git lfs pull` fetches",
        ),
        (b"<!DOCTYPE html><html>", "is a web page", "download the file itself"),
        (b'name: "AlexNet"\nlayer {\n', "is the description of a Caffe net", "name its .caffemodel file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is a Keras file, which can't be imported", "expected an ONNX file"),
    ],
)
@pytest.mark.parametrize("name", ["net", "net.pth", "net.onnx"])
def test_another_kind_of_file_is_refused_with_what_it_is_and_what_helps(tmp_path, name, content, what, help_):
    (tmp_path / name).write_bytes(content)
    refused(request(tmp_path / name), ModelFileError, name, what, help_)


def test_a_pytorch_file_without_its_end_is_refused_as_such(tmp_path):
    torch = pytest.importorskip("torch", minversion="2.13")
    path = tmp_path / "net"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:3000])
    refused(request(path, preset="owt"), ModelFileError, "its end is missing, as after a broken download")


@pytest.mark.parametrize("moment", ["read", "hashed"])
@pytest.mark.parametrize("kind", ["onnx", "onnx-quantized", "caffemodel"])
def test_a_source_that_cannot_be_read_is_named_and_not_reported_as_the_target(
    kind, moment, zoo, caffe, quantized, monkeypatch
):
    wanted = {
        "onnx": request(zoo, preset="zoo"),
        "onnx-quantized": quantized_request(quantized),
        "caffemodel": request(caffe),
    }[kind]

    def broken(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(*((reading, "read_limited") if moment == "read" else (module, "sha256")), broken)
        refused(wanted, ModelFileError, f"{wanted.source}: Input/output error")
    assert import_net(wanted).exists()
