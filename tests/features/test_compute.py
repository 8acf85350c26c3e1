"""From images to a file: the values are the reference's, in the order of the images, whatever their neighbours are."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer.artifact import Artifact, load_artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.datasets import open_images
from alexnet_infer.decode import read_square
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.features import open_features, parquet, table
from alexnet_infer.features.about import hash_of
from alexnet_infer.features.compute import Computed, FeaturesRequest, compute, load_net
from alexnet_infer.features.images import Images, images_of_photos, images_of_set
from alexnet_infer.features.staging import Staging
from alexnet_infer.features.table import Row
from alexnet_infer.photos import expand
from alexnet_infer.preprocess import patches
from tests.evaluation.toys import save_net, write_set
from tests.features.made import described

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

LAYERS = ("fc7", "fc6:pre", "pool5", "conv1")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors", resample="bilinear")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), 18)


def of_set(root: Path, positions: list[int] | None = None) -> Images:
    data = open_images(root)
    return images_of_set(data, range(len(data)) if positions is None else positions, root)


def of_photos(*inputs: Path) -> Images:
    return images_of_photos(list(expand([str(path) for path in inputs])))


def computed(images: Images, model: Path, out: Path, **options: object) -> Computed:
    facts = {"layers": LAYERS, "device": "cpu", "backend": "onnxruntime", "batch": 4}
    request = FeaturesRequest(model=model, out=out, **(facts | options))
    return compute(request, load_net(request), images)


def by_reference(model: Path, square: np.ndarray, views: str) -> dict[str, np.ndarray]:
    """The layers' values for one square, averaged over the views in float64."""
    artifact = load_artifact(model)
    values = ReferenceBackend(artifact, LAYERS).activations(patches(square, artifact.manifest.preprocessing, views))
    return {layer: array.mean(0, np.float64) for layer, array in values.items()}


@pytest.mark.parametrize("views", ["center", "ten"])
def test_values_are_those_of_the_reference_on_the_same_squares(model, root, tmp_path, views):
    computed(of_set(root), model, tmp_path / "f.npz", views=views)
    features = open_features(tmp_path / "f.npz")
    rescaling = load_artifact(model).manifest.preprocessing.rescaling
    data = open_images(root)
    for i, example in enumerate(data):
        assert (features.names[i], features.labels[i]) == (example.relative_name, data.classes[example.label].wnid)
        square = read_square(example.data, name="", rescaling=rescaling)
        for layer, expected in by_reference(model, square, views).items():
            assert expected.std() > 0
            np.testing.assert_allclose(features.array(layer)[i], expected, atol=1e-5 * np.abs(expected).max())
    assert not np.array_equal(features.array("fc7")[0], features.array("fc7")[1])
    assert features.about.views == views


def test_views_are_averaged_after_the_activation(model, root, tmp_path):
    """Otherwise, the mean over ten views would be the maximum of a mean and 0."""
    computed(of_set(root), model, tmp_path / "f.npz", views="ten", layers=("fc6", "fc6:pre"))
    features = open_features(tmp_path / "f.npz")
    assert not np.allclose(features.array("fc6"), np.maximum(features.array("fc6:pre"), 0), rtol=0.01)


def test_the_bytes_of_a_row_do_not_depend_on_the_other_images(model, root, tmp_path):
    computed(of_set(root), model, tmp_path / "whole.npz")
    whole = open_features(tmp_path / "whole.npz")
    chosen = [1, 2, 5, 17]
    computed(of_set(root, chosen), model, tmp_path / "part.npz")
    part = open_features(tmp_path / "part.npz")
    assert part.names == [whole.names[i] for i in chosen]
    for layer in LAYERS:
        assert part.array(layer).tobytes() == whole.array(layer)[chosen].tobytes()
    assert (part.about.images.sample, whole.about.images.sample) == (True, False)


