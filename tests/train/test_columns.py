"""Two columns on two processes, and data ranks beside them, against the same run in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from alexnet_infer.artifact import load_artifact
from alexnet_infer.errors import UsageError
from alexnet_infer.presets import preset, variant
from tests.forks import fork
from tests.train import ranks_worker
from tests.train.ranks_worker import make
from tests.train.toys import TINY
from train.columns import exchanged_values, split_into_columns
from train.model import AlexNet, initialise
from train.ranks import Ranks, join

ROOT = Path(__file__).parents[2]


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = launcher + [str(argument) for argument in arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **streams) as child:
        try:
            stdout, stderr = child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            child.terminate()  # torchrun then ends its workers; if it were killed, they would wait for each other
            raise
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


def forks(processes: int, out: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run `tests.train.ranks_worker` as torchrun does, in forks of a process that has imported torch.

    As with torchrun, they find each other through a store of their parent's, and one that fails ends the others.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    stderr = out.with_name(f"{out.name}.stderr")
    stderr.write_bytes(b"")
    children = []
    for rank in range(processes):
        environment = address | {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        children.append(fork(ranks_worker.main, [out, *arguments], stderr, environment))
    running = {child.sentinel: child for child in children}
    while running:
        ended = [running.pop(sentinel) for sentinel in wait(running, timeout=120)]
        for child in ended:
            child.join()
        if not ended or any(child.exitcode for child in ended):
            for child in running.values():
                child.kill()
        assert ended, "a process does not end"
    return subprocess.CompletedProcess([], int(any(child.exitcode for child in children)), stderr=stderr.read_text())


def run(processes: int, out: Path, columns: int, epochs: int = 2) -> None:
    child = forks(processes, out, columns, epochs)
    assert child.returncode == 0, child.stderr


def state(out: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return weights and momentum, and the state of the run."""
    path = out / "last.safetensors"
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["state"])
    return load_file(path), {key: progress[key] for key in ("epoch", "step", "errors")}


