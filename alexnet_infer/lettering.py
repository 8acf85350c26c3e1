"""Text in pictures: a font that has its characters."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from alexnet_infer.errors import UsageError, printable

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FALLBACKS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "meiryo.ttc"),
    *("malgun.ttf", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "Nirmala.ttf", "NotoSansArabic-Regular.ttf"),
)
"""Fonts of common systems. The first that has all characters of a text writes it, if Pillow's own font, which has only
those of ASCII, does not."""

LONGEST = 500
"""The most characters of a text that are drawn: more than fit into a line."""

_NO_CHARACTER = "\U0010ffff"
"""A code point that no font has, for which a font draws what it draws for all characters that it lacks."""


def lettering(text: str, size: int) -> tuple[str, FreeTypeFont]:
    """Return `text` as it can be drawn, and a font of `size` pixels that draws it.

    The text is one printable line of at most LONGEST characters. Characters that no font here has are escaped, as in
    "\\u732b". Raises UsageError if Pillow was built without FreeType, which draws fonts.
    """
    text = printable(text[:LONGEST])[:LONGEST]
    font = _font_with(text, size)
    if font is not None:
        return text, font
    own = _own(size)
    return "".join(c if _has(own, c) else c.encode("unicode_escape").decode() for c in text), own


def can_be_drawn(text: str) -> bool:
    """Return whether some font here has all characters of `text`, which then is drawn without escapes."""
    text = text[:LONGEST]
    return text == printable(text) and _font_with(text, 16) is not None


def fitted(text: str, font: FreeTypeFont, width: float) -> str:
    """Return `text`, or a beginning of it and "...", so that it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


@lru_cache(4096)
def _font_with(text: str, size: int) -> FreeTypeFont | None:
    own = _own(size)
    if all(_has(own, character) for character in text):
        return own
    for name in FALLBACKS:
        font = _installed(name, size)
        if font is not None and all(_has(font, character) for character in text):
            return font
    return None


@cache
def _own(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError):
        raise UsageError(
            "this Pillow was built without FreeType, which writes text into pictures: pip install -U pillow"
        ) from None


@cache
def _installed(name: str, size: int) -> FreeTypeFont | None:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(name, size)
    except OSError:  # not installed, or damaged
        return None


@lru_cache(16384)
def _has(font: FreeTypeFont, character: str) -> bool:
    return _drawn(font, character) != _drawn(font, _NO_CHARACTER)


def _drawn(font: FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
