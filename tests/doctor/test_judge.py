"""Verdicts on labels, with a simulated net that is exactly calibrated."""

from __future__ import annotations

import re

import numpy as np
import pytest

from alexnet_infer.doctor.achieved import Achieved, from_counts
from alexnet_infer.doctor.finding import Finding
from alexnet_infer.doctor.judge import Trial, judge
from tests.doctor.simulated import CLASSES, COUNT, probabilities, truth

TITLES = {
    "ok": "labels fit the net's guesses",
    "permuted": "labels look permuted",
    "shifted": "classes with labels that look shifted",
    "swapped": "classes look swapped",
    "odd": "classes fit other classes better",
    "part": "labels don't fit the net's guesses",
    "few": "fewer images are classified correctly than expected",
    "unknown": "can't tell whether the labels fit",
}


def known(strength: float) -> Achieved:
    """What the simulated net achieves, on other images."""
    true = truth(each=50)
    right = probabilities(true, strength, seed=99).argmax(1) == true
    return from_counts(np.bincount(true[right], minlength=COUNT), [50] * COUNT, "own validation results")


KNOWN = {strength: known(strength) for strength in (1.5, 2.0, 2.5, 3.0)}


def verdict(labels: np.ndarray, p: np.ndarray, achieved: Achieved | None = None, to_net=None) -> Finding:
    count = len(labels)
    return judge(
        Trial(
            labels=labels,
            probabilities=p,
            to_net=np.arange(COUNT) if to_net is None else to_net,
            classes=CLASSES,
            net_classes=CLASSES,
            names=[f"{i}.jpg" for i in range(count)],
            available=count,
            achieved=achieved,
        )
    )


def outcome(finding: Finding) -> str:
    (name,) = [name for name, title in TITLES.items() if title == finding.title]
    levels = {"ok": "ok", "unknown": "note", "permuted": "error", "shifted": "error", "swapped": "error"}
    assert finding.level == levels.get(name, "warning")
    return name


@pytest.mark.parametrize("strength", KNOWN)
@pytest.mark.parametrize("each", [6, 10])
def test_right_labels_are_ok_whatever_the_nets_accuracy(strength, each):
    true = truth(each=each)
    p = probabilities(true, strength)
    assert outcome(verdict(true, p, KNOWN[strength])) == "ok"
    # Less is known of other nets, so a small sample of a weak one may not be enough. But it is no warning.
    assert outcome(verdict(true, p)) in ("ok", "unknown")


def test_facts_name_what_was_seen_and_what_was_expected():
    true = truth()
    p = probabilities(true, 2.0)
    right = int((p.argmax(1) == true).sum())
    detail = verdict(true, p, KNOWN[2.0]).detail
    expected = int(re.search(r"; (\d+) are expected from the net's own validation results; ", detail)[1])
    assert detail.startswith(f"{right} of 600 images are classified correctly, in 60 classes; ")
    assert abs(expected - right) < 60
    assert detail.endswith(" to 100 % of the labels fit")


@pytest.mark.parametrize("achieved", [None, KNOWN[2.0]], ids=["unknown", "known"])
@pytest.mark.parametrize("seed", range(8))
def test_any_permutation_is_an_error_that_names_classes(achieved, seed):
    true = truth(each=5)
    order = np.random.default_rng(seed).permutation(COUNT)
    finding = verdict(order[true], probabilities(true, 2.0, seed), achieved)
    assert outcome(finding) == "permuted"
    assert finding.count > COUNT / 3
    assert "look like" not in finding.detail
    inverse = np.argsort(order)
    named = [(int(line[1:9]), int(line.split(" fits n")[1][:8])) for line in finding.examples]
    assert np.mean([inverse[label] == guess for label, guess in named]) > 0.95


def as_text(true: np.ndarray) -> np.ndarray:
    return np.argsort(sorted(range(COUNT), key=str))[true]


@pytest.mark.parametrize("each", [1, 3, 10])
@pytest.mark.parametrize(
    ("labelling", "name"),
    [
        (as_text, "the order of numbers sorted as text (0, 1, 10, 100, ...)"),
        (lambda true: np.minimum(true + 1, COUNT - 1), "positions counted from 1"),
        (lambda true: np.maximum(true - 1, 0), "positions minus 1"),
        (lambda true: COUNT - 1 - true, "reverse order"),
        (lambda true: (true + 9) % COUNT, "positions plus 9"),
        (lambda true: (true - 4) % COUNT, "positions minus 4"),
        (
            lambda true: np.argsort(sorted(range(COUNT), key=lambda i: CLASSES[i].name))[true],
            "alphabetical order of the classes' names",
        ),
    ],
)
def test_a_known_order_is_named_even_with_one_image_per_class(labelling, name, each):
    true = truth(each=each)
    finding = verdict(labelling(true), probabilities(true, 2.0), KNOWN[2.0])
    assert outcome(finding) == "permuted"
    assert finding.detail.startswith(f"they look like {name}: read so, ")


@pytest.mark.parametrize("achieved", [None, KNOWN[2.0]], ids=["unknown", "known"])
def test_unrelated_labels_and_useless_nets_are_neither_ok_nor_permuted(achieved):
    true = truth(each=5)
    random = np.random.default_rng(5)
    shuffled, useless = random.permutation(true), random.dirichlet(np.ones(COUNT), len(true))
    assert outcome(verdict(shuffled, probabilities(true, 2.0), achieved)) == "part"
    assert outcome(verdict(true, useless, achieved)) in ("part", "unknown")
    assert outcome(verdict(true, np.full_like(useless, 1 / COUNT), achieved)) == "unknown"
    always = np.full_like(useless, 0.1 / (COUNT - 1))
    always[:, 7] = 0.9
    assert outcome(verdict(true, always, achieved)) in ("part", "unknown")


