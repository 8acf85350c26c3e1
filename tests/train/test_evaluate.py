"""Errors of a net in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
from torch import Tensor, nn

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import Backend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.evaluation import compute
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Preprocessing, Views, patches
from tests.nets import TINY, random_artifact
from tests.train.toys import images, in_memory
from train import evaluate
from train.data import PackedImages
from train.evaluate import DivergedError, ModuleScorer, NetScorer, count_correct, view_patches
from train.feed import Feed
from train.model import AlexNet

CPU = torch.device("cpu")
COUNT = 24


@pytest.mark.parametrize("views", ["ten", "center"])
@pytest.mark.parametrize(("size", "patch"), [(64, 57), (63, 57), (60, 60)])
@pytest.mark.parametrize("per_pixel", [False, True])
def test_views_are_bit_identical_to_those_of_prediction(views, size, patch, per_pixel):
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    mean = rng.uniform(90, 130, (size, size, 3) if per_pixel else 3).astype(np.float32)
    preprocessing = Preprocessing(size=size, patch=patch, mean=mean)
    cut = view_patches(torch.from_numpy(squares), torch.from_numpy(mean), patch, views).numpy()
    np.testing.assert_array_equal(cut, np.stack([patches(s, preprocessing, views) for s in squares]))


def reference_ranks(artifact: Artifact, packed: PackedImages, views: Views) -> np.ndarray:
    """Return the rank (0 is the first) of each label by the NumPy reference, [N].

    The ranks are those of a stable sort of the probabilities, averaged over the views, image by image.
    """
    backend, ranks = ReferenceBackend(artifact), []
    for square, label in zip(packed.shards[0].numpy(), packed.labels.tolist(), strict=True):
        scores = backend.infer(patches(square, artifact.manifest.preprocessing, views)).mean(0)
        ranks.append(np.argsort(-scores, kind="stable").tolist().index(label))
    return np.array(ranks)


def blocks(count: int) -> PackedImages:
    """Return images of 8 x 8 coloured blocks, so that all views differ, with random labels."""
    rng = np.random.default_rng(2)
    pixels = np.kron(rng.integers(0, 256, (count, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    return in_memory(pixels, rng.integers(0, 7, count))


class Case:
    """A net with seven classes, images, and the ranks of their labels by the reference."""

    def __init__(self, mean: str) -> None:
        artifact, self.packed = random_artifact(), blocks(COUNT)
        if mean == "pixel":
            per_pixel = np.kron(np.random.default_rng(1).uniform(0, 255, (8, 8, 3)), np.ones((8, 8, 1)))
            manifest = artifact.manifest
            manifest = structs.replace(manifest, preprocessing=structs.replace(manifest.preprocessing, mean=per_pixel))
            artifact = Artifact(manifest, artifact.tensors)
        self.artifact = artifact
        self.mean = torch.from_numpy(artifact.manifest.preprocessing.mean.copy())
        self.model = AlexNet(TINY.build())
        self.model.take(artifact.tensors)
        self.ranks = {views: reference_ranks(artifact, self.packed, views) for views in ("ten", "center")}
        self.feed = Feed(self.packed, CPU)

    def expected(self, views: Views, rows: Tensor) -> tuple[int, int]:
        ranks = self.ranks[views][rows.numpy()]
        return int((ranks < 1).sum()), int((ranks < 5).sum())

    def count(self, rows: Tensor, views: Views, **options) -> dict[Views, tuple[int, int]]:
        return count_correct(ModuleScorer(self.model, self.mean, 57, views), self.feed, rows, **options)

    def count_in(self, backend: Backend, rows: Tensor, **options) -> dict[Views, tuple[int, int]]:
        net = Net(self.artifact.manifest, backend, "ten")
        return count_correct(NetScorer(net), self.feed, rows, **options)


@pytest.fixture(scope="module", params=["channel", "pixel"])
def case(request) -> Case:
    return Case(request.param)


ALL = torch.arange(COUNT)


def test_counts_match_the_reference_for_ten_views_and_the_central_view(case):
    counts = case.count(ALL, "ten")
    assert counts == {views: case.expected(views, ALL) for views in ("center", "ten")}
    assert all(0 < top1 < top5 < COUNT for top1, top5 in counts.values()), "extreme counts would hide mistakes"
    assert counts["center"] != counts["ten"]


def test_counts_of_the_central_view_are_the_same_alone_and_with_ten_views(case):
    for rows in (ALL, ALL[::2], ALL[5:6]):
        assert case.count(rows, "center") == {"center": case.count(rows, "ten")["center"]}
        assert case.count(rows, "center")["center"] == case.expected("center", rows)


@pytest.mark.parametrize("count", [24, 16, 17, 1])
def test_counts_in_a_runtime_match_the_reference_and_every_call_is_a_full_batch(case, count):
    class Recorded(ReferenceBackend):
        def infer(self, inputs: np.ndarray) -> np.ndarray:
            calls.append(inputs.shape)
            return super().infer(inputs)

    calls: list[tuple[int, ...]] = []
    counted: list[int] = []
    counts = case.count_in(Recorded(case.artifact), ALL[:count], on_images=counted.append)
    assert counts == {views: case.expected(views, ALL[:count]) for views in ("center", "ten")}
    assert calls == [(160, 3, 57, 57)] * -(-count // 16)
    assert sum(counted) == count


def test_the_batch_is_that_of_eval():
    assert compute.BATCH == evaluate.EVAL_BATCH


def test_output_of_a_runtime_that_is_not_finite_is_a_diverged_run(case):
    class Broken(ReferenceBackend):
        def infer(self, inputs: np.ndarray) -> np.ndarray:
            scores = np.full((len(inputs), 7), 1 / 7, np.float32)
            scores[13, 0] = np.nan  # a view of the second image
            return scores

    with pytest.raises(DivergedError, match="not finite"):
        case.count_in(Broken(case.artifact), ALL)
    case.count_in(Broken(case.artifact), ALL[:1])  # a view of the padding is not counted


def ten_view_guess(scores: list[list[float]]) -> tuple[int, int]:
    """Return the class, 0 or 1, that is predicted from ten views with these logits, by a module and in a runtime."""
    logits = torch.tensor(scores)

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return logits

    class FixedBackend(ReferenceBackend):
        def infer(self, inputs: np.ndarray) -> np.ndarray:
            return np.tile(logits.softmax(1).numpy(), (len(inputs) // 10, 1))

    feed = Feed(replace(images(1), labels=torch.tensor([0])), CPU)
    artifact = random_artifact(replace(TINY, classes=2))
    nets = ModuleScorer(Fixed(), torch.zeros(3), 57, "ten"), NetScorer(Net(artifact.manifest, FixedBackend(artifact)))
    wrong = [1 - count_correct(net, feed, torch.arange(1))["ten"][0] for net in nets]
    return wrong[0], wrong[1]


def test_ten_views_average_probabilities_not_logits():
    # One view strongly prefers 0, nine slightly prefer 1: the mean of the logits gives 0, that of the probabilities 1.
    assert ten_view_guess([[40.0, 0.0]] + [[0.0, 1.0]] * 9) == (1, 1)


@pytest.mark.parametrize("view", range(10))
def test_each_of_the_ten_views_counts(view):
    # Nine views slightly prefer 1 (0.525), one strongly prefers 0 (0.993). The mean for 0 is 0.527; without this view,
    # it is below 0.5.
    logits = [[0.0, 0.1] for _ in range(10)]
    assert ten_view_guess(logits) == (1, 1)
    logits[view] = [5.0, 0.0]
    assert ten_view_guess(logits) == (0, 0)


def test_the_counts_of_parts_add_up_to_those_of_the_whole(case):
    whole = case.count(ALL, "ten")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parts = torch.from_numpy(rng.permutation(COUNT)).tensor_split(sorted(rng.integers(0, COUNT, 3).tolist()))
        counts = [case.count(part, "ten") for part in parts]
        assert {v: tuple(np.sum([c[v] for c in counts], 0).tolist()) for v in whole} == whole


def test_no_images_give_zero_counts_and_a_repeated_image_counts_twice(case):
    assert case.count(ALL[:0], "ten") == {"center": (0, 0), "ten": (0, 0)}
    once, twice = (case.count(rows, "ten")["ten"] for rows in (ALL[:7], torch.cat([ALL[:7], ALL[:7]])))
    assert twice == tuple(2 * count for count in once) != (0, 0)


@pytest.mark.parametrize(("views", "calls"), [("ten", [5, 5, 5, 5, 4]), ("center", [24])])
def test_progress_adds_up_to_the_number_of_images(case, monkeypatch, views, calls):
    monkeypatch.setattr(evaluate, "PATCHES_PER_CALL", {"cpu": 50})
    counted: list[int] = []
    assert case.count(ALL, views, on_images=counted.append)[views] == case.expected(views, ALL)
    assert counted == calls
    counted.clear()
    case.count(ALL[:3], views, on_images=counted.append)
    assert counted == [3]


def test_a_net_in_training_mode_is_measured_without_dropout(case):
    case.model.train()
    assert case.count(ALL, "ten")["ten"] == case.expected("ten", ALL)


class Constant(nn.Module):
    """The same logits for every patch."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def count_constant(model: nn.Module, labels: list[int], views: Views) -> dict[Views, tuple[int, int]]:
    feed = Feed(replace(images(len(labels)), labels=torch.tensor(labels)), CPU)
    return count_correct(ModuleScorer(model, torch.zeros(3), 57, views), feed, torch.arange(len(labels)))


