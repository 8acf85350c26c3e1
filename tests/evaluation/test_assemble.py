"""From predictions to a result, counted by hand. Shards give the result of one machine, and mismatches are refused."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.assemble import assemble, collect, display_names
from alexnet_infer.evaluation.predictions import About, ImageRow, Predictions, PredictionsError
from alexnet_infer.evaluation.scoring import together
from alexnet_infer.reading import Unreadable
from tests.datasets.mini import WNIDS, refused
from tests.evaluation.toys import OTHER_WNIDS, about, opened

RIGHT, TIE, SECOND, LAST = "right", "tie", "second", "last"
"""A net's answer: the right class first; all classes equal; the right class second; the right class last."""


def answer(kind: str, label: int) -> np.ndarray:
    if kind == TIE:
        return np.full(6, 1 / 6)
    order = [label, *(i for i in range(6) if i != label)]
    if kind == SECOND:
        order[0], order[1] = order[1], order[0]
    if kind == LAST:
        order = order[::-1]
    values = np.empty(6)
    values[order] = [0.5, 0.2, 0.1, 0.08, 0.07, 0.05]
    return values


def made(cache: Path, description: About, rows: Sequence[ImageRow], values: np.ndarray) -> Predictions:
    part = slice(description.begin, description.end)
    predictions = opened(cache, description, rows[part])
    predictions.append(rows[part], np.asarray(values, np.float32)[part])
    predictions.close()
    return predictions


LABELS = [0, 1, 2, 3, 4, 5, 0, 5]
ROWS = [ImageRow(f"val/{i}.jpg", label, None) for i, label in enumerate(LABELS)]
ROWS[6] = ImageRow("val/6.jpg", 0, "not an image")

A = [RIGHT, RIGHT, LAST, SECOND, RIGHT, TIE, None, RIGHT]
B = [RIGHT, LAST, RIGHT, SECOND, TIE, TIE, None, LAST]


def table(answers: Sequence[str | None]) -> np.ndarray:
    return np.array([np.zeros(6) if a is None else answer(a, label) for a, label in zip(answers, LABELS, strict=True)])


@pytest.fixture
def nets(tmp_path) -> list[list[Predictions]]:
    return [[made(tmp_path, about(8, net=net), ROWS, table(answers))] for net, answers in (("a", A), ("bb", B))]


def test_errors_are_those_counted_by_hand(nets):
    """Wrong in a: 2, 3, 5 (a tie of all classes goes to class 0) and 6 (unreadable). In bb: 1, 3, 4, 5, 6 and 7.

    In the mean, image 0 is right. The labels of 1 and 2 are first in one net and last in the other. They tie at 0.275
    with class 5, which has the higher index, so both are right. 3 is second in both nets: wrong. 4 is right, because a
    tie adds the same to every class. 5 is a tie of all classes and 6 is unreadable: wrong. The label of 7 ties at 0.275
    with class 4, which has the lower index: wrong.
    """
    result = assemble(nets)
    assert [(net.name, net.top1.wrong, net.top5.wrong) for net in result.nets] == [("a", 4, 3), ("bb", 6, 4)]
    assert (result.ensemble.top1.wrong, result.ensemble.top5.wrong) == (4, 2)
    assert result.ensemble.top1.error == 4 / 8
    pairs = [(a.net, a.top1.first_only, a.top1.second_only) for a in result.ensemble.against]
    assert pairs == [("a", 1, 1), ("bb", 0, 2)]
    wrong = {class_.wnid: (class_.images, class_.top1, class_.top5) for class_ in result.classes}
    assert wrong == {
        WNIDS[0]: (2, 1, 1),
        WNIDS[1]: (1, 0, 0),
        WNIDS[2]: (1, 0, 0),
        WNIDS[3]: (1, 1, 0),
        WNIDS[4]: (1, 0, 0),
        WNIDS[5]: (2, 2, 1),
    }
    assert [(c.label, c.guess, c.images, c.of) for c in result.confusions] == [
        (WNIDS[3], WNIDS[0], 1, 1),
        (WNIDS[5], WNIDS[0], 1, 2),
        (WNIDS[5], WNIDS[4], 1, 2),
    ]
    assert sum(bin_.images for bin_ in result.calibration.bins) == 7


def test_ties_go_to_the_lower_class(tmp_path):
    """All classes tie: class 0 is right, 1 to 4 are in the top 5, 5 is wrong."""
    rows = [ImageRow(f"{i}", i, None) for i in range(6)]
    result = assemble([[made(tmp_path, about(6), rows, np.full((6, 6), 1 / 6))]])
    assert [class_.top1 for class_ in result.classes] == [0, 1, 1, 1, 1, 1]
    assert [class_.top5 for class_ in result.classes] == [0, 0, 0, 0, 0, 1]


def test_one_net_has_no_ensemble_and_is_the_headline(nets):
    result = assemble(nets[1:])
    assert result.ensemble is None
    assert result.errors is result.nets[0]
    assert result.protocol.nets == 1


