"""Caffe's files, written by the tests from the published layout, and OpenCV's results for the same files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import SpecError
from alexnet_infer.importing.caffemodel import read_caffemodel
from alexnet_infer.presets import CAFFE, PRESETS, variant
from tests.importing.caffe_files import KINDS, blob, caffemodel, layer, number, part, prototxt, real, settings
from tests.nets import large_patches, random_artifact

SMALL = {
    name: replace(variant(name), kernels=(8, 16, 12, 12, 16), hidden=24, classes=10, patch=67)
    for name in ("caffe", "caffenet")
}


@pytest.fixture(scope="module", params=SMALL)
def net(request) -> Artifact:
    return random_artifact(SMALL[request.param])


@pytest.fixture(scope="module")
def alexnet() -> Artifact:
    return random_artifact(SMALL["caffe"])


def written(path, content: bytes):
    path.write_bytes(content)
    return path


def refused(path, content: bytes, *parts: str, variant=SMALL["caffe"]) -> None:
    with pytest.raises(SpecError) as caught:
        read_caffemodel(written(path, content), variant.build())
    message = str(caught.value)
    assert "\n" not in message
    for text in parts:
        assert text in message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel"


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("v1", [False, True])
def test_weights_are_read_exactly_from_old_and_new_files(net, path, v1, double):
    architecture = net.manifest.architecture
    tensors = read_caffemodel(written(path, caffemodel(architecture, net.tensors, v1=v1, double=double)), architecture)
    assert list(tensors) == list(architecture.tensors)
    for name, tensor in net.tensors.items():
        assert tensors[name].dtype == np.float32
        assert np.array_equal(tensors[name], tensor)


@pytest.mark.parametrize("v1", [False, True])
def test_opencv_computes_the_same_probabilities_from_the_same_file(net, path, tmp_path, v1):
    cv2 = pytest.importorskip("cv2")
    architecture = net.manifest.architecture
    content = caffemodel(architecture, net.tensors, v1=v1)
    text = tmp_path / "deploy.prototxt"
    text.write_text(prototxt(architecture))
    reference = cv2.dnn.readNetFromCaffe(str(text), str(written(path, content)))
    patches = large_patches(SMALL[architecture.name], 3)
    expected = []
    for patch in patches:
        reference.setInput(patch[None])
        expected.append(reference.forward().reshape(-1))
    actual = ReferenceBackend(Artifact(net.manifest, read_caffemodel(path, architecture))).infer(patches)
    assert 0.15 < np.max(expected) < 0.99  # far from uniform, and not saturated
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_caffenets_weights_are_not_accepted_as_alexnets_or_vice_versa(path, monkeypatch):
    """All tensors have the same names and shapes in both."""
    for name, small in SMALL.items():
        monkeypatch.setitem(PRESETS, name, (small, ""))
    for preset, wrong in (("caffe", "caffenet"), ("caffenet", "caffe")):
        net = random_artifact(SMALL[preset])
        content = caffemodel(net.manifest.architecture, net.tensors)
        refused(path, content, "expected", f"import it with --as {preset}", variant=SMALL[wrong])


@pytest.mark.parametrize("classes", [9, 11])
def test_a_different_number_of_outputs_is_refused(path, classes):
    net = random_artifact(replace(SMALL["caffe"], classes=classes))
    refused(
        path,
        caffemodel(net.manifest.architecture, net.tensors),
        f"units={classes}: expected dense units=10",
        "--classes",
    )


@pytest.mark.parametrize("v1", [False, True])
def test_a_file_cut_anywhere_is_refused(alexnet, path, v1):
    content = caffemodel(alexnet.manifest.architecture, alexnet.tensors, v1=v1)
    cuts = {0, 1, 2, 8, 100, len(content) // 2, len(content) - 200, len(content) - 100}
    for cut in sorted(cuts):
        refused(path, content[:cut])


def test_a_file_cut_between_layers_is_refused_with_the_layers_present(alexnet, path):
    architecture = alexnet.manifest.architecture
    content = b""
    for step in architecture.steps:
        if step.tensors:
            if content:
                refused(path, content, "layers with weights", "expected 8 (conv1")
            blobs = [blob(alexnet.tensors[name]) for name in step.tensors]
            content += layer(step.operation.name, "Convolution", blobs)
    refused(path, content + layer("extra", "InnerProduct", [blob(np.ones((2, 2)))]), "extra", "has 9 layers")


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([blob(np.ones((8, 3, 11, 11)))], "missing tensors: conv1.bias"),
        ([blob(np.ones((8, 3, 11, 11))), blob(np.ones(8)), blob(np.ones(1))], "has 3 blobs"),
        ([blob(np.ones((8, 3, 11, 11))), blob(np.ones(9))], "conv1.bias' has shape [9]: expected [8]"),
        ([blob(np.ones(5), shape=(8, 3, 11, 11)), blob(np.ones(8))], "bytes of values"),
        ([blob(np.ones(8), shape=(2**62,)), blob(np.ones(8))], "bytes of values"),
        ([blob(np.ones(8), shape=(2**62, 2**62, 4)), blob(np.ones(8))], "bytes of values"),
        ([blob(np.ones(8), shape=(-8,)), blob(np.ones(8))], "bytes of values"),
        ([blob(np.ones(4), shape=(-2, -2)), blob(np.ones(8))], "bytes of values"),
        ([part(5, b"12345"), blob(np.ones(8))], "bytes of values"),
        ([blob(np.ones(1), shape=()), blob(np.ones(8))], "has shape []"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_with_its_name(alexnet, path, blobs, message):
    content = layer("conv1", "Convolution", blobs)
    for step in alexnet.manifest.architecture.steps[1:]:
        if step.tensors:
            content += layer(step.operation.name, "", [blob(alexnet.tensors[name]) for name in step.tensors])
    refused(path, content, message)


def changed(net: Artifact, name: str, *, kind: str | None = None, extra: bytes = b"", v1: bool = False) -> bytes:
    """The net's file with `extra` settings, which override earlier ones, or another kind for one layer."""
    content = b""
    for step in net.manifest.architecture.steps:
        o = step.operation
        selected = o.name == name
        blobs = [blob(net.tensors[tensor], legacy=v1) for tensor in step.tensors]
        own = kind if selected and kind else KINDS[type(o)]
        content += layer(o.name, own, blobs, settings=settings(o) + extra if selected else settings(o), v1=v1)
    return content + layer("prob", "Softmax", v1=v1)


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("conv1", number(6, 2), "sides [4, 2]"),  # a second stride, in the other direction
        ("conv1", number(13, 2) + number(14, 2), "sides [4, 2, 2]"),
        ("conv1", number(3, 2), "pad=2"),
        ("conv1", number(5, 2), "groups=2: expected"),
        ("conv1", number(18, 2), "dilation=[2]"),
        ("conv2", number(9, 1), "sides [2, 1]"),
        ("conv2", number(5, 1), "groups=1: expected"),
        ("norm1", real(2, 1e-3), "alpha=0.0002"),
        ("norm1", real(3, 0.5), "beta=0.5"),
        ("norm1", real(5, 2), "k=2"),
        ("norm1", number(1, 3), "size=3"),
        ("norm1", number(1, 0), "local_size=0"),
        ("norm1", number(4, 1), "norm_region=1"),
        ("pool1", number(1, 1), "pool=1"),
        ("pool1", number(2, 2), "sides [3, 2]"),
        ("pool1", number(4, 1), "pad=1"),
        ("pool1", number(12, 1), "global_pooling=True"),
        ("pool5", number(3, 1), "sides [2, 1]"),
        ("act1", real(1, 0.1), "'ReLU' in this form is not supported"),
        ("fc7", number(6, 1), "transpose=true"),
        ("fc6", number(1, 23), "units=23"),
    ],
)
def test_a_setting_that_differs_from_the_presets_is_refused_with_its_layer(alexnet, path, name, extra, message, v1):
    refused(path, changed(alexnet, name, extra=extra, v1=v1), name, message)


