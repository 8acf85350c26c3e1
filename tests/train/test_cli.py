"""`python -m train` from end to end, on a folder of toy images."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.artifact import load_artifact
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.files import along
from alexnet_infer.presets import variant
from tests.train.program import SMALL, assert_one_line, program, train_small
from train import display, launch
from train.data import PackedImages
from train.job import Job
from train.recipe import FAST, PAPER
from train.step import TrainingStep

ROOT = Path(__file__).parents[2]


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
    assert json.loads((out / "toy-net.json").read_text())["data"]["images of validation"] == 12
    files = [".lock", "best.safetensors", "last.safetensors", "log.jsonl", "toy-net.json", "toy-net.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert re.fullmatch(r"\S+toy-net.safetensors \(.* MB\): on 12 images of toys, validation, ten views: .*\n", stdout)
    lines = stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["decoding the train split", "decoding the validation split"]
    assert [line[:10] for line in lines if line.startswith("epoch")] == ["epoch 1/2 ", "epoch 2/2 "]
    assert len(lines) == 6


def test_the_same_command_on_a_finished_run_writes_the_same_result_again(run, data, tmp_path):
    _, first, stderr = train_small(run, data, tmp_path)
    assert "measuring: 12 images in " in stderr
    result = tmp_path / "alexnet-64.safetensors"
    before = result.read_bytes()
    code, stdout, stderr = train_small(run, data, tmp_path)
    assert (code, stdout) == (0, first)
    assert "keeping the errors that were measured before on the same images\n" in stderr
    assert "measuring" not in stderr
    result.unlink()
    code, stdout, stderr = train_small(run, data, tmp_path)
    assert (code, stdout) == (0, first)
    assert "the run is finished; writing its result\n" in stderr
    assert "measuring: 12 images in " in stderr
    assert result.read_bytes() == before


def test_after_ctrl_c_the_same_command_resumes_the_run_and_gives_the_same_result(run, data, tmp_path, monkeypatch):
    train_small(run, data, tmp_path / "whole")
    call, calls = TrainingStep.__call__, count(1)

    def press_ctrl_c_in_the_fifth_step(step, *arguments):
        values = call(step, *arguments)
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(TrainingStep, "__call__", press_ctrl_c_in_the_fifth_step)
            code, stdout, stderr = train_small(run, data, tmp_path / "broken")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, stdout) == (130, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("interrupted after 1 epochs and 2 steps: saved to ")
    assert last.endswith("last.safetensors; run the same command again to resume")
    code, _, stderr = train_small(run, data, tmp_path / "broken")
    assert code == 0
    assert "resuming at epoch 2, step 3" in stderr
    whole, broken = (load_artifact(tmp_path / name / "alexnet-64.safetensors") for name in ("whole", "broken"))
    assert all((whole.tensors[name] == broken.tensors[name]).all() for name in whole.tensors)
    assert whole.manifest.provenance.errors == broken.manifest.provenance.errors


def test_a_finished_run_prints_only_the_trainers_lines(data, tmp_path):
    """In a new process, at whose end libraries may report what they still hold."""
    result = program(*SMALL.split(), "--data", str(data), "--out", str(tmp_path / "out"))
    assert result.returncode == 0
    beginnings = ("decoding the ", "14,683 parameters on ", "epoch 1/2 ", "epoch 2/2 ", "measuring: 12 images in ")
    lines = result.stderr.splitlines()
    assert len(lines) == 6
    assert [line for line in lines if not line.startswith(beginnings)] == []


def test_ctrl_c_while_images_are_read_prints_one_line(run, data, tmp_path, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PackedImages, "pack", interrupted)
    assert train_small(run, data, tmp_path)[::2] == (130, "interrupted: run the same command again\n")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "alexnet-65"], ["'alexnet-65'", "alexnet-64"]),
        (["--recipe", "slow"], ["--recipe slow", "paper or fast"]),
        (["--lr", "0"], ["--lr 0", "more than 0"]),
        (["--lr", "nan"], ["--lr nan"]),
        (["--batch", "0"], ["--batch 0", "from 1 to 1000000"]),
        (["--batch", "13"], ["--batch 13", "at most 12", "training images"]),
        (["--weight-decay", "-1"], ["--weight-decay -1"]),
        (["--image-size", "56"], ["--image-size 56", "57"]),
        (["--width", "nan"], ["--width nan"]),
        (["--width", "0"], ["--width 0"]),
        (["--hidden", "-1"], ["--hidden -1: expected 0 to 65536"]),
        (["--dropout", "1"], ["--dropout 1", "at least 0 and less than 1"]),
        (["--net-columns", "3"], ["--net-columns 3: expected 1 or 2"]),
        (["--pool-size", "4"], ["--pool-size 4: expected 2 or 3"]),
        (["--kernels", "1,2,3"], ["--kernels '1,2,3'", "conv1 to conv5"]),
        (
            ["--kernels", "8,8,16", "--init-from", "x"],
            ["--kernels '8,8,16'", "--init-from sets", "leave"],
        ),
        (["--split-columns"], ["the number of processes is 1: expected a multiple of 2", "torchrun --nproc-per-node"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--name", "last"], ["--name 'last'"]),
        (["--name", "a/b"], ["--name 'a/b'"]),
        (["--name", "a\nb"], ["--name 'a\\nb'"]),
    ],
)
def test_a_wrong_value_is_a_one_line_error_and_exits_2(run, data, tmp_path, arguments, parts):
    assert_one_line(train_small(run, data, tmp_path / "out", *arguments), 2, *parts)


def test_unknown_choices_and_options_are_refused_by_the_parser(run, data, tmp_path):
    assert train_small(run, data, tmp_path, "--normalization", "layer")[0] == 2
    assert train_small(run, data, tmp_path, "--device", "tpu")[0] == 2
    assert train_small(run, data, tmp_path, "--no-such-option")[0] == 2


def test_a_missing_data_option_is_named(run):
    assert_one_line(run("--preset", "alexnet-64"), 2, "--data is missing")


def test_a_folder_without_a_data_set_exits_3(run, tmp_path):
    assert_one_line(train_small(run, tmp_path, tmp_path / "out"), 3, "no train split here")


def test_a_split_without_a_readable_image_exits_3_and_names_one(run, data, tmp_path):
    for path in (data / "val").rglob("*.png"):
        path.write_bytes(b"not an image")
    result = train_small(run, data, tmp_path / "out")
    assert_one_line(result, 3, "no image of the validation split can be read", "val/n00000000/000.png: not an image")


def test_splits_with_different_classes_are_refused(run, data, tmp_path):
    shutil.rmtree(data / "val" / "n00000000")
    assert_one_line(train_small(run, data, tmp_path / "out"), 3, "same classes", "n00000000")


def test_a_checkpoint_with_other_settings_exits_4_and_is_kept(run, data, tmp_path):
    train_small(run, data, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    assert_one_line(train_small(run, data, tmp_path, "--lr", "0.02"), 4, "recipe.lr (0.01, now 0.02)")
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_an_output_folder_that_cannot_be_made_exits_2(run, data, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(train_small(run, data, tmp_path / "file" / "out"), 2, "--out", "can't be created")


def test_a_missing_gpu_exits_5(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line(train_small(run, data, tmp_path, "--device", "cuda"), 5, "--device cuda")


def test_a_diverging_run_exits_1(run, data, tmp_path):
    assert_one_line(train_small(run, data, tmp_path, "--lr", "99999"), 1, "the run diverged", "--lr")


def test_missing_pytorch_is_a_one_line_error_with_a_remedy(data):
    result = program("--data", str(data), before="import sys; sys.modules['torch'] = None")
    assert result.returncode == 5
    expected = 'the trainer needs torch: pip install "alexnet-infer[train]"'
    assert result.stderr == f"error: {expected}\n"


def test_help_lists_every_field_of_a_recipe_and_needs_no_pytorch():
    result = program("--help", before="import sys; sys.modules['torch'] = None")
    assert result.returncode == 0, result.stderr
    for field in FAST.__dataclass_fields__.keys() - {"name"}:
        assert f"--{field.replace('_', '-')} " in result.stdout
    assert "Exit codes" in result.stdout


def jobs(monkeypatch) -> list[Job]:
    """Return a list of the jobs that commands start; the jobs do nothing."""
    seen: list[Job] = []

    def no_launch(job: Job, display: display.Display) -> None:
        seen.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", no_launch)
    return seen


def test_the_defaults_are_those_of_the_preset_and_the_recipe(run, monkeypatch, tmp_path):
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


def test_every_option_sets_its_field(run, monkeypatch, tmp_path):
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
        "dropout": 0.25,
        "label_smoothing": 0.125,
        "color_sigma": 0.75,
        "unit": 4.0,
        "mean": "pixel",
        "training_views": "center",
        "validation_views": "ten",
        "steps_per_epoch": 11,
    }
    net = {
        "width": 0.5,
        "hidden": 64,
        "columns": 1,
        "activation": "tanh",
        "normalization": "none",
        "pool_size": 2,
    }
    kernels = {"kernels": (8, 16, 24, 24, 16), "sixth_conv": 32}
    assert recipe.keys() == FAST.__dataclass_fields__.keys() - {"name"}, "every field of a recipe has its option"
    fields = recipe | net | {"net_columns": net["columns"]}
    del fields["columns"]
    options = [word for key, value in fields.items() for word in (f"--{key.replace('_', '-')}", value)]
    options += ["--kernels", "8,16,24,24,16,32"]
    run("--data", tmp_path, "--recipe", "fast", "--out", "o", "--name", "n", "--image-size", 300, "--seed", 9, *options)
    machine = "--device cpu --compile --split-columns --accumulate 2 --max-hours 1.5 --result best --tensorboard"
    run("--data", tmp_path, *machine.split())
    assert seen[0] == Job(
        variant=replace(variant("alexnet"), **net, **kernels),
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
        device="cpu",
        compile=True,
        columns=2,
        accumulate=2,
        max_hours=1.5,
        result="best",
        tensorboard=True,
    )


def test_a_net_to_start_from_is_named_and_sets_the_net(run, monkeypatch, tmp_path):
    seen, path = jobs(monkeypatch), along("alexnet-64-0.safetensors")
    own = ["--preset", "alexnet-64", "--width", "0.375", "--hidden", "960", "--net-columns", "2"]
    for start, options in (("alexnet-64-0", []), (path, []), ("alexnet-64-0", own)):
        run("--data", tmp_path, "--init-from", start, *options)
        job = seen.pop()
        assert (job.init_from, job.out, job.name) == (path, Path("runs/alexnet-64"), "alexnet-64")
        architecture = load_artifact(path).manifest.architecture
        assert replace(job.recipe, dropout=0.2).apply_to(job.architecture(200)) == architecture
    run("--data", tmp_path, "--init-from", "alexnet-64-0", "--name", "n", "--out", "o", "--activation", "tanh")
    assert (seen[0].name, seen[0].out) == ("n", Path("o"))
    assert (seen[0].variant.activation, seen[0].variant.hidden) == ("tanh", 960)


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--hidden", "512"], 2, ["--hidden 512", "has 960"]),
        (["--width", "0.5"], 2, ["--width 0.5", "(48, 128, 192, 192, 128)", "(32, 96, 144, 144, 96)"]),
        (["--net-columns", "1"], 2, ["--net-columns 1", "has 2"]),
        (["--init-from", "alexnet-64-7"], 4, ["'alexnet-64-7' is neither a file nor the name of a net"]),
        (["--init-from", "nowhere/net.safetensors"], 4, ["nowhere/net.safetensors: No such file"]),
    ],
)
def test_options_that_contradict_the_net_to_start_from_are_refused_with_both_values(
    run, data, tmp_path, arguments, code, parts
):
    result = run("--data", data, "--out", tmp_path / "out", "--init-from", "alexnet-64-0", *arguments)
    assert_one_line(result, code, *parts)


def test_another_preset_than_that_of_the_net_to_start_from_is_refused_with_both_shapes(run, data, tmp_path):
    result = run("--data", data, "--out", tmp_path / "out", "--init-from", "alexnet-64-0", "--preset", "alexnet")
    assert_one_line(result, 2, "conv1.weight has shape (32, 3, 3, 3): expected (32, 3, 11, 11)", "is then alexnet-64")


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
