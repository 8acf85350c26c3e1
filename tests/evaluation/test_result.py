"""The result: its figures by hand, its JSON key by key, the best net, the verdict, and conditions."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.result import Data, Evaluation, Protocol, Sample, evaluation, parse_condition
from alexnet_infer.evaluation.statistics import ErrorRate, Pairing, mcnemar, wilson
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName
from alexnet_infer.version import __version__
from tests.evaluation.results import CLASSES, GUESSES, NAMES, WNIDS, facts, result, tally

ERROR = ["wrong", "error", "low", "high"]
PAIRED = ["difference", "low", "high", "ensemble_only_wrong", "net_only_wrong", "p"]


def test_the_keys_of_the_json_and_their_order_are_fixed():
    data = result(sample=Sample(images=8, of=80)).to_json()
    assert list(data) == [
        "alexnet_infer",
        "data",
        "protocol",
        "nets",
        "ensemble",
        "calibration",
        "classes",
        "confusions",
    ]
    assert list(data["data"]) == ["name", "listing", "images", "classes", "sample", "unreadable"]
    assert list(data["data"]["sample"]) == ["images", "of"]
    assert list(data["data"]["unreadable"][0]) == ["image", "reason"]
    assert list(data["protocol"]) == ["views", "nets", "classes", "outputs", "labels", "notes", "deviations"]
    for net in data["nets"]:
        assert list(net) == ["name", "sha256", "backend", "parameters", "top1", "top5"]
        assert list(net["top1"]) == list(net["top5"]) == ERROR
    assert list(data["ensemble"]) == ["top1", "top5", "against"]
    assert list(data["ensemble"]["top1"]) == list(data["ensemble"]["top5"]) == ERROR
    for pair in data["ensemble"]["against"]:
        assert list(pair) == ["net", "top1", "top5"]
        assert list(pair["top1"]) == list(pair["top5"]) == PAIRED
    assert list(data["calibration"]) == ["ece", "bins"]
    assert list(data["calibration"]["bins"][0]) == ["low", "high", "images", "confidence", "accuracy"]
    assert list(data["classes"][0]) == ["wnid", "name", "images", "top1", "top5"]
    assert list(data["confusions"][0]) == ["label", "guess", "images", "of"]


def test_json_is_plain_and_the_same_when_made_again():
    text = json.dumps(result().to_json(), allow_nan=False)
    assert text == json.dumps(result().to_json(), allow_nan=False)
    assert json.loads(text) == result().to_json()


def test_errors_are_counted_over_all_images_and_have_wilsons_interval():
    data = result().to_json()
    assert data["alexnet_infer"] == __version__
    assert [(net["name"], net["top1"]["wrong"]) for net in data["nets"]] == [("first", 4), ("second", 5)]
    low, high = wilson(3, 8)
    assert data["ensemble"]["top1"] == {"wrong": 3, "error": 0.375, "low": low, "high": high}
    assert data["ensemble"]["top5"]["wrong"] == 1  # the unreadable image


def test_the_ensemble_is_compared_with_each_net_image_by_image():
    first, second = result().to_json()["ensemble"]["against"]
    assert (first["net"], second["net"]) == ("first", "second")
    assert (first["top1"]["ensemble_only_wrong"], first["top1"]["net_only_wrong"]) == (0, 1)
    assert first["top1"]["difference"] == -1 / 8
    assert first["top1"]["p"] == mcnemar(0, 1) == 1.0
    assert (second["top1"]["ensemble_only_wrong"], second["top1"]["net_only_wrong"]) == (0, 2)
    assert second["top1"]["difference"] == -2 / 8
    assert second["top1"]["p"] == 0.5
    assert second["top1"]["low"] < -0.25 < second["top1"]["high"] <= 0
    assert first["top5"] == dict.fromkeys(PAIRED, 0) | {"p": 1.0}


@pytest.mark.parametrize(
    ("only_mean", "only_net", "verdict"),
    [
        (0, 5, "undecided"),
        (0, 6, "better"),
        (6, 0, "worse"),
        (40, 60, "undecided"),
        (30, 60, "better"),
        (0, 0, "undecided"),
    ],
)
def test_a_verdict_needs_mcnemars_p_below_5_per_cent_and_an_interval_without_0(only_mean, only_net, verdict):
    """Five coins show all heads or all tails in 2 of 32 outcomes (6 %), six coins in 2 of 64 (3 %)."""
    mean = np.repeat([True, False, False], [only_mean, only_net, 200])
    net = np.repeat([False, True, False], [only_mean, only_net, 200])
    assert Pairing.of(mean, net).verdict == verdict


def test_an_interval_that_reaches_0_leaves_the_verdict_undecided():
    rates = {name: ErrorRate.of(np.arange(90) < wrong) for name, wrong in (("first", 0), ("second", 9))}
    pair = Pairing(**rates, difference=-0.1, low=-0.2, high=0.0, first_only=0, second_only=9, p=0.001)
    assert pair.verdict == "undecided"
    assert replace(pair, high=-0.01).verdict == "better"
    assert replace(pair, high=-0.01, p=0.05).verdict == "undecided"
    assert replace(pair, low=0.01, high=0.2).verdict == "worse"


def of_two(nets: dict[str, str], mean: str) -> Evaluation:
    """Evaluate two nets, given the name of each and of its guesses, with the guesses of `mean` as their mean's."""
    return evaluation(
        data=Data(name="zoo", listing="", images=8, classes=7),
        protocol=Protocol(views="ten", nets=2),
        classes=CLASSES,
        guesses=CLASSES,
        nets=[(facts(name), tally(GUESSES[guesses])) for name, guesses in nets.items()],
        ensemble=tally(GUESSES[mean]),
    )


