"""The choice of a report's images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.datasets import open_images
from alexnet_infer.evaluation import examples
from alexnet_infer.evaluation.examples import choose_examples
from alexnet_infer.evaluation.pipeline import predict
from alexnet_infer.evaluation.scoring import Scores
from tests.datasets.mini import WNIDS
from tests.evaluation.toys import about, lookup_net, opened, write_greys

LABELS = [0, 1, 2, 3, 4, 5, 0, 1]
GUESSES = [0, 2, 2, 0, 4, 0, 0, 1]  # images 1, 3 and 5 are mistakes
CONFIDENCE = [0.9, 0.5, 0.6, 0.8, 0.7, 0.8, 0.4, 0.3]


def row(guess: int, confidence: float) -> list[float]:
    values = [(1 - confidence) / 5] * 6
    values[guess] = confidence
    return values


@pytest.fixture
def chosen(tmp_path: Path):
    data = open_images(write_greys(tmp_path / "greys", LABELS))
    net = lookup_net([row(*pair) for pair in zip(GUESSES, CONFIDENCE, strict=True)])
    positions = range(len(LABELS))
    predictions = opened(tmp_path / "cache", about(len(LABELS)), data.listed(positions))
    predict(data, positions, [(net, predictions)])
    predictions.close()
    return lambda: choose_examples(Scores([[predictions]]), data, positions, net.rescaling)


def test_mistakes_of_the_first_guess_are_sorted_by_confidence_and_ties_keep_the_sets_order(chosen):
    mistakes = chosen().mistakes
    assert [shown.label.wnid for shown in mistakes] == [WNIDS[LABELS[i]] for i in (3, 5, 1)]
    assert [shown.guesses[0][0].wnid for shown in mistakes] == [WNIDS[GUESSES[i]] for i in (3, 5, 1)]
    assert [shown.guesses[0][1] for shown in mistakes] == pytest.approx([0.8, 0.8, 0.5])


def test_every_image_is_shown_with_its_own_pixels_and_five_guesses_in_stable_order(chosen):
    for shown in chosen().sample:
        level = int(shown.square[0, 0, 0])  # the i-th image is all of grey level i + 1
        i = level - 1
        assert shown.square.shape == (64, 64, 3)
        assert (shown.square == level).all()
        assert shown.label.wnid == WNIDS[LABELS[i]]
        other_classes = [k for k in range(6) if k != GUESSES[i]]
        assert [guess.wnid for guess, _ in shown.guesses] == [WNIDS[k] for k in [GUESSES[i], *other_classes][:5]]


def test_a_sample_has_no_repetitions_is_reproducible_and_is_not_the_first_images(chosen, monkeypatch):
    monkeypatch.setattr(examples, "SHOWN", 4)
    names = [[shown.name for shown in chosen().sample] for _ in range(2)]
    assert names[0] == names[1]
    assert len(set(names[0])) == 4
    assert names[0] != [f"{i:03}.png" for i in range(1, 5)]


def test_an_image_that_cannot_be_read_is_not_shown(tmp_path):
    root = write_greys(tmp_path / "greys", LABELS)
    (root / "002.png").write_bytes(b"not an image")
    data, positions = open_images(root), range(len(LABELS))
    table = np.array([row(*pair) for pair in zip(GUESSES, CONFIDENCE, strict=True)])
    net, predictions = lookup_net(table), opened(tmp_path / "cache", about(len(LABELS)), data.listed(positions))
    predict(data, positions, [(net, predictions)])
    predictions.close()
    chosen = choose_examples(Scores([[predictions]]), data, positions, net.rescaling)
    assert len(chosen.sample) == len(LABELS) - 1
    assert [shown.label.wnid for shown in chosen.mistakes] == [WNIDS[LABELS[i]] for i in (3, 5)]