def assert_same_run(a: Path, b: Path) -> None:
    (weights_a, progress_a), (weights_b, progress_b) = state(a), state(b)
    assert progress_a == progress_b
    assert weights_a.keys() == weights_b.keys()
    for name, tensor in weights_a.items():
        torch.testing.assert_close(weights_b[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Ten steps in one process."""
    out = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = make(out, Ranks())
    start = {name: tensor.clone() for name, tensor in trainer.saved.tensors().items()}
    trainer.run()
    torch.set_num_threads(before)
    moved = {name: (tensor - start[name]).abs().max().item() for name, tensor in trainer.saved.tensors().items()}
    assert min(moved[name] for name in moved if name.endswith("weight")) > 1e-3, "weights must move by more than 1e-5"
    return out


@pytest.mark.parametrize(("processes", "columns"), [(2, 2), (2, 1), (4, 2)], ids=["columns", "data", "both"])
def test_ten_steps_agree_with_one_process_in_every_weight(alone, tmp_path, processes, columns):
    run(processes, tmp_path / "run", columns)
    assert_same_run(alone, tmp_path / "run")


def test_a_run_with_two_columns_resumes_in_one_process_and_the_reverse(alone, tmp_path):
    run(2, tmp_path / "two first", columns=2, epochs=1)
    make(tmp_path / "two first", Ranks()).run()
    assert_same_run(alone, tmp_path / "two first")

    class Enough(Exception):  # noqa: N818 (not an error)
        pass

    def stop(state) -> None:
        raise Enough

    with pytest.raises(Enough):
        make(tmp_path / "one first", Ranks()).run(on_epoch=stop)
    run(4, tmp_path / "one first", columns=2)
    assert_same_run(alone, tmp_path / "one first")


def test_ranks_with_different_settings_stop_and_name_the_setting(tmp_path):
    child = forks(2, tmp_path / "run", 2, 2, "seed-by-rank")
    assert child.returncode != 0
    assert "ranks 0 and 1 differ in seed" in child.stderr
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_rank_that_dies_ends_the_run_and_a_restart_resumes_it(alone, tmp_path):
    child = torchrun(2, "tests.train.ranks_worker", tmp_path / "run", 2, 2, "die-in-epoch-2")  # bounded by its timeout
    assert child.returncode != 0
    assert "[rank0]" not in child.stderr, "the other process must not print a traceback"
    assert state(tmp_path / "run")[1]["epoch"] == 1
    run(2, tmp_path / "run", columns=2)
    assert_same_run(alone, tmp_path / "run")


def test_a_rank_that_does_not_answer_ends_the_run_after_the_timeout(tmp_path):
    child = forks(2, tmp_path / "run", 2, 2, "hang-in-epoch-2")
    assert child.returncode != 0
    (line,) = (line for line in child.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: another process of the run ended or did not answer (Timed out waiting")
    assert "[rank0]" not in child.stderr, "the other process must not print a traceback"
    assert state(tmp_path / "run")[1]["epoch"] == 1


def test_the_command_line_trains_two_columns_and_writes_one_model_file(tmp_path):
    for split in ("train", "val"):
        for i in range(8):
            folder = tmp_path / split / f"n{i % 4:08}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (60 * (i % 4), 100, 10 * i)).save(folder / f"{i}.png")
    options = ["--recipe", "fast", "--epochs", 1, "--batch", 4, "--width", 0.125, "--hidden", 16, "--device", "cpu"]
    paths = ["--data", tmp_path, "--out", tmp_path / "out"]
    child = torchrun(2, "tests.train.train_worker", "--preset", "alexnet-64", *paths, *options, "--split-columns")
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("connections closed") == 2, "with open connections, a process can abort at its end"
    assert "1 x 2 processes" in child.stderr
    assert child.stdout.count("top-1 error") == 1, "only one process prints"
    artifact = load_artifact(tmp_path / "out" / "alexnet-64.safetensors")
    assert artifact.manifest.architecture.operations[2].groups == 2, "the file has the undivided net"


def test_the_papers_net_exchanges_half_of_each_input_that_both_columns_use():
    """Half of conv3's input (13 x 13 x 256), of fc6's (6 x 6 x 256), of fc7's and fc8's (4096), and of the logits."""
    expected = (13 * 13 * 256 + 6 * 6 * 256 + 4096 + 4096 + 1000) // 2
    assert exchanged_values(preset("alexnet")) == expected
    assert exchanged_values(preset("alexnet-6conv")) == expected + 6 * 6 * 256 // 2


class _Group:
    """The part of a process group that splitting uses."""

    def rank(self) -> int:
        return 1

    def size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (replace(TINY, lrn_columns=1), "norm1 has 1 groups: expected 2"),
        (replace(TINY, columns=4), "norm1 has 4 groups: expected 2"),
        (replace(TINY, columns=4, normalization="none"), "conv2 has 4 groups: expected 1 or 2"),
        (replace(TINY, classes=3), "the 3 outputs of fc8 don't split evenly"),
    ],
)
def test_a_net_that_does_not_split_into_two_columns_is_refused(net, words):
    with pytest.raises(UsageError, match=words):
        split_into_columns(AlexNet(net.build()), _Group())


def test_each_column_holds_half_of_every_layer():
    net = replace(variant("alexnet-6conv"), width=0.25, hidden=64, classes=10, normalization="batchnorm").build()
    model = AlexNet(net)
    split_into_columns(model, _Group())
    for name, parameter in model.named_parameters():
        assert parameter.shape[0] * 2 == net.tensors[name][0], name
        assert tuple(parameter.shape[1:]) == net.tensors[name][1:], name


class _StrictGather(torch.autograd.Function):
    """An all-gather of two ranks with equal tensors, which must be contiguous, forward and backward."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        assert x.is_contiguous()
        return torch.cat([x, x])

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        assert grad.is_contiguous()
        return sum(grad.chunk(2))


def all_gather(x: torch.Tensor, gather_dim: int, group: object) -> torch.Tensor:
    assert gather_dim == 0, "PyTorch supports no other axis for certain"
    return _StrictGather.apply(x)


def deprecated(*arguments, **options) -> None:
    pytest.fail("called the old name, which warns")


OLDEST = {"all_gather_tensor_autograd": all_gather}
NEWEST = {"all_gather_single_autograd": all_gather}


@pytest.mark.parametrize(
    "names",
    [OLDEST, {"all_gather_tensor_autograd": deprecated} | NEWEST, NEWEST],
    ids=["2.9 to 2.11", "2.13", "without the old name"],
)
def test_columns_use_the_all_gather_of_old_and_new_releases(monkeypatch, names):
    """Two equal columns give equal halves of the logits, with either name of the all-gather."""
    module = SimpleNamespace(**names)
    monkeypatch.setattr(torch.distributed, "_functional_collectives", module, raising=False)
    monkeypatch.setitem(sys.modules, "torch.distributed._functional_collectives", module)
    model = AlexNet(replace(TINY, classes=4).build())
    initialise(model, "he")
    split_into_columns(model, _Group())
    patches = torch.randn(2, 3, 57, 57).to(memory_format=torch.channels_last)
    logits = model.to(memory_format=torch.channels_last)(patches, torch.arange(2))
    assert logits.shape == (2, 4)
    assert torch.equal(logits[:, :2], logits[:, 2:])
    logits.square().sum().backward()
    assert all(w.grad.abs().sum() > 0 for name, w in model.named_parameters() if name.endswith("weight"))


def test_a_number_of_processes_that_does_not_form_a_grid_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="the number of processes is 3"):
        join(torch.device("cpu"), 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="torchrun --nproc-per-node 2"):
        join(torch.device("cpu"), 2)