@pytest.mark.parametrize("wrong", [0.2, 0.3, 0.5])
@pytest.mark.parametrize("each", [3, 15])
def test_a_part_of_random_labels_is_never_ok_and_reported_if_the_sample_shows_it(wrong, each):
    true = truth(each=each)
    random = np.random.default_rng(11)
    labels = np.where(random.random(len(true)) < wrong, random.integers(0, COUNT, len(true)), true)
    for achieved in (None, KNOWN[2.0]):
        got = outcome(finding := verdict(labels, probabilities(true, 2.0), achieved))
        assert got == "part" or (each == 3 and got == "unknown")
    if each == 15:
        mislabelled = {f"{i}.jpg" for i in np.flatnonzero(labels != true)}
        first = [line.split(":")[0] for line in finding.examples[:20]]
        assert np.mean([name in mislabelled for name in first]) > 0.9


@pytest.mark.parametrize("step", [1, -1, 3])
def test_a_run_of_shifted_labels_is_an_error_that_names_its_ends(step):
    true = truth(each=5)
    inside = (true >= 30) & (true + step < COUNT)
    finding = verdict(np.where(inside, true + step, true), probabilities(true, 2.5), KNOWN[2.5])
    assert outcome(finding) == "shifted"
    first = int(finding.detail.split("(label ")[1].split(")")[0])
    assert abs(first - 30 - step) <= 2
    assert f"labels look {abs(step)} too {'high' if step > 0 else 'low'}" in finding.detail


def test_swapped_classes_are_an_error_and_one_merged_into_another_is_a_warning():
    true = truth(each=5)
    p = probabilities(true, 2.5)
    finding = verdict(np.where(true == 4, 9, np.where(true == 9, 4, true)), p, KNOWN[2.5])
    assert (outcome(finding), finding.count) == ("swapped", 2)
    assert finding.examples[0].startswith(f"n00000004 {CLASSES[4].short}: fits n00000009 {CLASSES[9].short} better; ")
    # The rest of the images is unlike what the net knows: the two classes may only look like each other in them.
    hard = np.isin(true, [4, 9]) | (p.argmax(1) != true)
    swapped = np.where(true == 4, 9, np.where(true == 9, 4, true))
    assert verdict(swapped[hard], p[hard], KNOWN[2.5]).level == "warning"
    kept = true != 45
    finding = verdict(np.where(true == 4, 45, true)[kept], p[kept], KNOWN[2.5])
    assert (outcome(finding), finding.count) == ("odd", 1)
    assert finding.examples[0].startswith("n00000045")


def test_hard_images_with_right_labels_are_never_permuted_and_ok_only_if_nothing_is_expected():
    true = truth(each=40)
    p = probabilities(true, 2.0)
    hard = p.argmax(1) != true
    assert outcome(verdict(true[hard], p[hard], KNOWN[2.0])) == "few"
    assert outcome(verdict(true[hard], p[hard])) in ("ok", "unknown")
    permuted = np.random.default_rng(0).permutation(COUNT)[true]
    assert outcome(verdict(permuted[hard], p[hard], KNOWN[2.0])) == "permuted"


def test_images_unlike_those_that_the_net_knows_are_a_warning_not_a_permutation():
    """Half of the classes' images show one wrong thing each, and the same one for many classes."""
    true = truth(each=10)
    seen = np.where(true % 2, true, true % 6)
    finding = verdict(true, probabilities(seen, 2.5), KNOWN[2.5])
    assert outcome(finding) in ("odd", "part", "few")


@pytest.mark.parametrize("count", [1, 5, 20])
def test_few_images_give_no_verdict_and_the_number_that_is_needed(count):
    true = np.arange(count)
    finding = verdict(true, probabilities(true, 2.0), KNOWN[2.0])
    assert outcome(finding) == "unknown"
    needed = re.search(
        r"; about ([\d,]+) images of the net's classes are needed, and the set has (\d+)$", finding.detail
    )
    assert int(needed[1].replace(",", "")) > int(needed[2]) == count


def test_labels_that_the_net_does_not_know_in_another_order_do_no_harm():
    true = truth(each=5)
    to_net = np.where(np.arange(COUNT) % 2, np.arange(COUNT), -1)
    p = probabilities(true, 2.5)
    for labels, expected in ((true, "ok"), (as_text(true), "permuted")):
        used = to_net[labels] >= 0
        assert outcome(verdict(labels[used], p[used], None, to_net)) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_few_classes_are_judged_too(classes, seed):
    true = truth(each=20)[: 20 * classes]
    p = probabilities(true, 2.5, seed)
    assert outcome(verdict(true, p, KNOWN[2.5])) in ("ok", "unknown", "few")
    assert outcome(verdict((true + 1) % classes, p, KNOWN[2.5])) in ("permuted", "swapped", "shifted")


def test_a_class_that_is_classified_correctly_far_less_often_than_usual_is_not_passed_as_ok():
    """Its images show a class that is not in the set, and that looks like it: the label in second place fits."""
    true = truth(each=20)
    p = probabilities(true, 2.5)
    own = true == 8
    p[own, 9], p[own, 8] = p[own].max(1) + 0.01, p[own].max(1)
    p /= p.sum(1, keepdims=True)
    kept = true != 9
    labels, shown = true[kept], p[kept]
    finding = verdict(labels, shown, KNOWN[2.5])
    assert finding.level == "warning"
    assert (finding.count, finding.examples[0].split(":")[0]) == (1, f"n00000008 {CLASSES[8].short}")
