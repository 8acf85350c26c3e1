"""The devkit: its numbers are converted to positions in order of WordNet ids, or it is refused in one line."""

from __future__ import annotations

import gzip
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import pytest

from alexnet_infer.datasets import devkit
from alexnet_infer.datasets.devkit import Devkit, find_devkit, open_devkit
from alexnet_infer.errors import BackendError, UnreadableInputError
from tests.datasets import mini
from tests.datasets.mini import SYNSETS, WNIDS, refused

pytest.importorskip("scipy", reason="the devkit needs scipy")

# ILSVRC's first five validation images: a sea snake, an alp, a Shetland sheepdog, a soup bowl and a cradle.
# ILSVRC2012_ID -> (position in order of WordNet ids, WordNet id)
FIRST_FIVE = {
    490: (65, "n01751748"),
    361: (970, "n09193705"),
    171: (230, "n02105855"),
    822: (809, "n04263257"),
    297: (516, "n03125729"),
}


def thousand_synsets() -> list[tuple[int, str, str, int]]:
    """The five classes at their positions in both of ILSVRC's orders, invented ids between them, and ancestors."""
    wnids: list[str] = []
    for position, wnid in sorted([*FIRST_FIVE.values(), (1000, "n99999999")]):
        last = int(wnids[-1][1:]) if wnids else 0
        wnids += [f"n{last + i:08}" for i in range(1, position - len(wnids) + 1)] + [wnid]
    wnids = wnids[:1000]
    other_wnids = [wnid for wnid in wnids if wnid not in {known for _, known in FIRST_FIVE.values()}]
    random.Random(0).shuffle(other_wnids)
    by_number = [FIRST_FIVE[i][1] if i in FIRST_FIVE else other_wnids.pop() for i in range(1, 1001)]
    rows = [(i, wnid, f"what {wnid} is", 0) for i, wnid in enumerate(by_number, start=1)]
    return [*rows, *((1001 + i, f"n000000{i:02}", "ancestor", 2) for i in range(60, 80))]


def test_the_first_five_validation_images_get_their_official_labels(tmp_path):
    path = mini.write_devkit(tmp_path, mini.meta_mat(thousand_synsets()), "490\n361\n171\n822\n297\n")
    kit = Devkit(path)
    assert len(kit.classes) == 1000
    assert [c.wnid for c in kit.classes] == sorted(c.wnid for c in kit.classes)
    names = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in range(1, 6)]
    assert kit.labels == dict(zip(names, [65, 970, 230, 809, 516], strict=True))
    assert [kit.classes[label].wnid for label in kit.labels.values()] == [w for _, w in FIRST_FIVE.values()]


@pytest.mark.parametrize("name", ["ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12", "devkit"])
def test_the_archive_and_the_unpacked_folder_are_read_the_same(tmp_path, name):
    path = mini.write_devkit(tmp_path) if name.endswith("gz") else mini.write_devkit_folder(tmp_path, name)
    assert find_devkit(tmp_path) == path
    kit = open_devkit(tmp_path)
    assert [(c.wnid, c.name) for c in kit.classes] == [(wnid, SYNSETS[wnid]) for wnid in WNIDS]
    assert [(name, WNIDS[label]) for name, label in sorted(kit.labels.items())] == [
        (name, wnid) for name, (_, wnid) in sorted(mini.VALIDATION.items())
    ]


def test_the_order_of_rows_is_ignored(tmp_path):
    rows = mini.mini_synsets()
    a = Devkit(mini.write_devkit(tmp_path))
    b = Devkit(mini.write_devkit(tmp_path, mini.meta_mat(rows[::-1])))
    assert a.classes == b.classes
    assert a.labels == b.labels


def test_a_missing_devkit_is_refused_with_the_expected_names(tmp_path):
    refused(lambda: open_devkit(tmp_path), f"{tmp_path}: no devkit here", "ILSVRC2012_devkit_t12.tar.gz", "devkit")


# meta.mat.