def test_the_file_says_how_its_values_were_computed(model, root, tmp_path):
    result = computed(of_set(root), model, tmp_path / "f.npz", half=True)
    about = open_features(tmp_path / "f.npz").about
    assert about.to_json() == result.about.to_json()
    artifact = load_artifact(model)
    assert about.net == artifact.manifest.name
    assert about.preprocessing.to_json() == artifact.manifest.preprocessing.to_json()
    assert [layer.name for layer in about.layers] == [*LAYERS]
    assert about.dtype == "float16"
    assert "ONNX Runtime" in about.backend
    assert "alexnet-infer" in about.software
    images = about.images
    assert (images.path, images.layout, images.split, images.count) == (str(root), "folders", "validation", 18)
    data = open_images(root)
    listed = [(name, data.classes[label].wnid) for name, label in data.listed(range(18))]
    assert images.listing == hash_of(listed)


def test_half_is_float32_rounded(model, root, tmp_path):
    for name, half in (("full", False), ("half", True)):
        computed(of_set(root), model, tmp_path / f"{name}.npz", half=half)
    full, half = (open_features(tmp_path / f"{name}.npz") for name in ("full", "half"))
    for layer in LAYERS:
        np.testing.assert_array_equal(half.array(layer), full.array(layer).astype(np.float16))


def scaled(model: Path, path: Path, factor: float) -> Path:
    """Save a net whose fc6 has `factor` times the values."""
    artifact = load_artifact(model)
    tensors = dict(artifact.tensors)
    for name in ("fc6.weight", "fc6.bias"):
        tensors[name] = tensors[name] * np.float32(factor)
    Artifact(structs.replace(artifact.manifest, name="scaled"), tensors).save(path, np.float32)
    return path


def test_a_value_that_float16_cannot_hold_is_an_error_and_never_infinity(model, root, tmp_path):
    big = scaled(model, tmp_path / "big.safetensors", 1e6)
    with pytest.raises(UsageError, match=r"--half: layer fc6 has the value [\d,]+ for 'val/.*; leave out --half"):
        computed(of_set(root), big, tmp_path / "f.npz", layers=("fc6",), half=True)
    assert not (tmp_path / "f.npz").exists()
    computed(of_set(root), big, tmp_path / "f.npz", layers=("fc6",))
    assert np.isfinite(open_features(tmp_path / "f.npz").array("fc6")).all()


def test_a_value_that_is_not_finite_is_an_error(model, root, tmp_path):
    huge = scaled(model, tmp_path / "huge.safetensors", 1e37)
    with pytest.raises(ModelFileError, match=r"scaled: layer fc7 has values that are not finite for 'val/"):
        computed(of_set(root), huge, tmp_path / "f.npz", layers=("fc7",))


def test_images_that_cannot_be_read_keep_their_place_as_nan(model, tmp_path):
    root = write_set(tmp_path / "set", 10)
    names = [name for name, _ in of_set(root).listed]
    for name in (names[2], names[9]):
        (root / name).write_bytes(b"damaged")
    result = computed(of_set(root), model, tmp_path / "f.npz")
    features = open_features(tmp_path / "f.npz")
    assert features.names == names
    assert [*features.errors] == [2, 9]
    assert [image.image for image in result.unreadable] == [names[2], names[9]]
    for layer in LAYERS:
        missing = np.isnan(features.array(layer).reshape(10, -1))
        assert missing.all(1).tolist() == missing.any(1).tolist() == [i in (2, 9) for i in range(10)]


def test_a_batch_without_readable_images_is_nan(model, tmp_path):
    root = write_set(tmp_path / "set", 6)
    for name, _ in of_set(root).listed[:4]:
        (root / name).write_bytes(b"damaged")
    computed(of_set(root), model, tmp_path / "f.npz")
    assert np.isnan(open_features(tmp_path / "f.npz").array("fc7")).all(1).tolist() == [True] * 4 + [False] * 2


def test_photos_are_turned_by_exif_and_images_of_a_set_are_not(model, tmp_path):
    root = write_set(tmp_path / "set", 2)
    names = [name for name, _ in of_set(root).listed]
    for name in names:
        image, exif = Image.open(root / name), Image.Exif()
        exif[0x0112] = 3
        image.save(root / name, exif=exif, quality=95)
    computed(of_set(root), model, tmp_path / "set.npz")
    computed(of_photos(*[root / name for name in names]), model, tmp_path / "photos.npz")
    by_hand = [
        read_square(root / name, name="", rescaling=load_artifact(model).manifest.preprocessing.rescaling)
        for name in names
    ]  # turned
    photos, images = (open_features(tmp_path / f"{name}.npz") for name in ("photos", "set"))
    for i, square in enumerate(by_hand):
        expected = by_reference(model, square, "center")["pool5"]
        np.testing.assert_allclose(photos.array("pool5")[i], expected, atol=1e-5 * np.abs(expected).max())
        assert not np.allclose(images.array("pool5")[i], expected, rtol=0.1)
    assert photos.labels == [None, None]


