"""Corruption errors and their mean against AugMix's formula in floats, and the tables that show them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.evaluation import corruption_tables
from alexnet_infer.evaluation.corruption_errors import Robustness, corruption_errors
from alexnet_infer.evaluation.imagenet_c import EXTRA, PUBLISHED, Baseline, read_baseline
from alexnet_infer.evaluation.result import Data, Evaluation, Protocol, Sample, evaluation
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName
from alexnet_infer.reading import Unreadable
from tests.evaluation.corrupted import ALEXNET, STANDARD
from tests.evaluation.results import CLASSES, facts

IMAGES = 50


def evaluated(
    wrong: int,
    *,
    images: int = IMAGES,
    listing: str = "same",
    views: str = "center",
    nets: Sequence[str] = ("a net",),
    classes: Sequence[ClassName] = CLASSES,
    notes: tuple[str, ...] = (),
    sample: Sample | None = None,
    unreadable: tuple[Unreadable, ...] = (),
) -> Evaluation:
    """The result of nets that classify the first `wrong` of the images wrongly. The first net is always wrong."""
    labels = np.arange(images) % len(classes)

    def tally(count: int) -> Tally:
        counted = Tally(len(classes))
        guesses = (labels + (np.arange(images) < count)) % len(classes)
        counted.add(np.eye(len(classes), dtype=np.float32)[guesses], labels, labels)
        return counted

    return evaluation(
        data=Data(name="s", listing=listing, images=images, classes=len(classes), sample=sample, unreadable=unreadable),
        protocol=Protocol(views=views, nets=len(nets), outputs=len(classes), notes=notes),
        classes=classes,
        guesses=classes,
        nets=[(facts(net), tally(wrong if len(nets) == 1 else images)) for net in nets],
        ensemble=tally(wrong) if len(nets) > 1 else None,
    )


def counts(seed: int = 0, names: Sequence[str] = (*STANDARD, *EXTRA)) -> dict[tuple[str, int], int]:
    rng = np.random.default_rng(seed)
    return {(name, severity): int(rng.integers(1, IMAGES)) for name in names for severity in range(1, 6)}


def computed(wrong: Mapping[tuple[str, int], int], **settings: object) -> Robustness:
    given = {"name": "c", "missing": (), **settings}
    return corruption_errors({key: evaluated(count) for key, count in wrong.items()}, **given)


def augmix(wrong: Mapping[tuple[str, int], int], baseline: Sequence[float]) -> float:
    """The mCE in per cent as in AugMix's `compute_mce`, from accuracies."""
    total = 0.0
    for name, error in zip(STANDARD, baseline, strict=True):
        accuracies = [1 - wrong[name, severity] / IMAGES for severity in range(1, 6)]
        total += 100 * (1 - np.mean(accuracies)) / error / 15
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_mce_is_that_of_augmixs_program(seed):
    wrong = counts(seed)
    result = computed(wrong)
    assert 100 * result.mce == pytest.approx(augmix(wrong, ALEXNET), rel=1e-12)
    assert result.error == pytest.approx(np.mean([wrong[n, s] / IMAGES for n in STANDARD for s in range(1, 6)]))
    assert result.problems == ()


def test_a_ce_is_the_sum_of_the_errors_over_the_sum_of_the_baselines():
    wrong, other = counts(0), counts(1)
    errors = {name: Fraction(sum(other[name, s] for s in range(1, 6)), 5 * IMAGES) for name in (*STANDARD, *EXTRA)}
    result = computed(wrong, baseline=Baseline(name="b", errors=errors))
    assert [corruption.name for corruption in result.corruptions] == [*STANDARD, *EXTRA]
    for corruption in result.corruptions:
        name = corruption.name
        own, of = (sum(those[name, s] for s in range(1, 6)) for those in (wrong, other))
        assert corruption.ce == pytest.approx(own / of, rel=1e-14)
        assert corruption.error == pytest.approx(own / (5 * IMAGES), rel=1e-14)
        assert [s.wrong for s in corruption.severities] == [wrong[name, s] for s in range(1, 6)]


def test_the_baseline_against_itself_is_exactly_one():
    result = computed(counts(), baseline=replace(PUBLISHED, errors=own_errors(counts())))
    assert result.mce == 1
    assert {corruption.ce for corruption in result.corruptions} == {1}


def own_errors(wrong: Mapping[tuple[str, int], int]) -> dict[str, Fraction]:
    names = {name for name, _ in wrong}
    return {name: Fraction(sum(wrong[name, s] for s in range(1, 6)), 5 * IMAGES) for name in names}


