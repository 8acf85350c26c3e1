"""`python -m train` from end to end, on a folder of toy images."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.artifact import load_artifact
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.presets import variant
from tests.train.toys import image_folder
from train import cli, display, launch
from train.data import PackedImages
from train.job import Job, default_size
from train.loop import Trainer
from train.recipe import FAST, PAPER

ROOT = Path(__file__).parents[2]
SMALL = "--preset alexnet-64 --width 0.05 --hidden 16 --recipe fast --epochs 2 --batch 4 --lr 0.01 --no-compile"
"""12 images: two epochs of three steps."""


@pytest.fixture
def data(tmp_path) -> Path:
    return image_folder(tmp_path / "toys")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program as `main` does and gives (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def train_small(run, data: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return run(*SMALL.split(), "--data", data, "--out", out, *more)


def test_from_a_folder_of_images_to_an_artifact_with_its_errors(run, data, tmp_path):
    out = tmp_path / "new" / "out"
    code, stdout, stderr = train_small(run, data, out, "--name", "toy-net", "--seed", 3)
    assert code == 0, stderr
    manifest = load_artifact(out / "toy-net.safetensors").manifest
    assert manifest.name == "toy-net"
    assert manifest.architecture.name == "alexnet-64"
    assert [c.wnid for c in manifest.classes] == ["n00000000", "n00000001", "n00000002"]
    assert manifest.provenance.data == "toys, 12 training images"
    assert manifest.provenance.recipe["epochs"] == 2
    assert manifest.provenance.seed == 3
    assert [e.images for e in manifest.provenance.errors] == [12, 12]
    files = ["best.safetensors", "last.safetensors", "log.jsonl", "toy-net.json", "toy-net.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert re.fullmatch(r"\S+toy-net.safetensors \(.* MB\): on 12 images of toys, validation, ten views: .*\n", stdout)
    lines = stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["decoding the train split", "decoding the validation split"]
    assert [line[:10] for line in lines if line.startswith("epoch")] == ["epoch 1/2 ", "epoch 2/2 "]
    assert len(lines) == 6


def test_the_same_command_on_a_finished_run_writes_the_same_result_again(run, data, tmp_path):
    train_small(run, data, tmp_path)
    result = tmp_path / "alexnet-64.safetensors"
    before = result.read_bytes()
    result.unlink()
    code, _, stderr = train_small(run, data, tmp_path)
    assert code == 0
    assert "from epoch 3" in stderr
    assert result.read_bytes() == before


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_ends_as_if_nothing_had_been(
    run, data, tmp_path, monkeypatch
):
    train_small(run, data, tmp_path / "whole")
    step = Trainer._step

    def press_ctrl_c_in_the_fifth(trainer, *arguments, **wishes):
        report = step(trainer, *arguments, **wishes)
        if (trainer.state.epoch, trainer.state.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)
        return report

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "_step", press_ctrl_c_in_the_fifth)
            code, stdout, stderr = train_small(run, data, tmp_path / "broken")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, stdout) == (130, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("interrupted after 1 epochs and 2 steps: saved to ")
    assert last.endswith("last.safetensors; the same command goes on from there")
    code, _, stderr = train_small(run, data, tmp_path / "broken")
    assert code == 0
    assert "from epoch 2, step 3" in stderr
    whole, broken = (load_artifact(tmp_path / name / "alexnet-64.safetensors") for name in ("whole", "broken"))
    assert all((whole.tensors[name] == broken.tensors[name]).all() for name in whole.tensors)
    assert whole.manifest.provenance.errors == broken.manifest.provenance.errors


def test_ctrl_c_while_images_are_read_is_no_traceback(run, data, tmp_path, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PackedImages, "decode", interrupted)
    assert train_small(run, data, tmp_path)[::2] == (130, "interrupted: the same command starts this again\n")


def assert_one_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    found, stdout, stderr = result
    line = stderr.splitlines()[-1]
    assert (found, stdout) == (code, ""), stderr
    assert line.startswith("error: ")
    assert "Traceback" not in stderr
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "alexnet-65"], ["'alexnet-65'", "alexnet-64"]),
        (["--recipe", "slow"], ["--recipe slow", "paper or fast"]),
        (["--lr", "0"], ["--lr 0", "more than 0"]),
        (["--lr", "nan"], ["--lr nan"]),
        (["--batch", "0"], ["--batch 0", "at least 1"]),
        (["--batch", "13"], ["--batch 13", "12 images"]),
        (["--weight-decay", "-1"], ["--weight-decay -1"]),
        (["--image-size", "56"], ["--image-size 56", "57"]),
        (["--width", "nan"], ["--width nan"]),
        (["--width", "0"], ["--width 0"]),
        (["--hidden", "0"], ["units=0"]),
        (["--dropout", "1"], ["rate=1"]),
        (["--net-columns", "3"], ["groups=3"]),
        (["--columns"], ["--columns: 1 processes can't be grouped in pairs", "torchrun --nproc-per-node 2"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--name", "last"], ["--name 'last'"]),
        (["--name", "a/b"], ["--name 'a/b'"]),
        (["--name", "a\nb"], ["--name 'a\\nb'"]),
        (["--activation", "tanh"], ["--unit 16", "expected 1"]),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_2(run, data, tmp_path, arguments, parts):
    assert_one_line(train_small(run, data, tmp_path / "out", *arguments), 2, *parts)


def test_values_that_are_no_choice_are_refused_by_the_parser(run, data, tmp_path):
    assert train_small(run, data, tmp_path, "--normalization", "layer")[0] == 2
    assert train_small(run, data, tmp_path, "--device", "tpu")[0] == 2
    assert train_small(run, data, tmp_path, "--no-such-option")[0] == 2


def test_without_data_it_says_so(run):
    assert_one_line(run("--preset", "alexnet-64"), 2, "--data is missing")


def test_a_folder_without_a_data_set_is_exit_3(run, tmp_path):
    assert_one_line(train_small(run, tmp_path, tmp_path / "out"), 3, "no train split here")


def test_an_unreadable_image_is_named_and_exit_3(run, data, tmp_path):
    (data / "train" / "n00000001" / "004.png").write_bytes(b"not an image")
    assert_one_line(train_small(run, data, tmp_path / "out"), 3, "n00000001/004.png", "not an image")


def test_splits_with_other_classes_are_refused_before_labels_shift(run, data, tmp_path):
    shutil.rmtree(data / "val" / "n00000000")
    assert_one_line(train_small(run, data, tmp_path / "out"), 3, "same classes", "n00000000")


def test_a_checkpoint_of_other_settings_is_exit_4_and_kept(run, data, tmp_path):
    train_small(run, data, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    assert_one_line(train_small(run, data, tmp_path, "--lr", "0.02"), 4, "recipe.lr (0.01, now 0.02)")
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_an_output_folder_that_cannot_be_made_is_exit_2(run, data, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(train_small(run, data, tmp_path / "file" / "out"), 2, "--out", "can't be made")


def test_a_missing_gpu_is_exit_5(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line(train_small(run, data, tmp_path, "--device", "cuda"), 5, "--device cuda")


def test_a_diverging_run_is_exit_1(run, data, tmp_path):
    assert_one_line(train_small(run, data, tmp_path, "--lr", "99999"), 1, "the run diverged", "--lr")


def program(*arguments: str, before: str = "") -> subprocess.CompletedProcess:
    code = f"{before}\nimport runpy, sys\nsys.argv[0] = 'train'\nrunpy.run_module('train', run_name='__main__')"
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_missing_pytorch_is_one_line_with_its_remedy(data):
    result = program("--data", str(data), before="import sys; sys.modules['torch'] = None")
    assert result.returncode == 5
    assert result.stderr == 'error: training needs PyTorch: pip install "alexnet-infer[train]"\n'


def test_help_lists_every_field_of_a_recipe_and_needs_no_pytorch():
    result = program("--help", before="import sys; sys.modules['torch'] = None")
    assert result.returncode == 0, result.stderr
    for field in FAST.__dataclass_fields__.keys() - {"name"}:
        assert f"--{field.replace('_', '-')} " in result.stdout
    assert "Exit codes" in result.stdout


def jobs(monkeypatch) -> list[Job]:
    """The jobs that commands start, which then end without doing anything."""
    seen: list[Job] = []

    def no_launch(job: Job, display: display.Display) -> None:
        seen.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", no_launch)
    return seen


def test_defaults_are_the_presets_and_the_papers(run, monkeypatch, tmp_path):
    seen = jobs(monkeypatch)
    run("--data", tmp_path)
    run("--data", tmp_path, "--preset", "alexnet-64", "--recipe", "fast")
    assert seen == [
        Job(
            variant=variant("alexnet"),
            recipe=PAPER,
            data=tmp_path,
            out=Path("runs/alexnet"),
            name="alexnet",
        ),
        Job(
            variant=variant("alexnet-64"),
            recipe=FAST,
            data=tmp_path,
            out=Path("runs/alexnet-64"),
            name="alexnet-64",
        ),
    ]


def test_every_option_arrives_in_its_place(run, monkeypatch, tmp_path):
    seen = jobs(monkeypatch)
    recipe = {
        "epochs": 3,
        "batch": 5,
        "lr": 0.5,
        "schedule": "plateau",
        "warmup": 0.25,
        "patience": 7,
        "momentum": 0.5,
        "weight_decay": 0.25,
        "init": "paper",
        "label_smoothing": 0.125,
        "color_sigma": 0.75,
        "unit": 4.0,
        "mean": "pixel",
        "validation_views": "ten",
        "steps_per_epoch": 11,
    }
    net = {
        "width": 0.5,
        "hidden": 64,
        "dropout": 0.25,
        "columns": 1,
        "activation": "tanh",
        "normalization": "none",
        "pool_size": 2,
    }
    assert recipe.keys() == FAST.__dataclass_fields__.keys() - {"name"}, "every field of a recipe has its option"
    given = recipe | net | {"net_columns": net["columns"]}
    del given["columns"]
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]
    run("--data", tmp_path, "--recipe", "fast", "--out", "o", "--name", "n", "--image-size", 300, "--seed", 9, *options)
    machine = "--device cpu --compile --columns --accumulate 2 --max-hours 1.5 --result best --tensorboard"
    run("--data", tmp_path, *machine.split(), "--init-from", "a.safetensors")
    assert seen[0] == Job(
        variant=replace(variant("alexnet"), **net),
        recipe=replace(FAST, **recipe),
        data=tmp_path,
        out=Path("o"),
        name="n",
        size=300,
        seed=9,
    )
    assert seen[1] == Job(
        variant=variant("alexnet"),
        recipe=PAPER,
        data=tmp_path,
        out=Path("runs/alexnet"),
        name="alexnet",
        init_from=Path("a.safetensors"),
        device="cpu",
        compile=True,
        columns=2,
        accumulate=2,
        max_hours=1.5,
        result="best",
        tensorboard=True,
    )


@pytest.mark.parametrize(("patch", "size"), [(227, 256), (224, 256), (57, 64), (64, 96)])
def test_the_default_size_leaves_room_around_the_patch(patch, size):
    assert default_size(patch) == size


TINY_IMAGENET = ROOT.parent / "shared" / "data" / "tiny-imagenet"


@pytest.mark.skipif(not TINY_IMAGENET.is_dir(), reason="needs ../shared/data/tiny-imagenet")
def test_tiny_imagenet_is_a_data_set_for_the_trainer():
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    train, validation = (LabelledImages(TINY_IMAGENET, split) for split in ("train", "validation"))
    assert (len(train), len(validation), len(train.classes)) == (100_000, 5_000, 200)
    assert train.classes == validation.classes


def test_the_summary_on_disk_agrees_with_the_line_on_stdout(run, data, tmp_path):
    _, stdout, _ = train_small(run, data, tmp_path)
    ten = json.loads((tmp_path / "alexnet-64.json").read_text())["errors"][1]
    assert ten["views"] == "ten"
    assert f"ten views: top-1 error {ten['top1'] / 12:.2%}, top-5 {ten['top5'] / 12:.2%}" in stdout


def test_a_packed_set_trains_to_the_same_bytes_as_the_images_it_was_made_from(run, data, tmp_path):
    assert run("prepare", data, "--out", tmp_path / "packed" / "toys", "--image-size", 64, "--check")[0] == 0
    for name, source in (("decoded", data), ("mapped", tmp_path / "packed" / "toys")):
        code, _, stderr = train_small(run, source, tmp_path / name, "--mean", "pixel")
        assert code == 0, stderr
    results = [(tmp_path / name / "alexnet-64.safetensors").read_bytes() for name in ("decoded", "mapped")]
    assert results[0] == results[1]


def test_an_unreadable_image_is_listed_when_packing_and_counts_as_wrong_in_the_error(run, data, tmp_path):
    (data / "val" / "n00000001" / "004.png").write_bytes(b"not an image")
    packed = tmp_path / "packed"
    code, _, stderr = run("prepare", data, "--out", packed, "--image-size", 64)
    assert code == 1
    assert "n00000001/004.png" in stderr
    code, _, stderr = train_small(run, packed, tmp_path / "out", "--lr", "1e-9")
    assert code == 0, stderr
    assert "1 validation images could not be read" in stderr
    summary = json.loads((tmp_path / "out" / "alexnet-64.json").read_text())
    for error in summary["errors"]:
        assert (error["images"], error["top5"]) == (12, 1)  # of three classes all are among the first five
    assert summary["top5_error_by_epoch"] == [1 / 12] * 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--image-size", "96"], ["--image-size 96", "packed at 60"]),
        (["--preset", "alexnet"], ["packed at 60", "patches take 227", "--image-size 256"]),
    ],
)
def test_a_packed_set_of_another_size_is_exit_2(run, data, tmp_path, arguments, parts):
    run("prepare", data, "--out", tmp_path / "packed", "--image-size", 60)
    assert_one_line(train_small(run, tmp_path / "packed", tmp_path / "out", *arguments), 2, *parts)


def test_a_truncated_packed_set_is_exit_4(run, data, tmp_path):
    run("prepare", data, "--out", tmp_path / "packed", "--image-size", 64)
    shard = tmp_path / "packed" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_one_line(train_small(run, tmp_path / "packed", tmp_path / "out"), 4, "train-00000.bin", "prepare")


def test_a_checkpoint_of_other_settings_is_refused_before_anything_is_decoded(run, data, tmp_path, monkeypatch):
    train_small(run, data, tmp_path)
    monkeypatch.setattr("train.source.Source.load", lambda *_: pytest.fail("decoded"))
    assert_one_line(train_small(run, data, tmp_path, "--lr", "0.02"), 4, "recipe.lr (0.01, now 0.02)")


def test_a_run_that_reaches_its_time_limit_leaves_a_result_and_goes_on_to_the_same_end(run, data, tmp_path):
    code, _, stderr = train_small(run, data, tmp_path / "a", "--max-hours", "1e-9")
    assert code == 0
    assert "--max-hours: stopped after 0 epochs and 1 steps" in stderr
    recipe = load_artifact(tmp_path / "a" / "alexnet-64.safetensors").manifest.provenance.recipe
    assert recipe["trained_epochs"] == pytest.approx(1 / 3)
    train_small(run, data, tmp_path / "a")
    train_small(run, data, tmp_path / "b")
    results = [(tmp_path / name / "alexnet-64.safetensors").read_bytes() for name in "ab"]
    assert results[0] == results[1]


def test_the_log_holds_every_step_of_a_run_that_was_stopped_and_went_on(run, data, tmp_path):
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
    options = ["--lr", "0.05", "--epochs", "4"]  # an error that goes up and down
    train_small(run, data, tmp_path, *options)
    last = load_artifact(tmp_path / "alexnet-64.safetensors")
    train_small(run, data, tmp_path, *options, "--result", "best")
    best = load_artifact(tmp_path / "alexnet-64.safetensors")
    errors = json.loads((tmp_path / "alexnet-64.json").read_text())["top1_error_by_epoch"]
    epoch = errors.index(min(errors)) + 1
    assert best.manifest.provenance.recipe["trained_epochs"] == epoch
    same = all((last.tensors[name] == tensor).all() for name, tensor in best.tensors.items())
    assert same == (epoch == len(errors))
