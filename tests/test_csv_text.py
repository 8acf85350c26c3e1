"""CSV has no formulas and no characters that control a terminal."""

from __future__ import annotations

import csv

import pytest

from alexnet_infer.csv_text import csv_lines


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@x", " =1", "\u3000=1", "\uff1d1", "a;=1", "a; -1"])
def test_no_cell_of_text_is_a_formula(start):
    (line,) = csv_lines([[start, -1, "-"]])
    (cells,) = csv.reader([line.decode()])
    pieces = [piece for cell in cells for piece in cell.split(";")]
    assert cells[1] == "-1"
    assert not [piece for piece in pieces if piece != "-1" and piece.strip().startswith(("=", "+", "-", "@", "\uff1d"))]


def test_a_tab_or_line_break_before_a_formula_is_escaped_with_it():
    (line,) = csv_lines([["\t=1", "\r=1", "\n=1", "\x00=1"]])
    assert line == b"\\t=1,\\r=1,\\n=1,\\x00=1\n"
