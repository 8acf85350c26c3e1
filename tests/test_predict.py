"""Averaging over views, batching and the Python API, with the NumPy reference as the net."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.photos import expand
from alexnet_infer.predict import PHOTOS_PER_CALL, Net, load
from alexnet_infer.preprocess import central_square, patches
from tests.nets import random_artifact

ARTIFACT = random_artifact()
SIZE = ARTIFACT.manifest.preprocessing.size


def net(views="ten") -> Net:
    return Net(ARTIFACT.manifest, ReferenceBackend(ARTIFACT), views)


def photo(seed: int) -> Image.Image:
    """Smooth colour gradients: different for each seed, and not symmetric."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(PHOTOS_PER_CALL + 3):
        photo(i).save(tmp_path / f"{i:02}.png")
    return tmp_path


def test_ten_views_average_probabilities_not_logits():
    square = central_square(photo(0), SIZE)
    each = ReferenceBackend(ARTIFACT).logits(patches(square, ARTIFACT.manifest.preprocessing, "ten"))
    powers = np.exp(each)
    mean_of_probabilities = (powers / powers.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(net().probabilities([square])[0], mean_of_probabilities, rtol=1e-12)
    logit_powers = np.exp(each.mean(0))
    assert np.abs(mean_of_probabilities - logit_powers / logit_powers.sum()).max() > 1e-6


def test_the_central_view_is_the_fifth_of_the_ten():
    square = central_square(photo(1), SIZE)
    ten = ReferenceBackend(ARTIFACT).infer(patches(square, ARTIFACT.manifest.preprocessing, "ten"))
    np.testing.assert_allclose(net("center").probabilities([square])[0], ten[4], rtol=1e-12)


def test_photos_in_a_batch_get_what_each_gets_alone(folder: Path):
    results = list(net().classify_all(expand([str(folder)]), top=3))
    assert [Path(r.photo.name).name for r in results] == sorted(p.name for p in folder.iterdir())
    for result in results:
        alone = net().classify(result.photo.name, top=3)
        assert [label.index for label in alone] == [label.index for label in result.labels]
        assert [label.probability for label in alone] == pytest.approx([label.probability for label in result.labels])


def test_a_bad_photo_yields_its_error_in_its_place_and_the_others_are_labelled(folder: Path):
    (folder / "05.png").write_bytes(b"not a photo")
    results = list(net().classify_all(expand([str(folder)])))
    assert [result.error is not None for result in results] == [i == 5 for i in range(len(results))]
    assert "05.png" in results[5].error
    alone = net().classify(folder / "06.png")
    assert [label.index for label in results[6].labels] == [label.index for label in alone]


def test_labels_are_sorted_by_probability_and_ties_go_to_the_lower_class_index():
    class Tied:
        description = "constant"
        takes_squares = False

        def infer(self, patches_nchw):
            return np.tile(np.array([0.1, 0.2, 0.2, 0.1, 0.2, 0.1, 0.1]), (len(patches_nchw), 1))

    labels = Net(ARTIFACT.manifest, Tied()).classify(photo(0), top=7)
    assert [label.index for label in labels] == [1, 2, 4, 0, 3, 5, 6]
    assert labels[0].wnid == "n00000001"
    assert labels[0].name == "class 1, number 1"


def test_every_kind_of_source_gives_the_same_labels(tmp_path: Path):
    path = tmp_path / "photo.png"
    photo(2).save(path)
    sources = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path)]
    first, *others = [net().classify(source) for source in sources]
    assert all(labels == first for labels in others)


@pytest.mark.parametrize("top", [0, -1, 8])
def test_a_top_that_the_net_cannot_give_is_refused(top):
    with pytest.raises(UsageError, match=f"top={top}: expected 1 to 7"):
        net().classify(photo(0), top=top)


def test_an_unreadable_photo_raises_the_packages_own_error(tmp_path: Path):
    with pytest.raises(UnreadableInputError, match=r"absent\.jpg"):
        net().classify(tmp_path / "absent.jpg")


def test_load_refuses_what_it_cannot_use(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    with pytest.raises(ModelFileError, match=r"absent\.safetensors: No such file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="device='tpu': expected auto, cpu or cuda"):
        load(device="tpu")
    path = tmp_path / "net.safetensors"
    ARTIFACT.save(path)
    with pytest.raises(UsageError, match="views='five': expected ten or center"):
        load(path, views="five")


def test_a_loaded_net_gives_the_references_probabilities(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    path = tmp_path / "net.safetensors"
    ARTIFACT.save(path, np.float32)
    square = central_square(photo(3), SIZE)
    expected = net().probabilities([square])
    np.testing.assert_allclose(load(path, device="cpu").probabilities([square]), expected, atol=1e-5)
