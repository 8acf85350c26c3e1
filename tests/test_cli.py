"""The program as a process: its streams, its imports, and shell completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import PROGRAM

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """Run `command` in bash, with PROGRAM replaced, and return (exit code, standard output, standard error)."""
    result = subprocess.run(
        ["bash", "-c", command.replace("PROGRAM", shlex.join(PROGRAM))],
        capture_output=True,
        env={**os.environ, "COLUMNS": "80", **environment},
        cwd=Path(__file__).parents[1],
        check=False,
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


@pytest.mark.parametrize("command", [f"classify {CAT}", "models", "info caffe"])
def test_a_stream_whose_encoding_lacks_a_character_gets_an_escape(command):
    for encoding in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        code, out, err = shell(f"PROGRAM {command}", COLUMNS="60", **encoding)
        assert (code, err.count("\n")) == (0, int("classify" in command))  # classify suggests a larger net
        assert "\\u2588" in out if "classify" in command else out


def test_a_closed_stream_is_not_an_error():
    assert shell("PROGRAM models >&-") == (0, "", "")
    assert shell("PROGRAM models --json >&- 2>&- <&-") == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["models", "info", f"classify {CAT} --json"])
def test_a_full_disk_under_stdout_is_a_one_line_error(command):
    code, _, err = shell(f"PROGRAM {command} > /dev/full")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


def test_a_reader_that_exits_early_causes_no_message():
    code, out, err = shell("PROGRAM models --json | true; exit ${PIPESTATUS[0]}")
    assert (code, out, err) == (1, "", "")


def test_the_program_starts_without_rich():
    code, out, err = shell(
        f"\"{sys.executable}\" -c \"import sys, alexnet_infer.cli; print(sys.modules.keys() & {{'rich', 'onnx'}})\""
    )
    assert (code, out, err) == (0, "set()\n", "")


def test_help_goes_to_stdout_and_a_missing_command_to_stderr():
    code, out, err = shell("PROGRAM --help")
    assert (code, err) == (0, "")
    assert shell("PROGRAM") == (2, "", out)


def complete(words: str, position: int) -> list[str]:
    variables = {"_ALEXNET_INFER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    code, out, _ = shell("PROGRAM", **variables)
    assert code == 0
    return out.split()


def test_a_shell_completes_commands_options_and_choices():
    assert complete("alexnet-infer ev", 1) == ["eval"]
    assert complete("alexnet-infer export --calibration-", 2) == ["--calibration-images", "--calibration-method"]
    assert complete("alexnet-infer export --precision fp", 3) == ["fp32", "fp16"]


def test_completion_can_be_installed(tmp_path):
    code, out, err = shell("PROGRAM --install-completion; exit $?", HOME=str(tmp_path))  # `exit` keeps bash running
    assert (code, err) == (0, "")
    assert "completion installed" in out
    script = next((tmp_path / ".bash_completions").iterdir())
    assert script.name in (tmp_path / ".bashrc").read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "complete -o default -F" in script.read_text()
