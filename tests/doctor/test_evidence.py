"""The likelihood of labellings, and the share of labels that fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alexnet_infer.doctor.evidence import CALIBRATED, Evidence
from tests.doctor.simulated import COUNT, probabilities, truth


def mixed(labels: np.ndarray, wrong: float, seed: int = 1) -> np.ndarray:
    """Labels of which this share is replaced by random ones."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < wrong, random.integers(0, COUNT, len(labels)), labels)


def test_a_labelling_scores_the_product_of_its_likelihood_ratios():
    """Computed image by image, from the definition."""
    labels = np.array([0, 0, 3, 1, 3])
    p = probabilities(np.array([0, 2, 3, 1, 1]), 1.5, classes=4)
    own = {0: 0, 1: 2, 3: 3}

    def score(temperature: float) -> float:
        powers = p ** (1 / temperature)
        powers /= powers.sum(1, keepdims=True)
        total = 0.0
        for i, label in enumerate(labels):
            c = own[int(label)]
            others = [powers[j, c] for j in range(len(labels)) if labels[j] != label]
            usual = (sum(others) + 10 / 4) / (len(others) + 10)
            total += math.log(0.1 + 0.9 * min(powers[i, c] / usual, 4))
        return total

    scores = Evidence(p, labels, calibrated=True).scores(np.array([[0, 2, 3], [-1, -1, -1]]))
    assert scores == pytest.approx([max(map(score, CALIBRATED)), 0])


@pytest.mark.parametrize("strength", [2.0, 3.0])
@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3, 0.6])
def test_the_interval_contains_the_share_of_right_labels(strength, wrong):
    true = truth(each=15)
    labels = mixed(true, wrong)
    own = np.arange(COUNT)
    share = Evidence(probabilities(true, strength), labels, calibrated=True).share(own)
    assert share.low - 0.02 <= (labels == true).mean() <= share.high + 0.02
    assert share.high - share.low < 0.2
    if wrong:
        assert (share.fits == (labels == true)).mean() > 0.8


def test_a_hard_set_fits_although_every_guess_is_wrong():
    """Only images that the net gets wrong are kept: 0 % accuracy, and right labels."""
    true = truth(each=40)
    p = probabilities(true, 2.0)
    hard = p.argmax(1) != true
    assert hard.sum() > 1000
    share = Evidence(p[hard], true[hard], calibrated=True).share(np.arange(COUNT))
    assert share.low > 0.9


def test_unrelated_labels_do_not_fit_and_a_constant_net_says_nothing():
    true = truth()
    labels = np.random.default_rng(3).permutation(true)
    own = np.arange(COUNT)
    assert Evidence(probabilities(true, 2.0), labels, calibrated=True).share(own).high < 0.1
    constant = np.tile(np.linspace(1, 2, COUNT) / 1.5 / COUNT, (len(true), 1))
    share = Evidence(constant, true, calibrated=False).share(own)
    assert share.low == 0
    assert share.high > 0.99


@pytest.mark.parametrize("power", [0.5, 2.5])
def test_a_net_that_is_too_bold_or_too_timid_is_not_taken_for_wrong_labels(power):
    true = truth(each=15)
    p = probabilities(true, 2.5) ** power
    p /= p.sum(1, keepdims=True)
    own = np.arange(COUNT)
    assert Evidence(p, true, calibrated=False).share(own).high > 0.98
    assert Evidence(p, mixed(true, 0.3), calibrated=False).share(own).high < 0.85


def test_the_best_other_class_of_a_label_is_the_one_that_its_images_show():
    true = truth()
    evidence = Evidence(probabilities(true, 2.5), np.where(true == 4, 9, true), calibrated=True)
    moved = Evidence(probabilities(true, 2.5), (true + 1) % COUNT, calibrated=True)
    own = np.arange(COUNT)
    there, lead = moved.elsewhere(own)
    assert (there == (own - 1) % COUNT).mean() > 0.95
    assert (lead > 3).mean() > 0.9
    own = evidence.present
    assert 4 not in own
    there, lead = evidence.elsewhere(own)
    assert there[list(own).index(9)] == 4
    assert (lead > 3).sum() == 0  # half of label 9's images are right
