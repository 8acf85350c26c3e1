"""Other tools' preprocessing, folded into the first kernels, compared with applying it directly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer.architecture import Architecture, Dense
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import ModelFileError, SpecError, UsageError
from alexnet_infer.importing.conventions import CONVENTIONS, OF_PRESETS, Convention, convention, fold
from alexnet_infer.manifest import Manifest
from alexnet_infer.preprocess import patches, square_of
from alexnet_infer.presets import PRESETS, variant
from tests.nets import random_artifact

OWT = replace(variant("owt"), kernels=(8, 16, 12, 12, 16), hidden=24, classes=10)
CAFFE = replace(variant("caffe"), kernels=(8, 16, 12, 12, 16), hidden=24, classes=10)


def preprocessed(image: Image.Image, rules: Convention, patch: int) -> np.ndarray:
    """The centre view with the convention applied literally, in float64. float32 [1, 3, patch, patch]."""
    x = square_of(image, rules.preprocessing(patch).rescaling).astype(np.float64)
    if rules.value_range == "0-1":
        x /= 255
    if rules.channel_order == "BGR":
        x = x[:, :, ::-1]
    x = (x - np.array(rules.mean)) / np.array(rules.std)
    corner = (rules.size - patch) // 2
    return x[corner : corner + patch, corner : corner + patch].transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.parametrize(("name", "net"), [("caffe", CAFFE), ("torchvision", OWT)])
def test_the_folded_net_gives_the_original_nets_results(name, net):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    original = random_artifact(net)
    weights = dict(original.tensors)
    if name == "torchvision":  # its inputs are near 1, not in the hundreds
        weights["conv1.weight"] = weights["conv1.weight"] * np.float32(100)
    original = Artifact(original.manifest, weights)
    rules = CONVENTIONS[name]
    expected = ReferenceBackend(original).infer(preprocessed(image, rules, net.patch))

    tensors, preprocessing = fold(weights, net.build(), rules)
    assert (preprocessing.channel_order, preprocessing.value_range) == ("RGB", rules.value_range)
    manifest = structs.replace(original.manifest, preprocessing=preprocessing)
    views = patches(square_of(image, preprocessing.rescaling), preprocessing, "center")
    actual = ReferenceBackend(Artifact(manifest, tensors)).infer(views)
    assert 0.15 < expected.max() < 0.999
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


def test_reversing_the_channels_is_exact_and_changes_nothing_else():
    original = random_artifact(CAFFE)
    tensors, preprocessing = fold(original.tensors, CAFFE.build(), CONVENTIONS["caffe"])
    assert np.array_equal(tensors["conv1.weight"][:, ::-1], original.tensors["conv1.weight"])
    assert preprocessing.mean.tolist() == [123, 117, 104]
    for name in original.tensors.keys() - {"conv1.weight"}:
        assert tensors[name] is original.tensors[name]


def test_dividing_by_one_is_exact():
    rules = structs.replace(CONVENTIONS["torchvision"], std=(1.0, 1.0, 1.0))
    original = random_artifact(OWT)
    tensors, _ = fold(original.tensors, OWT.build(), rules)
    assert np.array_equal(tensors["conv1.weight"], original.tensors["conv1.weight"])


def test_each_published_preset_has_a_convention_that_fits_its_patch():
    for preset, name in OF_PRESETS.items():
        assert preset in PRESETS
        assert CONVENTIONS[name].preprocessing(variant(preset).patch).patch == variant(preset).patch


def test_the_zoos_convention_squeezes_the_whole_image_into_the_patch():
    rules = CONVENTIONS["caffe-zoo"]
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (100, 300, 3), np.uint8))
    expected = np.array(image.resize((224, 224))).astype(np.float32)  # like the Zoo's script: Pillow's default filter
    expected[:, :, 0] -= 123.68
    expected[:, :, 1] -= 116.779
    expected[:, :, 2] -= 103.939
    expected = expected[:, :, ::-1].transpose(2, 0, 1)
    preprocessing = rules.preprocessing(224)
    actual = patches(square_of(image, preprocessing.rescaling), preprocessing, "center")[0]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.fixture
def file(tmp_path):
    def write(content) -> str:
        path = tmp_path / "own.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


FIELDS = {
    "size": 256, "fit": "crop-torchvision", "resample": "bilinear", "channel_order": "RGB", "value_range": "0-1",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip


def test_a_convention_can_be_a_json_file(file):
    assert convention(file(FIELDS)) == CONVENTIONS["torchvision"]
    assert convention(file({k: v for k, v in FIELDS.items() if k != "std"})).std == (1, 1, 1)


def test_an_unknown_name_is_refused_with_the_known_names():
    with pytest.raises(
        UsageError, match="--preprocessing caffee: expected caffe, caffe-zoo, torchvision, or a JSON file"
    ):
        convention("caffee")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "3", "[]", "{}", {**FIELDS, "extra": 1}])
def test_a_file_that_is_not_a_convention_is_refused_in_one_line(file, content):
    with pytest.raises(ModelFileError) as caught:
        convention(file(content))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0), ("size", "256"), ("fit", "pad"), ("resample", "area"), ("channel_order", "GBR"),
        ("value_range", "0-2"), ("mean", [1, 2]), ("mean", 3), ("mean", [1, 1, True]), ("mean", ["a", "b", "c"]),
        ("mean", [104, 117, 123]), ("std", [1, 1, 0]), ("std", [1, 1, -1]), ("std", [1, 1, 10**6]),
        ("std", [1, 1]), ("std", None), ("mean", None), ("mean", [10**400] * 3),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(file, field, value):
    with pytest.raises(ModelFileError) as caught:
        convention(file({**FIELDS, field: value}))
    assert field in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("field", "value"), [("std", [1, 1, float("inf")]), ("mean", [float("nan")] * 3)])
def test_a_number_that_json_does_not_have_is_refused(file, field, value):
    with pytest.raises(ModelFileError, match=r"own\.json: .*(NaN|Infinity) is not a JSON number"):
        convention(file({**FIELDS, field: value}))


def test_std_must_be_above_zero():
    with pytest.raises(SpecError, match="std"):
        structs.replace(CONVENTIONS["torchvision"], std=(0.0, 1.0, 1.0))


def test_the_manifest_of_a_folded_net_survives_json():
    tensors, preprocessing = fold(random_artifact(OWT).tensors, OWT.build(), CONVENTIONS["torchvision"])
    manifest = structs.replace(random_artifact(OWT).manifest, preprocessing=preprocessing)
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
    assert tensors["conv1.weight"].dtype == np.float32


def test_a_net_that_does_not_begin_with_a_convolution_is_refused():
    architecture = Architecture(name="other", patch=2, operations=(Dense(name="fc8", units=2),))
    with pytest.raises(SpecError, match="begins with fc8 on 3 channels: expected a convolution"):
        fold({}, architecture, CONVENTIONS["caffe"])
