"""A run of several processes: torchrun's variables, and errors whose cause is another process."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
import torch.distributed as dist

from alexnet_infer.errors import BackendError, UsageError
from train.device import pick_device
from train.ranks import Ranks, environment, join

CPU = torch.device("cpu")
GLOO = "[/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typically caused by"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(GLOO), r"\(Connection closed by peer \[127\.0\.0\.1\]:1\)"),
        (
            dist.DistNetworkError("The client socket\nhas timed out \x1b[31m"),
            r"\(The client socket has timed out .x1b\[31m\)",
        ),
        (dist.DistBackendError("x" * 10_000), r"\(x+\)"),
    ],
)
def test_an_error_about_another_process_is_one_line_and_exit_code_5(error, words):
    expected = rf"another process of the run ended .* {words}; see its message"
    with pytest.raises(BackendError, match=expected) as caught, Ranks().connected():
        raise error
    assert caught.value.exit_code == 5
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("error", [RuntimeError("a bug"), UsageError("a mistake"), KeyboardInterrupt()])
def test_other_errors_are_raised_as_they_are(error):
    with pytest.raises(type(error)) as caught, Ranks().connected():
        raise error
    assert caught.value is error


def test_after_an_error_the_connections_are_closed(monkeypatch, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(KeyboardInterrupt), Ranks(data_ranks=2).connected():
            raise KeyboardInterrupt
        assert not dist.is_initialized()
        Ranks(data_ranks=2).leave()  # does nothing
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.mark.parametrize("text", ["", "two", "-1", "1.5", "0", " 2", "²", "9" * 5000, "\x1b[31m"])
def test_variables_that_torchrun_would_not_set_are_refused(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(UsageError, match=r"WORLD_SIZE=.*: expected a number from 1") as caught:
        join(CPU, 1)
    assert str(caught.value).isprintable()


def test_without_torchrun_the_variables_have_their_least_value(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert environment("LOCAL_RANK", 0) == 0


def test_a_process_that_was_not_started_by_torchrun_is_refused_and_ctrl_c_works_as_before(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(UsageError, match=r"environment variable RANK expected.*; start the run with torchrun"):
            join(CPU, 1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, before)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(BackendError, match="process 2 on this machine has no GPU of its own: PyTorch finds 1"):
        pick_device("auto")
