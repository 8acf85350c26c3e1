"""ILSVRC2012's development kit: the classes in the kit's own order, and the labels of the validation images."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path

from alexnet_infer.containers import Header
from alexnet_infer.datasets.classes import is_wordnet_id, sorted_classes
from alexnet_infer.datasets.inside import Inside, check_member
from alexnet_infer.datasets.texts import WrongLines, lines_of, read_file
from alexnet_infer.datasets.tree import Folder
from alexnet_infer.errors import BackendError, UnreadableInputError, one_line, shown
from alexnet_infer.manifest import ClassName

NAMES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12", "devkit")

_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
MAX_BYTES = 32_000_000
"""The largest archive, unpacked archive or `meta.mat` that is read. The published archive has 2.6 MB."""
_MAX_TRUTH = 4_000_000
"""The largest ground truth that is read. The published one has 190 kB, for 50,000 images."""
_MAX_MEMORY = 1 << 30
"""Bytes that reading a `meta.mat` may take: its compressed tables say themselves how large they are."""
_MAX_SECONDS = 120


def find_devkit(folder: Folder) -> Folder | None:
    return next((path for name in NAMES if _exists(path := folder / name)), None)


def _exists(path: Folder) -> bool:
    """Whether there is anything at a path. A pipe is not a devkit, but it is named."""
    return path.is_file() or path.is_dir() or (isinstance(path, Path) and path.exists())


def open_devkit(folder: Folder) -> Devkit:
    """Open the devkit in `folder`, or beside the archive that `folder` is in.

    Raises UnreadableInputError if there is none, and what `Devkit` raises.
    """
    path = find_devkit(folder)
    if path is None and isinstance(folder, Inside):
        path = find_devkit(folder.archive.path.parent)
    if path is None:
        raise UnreadableInputError(
            f"{folder}: no devkit here, so the labels are unknown; expected {NAMES[0]}, or a folder {NAMES[1]} or "
            f"{NAMES[2]}"
        )
    return Devkit(path)


class Devkit:
    """The content of `meta.mat` and the ground truth, from the published archive or its unpacked folder.

    `classes` are sorted by WordNet id. `labels` maps the name of each validation image to a position in `classes`. The
    kit's own numbers, `ILSVRC2012_ID`, are in a different order, and only `ids` has them.

    Raises UnreadableInputError if the kit is incomplete or damaged, or contradicts itself. Raises BackendError if SciPy
    is not installed.
    """

    classes: tuple[ClassName, ...]
    labels: dict[str, int]
    ids: list[int]
    """The ILSVRC2012_ID of each image in `labels`, to check that labels are not in the kit's order."""
    truth: Folder
    """The path of the ground truth, for messages."""

    def __init__(self, path: Folder) -> None:
        meta, truth = _read_folder(path) if path.is_dir() else _read_archive(path)
        wnids, names = _synsets(path / _META, meta)
        self.classes = sorted_classes(path / _META, names, names)
        positions = {c.wnid: i for i, c in enumerate(self.classes)}
        self.truth = path / _TRUTH
        self.ids = _ids(self.truth, truth, len(wnids))
        names = (f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(self.ids) + 1))
        self.labels = {name: positions[wnids[number - 1]] for name, number in zip(names, self.ids, strict=True)}


def _ids(where: Folder, truth: bytes, classes: int) -> list[int]:
    """The ILSVRC2012_ID in each line of the ground truth. They count from 1."""
    ids: list[int] = []
    bad = WrongLines()
    for number, line in enumerate(lines_of(where, truth), start=1):
        text = line.strip()
        if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= classes:
            ids.append(int(text))
        else:
            bad.add(number, line)
    bad.refuse(where, f"an ILSVRC2012_ID from 1 to {classes}")
    return ids


def _read_folder(path: Folder) -> tuple[bytes, bytes]:
    """Return the content of meta.mat and of the ground truth."""
    try:
        return read_file(path / _META, MAX_BYTES), read_file(path / _TRUTH, _MAX_TRUTH)
    except FileNotFoundError as error:
        raise UnreadableInputError(f"{error}: not found; expected the devkit's folder as published") from None


