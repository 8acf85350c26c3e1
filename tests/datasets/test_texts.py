"""Lists and tables of a set: their lines, or one message about the first thing that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_infer.datasets import texts
from alexnet_infer.datasets.texts import WrongLines, lines_of, read_file, read_lines
from tests.datasets.mini import refused


def test_a_file_of_a_set_is_read_missing_or_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"text")
    assert read_file(tmp_path / "x", 4) == b"text"
    for absent in (tmp_path / "y", tmp_path / "x" / "y"):
        with pytest.raises(FileNotFoundError):
            read_file(absent, 4)
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read_file(tmp_path / "pipe", 4), "pipe: is not a regular file")
    refused(lambda: read_file(tmp_path, 4), f"{tmp_path}: Is a directory")
    refused(lambda: read_file(tmp_path / "x", 3), "x: has 4 bytes: expected at most 3")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\n  \n", "\r\n\r\n", "\n\t\n \r\n", "\n\n   ", "\n\f\n"])
def test_blank_lines_at_the_end_are_left_out(tmp_path, end):
    (tmp_path / "list").write_bytes(f"a 1\r\nb\u2028c \t{end}".encode())
    lines = read_lines(tmp_path / "list")
    assert [line.rstrip() for line in lines] == ["a 1", "b\u2028c"]
    assert lines[1].startswith("b\u2028c \t")  # the last line keeps its own spaces


def test_blank_lines_elsewhere_are_lines():
    assert lines_of(Path("x"), b"\na\n \nb\n\n") == ["", "a", " ", "b"]
    assert lines_of(Path("x"), b"") == lines_of(Path("x"), b"\n\n") == [""]


def test_long_lines_and_many_lines_are_refused_in_a_short_message(monkeypatch):
    monkeypatch.setattr(texts, "MAX_LINES", 5)
    message = refused(lambda: lines_of(Path("x"), b"a\n" + b"n" * 50_000_000), "line 2: has 50,000,000 bytes")
    assert len(message) < 200
    refused(lambda: lines_of(Path("x"), b"\n" * 6), "x: has more than 5 lines")
    refused(lambda: lines_of(Path("x"), b"a\n\xff"), "x, line 2: 'utf-8' codec can't decode")


def test_characters_of_four_bytes_do_not_multiply_the_memory(monkeypatch):
    monkeypatch.setattr(texts, "MAX_TEXT", 100_000)
    assert len(lines_of(Path("x"), b"a" * 90_000)[0]) == 90_000
    refused(lambda: lines_of(Path("x"), b"a" * 90_000 + "😀".encode()), "x: its lines take more than 100,000 bytes")


def test_only_the_first_mark_of_utf8_and_the_ends_of_lines_are_left_out():
    assert lines_of(Path("x"), "\ufeff\ufeffa\r\r\nb\rc\r".encode()) == ["\ufeffa\r", "b\rc\r"]


def test_wrong_lines_are_refused_with_the_first_and_their_number():
    wrong = WrongLines()
    wrong.refuse("list", "a name")
    wrong.add(7, "x\x1b")
    refused(lambda: wrong.refuse("list", "a name"), "list, line 7: 'x\\x1b': expected a name")
    wrong.add(9, "y")
    refused(lambda: wrong.refuse("list", "a name"), "list, line 7:", "(2 lines are wrong; this is the first)")
