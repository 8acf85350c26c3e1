"""Averaging over views and nets, batching and the Python API, with the NumPy reference as the net."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer.artifact import load_artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.nets import load
from alexnet_infer.photos import expand
from alexnet_infer.predict import PHOTOS_PER_CALL, Ensemble, Net
from alexnet_infer.preprocess import central_square, patches
from tests.nets import TINY, random_artifact
from tests.published.conftest import _alone  # noqa: F401 (no proxies)
from tests.published.server import Server

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
    logits = ReferenceBackend(ARTIFACT).logits(patches(square, ARTIFACT.manifest.preprocessing, "ten"))
    powers = np.exp(logits)
    mean_of_probabilities = (powers / powers.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(net().probabilities([square])[0], mean_of_probabilities, rtol=1e-6)
    logit_powers = np.exp(logits.mean(0))
    assert np.abs(mean_of_probabilities - logit_powers / logit_powers.sum()).max() > 1e-6


def test_the_central_view_is_the_fifth_of_the_ten():
    square = central_square(photo(1), SIZE)
    ten = ReferenceBackend(ARTIFACT).infer(patches(square, ARTIFACT.manifest.preprocessing, "ten"))
    np.testing.assert_allclose(net("center").probabilities([square])[0], ten[4], rtol=1e-6)


def test_photos_in_a_batch_get_the_same_labels_as_alone(folder: Path):
    results = list(net().classify_all(expand([str(folder)]), top=3))
    assert [Path(r.photo.name).name for r in results] == sorted(p.name for p in folder.iterdir())
    for result in results:
        alone = net().classify(result.photo.name, top=3)
        assert [label.index for label in alone] == [label.index for label in result.labels]
        assert [label.probability for label in alone] == pytest.approx([label.probability for label in result.labels])


def test_many_photos_may_be_paths_strings_or_what_expand_yields(folder: Path):
    paths = [folder / "00.png", folder / "01.png"]
    expected = list(net().classify_all(expand(map(str, paths))))
    assert list(net().classify_all(paths)) == list(net().classify_all(map(str, paths))) == expected
    for one_photo in (paths[0], str(paths[0])):
        with pytest.raises(UsageError, match=r"photos=.*00\.png.*: expected several photos; use classify for one"):
            list(net().classify_all(one_photo))
    with pytest.raises(UsageError) as refusal:
        list(net().classify_all("https://user:secret@example.org/photo.jpg"))
    assert "secret" not in str(refusal.value)


def test_a_bad_photo_yields_its_error_in_its_place_and_the_others_get_labels(folder: Path):
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
        outputs = ("probabilities",)

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
    first, *other_results = [net().classify(source) for source in sources]
    assert all(labels == first for labels in other_results)


@pytest.mark.parametrize("top", [0, -1, 8])
def test_a_top_beyond_the_number_of_classes_is_refused(top):
    with pytest.raises(UsageError, match=f"top={top}: expected 1 to 7"):
        net().classify(photo(0), top=top)


def test_an_unreadable_photo_raises_the_packages_own_error(tmp_path: Path):
    with pytest.raises(UnreadableInputError, match=r"absent\.jpg"):
        net().classify(tmp_path / "absent.jpg")


def test_a_url_is_fetched_and_classified(tmp_path: Path):
    photo(2).save(tmp_path / "photo.png")
    server = Server((tmp_path / "photo.png").read_bytes())
    try:
        assert net().classify(server.url) == net().classify(tmp_path / "photo.png")
        server.script = [server.says(b"", 404)]
        with pytest.raises(UnreadableInputError, match=r"/net\.bin: can't be fetched \(HTTP 404 Not Found\)"):
            net().classify(server.url)
    finally:
        server.close()


# Ensembles.


@pytest.fixture
def members() -> list[Net]:
    """Three nets that differ in their weights, and in size, filter, channel order or views."""
    artifacts = [random_artifact(seed=seed, size=SIZE + 5 * (seed == 1)) for seed in range(3)]
    bgr = structs.replace(artifacts[2].manifest.preprocessing, channel_order="BGR", resample="nearest")
    artifacts[2] = dataclasses.replace(artifacts[2], manifest=structs.replace(artifacts[2].manifest, preprocessing=bgr))
    views = ("ten", "center", "ten")
    return [Net(a.manifest, ReferenceBackend(a), v) for a, v in zip(artifacts, views, strict=True)]


def test_an_ensemble_gives_the_mean_of_the_probabilities_of_its_nets(members, folder: Path):
    ensemble = Ensemble(members)
    results = list(ensemble.classify_all(expand([str(folder / "00.png"), str(folder / "01.png")]), top=7))
    assert len(results) == 2
    for result in results:
        alone = [{label.wnid: label.probability for label in m.classify(result.photo.name, top=7)} for m in members]
        mean = {wnid: sum(probabilities[wnid] for probabilities in alone) / 3 for wnid in alone[0]}
        assert {label.wnid: label.probability for label in result.labels} == pytest.approx(mean, abs=1e-6)
        assert [label.wnid for label in result.labels] == sorted(mean, key=mean.__getitem__, reverse=True)
        assert ensemble.classify(result.photo.name, top=7) == list(result.labels)


def test_an_ensemble_of_one_net_gives_its_labels(members):
    assert Ensemble(members[1:2]).classify(photo(4)) == members[1].classify(photo(4))


def test_an_ensemble_reads_and_decodes_a_photo_once(members, folder: Path, monkeypatch):
    from alexnet_infer import decode

    names, read_rgb = [], decode.read_rgb
    monkeypatch.setattr(
        decode, "read_rgb", lambda source, **given: names.append(given["name"]) or read_rgb(source, **given)
    )
    results = list(Ensemble(members).classify_all(expand([str(folder / "0[0-2].png")])))
    assert sorted(names) == [result.photo.name for result in results]


def test_a_photo_that_an_ensemble_cannot_read_yields_its_error(members, folder: Path):
    (folder / "02.png").write_bytes(b"not a photo")
    results = list(Ensemble(members).classify_all(expand([str(folder / "0[1-3].png")])))
    assert [result.photo.name for result in results if result.error] == [str(folder / "02.png")]


def test_nets_with_other_classes_and_an_empty_ensemble_are_refused(members):
    six = random_artifact(dataclasses.replace(TINY, name="six", classes=6))
    with pytest.raises(UsageError, match=r"random-six: has different classes from random-alexnet-64 \(6 and 7\)"):
        Ensemble([*members, Net(six.manifest, ReferenceBackend(six))])
    with pytest.raises(UsageError, match="expected at least 1"):
        Ensemble([])


def test_the_package_exports_the_api():
    import alexnet_infer

    assert (alexnet_infer.Ensemble, alexnet_infer.Net, alexnet_infer.load) == (Ensemble, Net, load)


# Loading.


def test_load_refuses_missing_files_and_invalid_values(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    with pytest.raises(ModelFileError, match=r"absent\.safetensors: No such file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="device='tpu': expected auto, cpu or cuda"):
        load(device="tpu")
    path = tmp_path / "net.safetensors"
    ARTIFACT.save(path)
    with pytest.raises(UsageError, match="views='five': expected ten or center"):
        load(path, views="five")


def test_a_loaded_net_matches_the_reference(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    path = tmp_path / "net.safetensors"
    ARTIFACT.save(path, np.float32)
    square = central_square(photo(3), SIZE)
    expected = net().probabilities([square])
    np.testing.assert_allclose(load(path, device="cpu").probabilities([square]), expected, atol=1e-5)


# Arrays, and what a net says of itself.


def test_an_rgb_array_is_classified_like_the_image():
    image = photo(3)
    assert net().classify(np.asarray(image)) == net().classify(image)
    assert net().classify(np.asarray(image)[:, :, ::-1]) != net().classify(image)


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.zeros((20, 20, 3), np.float32), r"float32 \[20, 20, 3\]"),
        (np.zeros((20, 20), np.uint8), r"uint8 \[20, 20\]"),
        (np.zeros((3, 20, 20), np.uint8), r"uint8 \[3, 20, 20\]"),
        (np.zeros((20, 20, 4), np.uint8), r"uint8 \[20, 20, 4\]"),
        (np.zeros((0, 20, 3), np.uint8), r"uint8 \[0, 20, 3\]"),
    ],
)
def test_another_array_is_refused_with_its_shape(array, shown):
    with pytest.raises(UsageError, match=rf"photo is {shown}: expected an array uint8 \[H, W, 3\] in RGB order"):
        net().classify(array)


@pytest.mark.parametrize(
    ("squares", "words"),
    [
        ([], "0 squares: expected "),
        ([np.zeros((SIZE, SIZE, 3), np.float32)], rf"squares\[0\] is float32 \[{SIZE}, {SIZE}, 3\]: expected "),
        (np.zeros((SIZE, SIZE, 3), np.uint8), rf"squares\[0\] is uint8 \[{SIZE}, 3\]: expected "),
        ([np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((3, SIZE, SIZE), np.uint8)], r"squares\[1\] is uint8 \[3, "),
        (["photo.jpg"], r"squares\[0\] is of type str: expected "),
    ],
)
def test_wrong_squares_are_refused_with_what_was_expected(squares, words):
    with pytest.raises(UsageError, match=words) as refusal:
        net().probabilities(squares)
    assert f"expected squares uint8 [{SIZE}, {SIZE}, 3] RGB" in str(refusal.value)


def test_a_stack_of_squares_is_accepted():
    squares = [central_square(photo(i), SIZE) for i in range(2)]
    np.testing.assert_array_equal(net().probabilities(np.stack(squares)), net().probabilities(squares))


def test_the_representation_says_which_net_it_is():
    one = net()
    facts = f"{len(one.classes)} classes, views='ten', {one.backend.description!r}"
    assert repr(one) == f"Net({one.manifest.name!r}, {facts})"
    assert repr(Ensemble([one, one])) == f"Ensemble([{one!r}, {one!r}])"


def saved_net(tmp_path: Path, **given) -> Net:
    ARTIFACT.save(tmp_path / "net.safetensors")
    return load(tmp_path / "net.safetensors", backend="reference", **given)


@pytest.mark.parametrize("views", ["center", "ten"])
def test_features_are_the_mean_over_the_views_of_what_the_net_computes_in_that_layer(tmp_path, views):
    layers = ["fc6:pre", "pool5", "fc7", "probabilities"]
    image = photo(3)
    features = saved_net(tmp_path, views=views).features(image, layers)
    cut = patches(central_square(image, SIZE), ARTIFACT.manifest.preprocessing, views)
    each = ReferenceBackend(load_artifact(tmp_path / "net.safetensors"), layers).activations(cut)
    assert list(features) == layers
    for name in layers:
        np.testing.assert_allclose(features[name], each[name].mean(0), rtol=1e-6)
    assert {name: value.shape for name, value in features.items()} == {
        "fc6:pre": (24,), "pool5": (32, 6, 6), "fc7": (24,), "probabilities": (7,),
    }  # fmt: skip


def test_features_of_a_path_an_array_and_an_image_are_the_same(tmp_path):
    photo(1).save(tmp_path / "photo.png")
    own = saved_net(tmp_path)
    sources = (tmp_path / "photo.png", str(tmp_path / "photo.png"), photo(1), np.asarray(photo(1)))
    first, *others = [own.features(source)["fc7"] for source in sources]
    assert first.any()
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_net_loaded_with_layers_computes_them_for_many_squares_but_classifies_only_with_its_probabilities(tmp_path):
    squares = [central_square(photo(i), SIZE) for i in range(3)]
    own = saved_net(tmp_path, layers=("fc7", "conv1:pre"))
    values = own.activations(squares)
    assert {name: value.shape for name, value in values.items()} == {"fc7": (3, 24), "conv1:pre": (3, 16, 55, 55)}
    np.testing.assert_allclose(own.activations(squares[2:])["fc7"][0], values["fc7"][2], rtol=1e-6)
    with pytest.raises(UsageError, match="computes only fc7, conv1:pre: to get probabilities, load it with"):
        own.classify(photo(0))
    both = saved_net(tmp_path, layers=("fc7", "probabilities"))
    np.testing.assert_array_equal(both.probabilities(squares), both.activations(squares)["probabilities"])
    assert both.classify(photo(0)) == saved_net(tmp_path).classify(photo(0))


def test_features_of_a_file_that_was_replaced_since_it_was_loaded_are_refused(tmp_path):
    own = saved_net(tmp_path)
    random_artifact(seed=5).save(tmp_path / "net.safetensors")
    with pytest.raises(ModelFileError, match=r"net.safetensors: has changed since it was loaded"):
        own.features(photo(0))


@pytest.mark.parametrize(("layers", "message"), [("fc7", "expected a list of names"), ([], "no layer: expected")])
def test_layers_of_a_net_are_a_list_of_names_and_not_none(tmp_path, layers, message):
    own = saved_net(tmp_path)
    for attempt in (lambda: own.features(photo(0), layers), lambda: saved_net(tmp_path, layers=layers)):
        with pytest.raises(UsageError, match=message):
            attempt()


def test_a_net_made_without_a_file_says_which_layers_it_has():
    with pytest.raises(UsageError, match="computes only probabilities: it was made without a file"):
        net().features(photo(0), ["fc7"])
    assert net().features(photo(0), ["probabilities"])["probabilities"].sum() == pytest.approx(1)