def rows_with(index: int, *change: object) -> list[tuple]:
    rows = mini.mini_synsets()
    rows[index] = tuple(new if new is not None else old for new, old in zip(change, rows[index], strict=True))
    return rows


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (
            rows_with(2, 7, None, None, None),
            "ILSVRC2012_ID 4: expected a WordNet id and the numbers from 1 to 6, each once",
        ),
        (rows_with(2, 2, None, None, None), "ILSVRC2012_ID 2"),
        (rows_with(0, 0, None, None, None), "ILSVRC2012_ID 0"),
        (rows_with(1, None, "vase", None, None), "synset 'vase' with ILSVRC2012_ID 2"),
        (rows_with(1, None, "n02119789", None, None), "6 synsets with 5 WordNet ids: expected each id once"),
        (rows_with(1, None, None, "va\x1b[2Jse", None), r"'va\x1b[2Jse'"),
        (rows_with(1, None, None, None, 2), "ILSVRC2012_ID 3: expected"),
        (mini.mini_synsets()[6:], "0 synsets"),
    ],
    ids=["beyond", "twice", "from 0", "no id", "same id", "escape", "a parent", "no classes"],
)
def test_a_table_of_synsets_that_contradicts_itself_is_refused(tmp_path, rows, part):
    path = mini.write_devkit(tmp_path, mini.meta_mat(rows))
    refused(lambda: Devkit(path), "data/meta.mat", part)


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"no MATLAB file, but as long as a header of one is" * 4,
        mini.meta_mat(mini.mini_synsets())[:500],
        mini.meta_mat(mini.mini_synsets(), fields=("ILSVRC2012_ID", "WNID", "words")),
        mini.meta_mat(mini.mini_synsets()).replace(b"MATLAB 5.0", b"MATLAB 7.3")[:128] + b"\x89HDF\r\n\x1a\n",
    ],
    ids=["empty", "text", "cut", "fields missing", "HDF5"],
)
def test_an_unreadable_table_of_synsets_is_refused(tmp_path, meta):
    path = mini.write_devkit(tmp_path, meta)
    refused(lambda: Devkit(path), "data/meta.mat: is not the devkit's table of synsets (")


@pytest.mark.parametrize(
    ("position", "bit"), [(2304, 6), (2489, 4), (3524, 2), (4496, 7), (130, 0), (200, 3), (1000, 1), (4000, 5)]
)
def test_a_table_with_any_damaged_bit_is_read_or_refused(tmp_path, position, bit):
    """The first four crashed SciPy 1.17.1 and Python with it."""
    damaged = bytearray(mini.meta_mat(mini.mini_synsets(), compress=False))
    damaged[position] ^= 1 << bit
    path = mini.write_devkit(tmp_path, bytes(damaged))
    try:
        assert len(Devkit(path).labels) == 18
    except UnreadableInputError as error:
        assert str(error).isprintable()  # noqa: PT017 (either will do)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SciPy crashed on it with exit code -9"),
        ("import time; time.sleep(60)", "reading it took more than 0.2 seconds"),
        ("import sys; sys.exit('two\\nlines \x1b')", r"(two lines \x1b)"),
    ],
)
def test_a_table_that_crashes_the_reader_is_refused(tmp_path, monkeypatch, reader, reason):
    monkeypatch.setattr(devkit, "_READER", reader)
    monkeypatch.setattr(devkit, "_MAX_SECONDS", 0.2 if "sleep" in reader else 60)
    path = mini.write_devkit(tmp_path, mini.meta_mat(mini.mini_synsets()) + bytes(8))
    refused(lambda: Devkit(path), f"meta.mat: is not the devkit's table of synsets ({reason.strip('()')}")


def test_without_scipy_the_devkit_is_refused_with_the_install_command(tmp_path, monkeypatch):
    path = mini.write_devkit(tmp_path, mini.meta_mat(mini.mini_synsets()[::-1]))
    devkit._read_meta.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy", None)
    refused(lambda: Devkit(path), 'pip install "alexnet-infer[ilsvrc]"', error=BackendError)


# The ground truth.


@pytest.mark.parametrize(
    ("line", "shown"),
    [("0", "'0'"), ("7", "'7'"), ("-1", "'-1'"), ("1.0", "'1.0'"), ("", "''"), ("9" * 5000, "'999"), ("٣", "'")],
)
def test_a_number_that_is_not_a_class_is_refused_with_its_line_and_the_count(tmp_path, line, shown):
    lines = mini.ground_truth().splitlines()
    lines[3] = line
    path = mini.write_devkit(tmp_path, truth="\n".join(lines) + "\n")
    message = refused(
        lambda: Devkit(path),
        f"ILSVRC2012_validation_ground_truth.txt, line 4: {shown}",
        "an ILSVRC2012_ID from 1 to 6",
    )
    assert "lines are wrong" not in message
    lines[5:7] = [line, line]
    path = mini.write_devkit(tmp_path, truth="\n".join(lines) + "\n")
    refused(lambda: Devkit(path), "line 4: ", "(3 lines are wrong; this is the first)")


