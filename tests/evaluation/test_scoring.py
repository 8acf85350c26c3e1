"""Scoring: which classes can be chosen and which labels are right, against computations of its own from logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.evaluation.assemble import assemble, assembled
from alexnet_infer.evaluation.predictions import About, ImageRow, Predictions
from alexnet_infer.evaluation.scoring import Scores, Scoring, parse_scoring
from tests.datasets.mini import WNIDS, refused
from tests.evaluation.toys import about, opened

EXTRA = ["n00000001", "n05000000", "n09999999"]
"""Classes that only the nets know."""

OUTPUTS = sorted([*WNIDS, *EXTRA])
COUNT = 300
LABELS = [i % len(WNIDS) for i in range(COUNT)]


def logits(seed: int, images: int = COUNT, classes: int = len(OUTPUTS)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (images, classes))


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def stored(folder: Path, description: About, probabilities: np.ndarray, rows: Sequence[ImageRow]) -> list[Predictions]:
    predictions = opened(folder, description, rows)
    if not predictions.complete:
        predictions.append(rows, np.asarray(probabilities, np.float32))
    predictions.close()
    return [predictions]


def nets(folder: Path, values: Sequence[np.ndarray], wnids: Sequence[str] = OUTPUTS) -> list[list[Predictions]]:
    """Store the softmax of each net's logits."""
    rows = [ImageRow(f"{i}.png", label, None) for i, label in enumerate(LABELS)]
    return [
        stored(folder, about(COUNT, net=f"net {i}", sha256=f"{i:064x}", wnids=wnids), softmax(own), rows)
        for i, own in enumerate(values)
    ]


