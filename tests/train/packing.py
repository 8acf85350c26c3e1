"""Helpers for the tests of packing: a small source, jobs that pack it, and ways to interrupt them."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling
from train.packed import PackedSet
from train.prepare import Preparation

ROOT = Path(__file__).parents[2]
SIZE = 8
WNIDS = ("n00000001", "n00000002")
TWO_IMAGES = 2 * 3 * SIZE**2
"""The bytes of a shard in these tests: see the fixture `small_shards`."""


class Counted:
    """A display that records its calls."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        self.calls.append([description, total, 0])

        def advance(count: int) -> None:
            self.calls[-1][2] += count

        yield advance


def encoded(rng: np.random.Generator, number: int) -> bytes:
    """Return a PNG or JPEG whose shape and colours depend on `number`, so that the colours are correlated."""
    pixels = rng.integers(0, 120, (11 + number, 17 - number, 3))
    pixels += np.array([0, 10 * number, 130])
    pixels[: 4 + number, :, 1] += 60
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "PNG" if number % 2 else "JPEG")
    return data.getvalue()


def image_source(root: Path) -> Path:
    """Seven training images and three for validation, in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for number in range(count):
            folder = root / split / WNIDS[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encoded(rng, number))
    (root / "classes.tsv").write_text("n00000001\tcat, house cat\nn00000002\tdog\n")
    return root


def job(source: Path, **options) -> Preparation:
    settings = {"out": source.parent / "packed", "size": SIZE, "workers": 2} | options
    return Preparation(source=source, **settings)


def squares(source: Path, split: str) -> np.ndarray:
    return np.stack(
        [
            read_square(example.data, name="", rescaling=Rescaling(size=SIZE), apply_exif=False)
            for example in LabelledImages(source, split)
        ]
    )


def pixels(packed: PackedSet, split: str) -> np.ndarray:
    return np.concatenate(packed.shards(split))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def note_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the names of the images that are decoded from now on."""
    names: list[str] = []

    def noted(example: Example, rescaling: Rescaling) -> np.ndarray:
        names.append(example.name)
        return square(example, rescaling)

    square = Example.square
    monkeypatch.setattr(Example, "square", noted)
    return names


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from alexnet_infer.datasets import Example
from tests.train.packing import TWO_IMAGES, Counted, job
from train import prepare

where, left = sys.argv[2], int(sys.argv[3])
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

if where == "decode":
    Example.square = counted(Example.square)
elif where == "rename":
    Path.replace = counted(Path.replace)
elif where == "unlink":
    Path.unlink = counted(Path.unlink)
else:
    os.fsync = counted(os.fsync)
prepare.SHARD_BYTES = TWO_IMAGES
prepare.prepare(job(Path(sys.argv[1]), workers=1), Counted())
"""


def killed(source: Path, where: str, after: int) -> None:
    """Run a job that SIGKILL ends at call number `after` (from 0) of the function `where`."""
    command = [sys.executable, "-c", KILLED, str(source), where, str(after)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == -signal.SIGKILL, result.stderr