def test_line_endings_of_other_systems_are_accepted(tmp_path):
    plain = Devkit(mini.write_devkit(tmp_path)).labels
    converted = Devkit(mini.write_devkit(tmp_path, truth=mini.ground_truth().replace("\n", "\r\n"))).labels
    assert plain == converted


# The archive.


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda content: b"", "can't be read as the devkit's archive"),
        (lambda content: b"no gzip", "can't be read as the devkit's archive (Not a gzipped file"),
        (lambda content: content[: len(content) // 2], "can't be read as the devkit's archive"),
        (lambda content: content[:-20] + bytes(12) + content[-8:], "can't be read as the devkit's archive"),
        (lambda content: mini.tar_of([("x", b"")], "w:gz"), "no file ILSVRC2012_devkit_t12/data/meta.mat"),
        (
            lambda content: mini.tar_of([("ILSVRC2012_devkit_t12/data/meta.mat", b"x")], "w:gz"),
            "no file ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        ),
    ],
    ids=["empty", "text", "cut", "zeros", "other", "half"],
)
def test_an_archive_that_is_not_a_devkit_is_refused(tmp_path, damage, part):
    path = mini.write_devkit(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: Devkit(path), "ILSVRC2012_devkit_t12.tar.gz: ", part)


def test_an_archive_that_expands_too_far_is_not_unpacked(tmp_path, monkeypatch):
    path = mini.write_devkit(tmp_path)
    monkeypatch.setattr("alexnet_infer.datasets.devkit.MAX_BYTES", 1_000_000)
    path.write_bytes(gzip.compress(bytes(1_000_001)))
    refused(lambda: Devkit(path), "more than 1,000,000 bytes when unpacked")
    path.write_bytes(gzip.compress(os.urandom(1_000_000)))
    refused(lambda: Devkit(path), "bytes: expected at most 1,000,000")


@pytest.mark.parametrize("name", ["data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"])
def test_an_unpacked_devkit_without_a_file_is_refused(tmp_path, name):
    folder = mini.write_devkit_folder(tmp_path)
    (folder / name).unlink()
    refused(lambda: Devkit(folder), f"{folder / name}: not found")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(archive := tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    refused(lambda: open_devkit(tmp_path), f"{archive}: is not a regular file")
    archive.unlink()
    folder = mini.write_devkit_folder(tmp_path)
    (folder / "data" / "meta.mat").unlink()
    os.mkfifo(folder / "data" / "meta.mat")
    refused(lambda: open_devkit(tmp_path), f"{Path('data') / 'meta.mat'}: is not a regular file")


@pytest.mark.parametrize("end", ["", "\n\n", "\r\n", "\n \n\t\r\n"])
def test_blank_lines_at_the_end_of_the_ground_truth_are_left_out(tmp_path, end):
    folder = mini.write_devkit_folder(tmp_path)
    expected, truth = Devkit(folder), folder / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes((mini.ground_truth().rstrip() + end).encode())
    kit = Devkit(folder)
    assert (kit.labels, kit.ids) == (expected.labels, expected.ids)
    order = list(SYNSETS)
    assert kit.ids == [order.index(wnid) + 1 for _, (_, wnid) in sorted(mini.VALIDATION.items())]


def test_a_table_that_takes_all_memory_is_refused(tmp_path):
    folder = mini.write_devkit_folder(tmp_path)
    tag, name = struct.Struct("<2L").pack, b"synsets\0"
    flags, sides = tag(6, 8) + tag(6, 0), tag(5, 8) + struct.pack("<2l", 1, 2**31 - 1)  # 16 GB of doubles
    matrix = tag(14, 2**32 - 1) + flags + sides + tag(1, len(name) - 1) + name + tag(9, 2**32 - 16)
    content = zlib.compress(matrix + bytes(1 << 20))
    (folder / "data" / "meta.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + tag(15, len(content)) + content)
    refused(lambda: Devkit(folder), "meta.mat: is not the devkit's table of synsets (MemoryError")