def _read_archive(path: Folder) -> tuple[bytes, bytes]:
    try:
        with gzip.open(io.BytesIO(read_file(path, MAX_BYTES))) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UnreadableInputError(f"{path}: more than {MAX_BYTES:,} bytes when unpacked; expected the devkit")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", tarinfo=Header) as archive:
            return _member(path, archive, _META, MAX_BYTES), _member(path, archive, _TRUTH, _MAX_TRUTH)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise UnreadableInputError(f"{path}: can't be read as the devkit's archive ({one_line(error)})") from None


def _member(path: Folder, archive: tarfile.TarFile, name: str, most: int) -> bytes:
    wanted = f"ILSVRC2012_devkit_t12/{name}"
    member = next((m for m in archive if m.name.removeprefix("./") == wanted), None)
    if member is None:
        raise UnreadableInputError(f"{path}: has no file {wanted}; expected the devkit as published")
    check_member(path, member, False)
    if member.size > most:
        raise UnreadableInputError(f"{path}: {wanted} has {member.size:,} bytes: expected at most {most:,}")
    return archive.extractfile(member).read()


def _synsets(where: Folder, data: bytes) -> tuple[list[str], dict[str, str]]:
    """WordNet ids in order of ILSVRC2012_ID, and WordNet id -> name, of the synsets that are classes.

    The classes are the synsets without children. The others are their ancestors.
    """
    try:
        rows = sorted((number, wnid, words) for number, wnid, words, children in _read_meta(data) if not children)
    except ValueError as error:
        raise UnreadableInputError(f"{where}: is not the devkit's table of synsets ({one_line(error)})") from None
    names = {wnid: words for _, wnid, words in rows}
    for expected, (number, wnid, _) in enumerate(rows, start=1):
        if number != expected or not is_wordnet_id(wnid):
            raise UnreadableInputError(
                f"{where}: synset {shown(wnid)} with ILSVRC2012_ID {shown(number)}: expected a WordNet id and the "
                f"numbers from 1 to {len(rows)}, each once"
            )
    if len(names) < len(rows) or not rows:
        raise UnreadableInputError(f"{where}: {len(rows)} synsets with {len(names)} WordNet ids: expected each id once")
    return [wnid for _, wnid, _ in rows], names


_READER = f"""
import io, json, re, sys, numpy
from scipy.io import loadmat
try:
    import resource
    used = int(re.search("VmData:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1])
    limit = used * 1024 + {_MAX_MEMORY}
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
except (ImportError, OSError, TypeError):
    pass  # not Linux
try:
    table = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True, variable_names=["synsets"])["synsets"]
    rows = [[int(r["ILSVRC2012_ID"]), str(r["WNID"]), str(r["words"]), int(r["num_children"])]
            for r in numpy.atleast_1d(table)]
    text = json.dumps(rows)
    if len(text) > {MAX_BYTES}:
        raise ValueError("a table of %d bytes" % len(text))
except Exception as error:
    sys.exit(type(error).__name__ + ": " + str(error))
sys.stdout.write(text)
"""


@lru_cache(maxsize=2)  # the training set and the validation set use the same kit
def _read_meta(data: bytes) -> list[tuple[int, str, str, int]]:
    """ILSVRC2012_ID, WNID, words and num_children of every synset in the content of a meta.mat.

    A separate process reads `data`, since a damaged file can crash SciPy's reader (1.17) and Python with it. Raises
    ValueError with the cause if `data` can't be read. Raises BackendError if SciPy is not installed.
    """
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise BackendError('the devkit\'s meta.mat needs scipy: pip install "alexnet-infer[ilsvrc]"') from None
    command = [sys.executable, "-P", "-W", "ignore", "-c", _READER]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"reading it took more than {_MAX_SECONDS} seconds") from None
    if done.returncode == 1:
        raise ValueError(done.stderr.decode("utf-8", "replace")[-200:])
    if done.returncode:
        raise ValueError(f"SciPy crashed on it with exit code {done.returncode}")
    return [tuple(row) for row in json.loads(done.stdout)]