def test_extra_corruptions_do_not_count():
    wrong = counts()
    worse = wrong | {(name, severity): IMAGES for name in EXTRA for severity in range(1, 6)}
    assert computed(wrong).mce == computed(worse).mce == computed(counts(names=STANDARD)).mce
    assert [c.standard for c in computed(wrong).corruptions] == [True] * 15 + [False] * 4
    assert [c.ce is None for c in computed(wrong).corruptions] == [False] * 15 + [True] * 4


def test_several_nets_count_by_their_mean():
    results = {key: evaluated(count, nets=("a", "b")) for key, count in counts().items()}
    result = corruption_errors(results, name="c", missing=())
    assert result.mce == computed(counts()).mce
    assert [net.name for net in result.nets] == ["a", "b"]


# No mCE.


@pytest.mark.parametrize("gone", [[("frost", 3)], [("frost", s) for s in range(1, 6)], [("frost", 1), ("snow", 5)]])
def test_without_a_set_there_is_no_mce_and_no_ce_of_its_corruption(gone):
    wrong = {key: count for key, count in counts().items() if key not in gone}
    result = computed(wrong, missing=("frost/3",))
    assert (result.mce, result.error) == (None, None)
    assert result.problems == ("missing: frost/3",)
    names = {name for name, _ in gone}
    for corruption in result.corruptions:
        assert (corruption.ce is None) == (corruption.name in names or not corruption.standard)
        assert (corruption.error is None) == (corruption.name in names)


def test_a_set_with_other_images_counts_as_missing_even_if_it_is_the_first():
    for odd in (("gaussian_noise", 1), ("fog", 4)):
        results = {key: evaluated(count, listing="other" if key == odd else "same") for key, count in counts().items()}
        result = corruption_errors(results, name="c", missing=())
        assert result.mce is None
        assert result.problems == (f"other images than in most sets: {odd[0]}/{odd[1]}",)
        assert [c.name for c in result.corruptions if c.standard and c.ce is None] == [odd[0]]
        assert result.data.listing == "same"


def test_an_incomplete_extra_corruption_does_not_prevent_the_mce():
    wrong = {key: count for key, count in counts().items() if key != ("spatter", 2)}
    result = computed(wrong, missing=("spatter/2",))
    assert result.mce == computed(counts()).mce
    assert result.problems == ("missing: spatter/2",)
    assert next(c for c in result.corruptions if c.name == "spatter").error is None
    assert "Incomplete extra corruptions: missing: spatter/2." in shown(result)


# What to know about it.


def test_deviations_name_other_data_views_sizes_scoring_and_a_sample():
    results = {key: evaluated(count, views="ten", sample=Sample(images=50, of=900)) for key, count in counts().items()}
    result = corruption_errors(results, name="c", missing=(), scored=("Scored so.",), sizes="Rescaled.")
    assert result.protocol.deviations == (
        "The sets are not ImageNet-C's (50,000 images of 1,000 classes each): 900 images of 7 classes.",
        "Only a sample of 50 of the 900 images of each set was evaluated.",
        "Rescaled.",
        "This run uses ten views of each image, the baseline one central view.",
        "Scored so.",
    )


def test_imagenet_c_itself_deviates_in_nothing_but_the_sizes():
    classes = ilsvrc_classes()
    one = evaluated(70, images=1000, classes=classes, sample=Sample(images=1000, of=50_000))
    results = dict.fromkeys(counts(), one)
    result = corruption_errors(results, name="c", missing=())
    assert result.protocol.deviations == ("Only a sample of 1,000 of the 50,000 images of each set was evaluated.",)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"listing": "other"}, "The baseline was measured on other images."),
        ({"views": "ten"}, "This run uses one central view of each image, the baseline ten views."),
        ({"scoring": ("shared", None, 7)}, "The baseline was scored in another way: its classes or its labels differ."),
        ({"scoring": ("all", "real.json", 7)}, "The baseline was scored in another way"),
        ({}, None),
    ],
)
def test_a_baseline_that_was_measured_differently_is_named(changes, sentence):
    base = Baseline(name="b", errors=own_errors(counts()), listing="same", scoring=("all", None, 7))
    deviations = computed(counts(), baseline=replace(base, **changes)).protocol.deviations
    assert len(deviations) == 1 + (sentence is not None)
    assert sentence is None or deviations[1].startswith(sentence)


def test_notes_are_about_each_set_and_unreadable_images_have_the_name_of_theirs():
    results = {key: evaluated(count, notes=("2 classes are unknown.",)) for key, count in counts().items()}
    bad = (Unreadable(image="1.JPEG", reason="damaged"),)
    results["fog", 3] = evaluated(9, unreadable=bad)
    result = corruption_errors(results, name="c", missing=())
    assert result.protocol.notes == ("Each set: 2 classes are unknown.",)
    assert result.data.unreadable == (Unreadable(image="fog/3/1.JPEG", reason="damaged"),)
    assert shown(result).startswith("Each set: 2 classes are unknown.\n")
    assert corruption_tables.markdown(result).startswith("Each set: 2 classes are unknown.\n")
    assert "Each set: 2 classes are unknown" in corruption_tables.csv(result).splitlines()[-1]


