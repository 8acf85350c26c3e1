"""Progress bars: on stderr if it is a terminal, and never in the way of the output."""

from __future__ import annotations

import errno
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import PROGRAM

try:
    for end in pty.openpty():
        os.close(end)
except OSError as error:
    pytest.skip(f"needs a pseudo-terminal: {error}", allow_module_level=True)

EXAMPLES = Path(__file__).parent.parent / "examples"

PROGRAMS = {
    "counting": "with counting('a title', 3) as advance: advance(1); print(LINE)",
    "fetching": "with fetching('a title', 3) as advance: advance(1); print(LINE)",
    "build_bars": "with build_bars() as show: show('a title', 0, 3); print(LINE)",
}
LINE = "printed, " * 40 + "printed"
IMPORTS = f"LINE = {LINE!r}\nfrom alexnet_infer.progress import *; from alexnet_infer.export.engine_progress import *\n"


def python(program: str) -> list[str]:
    """Return the command line that runs `program`, which may use the bars and LINE."""
    return [sys.executable, "-c", IMPORTS + program]


def on_a_terminal(command: list[str], stdout: int | None = subprocess.PIPE) -> tuple[str, str]:
    """Run `command` with stderr on a terminal. Returns what it wrote to stdout, and to the terminal.

    With `stdout=None`, stdout is the same terminal.
    """
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TTY_")}
    environment |= {"TERM": "xterm", "COLUMNS": "100"}
    output_end = theirs if stdout is None else stdout
    with subprocess.Popen(command, stdout=output_end, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError as error:
            if error.errno != errno.EIO:  # Linux's way of saying that the other side is closed
                raise
        finally:
            os.close(ours)
        output = b"" if process.stdout is None else process.stdout.read()
    assert process.returncode == 0, shown.decode()
    return output.decode(), shown.decode()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_output_goes_to_a_file_or_pipe_while_a_bar_is_shown(program):
    output, shown = on_a_terminal(python(program))
    assert output == LINE + "\n"
    assert "a title" in shown
    assert "printed" not in shown


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_on_a_terminal_both_are_shown_and_long_lines_are_not_broken(program):
    _, shown = on_a_terminal(python(program), stdout=None)
    assert "a title" in shown
    assert shown.count(LINE) == 1


def test_the_number_per_second_is_shown():
    program = "import time\nwith counting('a title', 9, 'photos') as advance:\n"
    _, shown = on_a_terminal(python(f"{program}    for _ in range(3): time.sleep(0.4); advance(3)"))
    assert "photos, -/s" in shown
    assert re.search(r"photos, \d+/s", shown)


def test_output_goes_to_another_terminal_while_a_bar_is_shown():
    ours, theirs = pty.openpty()
    _, shown = on_a_terminal(python(PROGRAMS["counting"]), stdout=theirs)
    os.close(theirs)
    try:
        assert os.read(ours, 1000).decode() == LINE + "\r\n"
    finally:
        os.close(ours)
    assert LINE not in shown


def test_a_bar_is_shown_without_stdout():
    _, shown = on_a_terminal(python("import sys; sys.stdout = None\n" + PROGRAMS["counting"]))
    assert "a title" in shown


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_without_a_terminal_no_bar_is_shown(program):
    result = subprocess.run(python(program), capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == (LINE + "\n", "")


def test_classify_writes_every_photos_labels_to_a_file_while_its_bar_is_shown():
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    for options in ((), ("--json",)):
        output, shown = on_a_terminal([*PROGRAM, "classify", str(EXAMPLES), *options])
        assert [line.count("cat.jpg") for line in output.splitlines()] == [1, 0, 0]
        assert "0/3" in shown