def wrong(values: np.ndarray, wnids: Sequence[str], k: int) -> int:
    """Count the images whose label's WordNet id is not among those of the k largest values."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return sum(WNIDS[label] not in [wnids[i] for i in own] for label, own in zip(LABELS, best, strict=True))


def masked(values: np.ndarray, allowed: Sequence[str]) -> np.ndarray:
    """The logits, with those of other classes than the allowed ones at minus infinity."""
    return np.where([wnid in allowed for wnid in OUTPUTS], values, -np.inf)


@pytest.mark.parametrize("allowed", [WNIDS, [*WNIDS[:2], *EXTRA], OUTPUTS], ids=["shared", "file", "all"])
def test_errors_among_some_classes_are_those_of_masked_logits(tmp_path, allowed):
    values = logits(0)
    scoring = Scoring(classes="shared" if allowed is WNIDS else "list.txt", wnids=frozenset(allowed))
    result = assemble(nets(tmp_path, [values]), scoring)
    for k, rate in ((1, result.nets[0].top1), (5, result.nets[0].top5)):
        known = masked(values, allowed)
        ranked = np.where(np.isinf(known), -1e9, known)
        # With fewer than k classes left, the others would come next: they are never right, because they aren't ranked.
        k = min(k, len(allowed))
        assert rate.wrong == wrong(ranked, OUTPUTS, k)
    assert result.protocol.outputs == len(allowed)
    if allowed is not OUTPUTS:
        assert result.nets[0].top1.wrong != assemble(nets(tmp_path, [values])).nets[0].top1.wrong


def test_shared_means_the_classes_of_the_data(tmp_path):
    values = [logits(0), logits(1)]
    shared = assemble(nets(tmp_path, values), Scoring(classes="shared"))
    listed = assemble(nets(tmp_path, values), Scoring(classes="list", wnids=frozenset(WNIDS)))
    assert [net.top1.wrong for net in shared.nets] == [net.top1.wrong for net in listed.nets]
    assert shared.protocol.outputs == len(WNIDS)
    assert "among the 6 of their 9 classes that the data has" in shared.protocol.deviations[1]


def test_an_ensemble_averages_the_softmax_over_the_classes_that_are_left(tmp_path):
    """The mean of the softmax over the masked logits of each net, not the mean over all classes cut afterwards."""
    values = [4 * logits(seed) for seed in range(3)]
    result = assemble(nets(tmp_path, values), Scoring(classes="shared"))
    mean = np.mean([softmax(masked(own, WNIDS)) for own in values], axis=0)
    assert result.ensemble.top1.wrong == wrong(mean, OUTPUTS, 1)
    assert result.ensemble.top5.wrong == wrong(mean, OUTPUTS, 5)
    cut_afterwards = np.mean([softmax(own) for own in values], axis=0)
    assert wrong(masked(cut_afterwards, WNIDS), OUTPUTS, 1) != result.ensemble.top1.wrong


def test_confidences_are_those_of_the_classes_that_are_left(tmp_path):
    values = logits(0)
    scores = Scores(nets(tmp_path, [values]), Scoring(classes="shared"))
    (chunk,) = scores.chunks()
    expected = softmax(masked(values, WNIDS))[:, [wnid in WNIDS for wnid in OUTPUTS]]
    assert np.abs(chunk.probabilities[0] - expected).max() < 1e-6
    assert np.abs(chunk.probabilities[0].sum(1) - 1).max() < 1e-12


def test_restriction_makes_no_ties_and_keeps_those_that_are_there(tmp_path):
    """Two probabilities that differ in the last bit stay different, and equal ones go to the lower class.

    Scaled from below 0.25 to above it, some of them would become equal in float32.
    """
    below = np.float32(0.2499)
    above = np.nextafter(below, np.float32(1))
    rows = [ImageRow(f"{i}", label, None) for i, label in enumerate((1, 1, 0))]
    table = np.zeros((3, 9), np.float32)
    first, second = OUTPUTS.index(WNIDS[0]), OUTPUTS.index(WNIDS[1])
    table[0, [first, second]] = below, above
    table[1, [first, second]] = below, below
    table[2, [first, second]] = below, below
    for rest in np.linspace(0.2, 0.245, 20, dtype=np.float32):
        table[:, [OUTPUTS.index(WNIDS[2]), OUTPUTS.index(WNIDS[3])]] = rest
        table[:, 0] = 0.5 - 2 * rest  # of a class that is left out
        part = stored(tmp_path / f"{rest}", about(3, wnids=OUTPUTS), table, rows)
        _, headline = assembled(Scores([part], Scoring(classes="shared")))
        assert headline.wrong(1).tolist() == [False, True, False]
        (chunk,) = Scores([part], Scoring(classes="shared")).chunks()
        assert chunk.mean.argmax(1).tolist() == [1, 0, 0]


def test_an_image_whose_chosen_probabilities_are_all_zero_is_a_tie(tmp_path):
    table = np.zeros((1, 9), np.float32)
    table[0, 0] = 1  # of a class that is left out
    part = stored(tmp_path, about(1, wnids=OUTPUTS), table, [ImageRow("0", 0, None)])
    result = assemble([part], Scoring(classes="shared"))
    assert (result.nets[0].top1.wrong, result.calibration.bins[0].images) == (0, 1)


def test_classes_that_no_net_has_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--classes list: the nets have none of these classes"):
        Scores(nets(tmp_path, [logits(0)]), Scoring(classes="list", wnids=frozenset(["n11111111"])))


def test_a_data_class_that_is_not_in_the_file_is_named_and_its_images_are_wrong(tmp_path):
    result = assemble(nets(tmp_path, [logits(0)]), Scoring(classes="five.txt", wnids=frozenset(WNIDS[:5])))
    assert result.protocol.notes == (
        "1 of the 6 classes is not among those that the net can choose: its 50 images count as wrong.",
    )
    assert result.classes[5].top5 == 50


def test_ids_in_the_file_that_the_nets_do_not_have_are_counted(tmp_path):
    result = assemble(nets(tmp_path, [logits(0)]), Scoring(classes="f", wnids=frozenset([*WNIDS, "n11111111"])))
    assert (
        "The nets choose among the 6 of their 9 classes in f; they don't know 1 other id in it."
        in result.protocol.deviations
    )


# What a reader must know first.


@pytest.mark.parametrize(
    ("wnids", "notes"),
    [
        (WNIDS, ()),
        (OUTPUTS, ("3 of the net's 9 classes are not in the data (see --classes shared).",)),
        (
            WNIDS[:4],
            (
                "2 of the 6 classes are unknown to the net: their 100 images count as wrong (--only-known leaves "
                "them out).",
            ),
        ),
    ],
    ids=["same", "more", "fewer"],
)
def test_notes_say_which_classes_only_one_side_has(tmp_path, wnids, notes):
    result = assemble(nets(tmp_path, [logits(0, classes=len(wnids))], wnids))
    assert result.protocol.notes == notes
    assert result.to_json()["protocol"]["notes"] == [*notes]
    if len(wnids) == 4:
        assert sum(named.images for named in result.classes[4:]) == 100


def test_notes_speak_of_several_nets(tmp_path):
    result = assemble(nets(tmp_path, [logits(0), logits(1)]))
    assert result.protocol.notes == ("3 of the nets' 9 classes are not in the data (see --classes shared).",)


# Several right labels.

CLASSES = [named.wnid for named in ilsvrc_classes()]
INDEX = {wnid: CLASSES.index(wnid) for wnid in WNIDS}


def real(tmp_path: Path, lists: Sequence[Sequence[int]], count: int = 50_000) -> Path:
    """Write labels: those given for the first images, none for the others."""
    path = tmp_path / "real.json"
    path.write_text(json.dumps([*map(list, lists), *[[]] * (count - len(lists))]))
    return path


def validation(folder: Path, values: np.ndarray, labels: Sequence[int], wnids: Sequence[str] = WNIDS) -> list:
    rows = [ImageRow(f"val/ILSVRC2012_val_{i:08}.JPEG", label, None) for i, label in enumerate(labels, start=1)]
    return [stored(folder, about(len(rows), wnids=wnids), values, rows)]


def test_any_of_several_labels_is_right_and_images_without_labels_are_left_out(tmp_path):
    rng = np.random.default_rng(3)
    labels = [int(rng.integers(6)) for _ in range(200)]
    lists = [rng.choice(6, rng.integers(0, 4), replace=False).tolist() for _ in labels]
    values = logits(4, 200, 6)
    path = real(tmp_path, [[INDEX[WNIDS[i]] for i in right] for right in lists])
    result = assemble(validation(tmp_path, softmax(values), labels), parse_scoring(labels=path))
    kept = [i for i, right in enumerate(lists) if right]
    assert 100 < len(kept) < 190
    assert result.data.images == len(kept)
    for k, rate in ((1, result.nets[0].top1), (5, result.nets[0].top5)):
        best = np.argsort(-values, axis=1)[:, :k]
        assert rate.wrong == sum(not {*best[i].tolist()} & {*lists[i]} for i in kept)
    assert result.nets[0].top1.wrong != sum(values[i].argmax() != labels[i] for i in kept)
    (sentence,) = (text for text in result.protocol.deviations if "real.json" in text)
    assert sentence.endswith(f"{200 - len(kept)} images without a right label were left out.")
    assert sum(named.images for named in result.classes) == len(kept)


def test_an_image_whose_labels_the_nets_do_not_know_is_wrong_and_not_left_out(tmp_path):
    other = CLASSES.index("n15075141")
    path = real(tmp_path, [[other], [other, INDEX[WNIDS[1]]], []])
    values = np.full((3, 6), 0.1)
    values[:, 1] = 0.5
    result = assemble(validation(tmp_path, values, [1, 1, 1]), parse_scoring(labels=path))
    assert (result.data.images, result.nets[0].top1.wrong, result.nets[0].top5.wrong) == (2, 1, 1)
    assert result.protocol.notes == ("For 1 image, no right class is one that the net can choose: counted as wrong.",)


def test_an_unreadable_image_with_labels_is_wrong(tmp_path):
    rows = [ImageRow("ILSVRC2012_val_00000001.JPEG", 0, "damaged"), ImageRow("ILSVRC2012_val_00000002.JPEG", 0, None)]
    values = np.zeros((2, 6))
    values[1, 0] = 1
    path = real(tmp_path, [[INDEX[WNIDS[0]]], [INDEX[WNIDS[0]]]])
    result = assemble([stored(tmp_path, about(2), values, rows)], parse_scoring(labels=path))
    assert (result.data.images, result.nets[0].top1.wrong, len(result.data.unreadable)) == (2, 1, 1)


def test_a_result_needs_an_image_with_a_label(tmp_path):
    scoring = parse_scoring(labels=real(tmp_path, []))
    with pytest.raises(UsageError, match=r"--labels real\.json: no image has a right class"):
        assemble(validation(tmp_path, softmax(logits(0, 3, 6)), [0, 1, 2]), scoring)


@pytest.mark.parametrize(
    "name",
    ["ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000000.JPEG", "n01440764_1.JPEG", "ILSVRC2012_val_1.JPEG"],
)
def test_an_image_that_is_not_one_of_ilsvrcs_is_refused(tmp_path, name):
    scoring = parse_scoring(labels=real(tmp_path, [[0]]))
    part = stored(tmp_path, about(1), softmax(logits(0, 1, 6)), [ImageRow(name, 0, None)])
    with pytest.raises(UsageError, match=f"--labels real.json: has no labels for {name}; expected ILSVRC's"):
        assemble([part], scoring)


@pytest.mark.parametrize("count", [49_999, 50_001, 0])
def test_labels_for_another_number_of_images_are_refused(tmp_path, count):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[1]] * count))
    refused(lambda: parse_scoring(labels=path), f"has labels for {count:,} images", "expected 50,000")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "--labels"),
        (b"{}", "expected JSON with one list"),
        (b"[1, 2]", "expected JSON with one list"),
        (b"[[1.5]]", "expected JSON with one list"),
        (b"[[true]]", "expected JSON with one list"),
        (b"[" * 100_000, "expected JSON with one list"),
        (b"\xff\xfe", "expected JSON with one list"),
        (b"[" + b"[], " * 49_999 + b"[1000]]", "image 50000 has the labels [1000]: expected class indices from 0 to"),
        (b"[[-1]" + b", []" * 49_999 + b"]", "image 1 has the labels [-1]"),
    ],
)
def test_a_damaged_file_of_labels_is_a_clear_error(tmp_path, content, words):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    refused(lambda: parse_scoring(labels=path), f"--labels {path}", words)


@pytest.mark.parametrize("name", ["absent", ".", "absent/real.json"])
def test_labels_that_cannot_be_read_are_a_clear_error(tmp_path, name):
    refused(lambda: parse_scoring(labels=tmp_path / name), f"--labels {tmp_path / name}")


# A file of classes.


def test_a_file_of_classes_has_one_id_at_the_start_of_each_line(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfn01440764\r\nn01443537 goldfish\r\nn02012849\tcrane\r\n")
    scoring = parse_scoring(str(path))
    assert (scoring.classes, scoring.wnids) == ("ids.txt", frozenset(WNIDS[:3]))


@pytest.mark.parametrize("name", ["all", "shared"])
def test_a_file_with_the_name_of_a_word_is_read(tmp_path, name):
    (tmp_path / name).write_text(f"{WNIDS[0]}\n")
    scoring = parse_scoring(str(tmp_path / name))
    assert scoring.wnids == {WNIDS[0]}
    result = assemble(nets(tmp_path / "cache", [logits(0)]), scoring)
    assert (result.protocol.outputs, result.protocol.classes) == (1, f"./{name}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: ''"),
        (b"n01440764\n\nn01443537\n", "line 2: ''"),
        (b"tench\n", "line 1: 'tench': expected a line that begins with a WordNet id"),
        (b"n0144076\n", "line 1"),
        (b"\xff\n", "--classes"),
    ],
)
def test_a_damaged_file_of_classes_is_a_clear_error(tmp_path, content, words):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    refused(lambda: parse_scoring(str(path)), f"--classes {path}", words)


@pytest.mark.parametrize("name", ["", "absent", "shraed", "x" * 300])
def test_classes_that_cannot_be_read_are_a_clear_error(tmp_path, name):
    with pytest.raises(UnreadableInputError, match="--classes "):
        parse_scoring(str(tmp_path / name))
