"""What a net's guesses say about labels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import open_images
from alexnet_infer.doctor import trial
from alexnet_infer.doctor.finding import Finding
from alexnet_infer.doctor.trial import judge, try_net
from alexnet_infer.manifest import ClassName
from alexnet_infer.nets import load
from tests.datasets import mini
from tests.nets import random_artifact

TINY_IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet"


CLASSES = [ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(50)]
EACH = 20


def verdict(labels: np.ndarray, guesses: np.ndarray) -> Finding:
    return judge(labels, guesses, np.arange(len(CLASSES)), CLASSES, CLASSES)


def simulated(accuracy: float, classes: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """True labels, and guesses with this accuracy whose errors are random."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(classes), EACH)
    right = rng.random(len(truth)) < accuracy
    return truth, np.where(right, truth, rng.integers(0, len(CLASSES), len(truth)))


@pytest.mark.parametrize(("accuracy", "classes"), [(0.3, 30), (0.6, 30), (0.95, 30), (0.6, 3), (0.95, 3), (0.95, 2)])
def test_labels_that_fit_are_ok_whatever_the_nets_accuracy(accuracy, classes):
    assert verdict(*simulated(accuracy, classes)).level == "ok"


@pytest.mark.parametrize("accuracy", [0.4, 0.6, 0.95])
@pytest.mark.parametrize("classes", [3, 30])
def test_permuted_labels_are_an_error_whatever_the_nets_accuracy(accuracy, classes):
    truth, guesses = simulated(accuracy, classes)
    finding = verdict((truth + 1) % classes, guesses)
    assert finding.level == "error"
    assert finding.title == "classes with labels that look permuted"
    assert "0.1 % accuracy" in finding.advice
    assert finding.count >= classes / 2
    if accuracy > 0.5:  # the net classifies the images of every label as their true class
        expected = [f"are classified as {CLASSES[(i - 1) % classes].wnid} " for i in range(classes)]
        assert all(part in line for part, line in zip(expected, finding.examples, strict=True))


def test_shuffled_labels_and_useless_nets_are_a_warning_not_a_permutation():
    truth, guesses = simulated(0.6)
    few, about_few = simulated(0.6, 5)
    weak = simulated(0.4, 3)  # near chance for so few classes, and each class is mostly recognised
    for labels, net_guesses in (
        weak,
        (np.random.default_rng(2).permutation(few), about_few),
        (np.random.default_rng(2).permutation(truth), guesses),
        (truth, np.full_like(truth, 49)),
        (truth, np.random.default_rng(3).integers(0, 50, len(truth))),
    ):
        finding = verdict(labels, net_guesses)
        assert (finding.level, finding.title) == ("warning", "labels don't fit the net's guesses")


def test_two_swapped_classes_are_an_error_and_a_class_that_looks_like_another_a_warning():
    truth, guesses = simulated(0.6)
    labels = np.where(truth == 4, 9, np.where(truth == 9, 4, truth))
    finding = verdict(labels, guesses)
    assert (finding.level, finding.title, finding.count) == ("error", "classes look swapped", 2)
    assert "n00000004 class 4: " in finding.examples[0]
    assert "classified as n00000009 class 9" in finding.examples[0]
    finding = verdict(np.where(truth == 4, 45, truth), guesses)
    assert (finding.level, finding.count) == ("warning", 1)
    assert finding.title == "classes are mostly classified as other classes"


def test_a_hard_class_is_not_reported():
    truth, guesses = simulated(0.6)
    guesses[truth == 4] = [9] * 12 + [4] * 8
    assert verdict(truth, guesses).level == "ok"


def test_few_images_give_no_verdict():
    finding = judge(np.arange(5), np.arange(1, 6), np.arange(50), CLASSES, CLASSES)
    assert (finding.level, finding.title) == ("note", "the net was not tried")
    assert finding.detail == "5 images of the net's classes can be read; at least 20 are needed"


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
    assert (code, findings[-1]["title"]) == (0, "labels fit the net's guesses")
    code, findings = check(dict(zip(ids, ids[1:] + ids[:1], strict=True)), tmp_path / "turned")
    assert code == 1
    assert findings[-1]["title"] == "classes with labels that look permuted"


def test_a_net_with_other_classes_is_not_tried(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    for wnid in ("n99999998", "n99999999"):
        mini.write(tmp_path / "val" / wnid / "1.JPEG", mini.jpeg(1))
    finding = try_net(open_images(tmp_path), load(views="center"))
    assert (finding.level, finding.title) == ("note", "the net was not tried")
    assert "share no class" in finding.detail


def test_the_sample_takes_known_classes_and_images_evenly():
    labels = np.repeat(np.arange(100), 50)
    to_net = np.where(np.arange(100) % 2, np.arange(100), -1)
    chosen = np.array(trial._sample(labels, to_net))
    assert len(chosen) == len(set(chosen)) == trial.CLASSES * trial.IMAGES
    assert (np.diff(chosen) > 0).all()
    assert set(labels[chosen] % 2) == {1}
    assert set(np.bincount(labels[chosen])) == {0, trial.IMAGES}
    assert trial._sample(np.array([3, 1, 1, 3, 0]), to_net) == [0, 1, 2, 3]


@pytest.mark.skipif(not TINY_IMAGENET.is_dir(), reason="needs Tiny ImageNet beside this checkout")
def test_the_embedded_net_detects_permuted_labels_of_tiny_imagenet(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
    images = open_images(TINY_IMAGENET)
    wnids = [c.wnid for c in images.classes[::20]]
    for example in images:
        if (wnid := images.classes[example.label].wnid) in wnids:
            name = Path(example.name).name
            mini.write(tmp_path / "right" / "val" / wnid / name, example.data)
            wrong = wnids[(wnids.index(wnid) + 3) % len(wnids)]
            mini.write(tmp_path / "turned" / "val" / wrong / name, example.data)
    right, turned = (run("data", "check", tmp_path / root, "--quick-test") for root in ("right", "turned"))
    assert right[0] == 0
    assert "labels fit the net's guesses" in right[1]
    assert turned[0] == 1
    assert "labels that look permuted" in " ".join(turned[1].split())
