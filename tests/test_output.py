"""What is printed: one printable line per message, exact names in JSON, and nobody else prints."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest

from alexnet_infer.errors import LONGEST, message_line, printable
from alexnet_infer.output import console, say, say_json, say_lines, stacked, styled, tell

ROOT = Path(__file__).parents[1]
NASTY = "\x1b[31m\x9b2J\r\n\u2028\u202e\u200b\udcff\ue000[red]x[/red]:smile:"
SHOWN = r"\x1b[31m\x9b2J\r\n\u2028\u202e\u200b\udcff\ue000[red]x[/red]:smile:"
SOURCES = sorted([*(ROOT / "alexnet_infer").rglob("*.py"), *(ROOT / "train").rglob("*.py")])
PRINTERS = {
    "alexnet_infer/output.py",
    "alexnet_infer/__main__.py",  # before anything can be imported
    "train/__main__.py",
    "alexnet_infer/importing/torch_child.py",  # a process of its own, whose output is read by alexnet-infer
}
"""The modules that print."""


def printing(source: str) -> list[str]:
    """The calls and names in Python source code that print, or make a console or a text of rich."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print" | "Console" | "Text" as name)):
                found.append(name)
            case ast.Call(
                func=ast.Attribute(attr="echo" | "secho" | "print_exc" | "print_json" | "from_markup" as name)
            ):
                found.append(name)
            case ast.Attribute(
                value=ast.Attribute(attr="stdout" | "stderr" as stream), attr="write" | "writelines" as m
            ):
                found.append(f"{stream}.{m}")
            case ast.Call(func=ast.Name(id="TextColumn")) if "markup" not in [word.arg for word in node.keywords]:
                found.append("TextColumn with markup")
    return found


def test_every_way_to_print_is_detected():
    source = """
print(x, file=sys.stderr)
typer.echo(x, err=True)
sys.stderr.write(x)
sys.stdout.writelines(x)
Console().print(x)
Text(x)
TextColumn("{task.description}")
TextColumn("{task.description}", markup=False)
out.print(styled(x))
"""
    expected = ["Console", "Text", "TextColumn with markup", "echo", "print", "stderr.write", "stdout.writelines"]
    assert sorted(printing(source)) == expected


def test_only_one_module_prints():
    found = {str(path.relative_to(ROOT)): printing(path.read_text("utf-8")) for path in SOURCES}
    others = {name: calls for name, calls in found.items() if calls and name not in PRINTERS}
    # Help pages are alexnet-infer's own text, and the console of the other ranks prints nowhere.
    assert others == {"alexnet_infer/help.py": ["echo"], "train/launch.py": ["Console"]}


def test_a_message_is_one_printable_line_on_stderr(capsys):
    tell(f"error: {NASTY}")
    assert capsys.readouterr() == ("", f"error: {SHOWN}\n")


@pytest.mark.parametrize("filler", ["x", "\x1b", "é"])
def test_a_message_of_any_length_is_cut_in_its_middle(capsys, filler):
    tell(f"error: {filler * 10_000_000}: expected less")
    _, err = capsys.readouterr()
    assert len(err) <= LONGEST + 1
    assert err.startswith("error: ")
    assert err.endswith(": expected less\n")
    assert "..." in err


def test_a_message_that_just_fits_is_whole():
    assert message_line("x" * LONGEST) == "x" * LONGEST
    assert len(message_line("x" * (LONGEST + 1))) == LONGEST
    assert len(message_line("\x1b" * LONGEST)) == LONGEST


def test_a_message_that_cannot_be_written_is_lost(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    tell("x")
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        say("x")


def test_a_result_is_one_printable_line_that_is_never_cut(capsys):
    say(NASTY + "x" * 10_000)
    say_lines("a,b\nc,d\n")
    assert capsys.readouterr() == (f"{SHOWN}{'x' * 10_000}\na,b\nc,d\n", "")


def test_json_has_the_exact_name_in_ascii(capsys):
    say_json({"name": NASTY + "\x7f"})
    out, _ = capsys.readouterr()
    assert out.rstrip("\n").isascii()
    assert out.rstrip("\n").isprintable()
    assert json.loads(out) == {"name": NASTY + "\x7f"}


@pytest.mark.parametrize("how", [str, styled, lambda text: stacked([text])])
def test_a_console_shows_text_as_it_is_in_tables_and_outside(monkeypatch, capsys, how):
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "300")
    out = console()
    table = Table(NASTY, title=NASTY)
    table.add_row(how(NASTY))
    out.print(how(NASTY))
    out.print(table)
    text, _ = capsys.readouterr()
    assert text.count(SHOWN) == 4
    assert "\x1b" not in text


@pytest.mark.parametrize("character", "\u034f\u115f\u1160\u17b4\u3164\uffa0")
def test_characters_without_a_width_are_shown_though_python_calls_some_printable(character):
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("name", ["tabby, tabby cat", "名前", "Ünïcode", "naïve é", "e\u0301", "кошка", "\U0001f408"])
def test_ordinary_names_are_not_changed(name):
    assert printable(name) == name
