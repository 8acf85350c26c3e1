"""`python -m train` with packed sets, time limits, logs and curves, from end to end."""

from __future__ import annotations

import json
import os
import re

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from safetensors import safe_open

from alexnet_infer.architecture import Architecture, Dropout
from alexnet_infer.artifact import load_artifact
from tests.train.program import assert_one_line, program, train_small


def test_a_packed_set_and_its_source_train_to_identical_files(run, data, tmp_path):
    assert run("prepare", data, "--out", tmp_path / "packed" / "toys", "--image-size", 64, "--check")[0] == 0
    for name, source in (("decoded", data), ("mapped", tmp_path / "packed" / "toys")):
        code, _, stderr = train_small(run, source, tmp_path / name, "--mean", "pixel")
        assert code == 0, stderr
    results = [(tmp_path / name / "alexnet-64.safetensors").read_bytes() for name in ("decoded", "mapped")]
    assert results[0] == results[1]


def test_unreadable_images_are_left_out_of_training_and_count_as_wrong_packed_or_not(run, data, tmp_path):
    unreadable = [f"train/n{i % 3:08}/{i:03}.png" for i in (1, 2, 3, 4)] + ["val/n00000001/004.png"]
    for name in unreadable:
        (data / name).write_bytes(b"not an image")
    packed = tmp_path / "packed" / data.name
    code, _, stderr = run("prepare", data, "--out", packed, "--image-size", 64)
    assert code == 1
    assert all(f"{name}: not an image" in stderr for name in unreadable)
    results = []
    for source, out in ((data, tmp_path / "decoded"), (packed, tmp_path / "mapped")):
        code, _, stderr = train_small(run, source, out, "--lr", "1e-9")
        assert code == 0, stderr
        notes = [line for line in stderr.splitlines() if "could not be read" in line]
        assert [note[: note.index(":")] for note in notes] == [
            "4 of 12 training images could not be read and are left out",
            "1 of 12 validation images could not be read and are counted as wrong",
        ]
        assert re.findall(r"(\w+/n\d+/\d+\.png): not an image", notes[0]) == sorted(unreadable[:4])[:3]
        assert notes[0].endswith("; and 1 more")
        assert notes[1].count("val/n00000001/004.png: not an image") == 1
        summary = json.loads((out / "alexnet-64.json").read_text())
        for error in summary["errors"]:
            assert (error["images"], error["top5"]) == (12, 1)  # all three classes are among the first five
        assert summary["top5_error_by_epoch"] == [1 / 12] * 2
        artifact = load_artifact(out / "alexnet-64.safetensors")
        assert artifact.manifest.provenance.data == "toys, 8 training images"
        results.append((out / "alexnet-64.safetensors").read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--image-size", "96"], ["--image-size 96", "60 x 60 squares"]),
        (["--preset", "alexnet"], ["60 x 60 squares", "patches (227)", "--image-size 256"]),
    ],
)
def test_a_packed_set_of_another_size_exits_2(run, data, tmp_path, arguments, parts):
    run("prepare", data, "--out", tmp_path / "packed", "--image-size", 60)
    assert_one_line(train_small(run, tmp_path / "packed", tmp_path / "out", *arguments), 2, *parts)


def test_a_truncated_packed_set_exits_4(run, data, tmp_path):
    run("prepare", data, "--out", tmp_path / "packed", "--image-size", 64)
    shard = tmp_path / "packed" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_one_line(train_small(run, tmp_path / "packed", tmp_path / "out"), 4, "train-00000.bin", "prepare")


def test_a_checkpoint_with_other_settings_is_refused_before_images_are_decoded(run, data, tmp_path, monkeypatch):
    train_small(run, data, tmp_path)
    monkeypatch.setattr("train.source.Source.load", lambda *_: pytest.fail("decoded"))
    assert_one_line(train_small(run, data, tmp_path, "--lr", "0.02"), 4, "recipe.lr (0.01, now 0.02)")


def test_a_run_that_reaches_its_time_limit_has_a_result_and_resumes_to_the_same_end(run, data, tmp_path):
    code, _, stderr = train_small(run, data, tmp_path / "a", "--max-hours", "1e-9")
    assert code == 0
    assert "--max-hours: stopped after 0 epochs and 1 steps" in stderr
    recipe = load_artifact(tmp_path / "a" / "alexnet-64.safetensors").manifest.provenance.recipe
    assert recipe["trained_epochs"] == pytest.approx(1 / 3)
    train_small(run, data, tmp_path / "a")
    train_small(run, data, tmp_path / "b")
    results = [(tmp_path / name / "alexnet-64.safetensors").read_bytes() for name in "ab"]
    assert results[0] == results[1]


def test_the_log_of_a_resumed_run_has_every_step(run, data, tmp_path):
    train_small(run, data, tmp_path, "--max-hours", "1e-9", "--steps-per-epoch", 2)
    train_small(run, data, tmp_path, "--steps-per-epoch", 2)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(r["steps"] for r in records if r["event"] == "step") == 4
    assert [r["event"] for r in records] == ["start", "step", "end", "start", "step", "epoch", "step", "epoch", "end"]
    assert [r["reason"] for r in records if r["event"] == "end"] == ["time limit", "finished"]


