"""A run of several processes: torchrun's variables, and errors whose cause is another process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
import torch.distributed as dist

from alexnet_infer.errors import BackendError, UsageError
from tests.train.program import ROOT
from train.device import pick_device
from train.ranks import Ranks, _leaving_on_ctrl_c, environment, join

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


@pytest.fixture
def two_ranks(monkeypatch) -> dict[str, str]:
    """Set the variables of the first of two processes. The port is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "5", r"RANK='5': expected a number from 0 to 1, as torchrun sets it"),
        ("RANK", "x", r"RANK='x': expected a number from 0 to 1"),
        ("MASTER_PORT", "abc", r"MASTER_PORT='abc': expected a number from 1 to 65535"),
        ("MASTER_PORT", "0", r"MASTER_PORT='0': expected"),
        ("MASTER_ADDR", "nosuch.invalid", r"MASTER_ADDR='nosuch\.invalid': has no address \(.*\): expected the name"),
        ("MASTER_ADDR", "a" * 300, r"MASTER_ADDR='aaa.*: has no address"),
    ],
)
def test_a_process_that_the_others_could_not_meet_is_refused_at_once(two_ranks, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        join(CPU, 1)


def test_a_port_in_use_is_named(two_ranks):
    words = r"MASTER_PORT=\d+: is in use: expected a free port; choose another"
    with socket.create_server(("", int(two_ranks["MASTER_PORT"]))), pytest.raises(UsageError, match=words):
        join(CPU, 1)


def test_ctrl_c_ends_a_process_that_waits_for_another_one(two_ranks, data):
    command = [sys.executable, "-m", "train", "--data", str(data), "--preset", "alexnet-64", "--no-compile"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            while child.poll() is None:
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(two_ranks["MASTER_PORT"]))):
                    break  # it listens, so it waits
                time.sleep(0.05)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=20)
        finally:
            child.kill()
    assert (child.returncode, out, err) == (130, "", "interrupted: run the same command again\n")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler, lambda *_: None])
def test_after_a_wait_the_handler_of_ctrl_c_is_the_one_before_it(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with _leaving_on_ctrl_c():
            assert (signal.getsignal(signal.SIGINT) is handler) == (handler is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


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
