"""Predictions on disk: appended images are read back, even after a run was killed, and damage is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.predictions import CHUNK, About, ImageRow, Predictions, PredictionsError
from tests.datasets.mini import WNIDS, refused
from tests.evaluation.toys import about

IMAGES, BATCH = 10, 4
ROWS = [ImageRow(f"{i}.jpg", i % 6, "not an image" if i == 5 else None) for i in range(IMAGES)]
VALUES = np.random.default_rng(0).dirichlet(np.ones(6), IMAGES).astype(np.float32)
VALUES[5] = 0
FILES = ("images.jsonl", "rows.f32")


def complete(predictions: Predictions) -> Predictions:
    """Append the missing images, batch by batch."""
    while not predictions.complete:
        part = slice(predictions.done, min(predictions.done + BATCH, IMAGES))
        predictions.append(ROWS[part], VALUES[part])
    return predictions


def made(cache: Path, description: About | None = None) -> Path:
    """The folder of complete predictions."""
    predictions = complete(Predictions(cache, description or about(IMAGES)))
    predictions.close()
    return predictions.folder


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_appended_images_are_read_back(tmp_path):
    opened = Predictions.open(made(tmp_path))
    (rows, values), *more = opened.chunks()
    assert rows == ROWS
    assert values.dtype == np.float32
    assert (values == VALUES).all()
    assert not more
    assert (len(opened), opened.done) == (IMAGES, IMAGES)


@pytest.mark.parametrize(("image", "value"), [(4, 0.0), (5, 0.5)])
def test_an_image_without_probabilities_and_probabilities_without_an_image_are_damage(tmp_path, image, value):
    folder = made(tmp_path)
    rows = np.fromfile(folder / "rows.f32", "<f4").reshape(IMAGES, 6)
    rows[image] = value
    rows.tofile(folder / "rows.f32")
    with pytest.raises(PredictionsError, match=r"damaged .*probabilities are missing.*; remove it"):
        list(Predictions.open(folder).chunks())


def test_complete_predictions_can_be_opened_while_they_are_locked(tmp_path):
    first = complete(Predictions(tmp_path, about(IMAGES)))  # its lock is held
    second = Predictions(tmp_path, about(IMAGES))
    assert second.complete
    second.close()
    first.close()


def test_forgotten_predictions_are_computed_again(tmp_path):
    folder = made(tmp_path)
    Predictions.forget(tmp_path, about(IMAGES))
    again = Predictions(tmp_path, about(IMAGES))
    assert again.done == 0
    again.close()
    assert made(tmp_path) == folder


def test_many_images_come_in_chunks_and_in_order(tmp_path):
    count = 2 * CHUNK + 3
    predictions = Predictions(tmp_path, about(count))
    predictions.append([ImageRow(str(i), 0, None) for i in range(count)], np.full((count, 6), 1 / 6, np.float32))
    predictions.close()
    sizes, names = [], []
    for rows, values in predictions.chunks():
        assert len(rows) == len(values)
        sizes.append(len(rows))
        names += [row.name for row in rows]
    assert sizes == [CHUNK, CHUNK, 3]
    assert names == [str(i) for i in range(count)]


def test_names_and_reasons_in_any_script_are_read_back(tmp_path):
    rows = [ImageRow("naïve \u732b.jpg", 0, 'said "no", then: nothing')]
    predictions = Predictions(tmp_path, about(1))
    predictions.append(rows, np.zeros((1, 6), np.float32))
    predictions.close()
    assert [listed for listed, _ in predictions.chunks()] == [rows]


CHANGES = {
    "net": about(IMAGES, net="other"),
    "weights or preprocessing": about(IMAGES, sha256="1" * 64),
    "runtime": about(IMAGES, backend="another"),
    "images": about(IMAGES, listing="1" * 64),
    "number of images": about(IMAGES + 1),
    "sample": about(IMAGES, sample=IMAGES),
    "views": about(IMAGES, views="center"),
    "batch": about(IMAGES, batch=5),
    "range": about(IMAGES, end=8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_everything_that_predictions_depend_on_is_in_their_key(tmp_path, change):
    made(tmp_path)
    predictions = Predictions(tmp_path, CHANGES[change])
    predictions.close()
    assert predictions.done == 0
    assert Predictions.open(made(tmp_path)).complete  # the first predictions are still there


def test_equal_descriptions_have_the_same_key_and_shards_the_same_subject():
    first, second = about(IMAGES, end=4), about(IMAGES, begin=4)
    assert first.key == about(IMAGES, end=4).key != second.key
    assert first.subject == second.subject
    assert replace(first, views="center").subject != first.subject


def test_a_description_is_read_back(tmp_path):
    folder = made(tmp_path)
    assert About.load(folder) == about(IMAGES)
    assert folder.name == about(IMAGES).key


# Killed runs.


def cuts(data: bytes, ends: list[int]) -> list[int]:
    """Return 0 and the lengths just before, at and just after each of `ends`, where images end."""
    return sorted({n for end in [0, *ends] for n in (end - 1, end, end + 1) if 0 <= n <= len(data)})


def test_files_cut_at_any_length_continue_after_their_last_complete_batch(tmp_path):
    folder = made(tmp_path)
    images, rows = whole = contents(folder)
    line_ends = [i + 1 for i, byte in enumerate(images) if byte == ord("\n")]
    row_ends = [24 * (i + 1) for i in range(IMAGES)]
    positions, seen = (0, 2, 3, 7, 9), set()  # before, at and after the end of a batch
    for n in cuts(images, [line_ends[i] for i in positions]):
        for m in cuts(rows, [row_ends[i] for i in positions]):
            for name, data in zip(FILES, (images[:n], rows[:m]), strict=True):
                (folder / name).write_bytes(data)
            there = min(sum(end <= n for end in line_ends), m // 24)
            predictions = Predictions(tmp_path, about(IMAGES))
            assert predictions.done == (there if there == IMAGES else there // BATCH * BATCH)
            done = predictions.done
            assert contents(folder) == [images[: ([0, *line_ends])[done]], rows[: 24 * done]]
            seen.add(done)
            complete(predictions).close()
            assert contents(folder) == whole
    assert seen == {0, 4, 8, 10}


@pytest.mark.parametrize("lost", [FILES[:1], FILES[1:], FILES])
def test_lost_files_start_over(tmp_path, lost):
    folder = made(tmp_path)
    whole = contents(folder)
    for name in lost:
        (folder / name).unlink()
    predictions = Predictions(tmp_path, about(IMAGES))
    assert predictions.done == 0
    complete(predictions).close()
    assert contents(folder) == whole


def test_bytes_after_complete_predictions_are_cut_off(tmp_path):
    folder = made(tmp_path)
    whole = contents(folder)
    for name in FILES:
        with (folder / name).open("ab") as file:
            file.write(b"more")
    predictions = Predictions(tmp_path, about(IMAGES))
    predictions.close()
    assert predictions.complete
    assert contents(folder) == whole


def test_a_folder_without_a_description_is_reused(tmp_path):
    folder = tmp_path / about(IMAGES).key
    folder.mkdir()
    (folder / ".about.json.1234.tmp").write_bytes(b"{")
    assert About.load(made(tmp_path)) == about(IMAGES)


# Locks.


def test_predictions_that_are_being_written_are_refused(tmp_path):
    pytest.importorskip("fcntl")
    first = Predictions(tmp_path, about(IMAGES))
    refused(lambda: Predictions(tmp_path, about(IMAGES)), "another eval is using it", error=UsageError)
    other = Predictions(tmp_path, about(IMAGES, views="center"))
    other.close()
    first.close()
    made(tmp_path)


def test_a_process_that_ended_holds_no_lock(tmp_path):
    program = (
        "import os\nfrom pathlib import Path\nfrom tests.evaluation.toys import about\n"
        "from alexnet_infer.evaluation.predictions import Predictions\n"
        f"held = Predictions(Path({str(tmp_path)!r}), about({IMAGES}))\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / about(IMAGES).key / "lock").exists()
    made(tmp_path)


def test_a_failure_on_opening_releases_the_lock(tmp_path):
    folder = made(tmp_path)
    (folder / "rows.f32").unlink()
    (folder / "rows.f32").mkdir()
    for _ in range(2):  # not "another eval"
        refused(lambda: Predictions(tmp_path, about(IMAGES)), "can't be written", error=UsageError)


# Refusals.


def test_a_cache_that_cannot_be_written_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(lambda cache=cache: Predictions(cache, about(IMAGES)), "choose another --cache", error=UsageError)


def test_a_full_disk_is_a_one_line_error_and_the_next_run_continues(tmp_path):
    resource = pytest.importorskip("resource")
    predictions = Predictions(tmp_path, about(IMAGES))
    predictions.append(ROWS[:BATCH], VALUES[:BATCH])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 * 6, hard))
    try:
        refused(lambda: complete(predictions), "free some space", error=UsageError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
        predictions.close()
    again = Predictions(tmp_path, about(IMAGES))
    assert again.done == BATCH
    complete(again).close()
    (rows, values) = next(again.chunks())
    assert rows == ROWS
    assert (values == VALUES).all()


def test_incomplete_predictions_are_refused_with_the_number_of_images(tmp_path):
    predictions = Predictions(tmp_path, about(IMAGES))
    predictions.append(ROWS[:BATCH], VALUES[:BATCH])
    predictions.close()
    refused(lambda: Predictions.open(predictions.folder), "has 4 of 10 images", error=PredictionsError)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b'{"format": 1}', b"[" * 100_000])
def test_a_damaged_description_is_a_one_line_error(tmp_path, text):
    folder = made(tmp_path)
    (folder / "about.json").write_bytes(text)
    refused(lambda: Predictions.open(folder), f"{folder}: no predictions of alexnet-infer", error=PredictionsError)


def test_a_description_of_another_format_or_of_other_predictions_is_refused(tmp_path):
    folder = made(tmp_path)
    text = json.loads((folder / "about.json").read_bytes())
    for number in (2, True):
        (folder / "about.json").write_text(json.dumps({**text, "format": number}))
        refused(
            lambda: Predictions.open(folder), f"format {number}: this version reads format 1", error=PredictionsError
        )
    (folder / "about.json").write_text(json.dumps({**text, "views": "center"}))
    refused(lambda: Predictions.open(folder), "not the key of its description", error=PredictionsError)


DAMAGE = [
    b"",
    b"[]",
    b"{}",
    b'["a", 0]',
    b'["a", 0, null, 1]',
    b'["a", 6, null]',
    b'["a", -1, null]',
    b'["a", "0", null]',
    b'["a", true, null]',
    b'["a", 0.0, null]',
    b"[0, 0, null]",
    b'["a", 0, 1]',
    b'["a\\u001b[31m", 0, null]',
    b'["a", 0, "two\\nlines"]',
    b'["\xff", 0, null]',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", DAMAGE, ids=lambda line: repr(line[:20]))
def test_a_damaged_image_record_is_a_one_line_error(tmp_path, line):
    folder = made(tmp_path)
    lines = (folder / "images.jsonl").read_bytes().split(b"\n")
    (folder / "images.jsonl").write_bytes(b"\n".join([*lines[:3], line, *lines[4:]]))
    opened = Predictions.open(folder)
    refused(lambda: list(opened.chunks()), f"{folder}: damaged", "remove it", error=PredictionsError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 2.0])
def test_a_value_that_is_not_a_probability_is_a_one_line_error(tmp_path, value):
    folder = made(tmp_path)
    values = VALUES.copy()
    values[3, 2] = value
    (folder / "rows.f32").write_bytes(values.tobytes())
    opened = Predictions.open(folder)
    refused(lambda: list(opened.chunks()), f"{folder}: damaged", error=PredictionsError)


@pytest.mark.parametrize("name", FILES)
def test_files_that_shrink_after_opening_are_a_one_line_error(tmp_path, name):
    opened = Predictions.open(made(tmp_path))
    (opened.folder / name).write_bytes(b"")
    refused(lambda: list(opened.chunks()), "damaged", error=PredictionsError)


def test_rows_have_the_nets_classes_not_the_datas(tmp_path):
    wnids = [*WNIDS, "n00000001"]
    predictions = Predictions(tmp_path, about(2, wnids=wnids))
    predictions.append(ROWS[:2], np.full((2, 7), 1 / 7, np.float32))
    predictions.close()
    assert next(predictions.chunks())[1].shape == (2, 7)
