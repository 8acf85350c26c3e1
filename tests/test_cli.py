"""The program as a process: what it does with the streams that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f'"{sys.executable}" -c "from alexnet_infer.cli import main; main()"'
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """Runs `command`, in which PROGRAM stands for the program: (exit code, standard output, standard error)."""
    done = subprocess.run(
        ["bash", "-c", command.replace("PROGRAM", PROGRAM)],
        capture_output=True,
        env={**os.environ, "COLUMNS": "80", **environment},
        cwd=Path(__file__).parents[1],
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("command", [f"classify {CAT}", "models", "info caffe"])
def test_a_stream_whose_encoding_lacks_a_character_gets_an_escape(command):
    for encoding in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        code, out, err = shell(f"PROGRAM {command}", COLUMNS="60", **encoding)
        assert (code, err) == (0, "")
        assert "\\u2588" in out if "classify" in command else out


def test_a_closed_stream_is_no_error():
    assert shell("PROGRAM models >&-") == (0, "", "")
    assert shell("PROGRAM models --json >&- 2>&- <&-") == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["models", "info", f"classify {CAT} --json"])
def test_a_full_disk_under_stdout_is_one_line(command):
    code, _, err = shell(f"PROGRAM {command} > /dev/full")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


def test_a_reader_that_has_gone_is_no_matter_for_stderr():
    code, out, err = shell("PROGRAM models --json | true; exit ${PIPESTATUS[0]}")
    assert (code, out, err) == (1, "", "")
