"""Runs of `eval` that share a cache, are killed or find it edited give the figures of a clean cache, or one line."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.evaluation.toys import save_nets, write_set
from tests.program import PROGRAM, one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 240
KILLS = int(os.environ.get("ALEXNET_INFER_KILLS", "12"))
"""Runs that are killed. Releases are tested with 200."""


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "set", IMAGES)


def arguments(images: Path, nets: list[Path], cache: Path, *options: str) -> list[str]:
    models = [word for net in nets for word in ("--model", str(net))]
    common = ["--data", str(images), "--views", "center", "--device", "cpu", "--batch", "2", "--json"]
    return ["eval", *common, "--cache", str(cache), *models, *options]


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def bytes_in(cache: Path) -> int:
    total = 0
    for path in cache.glob("*/rows.f32"):
        with suppress(FileNotFoundError):  # a run with --fresh has just removed it
            total += path.stat().st_size
    return total


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_runs_that_share_a_cache_and_are_killed_end_with_the_figures_of_a_clean_cache(run, images, nets, tmp_path):
    """Two runs at a time, of other ensembles with common nets, some with --fresh, are killed at random moments."""
    pytest.importorskip("fcntl")
    pairs = [nets[:2], nets[1:], nets[:1], nets[2:]]
    clean = [run(*arguments(images, own, tmp_path / "clean")) for own in pairs]
    assert [code for code, _, _ in clean] == [0] * len(pairs)
    full, draw, cache, kills, moments = bytes_in(tmp_path / "clean"), random.Random(0), tmp_path / "cache", 0, set()
    while kills < KILLS:
        chosen = draw.sample(range(len(pairs)), 2)
        fresh = [["--fresh"] if draw.random() < 0.2 else [] for _ in chosen]
        runs = [start(*arguments(images, pairs[i], cache, *more)) for i, more in zip(chosen, fresh, strict=True)]
        threshold = bytes_in(cache) + draw.randrange(full // 4)
        while any(child.poll() is None for child in runs) and bytes_in(cache) < threshold:
            time.sleep(0.001)
        for i, child in draw.sample(list(zip(chosen, runs, strict=True)), 2):
            time.sleep(draw.choice((0, 0.02)))
            child.send_signal(signal.SIGKILL)
            out, err = child.communicate()
            kills += child.returncode == -signal.SIGKILL
            if child.returncode == 2:
                assert "another eval is using it" in err
                assert err.count("\n") == 1
            elif child.returncode == 0:
                assert out == clean[i][1]
        moments.add(bytes_in(cache))
        if draw.random() < 0.25:
            for own, whole in zip(pairs, clean, strict=True):
                assert run(*arguments(images, own, cache)) == whole
            shutil.rmtree(cache)
    assert [run(*arguments(images, own, cache)) for own in pairs] == clean
    assert len(moments) > KILLS / 4


def test_a_fresh_run_beside_a_running_one_is_refused_and_loses_nothing(run, images, nets, tmp_path):
    """The fresh run is started while the other one computes, with nets of which only one is in use."""
    pytest.importorskip("fcntl")
    cache = tmp_path / "cache"
    whole = run(*arguments(images, nets[:2], tmp_path / "clean"))
    for attempt in range(5):
        running = start(*arguments(images, nets[:2], cache / str(attempt)))
        while running.poll() is None and not bytes_in(cache / str(attempt)):
            time.sleep(0.001)
        running.send_signal(signal.SIGSTOP)
        if running.poll() is None and 0 < bytes_in(cache / str(attempt)) < 2 * 24 * IMAGES:
            break
        running.kill()
        running.communicate()
    own = arguments(images, nets[1:], cache / str(attempt), "--fresh")
    one_line(run(*own), 2, "another eval is using it; wait for it, or choose another --cache")
    running.send_signal(signal.SIGCONT)
    out, err = running.communicate()
    assert (running.returncode, out, err) == whole
    assert run(*arguments(images, nets[:2], cache / str(attempt))) == whole


def test_damage_is_computed_again_with_a_note(run, images, nets, tmp_path):
    cache = tmp_path / "cache"
    code, whole, err = run(*arguments(images, nets[:1], cache))
    assert (code, err) == (0, "")
    (listed,) = cache.glob("*/images.jsonl")
    lines = listed.read_text().splitlines(keepends=True)
    name, label, *rest = json.loads(lines[100])
    lines[100] = json.dumps([name, (label + 1) % 6, *rest]) + "\n"
    listed.write_text("".join(lines))
    one_line(run("eval", "merge", cache), 3, "damaged (image 101: its check sum is wrong); remove it")
    code, out, err = run(*arguments(images, nets[:1], cache))
    assert (code, out) == (0, whole)
    assert err == (
        f"note: {listed.parent}: predictions were damaged (image 101: its check sum is wrong); they were computed "
        "again\n"
    )
    assert run(*arguments(images, nets[:1], cache)) == (0, whole, "")
    assert run("eval", "merge", cache, "--json") == (0, whole, "")


# Edited descriptions.


VALUES = [None, "", "a\x1b[31m\n", -1, 7, 10**30, 1e308, True, [], {}, ["x"] * 3]
"""Values that a field of a description may have if anyone edits it."""


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value in a JSON value, of lists only the first items."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def edited(fields: object, path: tuple[str | int, ...], value: object) -> object:
    """A copy of a JSON value with another value at a path. KeyError removes it."""
    copied = json.loads(json.dumps(fields))
    parent = functools.reduce(lambda inner, key: inner[key], path[:-1], copied)
    if value is KeyError:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copied


def test_an_edited_description_is_a_one_line_error_or_a_result(run, nets, tmp_path):
    """The folder is named after the edited description, so its key is right. A value is in every second place."""
    code, *_ = run(*arguments(write_set(tmp_path / "small", 12), nets[:1], tmp_path / "cache"))
    assert code == 0
    (path,) = (tmp_path / "cache").glob("*/about.json")
    about, cache, results = json.loads(path.read_bytes()), tmp_path / "edited", 0
    for number, place in enumerate(places(about)):
        for value in (*VALUES[number % 2 :: 2], KeyError):
            text = json.dumps(edited(about, place, value), sort_keys=True)
            folder = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
            shutil.copytree(path.parent, folder)
            (folder / "about.json").write_text(text)
            code, out, err = run("eval", "merge", cache, "--json")
            shutil.rmtree(cache)
            if code == 0:
                results += 1
                assert json.loads(out)["data"]["images"] == 12
                assert not err
            else:
                one_line((code, out, err), 3)
    assert 0 < results < 40
