"""What both programs do around their commands: one-line errors, exit codes, Ctrl-C at any moment, missing packages."""

from __future__ import annotations

import json
import os
import py_compile
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from alexnet_infer.errors import BackendError, ModelFileError, StoppedError
from alexnet_infer.packages import EXTRAS, NAMES, installed, missing_package, module_of
from alexnet_infer.program import run
from tests.program import PROGRAM
from train.requirements import import_failure

ROOT = Path(__file__).parents[1]


@pytest.fixture
def outcome(monkeypatch, capsys):
    """outcome(action, "word") -> (exit code, stdout, stderr) of a program whose command runs `action`."""

    def outcome(action, *words: str) -> tuple[int, str, str]:
        app = typer.Typer()

        @app.command()
        def command(number: int = 0) -> None:
            action()

        monkeypatch.setattr(sys, "argv", ["x", *words])
        with pytest.raises(SystemExit) as end:
            run("program", app)
        return end.value.code, *capsys.readouterr()

    return outcome


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ModelFileError("a\x1b: is\nbad"), 4, "error: a\\x1b: is\\nbad"),
        (StoppedError("interrupted: run it again"), 130, "interrupted: run it again"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (typer.Exit(3), 3, ""),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (PermissionError(13, "Permission denied", "a\x9bb"), 3, "error: a\\x9bb: Permission denied"),
        (OSError(28, "No space left on device", "a"), 2, "error: a: No space left on device"),
        (OSError(30, "Read-only file system", "a"), 2, "error: a: Read-only file system"),
        (FileNotFoundError(2, "No such file", "a", None, "b"), 2, "error: a: No such file"),
        (MemoryError("no room\nfor it"), 5, "error: not enough memory (no room for it): use a smaller --batch"),
        (MemoryError(), 5, "error: not enough memory (MemoryError): use a smaller --batch"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), 5, "error: the package pillow is missing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_end_has_its_code_and_at_most_one_line(outcome, error, code, message):
    found, out, err = outcome(raising(error))
    assert (found, out) == (code, "")
    assert err.startswith(message)
    assert err.count("\n") == bool(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--number", "\x1b\n2"], "Invalid value for '--number': '\\x1b\\n2' is not a valid int"),
        (["a\u202eb"], "Got unexpected extra argument"),
        (["--no\x9b"], "No such option: --no\\x9b"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_the_help_page(outcome, words, message):
    code, out, err = outcome(lambda: None, *words)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(message)}.*; see program --help\n", err), err


def test_a_bug_keeps_its_traceback(outcome):
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0)
    with pytest.raises(EOFError):
        outcome(raising(EOFError("a file is cut")))


# Ctrl-C.

FORKS = """
import io, json, os, signal, sys, tempfile

def in_fork(program, words, before):
    files = [tempfile.TemporaryFile() for _ in range(2)]
    child = os.fork()
    if not child:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.argv = ["program", *words]
        before()
        __import__(f"{program}.__main__", fromlist=["main"]).main()
    _, status = os.waitpid(child, 0)
    for file in files:
        file.seek(0)
    return [os.waitstatus_to_exitcode(status), *(file.read().decode() for file in files)]

class At:
    def __init__(self, name, action):
        self.name, self.action = name, action
    def find_spec(self, name, path=None, target=None):
        if name == self.name or name.startswith(f"{self.name}."):
            self.action(name)

def press(name):
    signal.raise_signal(signal.SIGINT)

def refuse(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def hide(name, action):
    sys.meta_path.insert(0, At(name, action))

signal.signal(signal.SIGINT, signal.default_int_handler)
"""
"""Runs the programs in forks, in which the search for a module does something."""


def in_forks(calls: str) -> dict[str, list]:
    child = subprocess.run([sys.executable, "-c", FORKS + calls], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(child.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ctrl_c_at_any_import_is_one_line():
    results = in_forks(
        """
modules = ["alexnet_infer.program", "gc", "alexnet_infer.cli", "typer", "alexnet_infer.nets", "numpy", "safetensors"]
results = {name: in_fork("alexnet_infer", ["info"], lambda: hide(name, press)) for name in modules}
results["train"] = in_fork("train", ["--data", "x"], lambda: hide("typer.core", press))
class Late:
    def __del__(self):
        press("")
def in_a_destructor():
    hide("alexnet_infer.nets", lambda name: Late())
def swallowed(name):
    try:
        press(name)
    except KeyboardInterrupt:
        raise ImportError("no numpy")
results["destructor"] = in_fork("alexnet_infer", ["info"], in_a_destructor)
results["ImportError"] = in_fork("alexnet_infer", ["info"], lambda: hide("numpy", swallowed))
print(json.dumps(results))
"""
    )
    del results["gc"]  # was imported before
    assert results == {name: [130, "", "interrupted\n"] for name in results}
    assert len(results) == 9


def test_ctrl_c_after_the_end_changes_nothing():
    results = in_forks(
        """
import atexit
def late():
    atexit.register(press, "")
befores = {"atexit": late, "whole": str}
print(json.dumps({name: in_fork("alexnet_infer", ["--version"], before) for name, before in befores.items()}))
"""
    )
    assert results["atexit"] == results["whole"]
    assert results["whole"][0] == 0


LAST = """
class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)
last = Last()
"""
"""Presses Ctrl-C when Python takes its modules apart."""


@pytest.mark.parametrize(
    ("site", "words", "expected"),
    [
        (LAST, ["--version"], (0, "")),
        (LAST, ["info", "x"], (2, "error: ")),
        ("hide('alexnet_infer.nets', lambda name: exec(\"press('')\"))", ["info"], (130, "interrupted\n")),
    ],
    ids=["after success", "after an error", "in code made from text"],
)
def test_ctrl_c_does_not_kill_python_at_its_end(tmp_path, site, words, expected):
    (tmp_path / "sitecustomize.py").write_text(f"{FORKS}\n{site}")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    child = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, env=environment)
    assert (child.returncode, child.stderr[: len(expected[1])]) == expected
    assert child.stderr.count("\n") == bool(expected[1])


def test_a_program_in_the_background_ignores_ctrl_c():
    results = in_forks(
        """
def in_the_background():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hide("alexnet_infer.nets", press)
print(json.dumps({"": in_fork("alexnet_infer", ["info"], in_the_background)}))
"""
    )
    code, out, err = results[""]
    assert (code, err) == (0, "")
    assert "conv1" in out


# Streams of `python -m train`. Those of `alexnet-infer` are in test_cli.py.


@pytest.fixture
def trainer(tmp_path):
    """trainer("words and redirections") -> (exit code, stdout, stderr), with ASCII streams, of a run called ä."""
    from train.log import RunLog

    (tmp_path / "ä").mkdir()
    log = RunLog(tmp_path / "ä", 2, every=1)
    log.start((0, 0), {}, {})
    for step in (1, 2):
        figures = {"loss": 1.0, "top1_error": 0.9, "lr": 0.1, "images_per_second": 9.0, "grad_norm": 1.0}
        log.on_step(SimpleNamespace(epoch=0, step=step, **figures))
    log.close("finished")

    def trainer(command: str) -> tuple[int, str, str]:
        child = subprocess.run(
            ["bash", "-c", f'"$0" -m train {command}; exit ${{PIPESTATUS[0]}}', sys.executable],
            env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            cwd=tmp_path,
            text=True,
        )
        return child.returncode, child.stdout, child.stderr

    return trainer


def test_the_trainer_escapes_what_a_stream_cannot_encode(trainer):
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "alexnet-infer[plot]"')
    assert trainer("plot ä -o ä.png") == (0, "\\xe4.png\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("> /dev/full", 2, "error: No space left on device\n"),
        (">&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("2>&- <&-", 0, ""),
        ("| true", 1, ""),
    ],
)
def test_a_stream_of_the_trainer_that_cannot_be_written_is_no_traceback(trainer, redirection, code, message):
    assert trainer(f"plot --json ä {redirection}")[::2] == (code, message)


# Missing packages.


def required() -> list[str]:
    names = [re.match("[a-z-]+", line)[0] for line in PROJECT["dependencies"]]
    return [{"pillow": "PIL", "protobuf": "google"}.get(name, name) for name in names]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_missing_package_is_one_line_that_names_it():
    """For each required package, a command that uses it."""
    commands = {
        **{name: ["info"] for name in ("msgspec", "numpy", "PIL", "safetensors", "rich", "typer")},
        "platformdirs": ["models"],
        "onnx": ["classify", "examples/cat.jpg", "--backend", "onnxruntime"],
        "google": ["classify", "examples/cat.jpg", "--backend", "openvino"],
    }
    assert set(required()) <= {*commands}
    results = in_forks(
        f"""
commands = {commands!r}
results = {{name: in_fork("alexnet_infer", words, lambda: hide(name, refuse)) for name, words in commands.items()}}
results["train PIL"] = in_fork("train", ["--data", "x"], lambda: hide("PIL", refuse))
print(json.dumps(results))
"""
    )
    fixes = {
        "PIL": "the package pillow is missing: pip install pillow",
        "google": "the package protobuf is missing: pip install protobuf",
        "train PIL": "the trainer needs pillow: pip install pillow",
    }
    for name, (code, out, err) in results.items():
        assert (code, out, err.count("\n")) == (5, "", 1), (name, err)
        assert err.startswith(f"error: {fixes.get(name, f'the package {name} is missing: pip install {name}')}")


def test_the_advice_names_the_extra_of_an_optional_package():
    packages = {"tensorrt_rtx": "tensorrt-rtx", **NAMES}
    for module, extra in EXTRAS.items():
        lines = PROJECT["optional-dependencies"][extra]
        assert any(re.match(rf"{packages.get(module, module)}\b(?!-)", line) for line in lines), module
        error = ModuleNotFoundError(f"No module named '{module}'", name=module)
        assert (
            str(missing_package(error, "--x"))
            == f'--x needs {NAMES.get(module, module)}: pip install "alexnet-infer[{extra}]"'
        )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ImportError("libz.so.9: cannot open", name="onnx.x"),
            "the package onnx: can't be imported (libz.so.9: cannot",
        ),
        (ImportError("libz.so.9: cannot open"), "the installation is damaged (libz.so.9: cannot open)"),
        (ModuleNotFoundError("No module named '_lzma'", name="_lzma"), "the installation is damaged (No module"),
        (ModuleNotFoundError("x", name="alexnet_infer.y"), "the installation is damaged (x)"),
        (ModuleNotFoundError("x", name="ml_dtypes"), "the package ml_dtypes is missing: pip install ml_dtypes"),
    ],
)
def test_a_broken_package_is_told_from_a_missing_one(error, message):
    failure = missing_package(error)
    assert isinstance(failure, BackendError)
    assert str(failure).startswith(message)
    assert "\n" not in str(failure)