def test_settings_may_be_given_per_direction(alexnet, path):
    extra = number(3, 0) + number(9, 0) + number(11, 11) + number(12, 11) + number(6, 4)
    read_caffemodel(written(path, changed(alexnet, "conv1", extra=extra)), alexnet.manifest.architecture)


@pytest.mark.parametrize("kind", ["TanH", "Sigmoid", "PReLU", "BatchNorm", "Eltwise", "\xff"])
def test_a_layer_of_another_kind_is_refused(alexnet, path, kind):
    refused(path, changed(alexnet, "act3", kind=kind), "act3")


@pytest.mark.parametrize("v1", [False, True])
def test_input_and_evaluation_layers_are_ignored(alexnet, path, v1):
    """The solver writes them, and Caffe inserts Split layers automatically."""
    content = caffemodel(alexnet.manifest.architecture, alexnet.tensors, v1=v1)
    ends = [layer(kind, kind, v1=v1) for kind in ("Data", "Data", "Split", "SoftmaxWithLoss", "Accuracy")]
    tensors = read_caffemodel(written(path, b"".join([*ends[:3], content, *ends[3:]])), alexnet.manifest.architecture)
    assert np.array_equal(tensors["fc8.bias"], alexnet.tensors["fc8.bias"])
    refused(path, content + layer("again", "ReLU", v1=v1), "'again' comes after 'prob'")
    refused(path, content + layer("more", "Convolution", v1=v1), "'more' comes after 'prob'")
    for kind in ("Power", "Sigmoid"):
        refused(path, ends[0] + layer("scale", kind, v1=v1) + content, "'scale'", "is not supported")