def test_curves_of_a_run_are_drawn_and_printed(run, data, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    train_small(run, data, tmp_path / "run")
    code, stdout, _ = run("plot", tmp_path / "run", "--out", tmp_path / "curves.png")
    assert (code, stdout) == (0, f"{tmp_path / 'curves.png'}\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    code, stdout, _ = run("plot", tmp_path / "run", "--json")
    table = json.loads(stdout)["run"]
    errors = json.loads((tmp_path / "run" / "alexnet-64.json").read_text())["top1_error_by_epoch"]
    assert table["validation"]["top1_error"] == errors


def test_plotting_and_packing_need_no_pytorch(data, tmp_path):
    without = "import sys; sys.modules['torch'] = None"
    packed = program("prepare", str(data), "--out", str(tmp_path / "packed"), "--image-size", "64", before=without)
    assert packed.returncode == 0, packed.stderr
    plotted = program("plot", str(tmp_path), before=without)
    assert (plotted.returncode, plotted.stderr.count("\n")) == (3, 1)
    assert "log.jsonl" in plotted.stderr


def test_the_best_epoch_can_be_the_result(run, data, tmp_path):
    options = ["--lr", "0.05", "--epochs", "4"]  # so that the error rises and falls
    train_small(run, data, tmp_path, *options)
    last = load_artifact(tmp_path / "alexnet-64.safetensors")
    train_small(run, data, tmp_path, *options, "--result", "best")
    best = load_artifact(tmp_path / "alexnet-64.safetensors")
    errors = json.loads((tmp_path / "alexnet-64.json").read_text())["top1_error_by_epoch"]
    epoch = errors.index(min(errors)) + 1
    assert best.manifest.provenance.recipe["trained_epochs"] == epoch
    same = all((last.tensors[name] == tensor).all() for name, tensor in best.tensors.items())
    assert same == (epoch == len(errors))


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_runs(run, data, tmp_path):
    from alexnet_infer.files import lock

    with lock(tmp_path / ".lock"):
        assert_one_line(train_small(run, data, tmp_path), 2, "--out", "another run is using it")
    assert train_small(run, data, tmp_path)[0] == 0


def test_a_name_too_long_for_a_file_is_refused_before_training(run, data, tmp_path):
    assert_one_line(train_small(run, data, tmp_path, "--name", "n" * 201), 2, "--name")


def rates(architecture: Architecture) -> list[float]:
    return [o.rate for o in architecture.operations if isinstance(o, Dropout)]


@pytest.mark.parametrize(("options", "rate"), [([], 0.2), (["--dropout", "0.3"], 0.3)])
def test_the_dropout_rate_is_recorded_and_a_run_cannot_resume_with_another_rate(run, data, tmp_path, options, rate):
    code, _, stderr = train_small(run, data, tmp_path, *options)
    assert code == 0, stderr
    manifest = load_artifact(tmp_path / "alexnet-64.safetensors").manifest
    assert rates(manifest.architecture) == [rate] * 2
    assert manifest.provenance.recipe["dropout"] == rate
    with safe_open(tmp_path / "last.safetensors", "pt") as file:
        saved = json.loads(file.metadata()["config"])
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["config"]
    for config in (saved, logged):
        assert config["recipe"]["dropout"] == rate
        assert rates(Architecture.from_json(config["architecture"])) == [rate] * 2
    result = train_small(run, data, tmp_path, "--dropout", "0.5")
    assert_one_line(result, 4, f"architecture.operations.drop6.rate ({rate}, now 0.5)")


RUN_FILES = {
    "last.safetensors": 4,
    "best.safetensors": 4,
    "log.jsonl": 2,
    "alexnet-64.safetensors": 2,
    "alexnet-64.json": 2,
    ".lock": 2,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "link", "link to nothing", "folder"])
def test_a_run_reads_and_writes_only_regular_files_in_its_folder(run, data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("train.source.Source.load", lambda *_: pytest.fail("decoded"))
    mine = tmp_path / "mine"
    for name, code in RUN_FILES.items():
        path = tmp_path / name / name
        path.parent.mkdir()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            mine.write_bytes(b"mine") if kind == "link" else None
            path.symlink_to(mine)
        assert_one_line(train_small(run, data, path.parent), code, name, "regular file" if name != ".lock" else ".lock")
    assert mine.exists() == (kind == "link")
    assert kind != "link" or mine.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_the_folder_of_a_run_may_be_a_link(run, data, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert train_small(run, data, tmp_path / "link", "--max-hours", "1e-9")[0] == 0
    assert (tmp_path / "last.safetensors").is_file()


def test_what_killed_runs_left_is_removed_when_the_run_goes_on(run, data, tmp_path):
    names = ("last.safetensors", "best.safetensors", "alexnet-64.safetensors", "alexnet-64.json")
    left = [tmp_path / f".{name}.0123abcd.tmp" for name in names]
    for path in left:
        path.write_bytes(b"half")
    assert train_small(run, data, tmp_path)[0] == 0
    assert not [path for path in left if path.exists()]
