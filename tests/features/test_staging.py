"""Rows on their way to a file: after a kill at any moment, the next run continues, and its file is the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.features import open_features, staging
from alexnet_infer.features.about import About
from alexnet_infer.features.staging import Staging
from alexnet_infer.features.table import Row
from alexnet_infer.preprocess import Preprocessing
from tests.features.made import FORMS, described

COUNT, BATCH = 10, 4
LISTED = [(f"{i}.jpg", f"n{i % 3:08}") for i in range(COUNT)]
ROWS = [Row(*image, "damaged" if i in (2, 9) else None) for i, image in enumerate(LISTED)]


class Killed(BaseException):
    """Ends a run as a kill does: nothing is cleaned up."""


def values(*layers: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {layer: rng.normal(size=(COUNT, 3, 2) if layer == "pool5" else (COUNT, 5)) for layer in layers}
    for array in made.values():
        array[[i for i, row in enumerate(ROWS) if row.error]] = np.nan
    return {layer: array.astype(np.float32) for layer, array in made.items()}


def about(layers: tuple[str, ...] = ("fc7",), **others: object) -> About:
    names, labels = (list(texts) for texts in zip(*LISTED, strict=True))
    return described(values(*layers), names, labels, batch=BATCH, **others)


def run(
    out: Path,
    layers: tuple[str, ...] = ("fc7",),
    *,
    stamp: str = "stamp",
    stop: int | None = None,
    fresh: bool = False,
    **others: object,
) -> list[int]:
    """Write a file. Returns the rows that were appended. With `stop`, the run ends when it has that many."""
    made, appended = values(*layers), []
    with Staging(out, about(layers, **others), stamp, LISTED) as rows:
        rows.prepare(fresh=fresh)
        while not rows.complete:
            if stop is not None and rows.done >= stop:
                return appended
            part = slice(rows.done, rows.done + BATCH)
            appended += range(COUNT)[part]
            rows.append(ROWS[part], [array[part] for array in made.values()])
        rows.finish()
    return appended


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("suffix", FORMS)
def test_a_complete_run_leaves_only_the_file(tmp_path, suffix):
    out = tmp_path / f"f{suffix}"
    assert run(out) == [*range(COUNT)]
    assert beside(out) == [f"f{suffix}"] + ([f"f{suffix}.jsonl"] if suffix == ".npy" else [])
    read = open_features(out)
    np.testing.assert_array_equal(read.array("fc7"), values("fc7")["fc7"])
    assert [*read.rows()] == ROWS
    assert read.about.images.unreadable == 2


def is_killed(out: Path, layers: tuple[str, ...], steps: int, when: str) -> bool:
    """Begin to write a file. The run is killed after so many steps: half-way in a write, or before or after another.

    Returns whether it was, or was complete before.
    """
    left = steps

    def counted(step: Callable) -> Callable:
        def run_step(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0 and when == "before":
                raise Killed
            result = step(*arguments, **options)
            if left < 0:
                raise Killed
            return result

        return run_step

    def append(file: object, data: bytes, *size: int) -> None:
        nonlocal left
        left -= 1
        written(file, data[: len(data) // 2] if left < 0 else data, *size)
        if left < 0:
            raise Killed

    written = staging._append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_append", append)
        for owner, name in ((staging.os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            run(out, layers)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("suffix", FORMS)
def test_after_a_kill_at_any_moment_the_next_run_gives_the_same_bytes(tmp_path, suffix, when):
    layers = ("fc7",) if suffix == ".npy" else ("fc7", "pool5")
    whole = tmp_path / "whole"
    whole.mkdir()
    run(whole / f"f{suffix}", layers)
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        if not is_killed(folder / f"f{suffix}", layers, steps, when):
            break
        if (folder / f"f{suffix}").exists():  # a file is never there in part
            assert content(folder)[f"f{suffix}"] == content(whole)[f"f{suffix}"]
        run(folder / f"f{suffix}", layers)
        assert content(folder) == content(whole), steps
        steps += 1
    assert steps > 15  # there were kills


def test_a_run_continues_after_its_last_complete_batch(tmp_path):
    out = tmp_path / "f.npz"
    run(out, stop=8)
    journal = tmp_path / ".f.npz.part" / staging.IMAGES
    with journal.open("rb+") as file:
        file.truncate(journal.stat().st_size - 1)
    assert run(out) == [*range(4, COUNT)]
    assert [*open_features(out).rows()] == ROWS


@pytest.mark.parametrize("place", range(0, 260, 7))
def test_a_changed_byte_is_noticed(tmp_path, place):
    out = tmp_path / "f.npz"
    run(out, stop=8)
    for name in (staging.IMAGES, "0.npy"):
        path = tmp_path / ".f.npz.part" / name
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= 1
        path.write_bytes(data)
    run(out)
    np.testing.assert_array_equal(open_features(out).array("fc7"), values("fc7")["fc7"])
    assert [*open_features(out).rows()] == ROWS


def images(**others: object) -> dict[str, object]:
    return {"images": msgspec.structs.replace(about().images, **others)}


CHANGES = {
    "layers": ({"layers": ("fc6",)}, "layers (fc7, now fc6)", True),
    "more layers": ({"layers": ("fc7", "pool5")}, "layers (fc7, now fc7 pool5)", True),
    "views": ({"views": "ten"}, "views (center, now ten)", True),
    "half": ({"dtype": "float16"}, "type (float32, now float16)", True),
    "backend": ({"backend": "another"}, "backend (a backend, now another)", True),
    "path": (images(path="a" * 80 + "/two"), f"images (photos, now ...{'a' * 53}/two)", True),
    "set": (images(data="others"), "images (photos, now others)", True),
    "format": (images(layout="tar"), "format (photos, now tar)", True),
    "split": (images(split="train"), "split (none, now train)", True),
    "limit": (images(sample=True), "limit (all, now a sample)", True),
    "much": (
        {"backend": "b", "software": "2", "views": "ten", "net": "c", "dtype": "float16"},
        "software (1, now 2), net (a net, now c), views (center, now ten) and 2 more",
        False,
    ),
    "list": (images(listing="1" * 64), "the list of images (10, now 10)", True),
    "content and views": (
        {"stamp": "another", "views": "ten"},
        "the sizes or times of its images, views (center, now ten)",
        False,
    ),
    "net": ({"sha256": "1" * 64}, "the net's file", False),
    "software": ({"software": "2"}, "software (1, now 2)", False),
    "content": ({"stamp": "another"}, "the sizes or times of its images", False),
    "preprocessing": ({"preprocessing": Preprocessing(size=64, patch=56, mean=np.ones(3))}, "its preprocessing", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_of_another_run_are_neither_used_nor_removed_unasked(tmp_path, change):
    out, (others, difference, can_continue) = tmp_path / "f.npz", CHANGES[change]
    run(out, stop=8)
    before = content(tmp_path / ".f.npz.part")
    with pytest.raises(UsageError) as refused:
        run(out, **others)
    fix = "continue it with its own options and images, " if can_continue else ""
    assert str(refused.value) == (
        f"{out}: an earlier run was interrupted after 8 images, and differs in {difference}; {fix}discard it with "
        "--fresh, or choose another name"
    )
    assert content(tmp_path / ".f.npz.part") == before
    assert run(out) == [8, 9]


def test_fresh_discards_an_interrupted_run_with_the_same_options_or_others(tmp_path):
    out = tmp_path / "f.npz"
    run(out, stop=8)
    assert run(out, fresh=True, stop=8) == [*range(8)]
    assert run(out, fresh=True, sha256="1" * 64) == [*range(COUNT)]
    assert beside(out) == ["f.npz"]


def test_a_run_without_rows_gives_way_to_another(tmp_path):
    run(tmp_path / "f.npz", stop=0)
    assert run(tmp_path / "f.npz", views="ten") == [*range(COUNT)]


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMS if suffix != ".npy"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_could_not_be_completed_takes_no_room(tmp_path, monkeypatch, suffix, killed):
    def fail(features, path: Path):
        path.write_bytes(b"half")
        yield 2
        raise Killed if killed else OSError(28, "No space left on device")

    unfinished = tmp_path / f".f{suffix}.part" / f"file{suffix}"
    with monkeypatch.context() as patched:
        patched.setitem(staging.WRITERS, suffix, fail)
        if killed:  # nothing is cleaned up
            patched.setattr(Staging, "_remove_unfinished", lambda self: None)
        with pytest.raises(Killed if killed else UsageError):
            run(tmp_path / f"f{suffix}")
    assert unfinished.exists() == killed
    with Staging(tmp_path / f"f{suffix}", about(), "stamp", LISTED) as rows:
        rows.prepare()
        assert rows.complete
        assert not unfinished.exists()


def test_nothing_is_kept_of_images_that_cannot_be_read_again(tmp_path):
    """One of them is standard input."""
    for others in ({}, {}, {"views": "ten"}):
        assert run(tmp_path / "f.npz", stamp=None, stop=8, **others) == [*range(8)]
    assert run(tmp_path / "f.npz") == [*range(COUNT)]


@pytest.mark.parametrize("suffix", FORMS)
def test_a_run_that_is_killed_when_it_has_written_its_file_leaves_no_rows(tmp_path, monkeypatch, suffix):
    unlink, left = Path.unlink, [1]

    def kill(self: Path, *arguments: bool, **named: bool) -> None:
        if not left:
            raise Killed
        left.pop()
        unlink(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "finish", lambda self: (patched.setattr(Path, "unlink", kill), self.discard()))
        with pytest.raises(Killed):
            run(tmp_path / f"f{suffix}")
    assert run(tmp_path / f"f{suffix}", views="ten") == [*range(COUNT)]


@pytest.mark.parametrize("text", ["{", "{}", '{"about": 3}', '{"about": "{}"}', "[" * 100_000, '{"about": ""}'])
def test_a_damaged_description_is_said(tmp_path, text):
    run(tmp_path / "f.npz", stop=8)
    (tmp_path / ".f.npz.part" / staging.ABOUT).write_text(text)
    with pytest.raises(UsageError, match="its description is damaged or of another version; discard it with --fresh"):
        run(tmp_path / "f.npz")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_full_disk_loses_no_rows_and_the_message_says_so(tmp_path, monkeypatch, fresh):
    write = staging._append

    def fail(file, content, size=None) -> None:
        if size is not None and size > 8 * 20:  # the second batch
            raise OSError(28, "No space left on device")
        write(file, content, size)

    with monkeypatch.context() as patched:
        patched.setattr(staging, "_append", fail)
        again = "the same command without --fresh" if fresh else "the same command"
        with pytest.raises(UsageError, match=rf"free some space, or .*; {again} continues after 4 images$"):
            run(tmp_path / "f.npz", fresh=fresh)
    assert run(tmp_path / "f.npz") == [*range(4, COUNT)]


def test_images_that_are_not_those_that_were_listed_are_refused(tmp_path):
    with Staging(tmp_path / "f.npz", about(), "stamp", LISTED) as rows:
        rows.prepare()
        with pytest.raises(UnreadableInputError, match=r"expected '0\.jpg', as listed before; the set was changed"):
            rows.append([Row("x.jpg", None)], [np.zeros((1, 5), np.float32)])


def test_two_runs_cannot_write_the_same_file(tmp_path):
    with Staging(tmp_path / "f.npz", about(), "stamp", LISTED) as rows:
        rows.prepare()
        with pytest.raises(UsageError, match=r"f\.npz: another process is writing it; wait"):
            run(tmp_path / "f.npz")
    run(tmp_path / "f.npz")


def test_an_existing_file_stays_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "f.npz"
    run(out)
    before = out.read_bytes()
    run(out, sha256="1" * 64, stop=8)
    assert out.read_bytes() == before
    run(out, sha256="1" * 64)
    assert open_features(out).about.sha256 == "1" * 64


@pytest.mark.parametrize("name", ["", "/0.npy", f"/{staging.IMAGES}"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere"
    run(tmp_path / "f.npz", stop=4)
    place = Path(f"{tmp_path}/.f.npz.part{name}")
    if name:
        place.unlink()
        target /= "victim"
        target.write_bytes(b"precious")
    else:
        shutil.rmtree(place)
    place.symlink_to(target)
    with pytest.raises(UsageError, match=r"f\.npz: can't be written \(.*symbolic link"):
        run(tmp_path / "f.npz")
    assert [path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()] == ([b"precious"] if name else [])


def test_what_somebody_else_put_into_the_folder_stays(tmp_path):
    run(tmp_path / "f.npz", stop=4)
    (tmp_path / ".f.npz.part" / "notes.txt").write_text("mine")
    run(tmp_path / "f.npz")
    assert (tmp_path / ".f.npz.part" / "notes.txt").read_text() == "mine"


def test_the_number_of_unreadable_images_is_not_part_of_what_a_run_depends_on(tmp_path):
    """It is known at the end only."""
    images = msgspec.structs.replace(about().images, unreadable=0)
    assert about().images == images


def test_an_error_of_hdf5_when_its_file_is_closed_is_one_line_and_the_rows_stay(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="needs h5py: pip install h5py")
    close = h5py.File.close

    def fail(file) -> None:
        close(file)
        raise RuntimeError("Can't decrement id ref count")

    monkeypatch.setattr(h5py.File, "close", fail)
    with pytest.raises(UsageError, match=r"f\.h5: can't be written \(No space left on device\)"):
        run(tmp_path / "f.h5")
    monkeypatch.undo()
    assert run(tmp_path / "f.h5") == []
    assert open_features(tmp_path / "f.h5").errors == {2: "damaged", 9: "damaged"}


def test_an_existing_array_stays_if_the_text_beside_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    run(tmp_path / "f.npy")
    before = content(tmp_path)

    def fail(path, parts) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        write = staging.write_atomically
        patched.setattr(
            staging, "write_atomically", lambda path, parts: (fail if path.suffix == ".jsonl" else write)(path, parts)
        )
        with pytest.raises(UsageError, match="No space left on device"):
            run(tmp_path / "f.npy", stamp="another")
    assert {name: content(tmp_path)[name] for name in before} == before
