"""A net is tried on a sample of a labelled set."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import open_images
from alexnet_infer.doctor import trial
from alexnet_infer.doctor.trial import sample, try_net
from alexnet_infer.nets import load, nets_at_hand
from tests.datasets import mini
from tests.nets import random_artifact

TINY_IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet"


# With nets.


def noise(color: np.ndarray, seed: int) -> bytes:
    pixels = np.clip(color + np.random.default_rng(seed).normal(0, 3, (64, 64, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("views", ["center", "ten", "none"])
def test_a_net_exported_with_any_views_is_tried(run, tmp_path, views):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    random_artifact().save(tmp_path / "net.safetensors")
    assert run("export", tmp_path / "net.safetensors", "-o", tmp_path / "out", "--views", views, "--no-verify")[0] == 0
    (exported,) = (tmp_path / "out").glob("*.onnx")
    for k in range(24):
        mini.write(tmp_path / "set" / "val" / f"n0000000{k % 2}" / f"{k}.png", noise(np.array([9 * k, 100, 50]), k))
    code, out, err = run("data", "check", tmp_path / "set", "--model", exported, "--json")
    assert code in (0, 1)
    assert "views" not in err
    assert any(" of 24 images are classified correctly" in finding["detail"] for finding in json.loads(out)["findings"])


def test_a_net_detects_exchanged_folders(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    model = tmp_path / "net.safetensors"
    random_artifact().save(model)
    net = load(model, device="cpu", views="center")
    images: dict[str, list[bytes]] = {}
    for i, color in enumerate(np.random.default_rng(0).integers(0, 256, (60, 3))):
        own = [noise(color, 8 * i + k) for k in range(8)]
        guesses = {net.classify(image, top=1)[0].wnid for image in own}
        if len(guesses) == 1:
            images.setdefault(guesses.pop(), own)
    assert len(images) >= 3, "the random net tells too few colours apart"

    def check(names: dict[str, str], root: Path) -> tuple[int, list[dict]]:
        for wnid, own in images.items():
            for k, image in enumerate(own):
                mini.write(root / "val" / names[wnid] / f"{wnid}_{k}.png", image)
        code, out, err = run("data", "check", root, "--model", model, "--json")
        assert err == ""
        return code, json.loads(out)["findings"]

    ids = sorted(images)
    code, findings = check({wnid: wnid for wnid in ids}, tmp_path / "right")
    # Nothing is known of a random net's accuracy. So it says "ok" only of many images.
    assert (code, findings[-1]["level"] in ("ok", "note")) == (0, True)
    code, findings = check(dict(zip(ids, ids[1:] + ids[:1], strict=True)), tmp_path / "turned")
    assert code == 1
    assert findings[-1]["title"] == "labels look permuted"


def test_a_net_with_other_classes_is_not_tried(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    for wnid in ("n99999998", "n99999999"):
        mini.write(tmp_path / "val" / wnid / "1.JPEG", mini.jpeg(1))
    finding = try_net(open_images(tmp_path), load(views="center"))
    assert (finding.level, finding.title) == ("note", "the net was not tried")
    assert "share no class" in finding.detail


def test_the_sample_has_every_known_class_and_several_images_of_many():
    def counts(labels: np.ndarray, to_net: np.ndarray) -> np.ndarray:
        chosen = np.array(sample(labels, to_net))
        assert len(chosen) == len(set(chosen)) <= trial.IMAGES
        assert (np.diff(chosen) > 0).all()
        return np.bincount(labels[chosen], minlength=len(to_net))

    shuffled = np.random.default_rng(0).permutation
    even = counts(shuffled(np.repeat(np.arange(200), 25)), np.arange(200))
    assert set(even) == {5}
    half = counts(shuffled(np.repeat(np.arange(100), 50)), np.where(np.arange(100) % 2, np.arange(100), -1))
    assert set(half[1::2]) == {20}
    assert set(half[::2]) == {0}
    many = counts(np.repeat(np.arange(1000), 50), np.arange(1000))
    assert sorted(set(many)) == [0, 1, 5]
    assert (many == 5).sum() == trial.DEEP_CLASSES
    assert many.sum() == trial.IMAGES
    assert counts(np.repeat([0, 1], [3, 5000]), np.arange(2)).tolist() == [3, trial.MOST]
    assert sample(np.array([3, 1, 1, 3, 0]), np.array([0, 1, 2, 3])) == [0, 1, 2, 3, 4]
    assert sample(np.array([0, 0]), np.array([-1])) == []


def test_a_set_without_a_readable_image_of_the_nets_classes_is_not_judged(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    net = load(views="center")
    for c in net.classes[:2]:
        mini.write(tmp_path / "val" / c.wnid / "1.JPEG", b"not an image")
    finding = try_net(open_images(tmp_path), net)
    assert (finding.level, finding.title) == ("note", "the net was not tried")
    assert finding.detail == "no image of the net's classes can be read"


def test_a_net_that_gives_nan_is_not_believed(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    net = load(views="center")
    for c in net.classes[:2]:
        mini.write(tmp_path / "val" / c.wnid / "1.JPEG", mini.jpeg(1))
    nan = np.full((2, len(net.classes)), np.nan, np.float32)
    monkeypatch.setattr(type(net), "probabilities", lambda self, squares: nan[: len(squares)])
    finding = try_net(open_images(tmp_path), net)
    assert (finding.level, finding.title) == ("note", "the net was not tried")
    assert "NaN" in finding.detail


# With the bundled nets, on Tiny ImageNet.

needs_images = pytest.mark.skipif(not TINY_IMAGENET.is_dir(), reason="needs Tiny ImageNet beside this checkout")


@pytest.fixture(scope="module")
def three_per_class() -> list[tuple[str, bytes, int]]:
    """(name, encoded image, label) of three validation images of each class."""
    pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
    images = open_images(TINY_IMAGENET)
    labels = np.array(images.labels)
    places = sorted(i for label in range(200) for i in np.flatnonzero(labels == label)[:3])
    return [(Path(example.name).name, example.data, example.label) for example in images.at(places)]


def write_listed(root: Path, images: list[tuple[str, bytes, int]], order: np.ndarray) -> None:
    """Write the images with Caffe's list, with `order[label]` for each label."""
    for name, data, _ in images:
        mini.write(root / "val" / name, data)
    root.joinpath("val.txt").write_text("".join(f"{name} {order[label]}\n" for name, _, label in images))
    classes = open_images(TINY_IMAGENET).classes
    root.joinpath("synset_words.txt").write_text("".join(f"{c.wnid} {c.name}\n" for c in classes))


