"""`alexnet-infer serve` as a user sees it: its options, its one line, its signals and its exit codes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_infer.errors import BackendError
from alexnet_infer.serve.run import bind, is_local, url_of
from tests.program import PROGRAM, one_line
from tests.serve.running import eventually

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture(autouse=True)
def _never_in_this_process(monkeypatch):
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("the server has started, and would run until a signal")

    monkeypatch.setattr("uvicorn.Server.run", started)


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str, int]]]:
    """start(arguments) -> (the process, its line, its port)."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> tuple[subprocess.Popen[str], str, int]:
        command = [*PROGRAM, "serve", *map(str, arguments), "--port", "0", "--backend", "onnxruntime"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        processes.append(process)
        line = process.stdout.readline()
        return process, line, int(re.search(r":(\d+) ", line)[1]) if line else 0

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body)
    response = connection.getresponse()
    status, data = response.status, json.loads(response.read())
    connection.close()
    return status, data


def test_one_line_says_where_and_what_and_sigterm_ends_it_with_0(start, model, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(model).read_bytes())
    process, line, port = start(model, f"second={other}", "--views", "center")
    assert line == f"http://127.0.0.1:{port} serves random-alexnet-64, second\n"
    status, answer = ask(port, "POST", "/v1/classify?model=second", CAT.read_bytes())
    assert (status, answer["model"], answer["views"]) == (200, "second", "center")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_net_may_have_two_names_but_not_be_averaged_with_itself(start, run, model):
    _, line, port = start(f"a={model}", f"b={model}", "--views", "center")
    assert line == f"http://127.0.0.1:{port} serves a, b\n"
    one_line(run("serve", f"a={model}", model, "--ensemble", "2", "--port", "0"), 2, "named twice; an ensemble needs")


def test_ctrl_c_ends_it_with_130_and_the_defaults_are_an_ensemble_of_bundled_nets(start):
    process, line, port = start("--ensemble", "2", "--views", "center", "--host", "0.0.0.0")
    assert line == f"http://0.0.0.0:{port} serves alexnet-64-0-and-1-more\n"
    assert ask(port, "POST", "/v1/classify", CAT.read_bytes())[1]["net"] == "mean of 2 nets"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines() == [
        "note: --host 0.0.0.0 lets other machines use this server, and it asks for no password",
        "interrupted",
    ]


@pytest.mark.parametrize(
    ("number", "code", "printed"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "interrupted\n")]
)
def test_a_second_signal_ends_it_at_once_although_a_request_is_open(start, model, number, code, printed):
    process, _, port = start(model, "--views", "center")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # its body is waited for
        process.send_signal(number)
        eventually(lambda: ask(port, "GET", "/v2/health/ready")[0] == 503)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", printed)


def test_a_port_in_use_is_one_line(run, model):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        one_line(run("serve", model, "--port", port), 5, f"--port {port}: can't listen there (Address already in use)")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "no such host"], 2, "--host 'no such host': not an address of this machine"),
        (["--host", "192.0.2.1"], 5, "can't listen there (Cannot assign requested address)"),
        (["--port", "65536"], 2, "65536"),
        (["--max-batch", "0"], 2, "--max-batch 0: expected 1 to 1,024"),
        (["--max-delay-ms", "-1"], 2, "--max-delay-ms -1.0: expected 0 to 10,000"),
        (["--max-delay-ms", "nan"], 2, "--max-delay-ms nan: expected 0 to 10,000"),
        (["--queue", "4", "--max-batch", "5"], 2, "--queue 4: expected at least 5, the images of one batch"),
        (["--max-body", "32 MB"], 2, "'32 MB': expected bytes, as in 500k, 32M or 32000000"),
        (["--max-body", "999"], 2, "--max-body 999: expected 1,000 to 2,000,000,000"),
        (["--max-body", "3G"], 2, "--max-body 3000000000: expected 1,000 to 2,000,000,000"),
        (["--max-pixels", "33000001"], 2, "--max-pixels 33000001: expected 1 to 33,000,000"),
        (["--timeout", "0"], 2, "--timeout 0.0: expected 0.1 to 86,400"),
        (["--ensemble", "2"], 2, "--ensemble 2: expected at most 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_is_one_line(run, model, arguments, code, message):
    one_line(run("serve", model, "--port", "0", *arguments), code, message)


def test_a_wrong_name_and_a_name_twice_are_one_line(run, model, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(model).read_bytes())
    one_line(run("serve", f"a/b={model}", "--port", "0"), 2, "name 'a/b': expected 1 to 100 of the characters")
    one_line(run("serve", f"={model}", "--port", "0"), 2, "name ''")
    one_line(run("serve", "absent"), 4, "'absent' is neither a file nor the name of a net")
    one_line(run("serve", f"x={model}", f"x={other}", "--port", "0"), 2, "models x, x", "NAME=NET")
    one_line(run("serve", model, other, "--port", "0"), 2, "random-alexnet-64, random-alexnet-64", "NAME=NET")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "httptools", "prometheus_client", "jinja2"])
def test_a_missing_package_is_one_line_that_names_the_extra(run, model, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "uvicorn.protocols.http.httptools_impl", raising=False)
    one_line(run("serve", model, "--port", "0"), 5, package.replace("_", "-"), 'pip install "alexnet-infer[serve]"')


def test_of_two_servers_that_start_at_the_same_time_one_gets_the_port():
    with bind("127.0.0.1", 0) as listener, pytest.raises(BackendError, match="Address already in use"):
        bind("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_the_note_on_other_machines_is_for_addresses_that_they_can_reach(host, local):
    with bind(host, 0) as listener:
        assert is_local(listener) == local


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the whole of 127.0.0.0/8 as its loopback")
def test_all_addresses_of_the_loopback_interface_are_local():
    with bind("127.0.0.2", 0) as listener:
        assert is_local(listener)


def test_an_address_of_ipv6_is_in_brackets():
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = bind("::1", 0)
    except Exception as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
