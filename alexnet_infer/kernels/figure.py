"""The kernels of a net as a figure for a lecture or a paper: columns apart, with captions, as PNG or SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from alexnet_infer.errors import UsageError, printable
from alexnet_infer.kernels import Kernels
from alexnet_infer.kernels.tiles import kernel_image, picture_size
from alexnet_infer.lettering import fitted, lettering

MARK = b"drawn by alexnet-infer"
"""What a figure has in its first KB. `alexnet-infer filters` replaces no other file."""

MAX_PIXELS = 100_000_000
"""The largest figure, in pixels."""

MIN_WIDTH = 400
"""The least width for text in pixels."""

LETTERS = 38
"""The width of the figure in heights of a line of text, for figures of common widths."""

SMALLEST, LARGEST = 14, 48
"""The least and the largest height of text in pixels."""

ROOM, BOLD = 1.18, 1.15
"""The fonts of browsers are at most so much wider than the one by which lines are broken, and bold ones once more."""

Style = Literal["title", "heading", "share", "caption"]
SIZES: dict[Style, float] = {"title": 1.3, "heading": 1, "share": 1, "caption": 0.9}
"""Heights of text, relative to that of a heading."""

INK, DIM, PAPER, TRACK, COLOUR = "#1a1a1a", "#555555", "#ffffff", "#d0d0d0", "#c2410c"
DARK_INK, DARK_DIM, DARK_PAPER, DARK_TRACK, DARK_COLOUR = "#f2f2f2", "#b5b5b5", "#16181d", "#4a4d55", "#fb923c"


@dataclass(frozen=True, kw_only=True)
class _Text:
    x: float
    y: float
    """The upper left corner, or with `right` the upper right one."""
    text: str
    style: Style
    size: int
    right: bool = False


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A share as the coloured part of a bar."""

    x: int
    y: int
    width: int
    height: int
    share: float


@dataclass(frozen=True, kw_only=True)
class _Tiles:
    """A column's kernels."""

    x: int
    y: int
    image: Image.Image = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of kernels, ready to be written."""

    width: int
    height: int
    title: str
    description: str
    """What the figure shows, in sentences, for readers who don't see it."""
    parts: tuple[_Text | _Bar | _Tiles, ...] = field(repr=False)

    def png(self) -> bytes:
        """Return the figure as a PNG file, on white. It has MARK in its first KB, as text."""
        image = Image.new("RGB", (self.width, self.height), PAPER)
        pen = ImageDraw.Draw(image)
        for part in self.parts:
            match part:
                case _Text():
                    text, font = lettering(part.text, part.size)
                    ink = DIM if part.style == "caption" else COLOUR if part.style == "share" else INK
                    pen.text((part.x, part.y), text, ink, font, anchor="ra" if part.right else "la")
                case _Bar():
                    x, y, right, bottom = part.x, part.y, part.x + part.width - 1, part.y + part.height - 1
                    pen.rectangle((x, y, right, bottom), TRACK)
                    if coloured := round(part.share * part.width):
                        pen.rectangle((x, y, x + coloured - 1, bottom), COLOUR)
                case _Tiles():
                    image.paste(part.image, (part.x, part.y))
        return _png(image, MARK)

    def svg(self) -> bytes:
        """Return the figure as an SVG file that loads nothing and runs nothing.

        It has a background of its own, which is dark where the reader prefers that. Text is text. A comment before it
        is MARK.
        """
        title, description = (escape(printable(text)) for text in (self.title, self.description))
        lines = [
            f"<!-- {MARK.decode()} -->",
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="title description" '
            'font-family="Helvetica, Arial, sans-serif">',
            f'<title id="title">{title}</title>',
            f'<desc id="description">{description}</desc>',
            f"<style>{_STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            *map(_svg_part, self.parts),
            "</svg>",
        ]
        return "\n".join(lines).encode() + b"\n"


_COLOURS = ".paper {{ fill: {0} }} text {{ fill: {1} }} .caption {{ fill: {2} }} .track {{ fill: {3} }} "
_COLOURS += ".share {{ fill: {4} }}"
_STYLE = (
    _COLOURS.format(PAPER, INK, DIM, TRACK, COLOUR)
    + " .title { font-weight: bold } image { image-rendering: pixelated } @media (prefers-color-scheme: dark) { "
    + _COLOURS.format(DARK_PAPER, DARK_INK, DARK_DIM, DARK_TRACK, DARK_COLOUR)
    + " }"
)


def figure(kernels: Kernels, *, scale: int | None = None, plain: bool = False) -> Figure:
    """Arrange the kernels of each column below a heading with the column's share of colour, and a caption below them.

    A weight is `scale` x `scale` pixels. With `plain`, the figure is only the picture of `Kernels.image`. Raises
    UsageError if the figure would have more than MAX_PIXELS.
    """
    scale = scale or kernels.scale
    height, width = picture_size(kernels.weights.shape, kernels.columns, scale)
    if height * width > MAX_PIXELS:
        raise UsageError(f"--scale {scale}: a picture of {width:,} x {height:,} pixels; expected a smaller scale")
    if plain:
        tiles = _Tiles(x=0, y=0, image=Image.fromarray(kernels.image(scale)))
        return Figure(
            width=width, height=height, title=_title(kernels), description=_description(kernels), parts=(tiles,)
        )
    return _Layout(kernels, scale, width).figure()


