"""`alexnet-infer features` as a user sees it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.features import open_features
from tests.evaluation.toys import save_net, write_set
from tests.program import PROGRAM, one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

ROOT = Path(__file__).parents[2]

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = ("--device", "cpu", "--backend", "onnxruntime", "--batch", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "mini", 18)


def test_the_default_net_writes_fc7_of_the_examples_and_a_short_table(run, tmp_path):
    out = tmp_path / "f.npz"
    code, text, err = run("features", EXAMPLES, "-o", out, "--device", "cpu")
    assert (code, err) == (0, "")
    photos = sorted(str(path) for path in EXAMPLES.glob("*.jpg"))
    assert f"{out}: {len(photos)} images" in text
    assert f"fc7    {len(photos)} x 960  float32" in text
    assert "alexnet-64-0, central view, " in text
    features = open_features(out)
    assert features.names == photos
    assert features.layers == {"fc7": (960,)}
    assert (features.array("fc7") > 0).any(1).all()


def test_json_says_what_was_written(run, model, root, tmp_path):
    out = tmp_path / "f.npz"
    arguments = ("--data", root, "--model", model, "--layer", "fc6:pre", "--layer", "pool5", "--views", "ten", "--half")
    code, text, err = run("features", *arguments, *RUN, "-o", out, "--limit", 12, "--json")
    assert (code, err) == (0, "")
    written = json.loads(text)
    features = open_features(out)
    assert written["file"] == str(out)
    assert written["layers"] == [{"name": name, "shape": list(shape)} for name, shape in features.layers.items()]
    assert (written["views"], written["dtype"], written["computed_earlier"]) == ("ten", "float16", 0)
    assert written["images"]["count"] == len(features) == 12
    assert written["images"]["data"] == "mini"
    assert {*features.labels} == {Path(name).parent.name for name in features.names}


def test_images_that_cannot_be_read_are_named_once_and_exit_1(run, model, root, tmp_path):
    photo = next(root.rglob("*.jpg"))
    bad = tmp_path / "a\x1b[2J\u202e<b>.jpg"
    bad.write_bytes(b"damaged")
    code, text, err = run("features", bad, photo, "--model", model, *RUN, "-o", tmp_path / "f.npz", "--json")
    assert code == 1
    assert err.count("error:") == 1
    assert err.startswith(f"error: {tmp_path}/a\\x1b[2J\\u202e<b>.jpg: not an image")
    assert "\x1b" not in text + err
    assert len(json.loads(text)["unreadable"]) == 1
    features = open_features(tmp_path / "f.npz")
    assert features.names == [str(bad), str(photo)]
    assert np.isnan(features.array("fc7")).all(1).tolist() == [True, False]


def test_nothing_readable_exits_3_and_writes_no_file(run, model, tmp_path):
    code, text, err = run("features", tmp_path / "x.jpg", "--model", model, *RUN, "-o", tmp_path / "f.npz")
    assert (code, text) == (3, "")
    assert "x.jpg" in err
    assert err.endswith(f"no image could be read; {tmp_path}/f.npz was not written\n")
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "no input": ((), 2, "INPUT and --data: both are missing"),
    "two inputs": (("a.jpg", "--data", "x"), 2, "INPUT and --data: both are given"),
    "limit of photos": (("a.jpg", "--limit", "3"), 2, "--limit are for a labelled image set; add --data"),
    "unknown layer": (("a.jpg", "--layer", "fc77"), 2, "has no layer 'fc77' (did you mean fc7?): expected one of"),
    "a layer twice": (("a.jpg", "--layer", "fc7", "--layer", "fc7"), 2, "layer 'fc7' is named twice"),
    "no set": (("--data", "nothing-here"), 3, "nothing-here"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line(run, model, tmp_path, kind):
    arguments, expected, words = MISTAKES[kind]
    code, text, err = run("features", *arguments, "--model", model, *RUN, "-o", tmp_path / "f.npz")
    assert (code, text) == (expected, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_missing_out_is_named(run):
    code, _, err = run("features", "a.jpg")
    assert code == 2
    assert "--out" in err


def test_the_order_is_that_of_the_inputs(run, model, root, tmp_path):
    photos = sorted(root.rglob("*.jpg"), reverse=True)
    run("features", *photos, "--model", model, *RUN, "-o", tmp_path / "f.npz")
    assert open_features(tmp_path / "f.npz").names == [str(path) for path in photos]


KILLS_ITSELF = """
import os, signal, sys
from alexnet_infer.features.staging import Staging
from tests.one_thread import use_one_thread

use_one_thread(setattr)  # as this process, which may continue: the bytes depend on the number of threads