BROKEN = {
    "shared library": ("import ctypes; ctypes.CDLL('libx.so.9')", "the package broken: can't be imported (libx.so.9"),
    "without a name": ("raise ImportError('libx.so.9')", "the package broken: can't be imported (libx.so.9)"),
    "RuntimeError": ("raise RuntimeError('too\\nold')", "the package broken: can't be imported (too old)"),
    "no message": ("raise SystemError", "the package broken: can't be imported (SystemError)"),
    "syntax": ("1 +", "the package broken: can't be imported (invalid syntax"),
    "zeros": ("\0" * 99, "the installation is damaged (source code"),
    "a name it lacks": ("import json; json.nothing", "the package broken: can't be imported (module 'json' has no"),
    "a part": ("import broken.part", "the package broken: can't be imported (in the part)"),
    "no such part": ("import broken.none", "the package broken: can't be imported (No module named 'broken.none')"),
}


@pytest.mark.parametrize(("source", "message"), BROKEN.values(), ids=BROKEN)
def test_a_package_that_breaks_when_it_is_imported_is_named(outcome, tmp_path, monkeypatch, source, message):
    package = tmp_path / "site-packages" / "broken"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    (package / "part.py").write_text("def f():\n    raise OSError('in the part')\nf()")
    monkeypatch.syspath_prepend(package.parent)
    code, out, err = outcome(lambda: __import__("broken"))
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert err.startswith(f"error: {message}")