def test_ties_go_to_the_lower_class_index():
    # Order of the classes: 6, then 1, 2, 4, 5 with equal scores, then 0 and 3.
    model = Constant(-1, 2, 2, -1, 2, 2, 3)
    places = {6: (1, 1), 1: (0, 1), 2: (0, 1), 4: (0, 1), 5: (0, 1), 0: (0, 0), 3: (0, 0)}
    for label, counts in places.items():
        assert count_constant(model, [label], "ten") == {"center": counts, "ten": counts}
    # All equal: 0 is first, 0 to 4 are among five.
    assert count_constant(Constant(*[0.5] * 7), [*range(7)], "center") == {"center": (1, 5)}


@pytest.mark.parametrize("views", ["ten", "center"])
@pytest.mark.parametrize("logits", [(float("nan"), 0, 0), (0, float("inf"), 0)])
def test_output_that_is_not_finite_is_a_diverged_run(views, logits):
    with pytest.raises(DivergedError, match=r"not finite: the run diverged; try a smaller --lr") as caught:
        count_constant(Constant(*logits), [0, 1], views)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_nan_for_one_of_many_images_is_a_diverged_run(case):
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 7)
            logits[-1] = float("nan")
            return logits

    with pytest.raises(DivergedError):
        count_correct(ModuleScorer(Broken(), case.mean, 57, "ten"), case.feed, ALL)