@pytest.mark.parametrize(("order", "best"), [(("first", "second"), "first"), (("second", "first"), "first")])
def test_the_best_net_has_the_lowest_top_1_error(order, best):
    made = of_two({name: name for name in order}, mean="mean")
    assert made.against_best.net == best
    assert made.against_best.top1.second_only == 1


def test_among_equal_nets_the_top_5_error_decides_and_then_the_order():
    two = result()
    equal = [replace(net, top1=two.nets[0].top1, top5=two.nets[0].top5) for net in two.nets]
    assert replace(two, nets=tuple(equal)).against_best.net == "first"
    better = replace(equal[1], top5=replace(equal[1].top5, wrong=0))
    assert replace(two, nets=(equal[0], better)).against_best.net == "second"
    assert result(names=("only",)).against_best is None


def test_the_difference_is_the_ensembles_error_minus_the_nets():
    """With a net in the mean's place and the mean in the net's, the sign changes."""
    turned = of_two({"a": "mean", "b": "mean"}, mean="second")
    pair = turned.ensemble.against[0].top1
    assert (pair.difference, pair.first_only, pair.second_only) == (0.25, 2, 0)


def test_classes_are_those_of_the_data_in_order_with_the_headlines_wrong_images():
    classes = result().to_json()["classes"]
    assert [(class_["wnid"], class_["name"]) for class_ in classes] == list(zip(WNIDS, NAMES, strict=True))
    assert [class_["images"] for class_ in classes] == [2, 2, 2, 2, 0, 0, 0]
    assert [class_["top1"] for class_ in classes] == [0, 1, 1, 1, 0, 0, 0]
    assert [class_["top5"] for class_ in classes] == [0, 0, 0, 1, 0, 0, 0]


def test_for_one_net_the_headline_is_the_nets():
    single = result(names=("first",))
    assert single.to_json()["ensemble"] is None
    assert single.errors is single.nets[0]
    assert single.to_json()["confusions"][0] == {"label": WNIDS[0], "guess": WNIDS[2], "images": 1, "of": 2}
    assert result().errors is not result().nets[0]
    assert result().errors.top1.wrong == 3


def test_calibration_leaves_unreadable_images_out():
    bins = result().to_json()["calibration"]["bins"]
    assert sum(bin_["images"] for bin_ in bins) == 7
    (filled,) = [bin_ for bin_ in bins if bin_["images"]]
    assert filled["confidence"] == pytest.approx(0.6)
    assert filled["accuracy"] == 5 / 7
    assert result().calibration.ece == pytest.approx(5 / 7 - 0.6)
    empty = [bin_ for bin_ in bins if not bin_["images"]]
    assert all(bin_["confidence"] is None and bin_["accuracy"] is None for bin_ in empty)