@needs_images
@pytest.mark.parametrize(
    ("order", "code", "level", "words"),
    [
        (np.arange(200), 0, "ok", "253 of 600 images are classified correctly, in 200 classes"),
        (np.argsort(sorted(range(200), key=str)), 1, "error", "the order of numbers sorted as text (0, 1, 10, 100"),
        (np.minimum(np.arange(200) + 1, 199), 1, "error", "they look like positions counted from 1"),
        (np.random.default_rng(0).permutation(200), 1, "error", "labels fit the images of another class"),
    ],
    ids=["right", "numbers as text", "counted from 1", "any permutation"],
)
def test_three_images_per_class_show_the_order_of_labels(run, tmp_path, three_per_class, order, code, level, words):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    write_listed(tmp_path, three_per_class, order)
    got, out, err = run("data", "check", tmp_path, "--quick-test", "--json")
    finding = json.loads(out)["findings"][-1]
    assert (got, finding["level"], err) == (code, level, "")
    assert level == "ok" or finding["title"] == "labels look permuted"
    assert words.removeprefix("253") in finding["detail"]
    assert "expected from the net's own validation results" in finding["detail"]


@needs_images
@pytest.mark.parametrize("model", nets_at_hand()[1:], ids=lambda path: path.stem)
def test_the_other_bundled_nets_judge_as_well(run, tmp_path, three_per_class, model):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    for name, order, expected in (
        ("right", np.arange(200), "labels fit the net's guesses"),
        ("turned", np.roll(np.arange(200), 3), "labels look permuted"),
    ):
        write_listed(tmp_path / name, three_per_class[::2], order)
        out = run("data", "check", tmp_path / name, "--model", model, "--json")[1]
        assert json.loads(out)["findings"][-1]["title"] == expected
