"""Text in pictures: every character is drawn, or escaped visibly."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from alexnet_infer import lettering as module
from alexnet_infer.errors import UsageError
from alexnet_infer.lettering import can_be_drawn, fitted, lettering


@pytest.fixture
def no_other_fonts(monkeypatch):
    """A machine with Pillow's own font only."""
    monkeypatch.setattr(module, "FALLBACKS", ("no such font.ttf",))
    module._font_with.cache_clear()
    yield
    module._font_with.cache_clear()


def ink(text: str, size: int = 24) -> np.ndarray:
    drawn, font = lettering(text, size)
    image = Image.new("L", (2 * size * len(drawn) + 20, 2 * size))
    ImageDraw.Draw(image).text((4, 4), drawn, 255, font)
    return np.asarray(image)


def test_ascii_is_drawn_as_it_is_by_pillows_own_font(no_other_fonts):
    text = "".join(map(chr, range(32, 127)))
    assert lettering(text, 20)[0] == text
    assert can_be_drawn(text)
    assert {character: ink(character).any() for character in text} == {c: c != " " for c in text}


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("caf\u00e9", "caf\\xe9"),
        ("\u732b (cat)", "\\u732b (cat)"),
        ("\U0001f408", "\\U0001f408"),
        ("\x1b[31m\n\u202e\udcff", "\\x1b[31m\\n\\u202e\\udcff"),
    ],
)
def test_characters_that_no_font_has_are_escaped(no_other_fonts, text, drawn):
    assert lettering(text, 20)[0] == drawn
    assert not can_be_drawn(text)
    assert ink(text).any()


def test_the_first_font_with_all_characters_is_used(monkeypatch):
    own, other = lettering("x", 20)[1], object()
    monkeypatch.setattr(module, "FALLBACKS", ("lacking", "complete"))
    monkeypatch.setattr(module, "_installed", lambda name, size: {"lacking": own, "complete": other}[name])
    monkeypatch.setattr(module, "_has", lambda font, character: font is other or character.isascii())
    module._font_with.cache_clear()
    assert lettering("caf\u00e9", 20) == ("caf\u00e9", other)
    assert lettering("cafe", 20) == ("cafe", own)
    module._font_with.cache_clear()


def test_a_size_is_the_height_of_the_text():
    for size in (14, 28, 56):
        rows = np.flatnonzero(ink("Hg", size).any(1))
        assert 0.6 * size < rows[-1] - rows[0] < 1.2 * size


def test_a_long_text_is_cut_to_its_width():
    text, font = lettering("a name of some length", 20)
    assert fitted(text, font, 1000) == text
    for width in (40, 80, 120):
        cut = fitted(text, font, width)
        assert cut.endswith("...")
        assert text.startswith(cut[:-3])
        assert font.getlength(cut) <= width
        assert font.getlength(text[: len(cut) + 1] + "...") > width
    assert len(lettering("\x1b" * 100_000, 20)[0]) <= module.LONGEST


def test_a_pillow_without_fonts_is_reported_with_the_pip_command(monkeypatch):
    module._own.cache_clear()
    module._font_with.cache_clear()

    def fail(size):
        raise ImportError("The _imagingft C module is not installed")

    monkeypatch.setattr("PIL.ImageFont.load_default", fail)
    with pytest.raises(UsageError, match="pip install -U pillow"):
        lettering("x", sys.maxsize)
    monkeypatch.undo()
    assert lettering("x", 20)[0] == "x"