class _Layout:
    """Puts the parts of a figure below each other."""

    def __init__(self, kernels: Kernels, scale: int, width: int) -> None:
        self.kernels, self.scale = kernels, scale
        self.width = max(width, MIN_WIDTH)
        self.size = min(max(self.width // LETTERS, SMALLEST), LARGEST)
        self.left = self.y = round(1.5 * self.size)
        self.parts: list[_Text | _Bar | _Tiles] = []

    def figure(self) -> Figure:
        self._text(_title(self.kernels), "title")
        shares = self.kernels.colour_shares()
        for column, share in enumerate(shares):
            self.y += round(0.9 * self.size)
            self._column(column, share)
        self.y += round(0.9 * self.size)
        self._text(_caption(self.kernels), "caption")
        return Figure(
            width=self.width + 2 * self.left,
            height=self.y + self.left,
            title=_title(self.kernels),
            description=_description(self.kernels),
            parts=tuple(self.parts),
        )

    def _column(self, column: int, share: float) -> None:
        heading, y, size = _heading(self.kernels, column), self.y, self.size
        self._text(heading, "heading")
        right = self.left + self.width
        self.parts.append(
            _Text(x=right, y=y, text=f"{100 * share:.0f} % colour", style="share", size=size, right=True),
        )
        height = max(3, size // 4)
        self.parts.append(_Bar(x=self.left, y=self.y, width=self.width, height=height, share=share))
        self.y += height + max(2, size // 3)
        image = Image.fromarray(kernel_image(self.kernels.column(column), 1, self.scale))
        self.parts.append(_Tiles(x=self.left, y=self.y, image=image))
        self.y += image.height

    def _text(self, text: str, style: Style) -> None:
        size = round(SIZES[style] * self.size)
        room = ROOM * BOLD if style == "title" else ROOM
        breaking = _balanced if style == "title" else _broken
        for line in breaking(text, size, self.width / room):
            drawn, font = lettering(line, size)
            if font.getlength(drawn) > self.width:  # a single word
                line = fitted(drawn, font, self.width)
            self.parts.append(_Text(x=self.left, y=self.y, text=line, style=style, size=size))
            self.y += round(1.4 * size)


def _title(kernels: Kernels) -> str:
    count, _, height, width = kernels.weights.shape
    net, layer = (text if len(text) <= 100 else f"{text[:97]}..." for text in (kernels.net, kernels.layer.name))
    return f"{net}, {layer}: {count} kernels of {height} x {width} x 3, stride {kernels.layer.stride}"


def _heading(kernels: Kernels, column: int) -> str:
    first, last = column * kernels.in_column, (column + 1) * kernels.in_column - 1
    if first == last:
        numbers = f"kernel {first}"
    elif kernels.sorted_by_colour:
        numbers = f"{kernels.in_column} kernels, sorted by colour"
    else:
        numbers = f"kernels {first} to {last}"
    return f"column {column + 1}: {numbers}" if kernels.columns > 1 else numbers


def _caption(kernels: Kernels) -> str:
    whose = "its column's" if kernels.columns > 1 else "the kernels'"
    order = "Sorted by share of colour, grey first." if kernels.sorted_by_colour else "Kernels are numbered from 0."
    return (
        "A weight of 0 is grey (128). Each kernel has its own scale: its strongest weight is 0 or 255."
        f" {order} Colour: the share of {whose} energy (sum of squared weights) outside the grey axis R = G = B."
    )


def _description(kernels: Kernels) -> str:
    shares = [f"{100 * share:.1f} % colour" for share in kernels.colour_shares()]
    columns = [f"{_heading(kernels, i)}: {share}" for i, share in enumerate(shares)]
    return f"The kernels as tiles, {'; '.join(columns)}. {_caption(kernels)}"


def _broken(text: str, size: int, width: float) -> Iterator[str]:
    """Yield the lines of a text that is broken between words. A word that is longer is a line of its own."""
    line = ""
    for word in printable(text).split():
        longer = f"{line} {word}".lstrip()
        drawn, font = lettering(longer, size)
        if line and font.getlength(drawn) > width:
            yield line
            longer = word
        line = longer
    yield line


def _balanced(text: str, size: int, width: float) -> list[str]:
    """Return as many lines as `_broken` yields, with the longest one as short as that allows within 5 %."""
    lines = [*_broken(text, size, width)]
    while len(narrower := [*_broken(text, size, 0.95 * width)]) == len(lines) > 1:
        lines, width = narrower, 0.95 * width
    return lines


def _svg_part(part: _Text | _Bar | _Tiles) -> str:
    match part:
        case _Text():
            end = ' text-anchor="end"' if part.right else ""
            baseline = part.y + round(0.85 * part.size)
            text = escape(printable(part.text))
            return f'<text class="{part.style}" x="{part.x}" y="{baseline}" font-size="{part.size}"{end}>{text}</text>'
        case _Bar():
            size = f'x="{part.x}" y="{part.y}" height="{part.height}"'
            coloured = round(part.share * part.width, 1)
            return f'<rect class="track" {size} width="{part.width}"/><rect class="share" {size} width="{coloured:g}"/>'
        case _Tiles():
            uri = f"data:image/png;base64,{base64.b64encode(_png(part.image)).decode()}"
            size = f'width="{part.image.width}" height="{part.image.height}"'
            return f'<image x="{part.x}" y="{part.y}" {size} href="{uri}"/>'


def _png(image: Image.Image, mark: bytes = b"") -> bytes:
    file, info = io.BytesIO(), PngInfo()
    if mark:
        info.add_text("Software", mark.decode())
    image.save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()
