"""Predictions on disk: appended images are read back, even after a run was killed, and damage is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.predictions import (
    CHUNK,
    About,
    ImageRow,
    Predictions,
    PredictionsError,
    hash_of,
    open_all,
)
from tests.datasets.mini import WNIDS, refused
from tests.evaluation.toys import about, opened

IMAGES, BATCH = 10, 4
ROWS = [ImageRow(f"{i}.jpg", i % 6, "not an image" if i == 5 else None) for i in range(IMAGES)]
VALUES = np.random.default_rng(0).dirichlet(np.ones(6), IMAGES).astype(np.float32)
VALUES[5] = 0
FILES = ("images.jsonl", "rows.f32")
LISTED = [(row.name, row.label) for row in ROWS]
ABOUT = replace(about(IMAGES), images=hash_of(LISTED))


def started(cache: Path, description: About = ABOUT, *, fresh: bool = False) -> Predictions:
    (predictions,) = open_all(cache, [description], LISTED, fresh=fresh)
    return predictions


def complete(predictions: Predictions) -> Predictions:
    """Append the missing images, batch by batch."""
    while not predictions.complete:
        part = slice(predictions.done, min(predictions.done + BATCH, IMAGES))
        predictions.append(ROWS[part], VALUES[part])
    return predictions


def made(cache: Path, description: About | None = None) -> Path:
    """The folder of complete predictions."""
    predictions = complete(started(cache, description or ABOUT))
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
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    lines[image] = ROWS[image].line(rows[image].tobytes())  # with the right check sum
    (folder / "images.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(PredictionsError, match=r"damaged .*values are not probabilities.*; remove it"):
        list(Predictions.open(folder).chunks())


def test_complete_predictions_can_be_opened_while_they_are_locked(tmp_path):
    first = complete(started(tmp_path))  # its lock is held
    second = started(tmp_path)
    assert second.complete
    second.close()
    first.close()


def test_fresh_predictions_are_computed_again(tmp_path):
    folder = made(tmp_path)
    again = started(tmp_path, fresh=True)
    assert again.done == 0
    again.close()
    assert made(tmp_path) == folder


def test_many_images_come_in_chunks_and_in_order(tmp_path):
    count = 2 * CHUNK + 3
    rows = [ImageRow(str(i), 0, None) for i in range(count)]
    predictions = opened(tmp_path, about(count), rows)
    predictions.append(rows, np.full((count, 6), 1 / 6, np.float32))
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
    predictions = opened(tmp_path, about(1), rows)
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
    predictions = started(tmp_path, CHANGES[change])
    predictions.close()
    assert predictions.done == 0
    assert Predictions.open(made(tmp_path)).complete  # the first predictions are still there


def test_equal_descriptions_have_the_same_key_and_shards_the_same_subject():
    first, second = about(IMAGES, end=4), replace(about(IMAGES, begin=4), images="1" * 64)
    assert first.key == about(IMAGES, end=4).key != second.key
    assert first.subject == second.subject
    assert replace(first, views="center").subject != first.subject


def test_a_description_is_read_back(tmp_path):
    folder = made(tmp_path)
    assert About.load(folder) == ABOUT
    assert folder.name == ABOUT.key


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
            predictions = started(tmp_path)
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
    predictions = started(tmp_path)
    assert predictions.done == 0
    complete(predictions).close()
    assert contents(folder) == whole


def test_bytes_after_complete_predictions_are_cut_off(tmp_path):
    folder = made(tmp_path)
    whole = contents(folder)
    for name in FILES:
        with (folder / name).open("ab") as file:
            file.write(b"more")
    predictions = started(tmp_path)
    predictions.close()
    assert predictions.complete
    assert contents(folder) == whole


def test_a_folder_without_a_description_is_reused(tmp_path):
    folder = tmp_path / ABOUT.key
    folder.mkdir()
    (folder / ".about.json.1234.tmp").write_bytes(b"{")
    assert About.load(made(tmp_path)) == ABOUT


# Damage, which a run mends.


def zeros_at_the_end(folder: Path) -> None:
    """What a file system may leave after a power loss: the size is known, the data was not written."""
    with (folder / "rows.f32").open("r+b") as file:
        file.seek(24 * 8 - 5)
        file.write(bytes(24 * 2 + 5))


def zeros_in_a_row(folder: Path) -> None:
    with (folder / "rows.f32").open("r+b") as file:
        file.seek(24 * 6 + 4)
        file.write(bytes(8))


def changed(old: bytes, new: bytes, name: str = "images.jsonl") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert content.count(old) == 1
        (folder / name).write_bytes(content.replace(old, new))

    return change


def swapped(folder: Path) -> None:
    """Two images with their probabilities: every line is consistent."""
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    rows = np.fromfile(folder / "rows.f32", "<f4").reshape(-1, 6)
    order = [0, 1, 2, 3, 4, 5, 7, 6, 8, 9][: len(rows)]
    (folder / "images.jsonl").write_bytes(b"".join(lines[i] for i in order))
    rows[order].tofile(folder / "rows.f32")


def relabelled(folder: Path) -> None:
    """One label is changed, with the right check sum."""
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    lines[7] = replace_label(ROWS[7], 2).line(VALUES[7].tobytes())
    (folder / "images.jsonl").write_bytes(b"".join(lines))


def replace_label(row: ImageRow, label: int) -> ImageRow:
    return ImageRow(row.name, label, row.error)


def twice(folder: Path) -> None:
    """A batch is there twice, as if two runs had written."""
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    rows = np.fromfile(folder / "rows.f32", "<f4").reshape(IMAGES, 6)
    order = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    (folder / "images.jsonl").write_bytes(b"".join(lines[i] for i in order))
    rows[order].tofile(folder / "rows.f32")


MENDED = {
    "a power loss": zeros_at_the_end,
    "zeros in a row": zeros_in_a_row,
    "a changed label": changed(b'["7.jpg", 1,', b'["7.jpg", 2,'),
    "a changed label with its check sum": relabelled,
    "a changed name": changed(b"7.jpg", b"8.jpg"),
    "a changed reason": changed(b"not an image", b"not an umage"),
    "an image that became unreadable": changed(b'["7.jpg", 1, null', b'["7.jpg", 1, "x"'),
    "a changed probability": changed(VALUES[7].tobytes(), VALUES[8].tobytes(), "rows.f32"),
    "swapped images": swapped,
    "images twice": twice,
    "a line of zeros": changed(b'["7.jpg", 1, null', bytes(17)),
    "text": changed(b'["7.jpg", 1, null', b"Lorem ipsum dolor"),
}


@pytest.mark.parametrize("kind", MENDED)
@pytest.mark.parametrize("images", [IMAGES, 8])
def test_damaged_predictions_are_computed_again_and_those_before_them_kept(tmp_path, kind, images):
    folder = made(tmp_path)
    whole = contents(folder)
    if kind != "images twice":
        keep(folder, images)
    elif images < IMAGES:
        return
    before = contents(folder)
    MENDED[kind](folder)
    assert contents(folder) != before
    again = started(tmp_path)
    assert again.done == 4
    assert again.damage
    assert again.damage.isprintable()
    complete(again).close()
    assert contents(folder) == whole
    assert started(tmp_path).damage is None


@pytest.mark.parametrize("kind", MENDED)
def test_merge_refuses_damaged_predictions(tmp_path, kind):
    folder = made(tmp_path)
    MENDED[kind](folder)
    opened = Predictions.open(folder)
    refused(lambda: list(opened.chunks()), f"{folder}: damaged", "remove it", error=PredictionsError)


def keep(folder: Path, images: int) -> None:
    """Keep only the first images, as a killed run would have left them."""
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "images.jsonl").write_bytes(b"".join(lines[:images]))
    os.truncate(folder / "rows.f32", 24 * images)


def test_a_description_that_was_damaged_is_written_again(tmp_path):
    folder = made(tmp_path)
    for text in (b"", b"{}", bytes(100)):
        (folder / "about.json").write_bytes(text)
        again = started(tmp_path)
        assert again.complete
        again.close()
        assert About.load(folder) == ABOUT


def test_images_that_are_not_those_that_were_listed_are_refused(tmp_path):
    predictions = started(tmp_path)
    others = [replace_label(row, 5 - row.label) for row in ROWS[:BATCH]]
    refused(lambda: predictions.append(others, VALUES[:BATCH]), "the set was changed meanwhile")
    predictions.close()


# Files that another program put in the place of these.


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
@pytest.mark.parametrize("name", [*FILES, "lock", "about.json"])
@pytest.mark.parametrize("kind", ["a link", "a hard link", "a pipe", "a folder"])
@pytest.mark.parametrize("done", [0, BATCH, IMAGES])
def test_nothing_is_written_through_a_link_and_no_pipe_is_waited_for(tmp_path, name, kind, done):
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    predictions = started(cache)
    for begin in range(0, done, BATCH):
        predictions.append(ROWS[begin : begin + BATCH], VALUES[begin : begin + BATCH])
    predictions.close()
    place = predictions.folder / name
    victim.write_bytes(place.read_bytes() if place.exists() else b"precious")
    before = victim.read_bytes()
    place.unlink(missing_ok=True)
    match kind:
        case "a link":
            place.symlink_to(victim)
        case "a hard link":
            os.link(victim, place)
        case "a pipe":
            os.mkfifo(place)
        case "a folder":
            place.mkdir()
    try:
        complete(started(cache)).close()
    except UsageError as error:
        assert "choose another --cache" in str(error)  # noqa: PT017 (both are right)
    assert victim.read_bytes() == before
    assert victim.lstat().st_mode == (tmp_path / "victim").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_predictions_that_a_backup_shares_are_continued_and_the_backup_is_kept(tmp_path):
    folder = made(tmp_path / "cache")
    whole = contents(folder)
    keep(folder, 6)
    before = contents(folder)
    (tmp_path / "backup").mkdir()
    for name in FILES:
        os.link(folder / name, tmp_path / "backup" / name)
    complete(started(tmp_path / "cache")).close()
    assert contents(folder) == whole
    assert contents(tmp_path / "backup") == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, as in a container")
def test_root_continues_the_predictions_of_a_user_but_not_those_of_another_in_their_place(tmp_path):
    folder = made(tmp_path)
    whole = contents(folder)
    keep(folder, 6)
    os.chown(folder / "rows.f32", 65534, -1)
    refused(lambda: started(tmp_path), "rows.f32 belongs to another user", error=UsageError)
    os.chown(folder, 65534, -1)
    complete(started(tmp_path)).close()
    assert contents(folder) == whole


def test_predictions_that_were_just_completed_are_not_cleared_while_they_are_used(tmp_path):
    pytest.importorskip("fcntl")
    first = complete(started(tmp_path))
    refused(lambda: started(tmp_path, fresh=True), "another eval is using it", error=UsageError)
    assert next(first.chunks())[0] == ROWS
    first.close()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_predictions_behind_a_link_are_read_and_not_written(tmp_path):
    folder = made(tmp_path)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert started(tmp_path).complete
    whole = contents(folder)
    refused(lambda: started(tmp_path, fresh=True), "it is a symbolic link", "another --cache", error=UsageError)
    assert contents(folder) == whole
    keep(folder, 6)
    refused(lambda: started(tmp_path), "it is a symbolic link", "another --cache", error=UsageError)


def test_a_huge_file_is_not_read_whole(tmp_path):
    folder = made(tmp_path)
    whole = contents(folder)
    for name in (*FILES, "about.json"):
        with (folder / name).open("r+b") as file:
            file.truncate(1 << 40)
    complete(started(tmp_path)).close()
    assert contents(folder) == whole
    with (folder / "about.json").open("r+b") as file:
        file.truncate(1 << 40)
    refused(lambda: Predictions.open(folder), "expected at most", error=PredictionsError)


# Locks.


def test_all_nets_are_locked_before_one_is_cleared(tmp_path):
    pytest.importorskip("fcntl")
    abouts = [replace(ABOUT, net=replace(ABOUT.net, name=f"net {i}")) for i in range(4)]
    folders = [made(tmp_path, about) for about in abouts]
    for own in abouts:
        held = started(tmp_path, own)  # shared
        refused(lambda: open_all(tmp_path, abouts, LISTED, fresh=True), "another eval is using it", error=UsageError)
        held.close()
        assert [Predictions.open(folder).complete for folder in folders] == [True] * 4
    again = open_all(tmp_path, abouts[::-1], LISTED, fresh=True)
    assert [part.about for part in again] == abouts[::-1]
    assert [part.done for part in again] == [0] * 4
    refused(lambda: started(tmp_path, abouts[0], fresh=True), "another eval is using it", error=UsageError)
    for part in again:
        part.close()


def test_complete_predictions_can_be_used_by_several_at_once_but_not_cleared(tmp_path):
    pytest.importorskip("fcntl")
    made(tmp_path)
    first, second = started(tmp_path), started(tmp_path)
    refused(lambda: started(tmp_path, fresh=True), "another eval is using it", error=UsageError)
    first.close()
    second.close()
    started(tmp_path, fresh=True).close()


def test_predictions_that_are_not_used_any_more_are_unlocked(tmp_path):
    pytest.importorskip("fcntl")
    held = started(tmp_path)
    del held
    started(tmp_path).close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_a_cache_that_cannot_be_written_can_be_read(tmp_path):
    folder = made(tmp_path)
    folder.chmod(0o500)
    try:
        assert started(tmp_path).complete
    finally:
        folder.chmod(0o700)


def test_predictions_that_are_being_written_are_refused(tmp_path):
    pytest.importorskip("fcntl")
    first = started(tmp_path)
    refused(lambda: started(tmp_path), "another eval is using it", error=UsageError)
    other = started(tmp_path, replace(ABOUT, views="center"))
    other.close()
    first.close()
    made(tmp_path)


def test_a_process_that_ended_holds_no_lock(tmp_path):
    program = (
        "import os\nfrom pathlib import Path\nfrom tests.evaluation.test_predictions import started\n"
        f"held = started(Path({str(tmp_path)!r}))\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / ABOUT.key / "lock").exists()
    made(tmp_path)


def test_a_failure_on_opening_releases_the_lock(tmp_path):
    folder = made(tmp_path)
    (folder / "rows.f32").unlink()
    (folder / "rows.f32").mkdir()
    for _ in range(2):  # not "another eval"
        refused(lambda: started(tmp_path), "can't be written", error=UsageError)


# Refusals.


def test_a_cache_that_cannot_be_written_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(lambda cache=cache: started(cache), "choose another --cache", error=UsageError)


def test_a_full_disk_is_a_one_line_error_and_the_next_run_continues(tmp_path):
    resource = pytest.importorskip("resource")
    predictions = started(tmp_path)
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
    again = started(tmp_path)
    assert again.done == BATCH
    complete(again).close()
    (rows, values) = next(again.chunks())
    assert rows == ROWS
    assert (values == VALUES).all()


def test_incomplete_predictions_are_refused_with_the_number_of_images(tmp_path):
    predictions = started(tmp_path)
    predictions.append(ROWS[:BATCH], VALUES[:BATCH])
    predictions.close()
    refused(lambda: Predictions.open(predictions.folder), "has 4 of 10 images", error=PredictionsError)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b'{"format": 1}', b"[" * 100_000])
def test_a_damaged_description_is_a_one_line_error(tmp_path, text):
    folder = made(tmp_path)
    (folder / "about.json").write_bytes(text)
    words = f"{folder}: no predictions of this version of alexnet-infer"
    refused(lambda: Predictions.open(folder), words, error=PredictionsError)


def test_a_description_of_another_format_or_of_other_predictions_is_refused(tmp_path):
    folder = made(tmp_path)
    text = json.loads((folder / "about.json").read_bytes())
    for number in (1, 3, True):
        (folder / "about.json").write_text(json.dumps({**text, "format": number}))
        refused(
            lambda: Predictions.open(folder), f"format {number}: this version reads format 2", error=PredictionsError
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
    lines = [row.line(own.tobytes()) for row, own in zip(ROWS, values, strict=True)]
    (folder / "images.jsonl").write_bytes(b"".join(lines))
    opened = Predictions.open(folder)
    refused(lambda: list(opened.chunks()), f"{folder}: damaged", error=PredictionsError)


@pytest.mark.parametrize("name", FILES)
def test_files_that_shrink_after_opening_are_a_one_line_error(tmp_path, name):
    opened = Predictions.open(made(tmp_path))
    (opened.folder / name).write_bytes(b"")
    refused(lambda: list(opened.chunks()), "damaged", error=PredictionsError)


def test_rows_have_the_nets_classes_not_the_datas(tmp_path):
    wnids = [*WNIDS, "n00000001"]
    predictions = opened(tmp_path, about(2, wnids=wnids), ROWS[:2])
    predictions.append(ROWS[:2], np.full((2, 7), 1 / 7, np.float32))
    predictions.close()
    assert next(predictions.chunks())[1].shape == (2, 7)