def test_features_of_a_photo_are_those_of_the_api(model, root, tmp_path):
    photo = next((root / "val").rglob("*.jpg"))
    request = FeaturesRequest(
        model=model, layers=LAYERS, out=tmp_path / "f.npz", device="cpu", backend="onnxruntime", batch=1
    )
    net = load_net(request)
    compute(request, net, of_photos(photo))
    features = open_features(tmp_path / "f.npz")
    for layer, values in net.features(photo, layers=LAYERS).items():
        assert features.array(layer)[0].shape == values.shape
        np.testing.assert_allclose(features.array(layer)[0], values, rtol=1e-5, atol=1e-5)


def test_names_that_are_not_utf8_and_of_photos_that_are_missing_are_kept(model, tmp_path):

    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\x1b.jpg")
    result = computed(
        of_photos(Path(name), next(write_set(tmp_path / "set", 1).rglob("*.jpg"))), model, tmp_path / "f.npz"
    )
    features = open_features(tmp_path / "f.npz")
    assert features.names[0] == f"{tmp_path}/\\udcff\n\x1b.jpg"
    assert result.unreadable[0].image.isprintable()


def test_without_a_readable_image_no_file_is_written_and_an_earlier_one_stays(model, root, tmp_path):
    computed(of_set(root), model, tmp_path / "f.npz")
    before = (tmp_path / "f.npz").read_bytes()
    result = computed(of_photos(tmp_path / "missing.jpg"), model, tmp_path / "f.npz")
    assert not result.written
    assert (tmp_path / "f.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


@pytest.fixture
def interrupted(monkeypatch):
    """Begin a run that is interrupted after 8 images."""
    full = Staging.append

    def stopped(self: object, *arguments: object) -> None:
        if self.done >= 8:
            raise KeyboardInterrupt
        full(self, *arguments)

    def interrupted(images: Images, model: Path, out: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "append", stopped)
            with pytest.raises(KeyboardInterrupt):
                computed(images, model, out)

    return interrupted


def test_a_changed_photo_is_not_mixed_with_the_rows_of_an_interrupted_run(model, tmp_path, interrupted):
    photos, out = sorted(write_set(tmp_path / "set", 10).rglob("*.jpg")), tmp_path / "f.npz"
    interrupted(of_photos(*photos), model, out)
    photos[0].write_bytes(photos[1].read_bytes())
    with pytest.raises(UsageError, match="interrupted after 8 images, and differs in the sizes or times of its images"):
        computed(of_photos(*photos), model, out)
    assert computed(of_photos(*photos), model, out, fresh=True).earlier == 0
    values = open_features(out).array("fc7")
    np.testing.assert_array_equal(values[0], values[1])


def test_after_an_error_that_the_same_options_cannot_pass_the_advice_works(model, tmp_path):
    big, out = scaled(model, tmp_path / "big.safetensors", 1e6), tmp_path / "f.npz"
    photos = [*(tmp_path / f"missing-{i}.jpg" for i in range(8)), *write_set(tmp_path / "set", 1).rglob("*.jpg")]
    with pytest.raises(UsageError, match="leave out --half"):
        computed(of_photos(*photos), big, out, layers=("fc6",), half=True, batch=4)
    assert computed(of_photos(*photos), big, out, layers=("fc6",), batch=4).earlier == 0


def test_fresh_removes_no_rows_if_there_is_no_room(model, tmp_path, interrupted, monkeypatch):
    photos, out = sorted(write_set(tmp_path / "set", 10).rglob("*.jpg")), tmp_path / "f.npz"
    interrupted(of_photos(*photos), model, out)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
        with pytest.raises(UsageError, match="of free space"):
            computed(of_photos(*photos), model, out, fresh=True)
    assert computed(of_photos(*photos), model, out).earlier == 8


def test_what_an_interrupted_run_could_not_read_is_counted(model, tmp_path, interrupted):
    photos, out = sorted(write_set(tmp_path / "set", 10).rglob("*.jpg")), tmp_path / "f.npz"
    inputs = tmp_path / "missing.jpg", *photos
    interrupted(of_photos(*inputs), model, out)
    result = computed(of_photos(*inputs), model, out)
    assert (result.earlier, result.earlier_unreadable, len(result.unreadable)) == (8, 1, 1)


REQUESTS = {
    "batch": ({"batch": 0}, "--batch 0: expected 1 to 1024"),
    "workers": ({"workers": 0}, "--workers 0: expected at least 1"),
    "two layers in .npy": ({"out": "f.npy", "layers": ("fc7", "fc6")}, "a .npy file has one layer, not 2; choose .npz"),
    "suffix": ({"out": "f.txt"}, "-o f.txt: expected a file name that ends in"),
    "folder": ({"out": "missing/f.npz"}, "-o missing/f.npz: no such folder; create missing first"),
    "reserved": ({"layers": ("names",)}, "--layer names: the file has something else of this name"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_wrong_request_is_a_usage_error(kind):
    options, message = REQUESTS[kind]
    facts = {"out": "f.npz"} | options
    with pytest.raises(UsageError) as caught:
        FeaturesRequest(model=Path("net"), **(facts | {"out": Path(facts["out"])}))
    assert message in str(caught.value)


def test_a_net_without_the_layer_names_those_there_are(model, root, tmp_path):
    with pytest.raises(UsageError, match=r"no layer 'fc9'.*expected one of .*fc6"):
        computed(of_set(root), model, tmp_path / "f.npz", layers=("fc9",))


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.parquet", "f.h5"])
def test_only_a_file_of_features_is_overwritten(model, root, tmp_path, name):
    pytest.importorskip({"f.parquet": "pyarrow", "f.h5": "h5py"}.get(name, "numpy"), reason="needs a package")
    out = tmp_path / name
    out.write_bytes(b"my thesis")
    with pytest.raises(UsageError, match=r"is there already, and is no file of features; choose another name"):
        computed(of_set(root), model, out, layers=("fc7",))
    assert out.read_bytes() == b"my thesis"
    out.unlink()
    for _ in range(2):
        computed(of_set(root), model, out, layers=("fc7",))
    assert len(open_features(out)) == 18


def test_the_text_beside_a_missing_array_is_not_overwritten(model, root, tmp_path):
    (tmp_path / "f.npy.jsonl").write_text("my thesis")
    with pytest.raises(UsageError, match="is no file of features"):
        computed(of_set(root), model, tmp_path / "f.npy", layers=("fc7",))


def test_a_full_disk_is_noticed_before_anything_is_computed(model, root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        UsageError,
        match=r"f\.npz: needs [\d.]+ MB of free space, and 1\.0 kB are free.*choose fewer layers, or add --half",
    ):
        computed(of_set(root), model, tmp_path / "f.npz")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    """Of 4,000 images with 16 KB each, a block of 64 KB is in memory at any time."""
    monkeypatch.setattr(table, "BLOCK_BYTES", 2**16)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2**16)
    count, values = 4000, {"fc7": np.zeros((1, 4096), np.float32)}
    listed = [(f"{i}.jpg", None) for i in range(count)]
    about = described(values, *map(list, zip(*listed, strict=True)))
    for suffix in (".npz", ".npy"):
        tracemalloc.start()
        with Staging(tmp_path / f"f{suffix}", about, "stamp", listed) as staging:
            staging.prepare()
            for begin in range(0, count, 16):
                part = np.random.default_rng(begin).random((16, 4096), np.float32)
                staging.append([Row(*image) for image in listed[begin : begin + 16]], [part])
            staging.finish()
        features = open_features(tmp_path / f"f{suffix}")
        total = sum(float(block[0, 0]) for block in features.blocks("fc7"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total > 100
        assert (tmp_path / f"f{suffix}").stat().st_size > count * 4 * 4096
        assert peak < 12 * 2**20, suffix