def test_images_of_a_class_that_the_nets_lack_are_wrong(tmp_path):
    """The nets have another class in place of the data's last one."""
    rows = [ImageRow("0", 0, None), ImageRow("1", 5, None)]
    values = np.array([answer(RIGHT, 0), answer(RIGHT, 5)])
    result = assemble([[made(tmp_path, about(2, wnids=OTHER_WNIDS), rows, values)]])
    assert [class_.top5 for class_ in result.classes] == [0, 0, 0, 0, 0, 1]
    assert result.confusions[0].guess == OTHER_WNIDS[-1]
    assert result.protocol.notes == (
        "1 of the 6 classes is unknown to the net: its 1 image counts as wrong (--only-known leaves it out).",
        "1 of the net's 6 classes is not in the data (see --classes shared).",
    )


def test_outputs_in_another_order_give_the_same_counts(tmp_path):
    plain = assemble([[made(tmp_path, about(8, net="a"), ROWS, table(A))]])
    turned = about(8, net="a", wnids=WNIDS[::-1])
    other = assemble([[made(tmp_path, turned, ROWS, table(A)[:, ::-1])]])
    assert plain.nets[0].top1.wrong == 4
    # Only classes of images without ties: ties depend on the order of outputs.
    assert [class_.top1 for class_ in other.classes][1:5] == [class_.top1 for class_ in plain.classes][1:5]


# Names.


def test_unreadable_images_are_listed_by_file_name_if_names_are_unique(nets):
    assert assemble(nets).data.unreadable == (Unreadable(image="6.jpg", reason="not an image"),)


def test_unreadable_images_are_listed_by_path_if_names_repeat(tmp_path):
    rows = [ImageRow("val/b/0.jpg", 1, "cut short"), ImageRow("val/a/0.jpg", 0, "not an image")]
    result = assemble([[made(tmp_path, about(2), rows, np.zeros((2, 6)))]])
    assert result.data.unreadable == (
        Unreadable(image="val/a/0.jpg", reason="not an image"),
        Unreadable(image="val/b/0.jpg", reason="cut short"),
    )
    assert result.nets[0].top5.wrong == 2


def test_the_listing_is_the_hash_of_sorted_file_names_and_classes(nets, tmp_path):
    lines = sorted(f"{i}.jpg\t{WNIDS[label]}\n" for i, label in enumerate(LABELS))
    listing = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert assemble(nets).data.listing == listing
    order = [7, 3, 0, 1, 2, 6, 5, 4]
    rows = [ImageRow(f"{ROWS[i].label}/{ROWS[i].name[4:]}", ROWS[i].label, ROWS[i].error) for i in order]
    shuffled = made(tmp_path / "other", about(8, net="a"), rows, table(A)[order])
    assert assemble([[shuffled]]).data.listing == listing
    relabelled = [ImageRow(row.name, (row.label + 1) % 6, row.error) for row in ROWS]
    other = made(tmp_path / "third", about(8, net="a"), relabelled, table(A))
    assert assemble([[other]]).data.listing != listing


def test_the_order_of_images_changes_nothing(nets, tmp_path):
    order = [7, 3, 0, 1, 2, 6, 5, 4]
    rows = [ROWS[i] for i in order]
    reordered_nets = [
        [made(tmp_path / "other", about(8, net=net), rows, table(answers)[order])]
        for net, answers in (("a", A), ("bb", B))
    ]
    assert assemble(reordered_nets) == assemble(nets)


def test_nets_with_the_same_name_are_distinguished_by_the_sha256(tmp_path):
    twins = [
        [made(tmp_path, about(8, net="net", sha256=digit * 64), ROWS, table(answers))]
        for digit, answers in (("1", A), ("2", B))
    ]
    single = [made(tmp_path, about(8, net="other"), ROWS, table(B))]
    assert display_names([*twins, single]) == ["net 11111111", "net 22222222", "other"]
    assert display_names([twins[0], single]) == ["net", "other"]
    result = assemble(twins)
    assert [(net.name, net.top1.wrong) for net in result.nets] == [("net 11111111", 4), ("net 22222222", 6)]
    assert [comparison.net for comparison in result.ensemble.against] == ["net 11111111", "net 22222222"]


# Shards.

SHARDS = [(0, 4), (4, 8)]


def caches(tmp_path: Path, shards: Sequence[tuple[int, int]] = SHARDS, **fields: object) -> list[Path]:
    """A cache for each shard of both nets."""
    for i, (begin, end) in enumerate(shards):
        for net, answers in (("bb", B), ("a", A)):
            made(tmp_path / f"shard {i}", about(8, net=net, begin=begin, end=end, **fields), ROWS, table(answers))
    return [tmp_path / f"shard {i}" for i in range(len(shards))]


def test_shards_in_any_order_of_folders_give_the_result_of_one_machine(nets, tmp_path):
    whole = assemble(nets)
    folders = caches(tmp_path / "shards")
    for order in itertools.permutations(folders):
        shards = collect(order)
        assert display_names(shards) == ["a", "bb"]
        assert assemble(shards) == whole
    assert assemble(collect([*folders, folders[0]])) == whole  # the same folder twice changes nothing


