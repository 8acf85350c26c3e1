"""`alexnet-infer data check`: its output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_infer.commands import data
from tests.datasets import mini
from tests.datasets.mini import WNIDS

TINY_IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet"


def test_a_sound_set_exits_0_with_a_row_for_each_finding(run, tmp_path):
    mini.write_folders(tmp_path)
    code, out, err = run("data", "check", tmp_path)
    assert (code, err) == (0, "")
    assert "layout folders" in out
    assert "18 images in 6 classes" in out
    assert "18 of 18 images can be read; 0 errors, 0 warnings" in out


def test_errors_exit_1_and_list_the_first_with_advice(run, tmp_path):
    mini.write_folders(tmp_path)
    for i in range(5):
        (tmp_path / "val" / WNIDS[0] / f"bad {i}.JPEG").write_bytes(b"not an image")
    code, out, err = run("data", "check", tmp_path)
    assert (code, err) == (1, "")
    assert "5 unreadable images" in out
    assert "bad 0.JPEG" in out.replace("\n", "")
    assert "and 2 more (--json lists them)" in out
    assert "counts as wrong" in out
    assert "18 of 23 images can be read; 1 error, 0 warnings" in out


def test_json_is_one_object_with_every_example(run, tmp_path):
    mini.write_folders(tmp_path)
    for i in range(5):
        (tmp_path / "val" / WNIDS[0] / f"{i}.JPEG").write_bytes(b"not an image")
    code, out, err = run("data", "check", tmp_path, "--json")
    report = json.loads(out)
    assert (code, err, report["exit_code"]) == (1, "", 1)
    (finding,) = [finding for finding in report["findings"] if finding["level"] == "error"]
    assert (finding["count"], len(finding["examples"])) == (5, 5)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_names_reach_the_terminal_as_text_only(run, tmp_path, arguments):
    root = tmp_path / "[bold]set\x1b[2J"
    root.mkdir()
    mini.write_folders(root)
    (root / "val" / WNIDS[0] / "[red]\x1b[2J.JPEG").write_bytes(b"?")
    code, out, _ = run("data", "check", root, *arguments, columns=400)
    assert code == 1
    assert "\x1b" not in out
    assert "[red]" in out.replace("\n", "")
    assert "[bold]" in out.replace("\n", "")


def test_a_split_and_a_layout_can_be_named(run, tmp_path):
    mini.write_tar(tmp_path)
    mini.write_folders(tmp_path)
    code, out, err = run("data", "check", tmp_path)
    assert (code, out) == (2, "")
    assert "several layouts (tar, folders)" in err
    code, out, _ = run("data", "check", tmp_path, "--format", "folders", "--split", "train", "--no-hash", "--json")
    assert (code, json.loads(out)["images"], json.loads(out)["split"]) == (0, 12, "train")


def test_a_missing_set_exits_3_with_one_line(run, tmp_path):
    code, out, err = run("data", "check", tmp_path / "absent")
    assert (code, out, err.count("\n")) == (3, "", 1)


def test_a_missing_net_is_refused_before_images_are_read(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    monkeypatch.setattr(data, "check", lambda *_, **__: pytest.fail("the set was read"))
    code, out, err = run("data", "check", tmp_path, "--model", tmp_path / "absent.safetensors")
    assert (code, out, err.count("\n")) == (4, "", 1)


def test_a_set_whose_labels_cannot_be_read_says_that_the_net_was_not_tried(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    mini.write_caffe(tmp_path)
    (tmp_path / "val.txt").write_text("no list of labels\n")
    code, out, err = run("data", "check", tmp_path, "--quick-test", "--json")
    finding = json.loads(out)["findings"][-1]
    assert (code, err) == (1, "")
    assert (finding["level"], finding["title"]) == ("note", "the net was not tried")
    assert finding["detail"] == "the labels can't be read"