append, images = Staging.append, int(os.environ["IMAGES"])

def kill_after(self, *arguments):
    append(self, *arguments)
    if self.done >= images:
        os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])

Staging.append = kill_after
from alexnet_infer.__main__ import main
main()
"""


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_or_interrupted_run_continues_and_gives_the_same_bytes(run, model, root, tmp_path, suffix, name):
    arguments = ["features", "--data", root, "--model", model, *RUN, "--workers", "1"]
    run(*arguments, "-o", tmp_path / f"whole.{suffix}")
    (tmp_path / "killed").mkdir()
    out = tmp_path / "killed" / f"whole.{suffix}"
    command = [sys.executable, "-c", KILLS_ITSELF, *map(str, arguments), "-o", str(out)]
    environment = os.environ | {"IMAGES": "8", "SIGNAL": name, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    if name == "SIGKILL":
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 130
        assert killed.stderr == "interrupted: run the same command again to continue\n"
    assert not out.exists()
    code, text, _ = run(*arguments, "-o", out, "--json")
    assert code == 0
    assert 8 <= json.loads(text)["computed_earlier"] < 18
    assert out.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert len([*out.parent.iterdir()]) == (2 if suffix == "npy" else 1)


def test_an_interrupted_run_with_other_options_is_not_lost(run, model, root, tmp_path):
    out = tmp_path / "f.npz"
    arguments = ["features", tmp_path / "missing.jpg", root, "--model", model, *RUN, "--workers", "1", "-o", out]
    command = [sys.executable, "-c", KILLS_ITSELF, *map(str, arguments)]
    environment = os.environ | {"IMAGES": "8", "SIGNAL": "SIGKILL", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, capture_output=True, env=environment, timeout=100)
    refused = run(*arguments, "--views", "ten")
    one_line(refused, 2, "f.npz: an earlier run was interrupted", "views (center, now ten)", "--fresh")
    shutil.copytree(tmp_path / ".f.npz.part", tmp_path / ".copy")
    code, text, err = run(*arguments, "--json")
    assert (code, json.loads(text)["computed_earlier"] >= 8) == (1, True)
    assert err.startswith("note: what could not be read before the interruption (1 of the images) was not tried again")
    (tmp_path / ".copy").rename(tmp_path / ".f.npz.part")
    code, text, err = run(*arguments, "--views", "ten", "--fresh", "--json")
    assert (code, json.loads(text)["computed_earlier"], json.loads(text)["views"]) == (1, 0, "ten")
    assert "note" not in err


def test_ctrl_c_says_how_to_continue(model, root, tmp_path):
    arguments = ["features", root, "--model", model, *RUN, "--workers", "1", "-o", tmp_path / "f.npz"]
    environment = os.environ | {"IMAGES": "8", "SIGNAL": "SIGINT", "PYTHONPATH": str(ROOT)}
    photo = next(root.rglob("*.jpg")).read_bytes()
    for more, expected in (
        (["--fresh"], "interrupted: run the same command again without --fresh to continue\n"),
        (["--fresh", "-"], "interrupted: standard input can't be read again, so the next run begins again\n"),
    ):
        command = [sys.executable, "-c", KILLS_ITSELF, *map(str, [*arguments, *more])]
        stopped = subprocess.run(command, input=photo, capture_output=True, env=environment, timeout=100)
        assert (stopped.returncode, stopped.stderr.decode()) == (130, expected)


def test_an_exported_file_gives_the_layers_that_it_has(run, model, root, tmp_path):
    code, _, err = run("export", model, "-o", tmp_path / "out", "--outputs", "fc7,probabilities")
    assert code == 0, err
    (exported,) = (tmp_path / "out").rglob("*.onnx")
    for name, net in (("model", model), ("exported", exported)):
        code, _, err = run("features", "--data", root, "--model", net, *RUN, "-o", tmp_path / f"{name}.npz")
        assert code == 0, err
    expected, found = (open_features(tmp_path / f"{name}.npz").array("fc7") for name in ("model", "exported"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    code, _, err = run(
        "features", "--data", root, "--model", exported, *RUN, "-o", tmp_path / "f.npz", "--layer", "fc6"
    )
    assert code == 2
    assert "--outputs fc6" in err


def test_standard_input_is_read(model, root, tmp_path):
    photo = next(root.rglob("*.jpg"))
    command = [*PROGRAM, "features", "-", "--model", model, *map(str, RUN), "-o", tmp_path / "f.npz"]
    with photo.open("rb") as content:
        done = subprocess.run(command, stdin=content, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert open_features(tmp_path / "f.npz").names == ["-"]