def test_a_layer_without_its_weights_is_refused(alexnet, path):
    content = b""
    for step in alexnet.manifest.architecture.steps:
        blobs = [blob(alexnet.tensors[tensor]) for tensor in step.tensors] if step.operation.name != "conv3" else []
        content += layer(step.operation.name, KINDS[type(step.operation)], blobs, settings=settings(step.operation))
    refused(path, content, "has 7 layers with weights")


def test_too_many_layers_are_refused(path):
    refused(path, layer("", "") * 1001, "has 1001 layers")


@pytest.mark.parametrize("sides", [[1] * 70, [0, 2**62]])
def test_a_shape_with_absurd_sides_is_refused(alexnet, path, sides):
    content = layer("conv1", "Convolution", [blob(np.ones(1 if 0 not in sides else 0), shape=sides)])
    refused(path, content, "'conv1.weight' has shape")


def test_a_file_that_is_not_a_caffemodel_is_refused(path):
    for content in (b"<!DOCTYPE html><html>", b"PK\x03\x04" + b"\0" * 100, b"\x89PNG\r\n", bytes(range(256))):
        refused(path, content)


def test_a_file_too_large_for_a_message_is_refused_without_reading_it(path):
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(SpecError, match="less than 2 GB"):
        read_caffemodel(path, CAFFE.build())


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_net_or_a_one_line_error(tmp_path_factory, data):
    net = random_artifact(replace(SMALL["caffe"], hidden=2, classes=2, kernels=(2, 2, 2, 2, 2)))
    content = bytearray(caffemodel(net.manifest.architecture, net.tensors, v1=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.caffemodel"
    try:
        tensors = read_caffemodel(written(path, bytes(content)), net.manifest.architecture)
    except SpecError as error:
        message = str(error)
        assert message.isprintable()
    else:
        assert {name: t.shape for name, t in tensors.items()} == net.manifest.architecture.tensors