def test_a_package_whose_file_is_cut_is_one_line(outcome, tmp_path, monkeypatch):
    (tmp_path / "broken.py").touch()
    compiled = Path(py_compile.compile(str(tmp_path / "broken.py")))
    compiled.write_bytes(compiled.read_bytes()[:20])
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = outcome(lambda: __import__("broken"))
    assert code == 5
    assert re.fullmatch(r"\n?error: the installation is damaged \(marshal data too short\): install .*\n", err)


def test_an_error_of_a_package_after_its_import_is_a_bug(outcome, tmp_path, monkeypatch):
    (tmp_path / "whole.py").write_text("def use():\n    raise RuntimeError('x')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="x"):
        outcome(lambda: __import__("whole").use())


def test_the_trainer_blames_the_package_behind_another_one():
    error = ModuleNotFoundError("No module named 'google.protobuf'", name="google.protobuf")
    assert "needs protobuf: pip install protobuf" in str(import_failure(error))
    assert module_of(error) == "google"


def test_a_package_that_something_refuses_is_not_installed(monkeypatch):
    assert installed("typer")
    assert not installed("no_such_package")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert not installed("typer")


def test_the_command_is_the_module():
    """The script imports nothing but what `python -m alexnet_infer` does, so that Ctrl-C is handled as early."""
    assert PROJECT["scripts"] == {"alexnet-infer": "alexnet_infer.__main__:main"}
    assert PROGRAM[1:] == ["-m", "alexnet_infer"]
    assert signal.getsignal(signal.SIGINT) is not None