def test_a_cache_of_one_machine_can_also_be_collected(nets, tmp_path):
    assert assemble(collect([tmp_path])) == assemble(nets)


def test_a_missing_shard_is_refused(tmp_path):
    first, second = caches(tmp_path)
    refused(lambda: collect([first]), "a: images 4 to 7 are missing; run the missing shard", error=PredictionsError)
    refused(lambda: collect([second]), "a: images 0 to 3 are missing", error=PredictionsError)


def test_a_shard_that_one_net_lacks_is_refused(tmp_path):
    caches(tmp_path)
    (about_b,) = (a for a in (tmp_path / "shard 1").glob("*/about.json") if About.load(a.parent).net.name == "bb")
    about_b.parent.rename(tmp_path / "elsewhere")
    refused(
        lambda: collect([tmp_path / "shard 0", tmp_path / "shard 1"]),
        "bb: images 4 to 7 are missing",
        error=PredictionsError,
    )


def test_shards_of_a_sample_are_complete_if_they_cover_the_sample(tmp_path):
    folders = caches(tmp_path, sample=8, whole=50)
    assert assemble(collect(folders)).data.sample.of == 50
    refused(lambda: collect(folders[:1]), "images 4 to 7 are missing", error=PredictionsError)


def test_overlapping_shards_are_refused(tmp_path):
    halves, other_folders = caches(tmp_path / "halves"), caches(tmp_path / "others", [(0, 4), (0, 8)])
    refused(lambda: collect([*halves, *other_folders]), "present twice", "do not mix shards", error=PredictionsError)
    whole_and_half = [halves[0], halves[1], other_folders[1]]
    refused(lambda: collect(whole_and_half), "present twice", error=PredictionsError)


def test_nets_in_different_shards_are_refused(tmp_path):
    made(tmp_path / "whole", about(8, net="a"), ROWS, table(A))
    for begin, end in SHARDS:
        made(tmp_path / "parts", about(8, net="bb", begin=begin, end=end), ROWS, table(B))
    refused(
        lambda: collect([tmp_path / "whole", tmp_path / "parts"]),
        "bb: its shards cover other ranges of images than those of a",
        error=PredictionsError,
    )


@pytest.mark.parametrize("fields", [{"views": "center"}, {"batch": 8}, {"listing": "1" * 64}, {"whole": 9}])
def test_another_evaluation_in_the_same_cache_is_refused(nets, tmp_path, fields):
    made(tmp_path, about(8, net="ccc", **{"end": 8, **fields}), ROWS, table(A))
    refused(
        lambda: collect([tmp_path]), "data, views or batch differ", "use a separate --cache", error=PredictionsError
    )


def test_one_net_on_two_runtimes_is_refused(tmp_path):
    made(tmp_path, about(8, begin=0, end=4, backend="CPU"), ROWS, table(A))
    made(tmp_path, about(8, begin=4, end=8, backend="CUDA"), ROWS, table(A))
    refused(lambda: collect([tmp_path]), "'CPU'", "'CUDA'", "the same backend on all machines", error=PredictionsError)


def test_one_net_computed_with_other_settings_does_not_count_as_two(tmp_path):
    current = about(8)
    earlier = replace(current, net=replace(current.net, deviations=("as an earlier version described it",)))
    for folder, description in (("one", earlier), ("one", current), ("old", earlier), ("new", current)):
        made(tmp_path / folder, description, ROWS, table(A))
    for folders in ([tmp_path / "one"], [tmp_path / "old", tmp_path / "new"]):
        refused(lambda f=folders: collect(f), "are both predictions of this net", "delete one", error=PredictionsError)


def test_nets_with_other_classes_are_refused(nets, tmp_path):
    made(tmp_path, about(8, net="ccc", wnids=OTHER_WNIDS), ROWS, table(A))
    refused(lambda: collect([tmp_path]), "ccc: has different classes from a", error=UsageError)


def test_predictions_without_a_description_are_refused_and_no_net_is_left_out(nets, tmp_path):
    (nets[1][0].folder / "about.json").unlink()
    refused(lambda: collect([tmp_path]), "no predictions of this version", error=PredictionsError)


def test_a_folder_without_predictions_is_refused(nets, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        refused(lambda f=folder: collect([tmp_path, tmp_path / f]), f"{folder}: no predictions", error=PredictionsError)


@pytest.mark.parametrize(
    "row", [ImageRow("val/9.jpg", 3, None), ImageRow("val/3.jpg", 2, None), ImageRow("val/3.jpg", 3, "cut short")]
)
def test_nets_that_saw_different_images_are_refused(nets, tmp_path, row):
    rows = list(ROWS)
    rows[3] = row
    values = np.array(table(A))
    values[3] *= row.error is None
    other = [made(tmp_path, about(8, net="ccc"), rows, values)]
    refused(
        lambda: list(together([nets[0], other])),
        "its images differ from those in the other nets' predictions",
        error=PredictionsError,
    )