# Output.


def shown(result: Robustness, width: int = 80) -> str:
    file = io.StringIO()
    corruption_tables.render(result, Console(file=file, width=width))
    return file.getvalue()


def test_the_json_is_a_baseline_for_other_nets(tmp_path: Path):
    first = computed(counts(0))
    path = tmp_path / "base.json"
    path.write_text(json.dumps(first.to_json()))
    again = computed(counts(0), baseline=read_baseline(path))
    assert again.mce == 1
    assert again.baseline == "a net"
    other = computed(counts(1), baseline=read_baseline(path))
    sums = {n: [sum(counts(seed)[n, s] for s in range(1, 6)) for seed in (1, 0)] for n in STANDARD}
    assert other.mce == pytest.approx(np.mean([own / of for own, of in sums.values()]), rel=1e-12)


def test_the_keys_of_the_json_are_fixed():
    data = computed(counts()).to_json()
    assert list(data) == [
        *("alexnet_infer", "data", "protocol", "nets", "baseline", "mce", "error", "problems", "corruptions")
    ]
    assert list(data["corruptions"][0]) == ["name", "group", "standard", "severities", "error", "baseline", "ce"]
    assert list(data["corruptions"][0]["severities"][0]) == ["severity", "images", "wrong", "error"]


def test_the_csv_has_one_row_per_corruption_and_the_mce_in_the_last():
    wrong = counts()
    rows = list(csv.DictReader(io.StringIO(corruption_tables.csv(computed(wrong)))))
    assert [row["corruption"] for row in rows] == [*STANDARD, *EXTRA, "mCE"]
    for row in rows[:15]:
        errors = [100 * wrong[row["corruption"], s] / IMAGES for s in range(1, 6)]
        assert [float(row[f"severity_{s}"]) for s in range(1, 6)] == pytest.approx(errors, abs=0.006)
        assert float(row["mean"]) == pytest.approx(np.mean(errors), abs=0.006)
        assert float(row["ce"]) == pytest.approx(100 * float(row["mean"]) / float(row["baseline"]), abs=0.05)
        assert (row["counted"], row["images"]) == ("yes", str(5 * IMAGES))
    assert float(rows[-1]["ce"]) == pytest.approx(augmix(wrong, ALEXNET), abs=0.006)
    assert [row["ce"] for row in rows[15:19]] == [""] * 4


def test_without_an_mce_no_output_has_a_figure_for_it():
    wrong = {key: count for key, count in counts().items() if key != ("fog", 2)}
    result = computed(wrong, missing=("fog/2",))
    last = list(csv.DictReader(io.StringIO(corruption_tables.csv(result))))[-1]
    assert (last["mean"], last["ce"]) == ("", "")
    assert "no mCE: missing: fog/2" in last["note"]
    assert "\nmCE: none (missing: fog/2)\n" in shown(result)
    assert "mCE: none (missing: fog/2)." in corruption_tables.markdown(result)
    assert result.to_json()["mce"] is None


def test_the_terminal_has_every_figure_and_the_rows_fit_80_columns():
    wrong = dict.fromkeys(counts(), IMAGES)
    text = shown(computed(wrong))
    for name, error in zip(STANDARD, ALEXNET, strict=True):
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert line.split() == [name, *["100.0"] * 6, f"{100 * error:.1f}", f"{100 / error:.1f}"]
    before = text.partition("\nDeviations")[0]
    assert max(map(len, before.splitlines())) <= 80
    assert f"mCE: {augmix(wrong, ALEXNET):.2f} %   mean error: 100.00 %" in text
    assert "The last 4 do not count." in text
    assert "do not count" not in shown(computed(counts(names=STANDARD)))


def test_markdown_has_a_row_per_corruption_and_escapes_names():
    result = computed(counts(), baseline=Baseline(name="a|b*", errors=own_errors(counts())))
    lines = corruption_tables.markdown(result).splitlines()
    assert sum(line.startswith("| ") for line in lines) == 1 + 19
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| fog |" in "".join(line[:7] for line in lines)
    assert any("not counted" in line for line in lines)
    assert r"Baseline: a\|b\*." in corruption_tables.markdown(result)


def test_names_from_files_cannot_run_in_a_spreadsheet_or_a_terminal():
    result = computed(counts(), name="\x1b[2J", baseline=Baseline(name="=1\x1b[2J", errors=own_errors(counts())))
    assert "\x1b" not in shown(result) + corruption_tables.csv(result) + corruption_tables.markdown(result)
    assert list(csv.reader(io.StringIO(corruption_tables.csv(result))))[-1][-1].startswith("baseline: ")