def test_confusions_are_sorted_by_images_then_label_and_guess_and_are_at_most_twenty():
    """Thirty pairs in which label and guess differ, one of them with two images."""
    classes = tuple(ClassName(wnid=f"n{i:08}", name=f"c{i}") for i in range(6))
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    pairs = [*reversed(pairs), (4, 1)]
    counted = Tally(6)
    labels = np.array([a for a, _ in pairs])
    counted.add(np.eye(6)[[b for _, b in pairs]], labels, labels)
    made = evaluation(
        data=Data(name="x", listing="", images=31, classes=6),
        protocol=Protocol(views="ten", nets=1),
        classes=classes,
        guesses=classes,
        nets=[(facts("x"), counted)],
        ensemble=None,
    )
    pairs_made = [(pair.label, pair.guess, pair.images, pair.of) for pair in made.confusions]
    assert pairs_made[0] == ("n00000004", "n00000001", 2, 6)
    assert len(pairs_made) == 20
    assert pairs_made[1:] == [(f"n{a:08}", f"n{b:08}", 1, 5) for a, b in sorted(pairs[:-1])][:19]


def test_guesses_are_named_by_the_nets_classes():
    """The net's classes are the data's second and two others."""
    outputs = [ClassName(wnid=w, name=w) for w in ("n00000002", "n50000000", "n60000000")]
    counted = Tally(7)
    counted.add(np.eye(3)[[0, 1]], np.array([1, 0]), np.array([0, -1]))
    made = evaluation(
        data=Data(name="zoo", listing="", images=2, classes=7),
        protocol=Protocol(views="center", nets=1),
        classes=CLASSES,
        guesses=outputs,
        nets=[(facts("x"), counted)],
        ensemble=None,
    )
    assert [(pair.label, pair.guess) for pair in made.confusions] == [("n00000001", "n50000000")]


@pytest.mark.parametrize("images", [7, 9])
def test_tallies_with_another_number_of_images_fail_an_assertion(images):
    with pytest.raises(AssertionError):
        evaluation(
            data=Data(name="zoo", listing="", images=images, classes=7),
            protocol=Protocol(views="ten", nets=1),
            classes=CLASSES,
            guesses=CLASSES,
            nets=[(facts("first"), tally(GUESSES["first"]))],
            ensemble=None,
        )


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("top1>37.4", True),  # the mean's error is 37.5 %
        ("top1>37.5", False),
        ("top1>=37.5", True),
        ("top1<37.5", False),
        ("top1<=37.5", True),
        ("top1 < 37.50001 %", True),
        ("top5>12.5", False),
        (" top5>=12.5 ", True),
        ("top5>0", True),
        ("top5>100", False),
        ("top5<100%", True),
    ],
)
def test_conditions_compare_the_headlines_error_in_per_cent(text, holds):
    assert parse_condition(text).holds(result()) is holds


def test_conditions_are_exact():
    """70 wrong of 1,000 are 7 %; as floats they are more."""
    assert 100 * (70 / 1000) > 7
    counted = Tally(2)
    counted.add(np.tile([1.0, 0.0], (1000, 1)), np.repeat([1, 0], [70, 930]), np.repeat([1, 0], [70, 930]))
    made = evaluation(
        data=Data(name="x", listing="", images=1000, classes=2),
        protocol=Protocol(views="ten", nets=1),
        classes=CLASSES[:2],
        guesses=CLASSES[:2],
        nets=[(facts("x"), counted)],
        ensemble=None,
    )
    assert not parse_condition("top1>7").holds(made)
    assert parse_condition("top1>=7").holds(made)
    assert parse_condition("top1>6.999999999").holds(made)


def test_a_condition_is_printed_with_spaces_and_a_unit():
    assert str(parse_condition("top5>18.2")) == "top5 > 18.2 %"
    assert parse_condition("top5>=18.2").value == Fraction(91, 5)


@pytest.mark.parametrize(
    "text",
    ["", "top5", "top5>", "top2>3", "top5=18", "top5>-1", "top5>101", "top5>100.1", "top5>1e1", "top5>nan", "5>top5",
     "top5>18,2", "top5>1 2", "top5>18.2;rm", "top5=>3", "top5>\u0661", "top5>18\n<3", "top5>" + "9" * 5000],
)  # fmt: skip
def test_other_conditions_are_refused_in_one_line_with_an_example(text):
    with pytest.raises(UsageError, match=r'as in "top5>18\.2"') as refused:
        parse_condition(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
