"""The confusion matrix as a picture, readable for a few classes and for thousands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_infer.errors import printable
from alexnet_infer.evaluation.confusion import UNREADABLE, ConfusionMatrix
from alexnet_infer.manifest import ClassName

SIDE = 2800
"""The largest side of the matrix in pixels, up to this many classes. The names of 200 classes still fit."""

LARGEST, GRID, COUNTED = 40, 12, 28
"""The largest side of a cell; the smallest one with a grid and a frame around right guesses; with the count in it."""

FONT, PAD, NAMES, BAR = 12, 8, 180, 16
"""Pixels: height of the text, space between parts, longest name on an axis, width of the colour bar."""

INK, LINE, EMPTY, RIGHT = (30, 30, 30), (205, 205, 205), (236, 236, 236), (217, 95, 2)
"""Colours of text, of lines, of the rows of classes without images, and of the frames around right guesses."""

_STOPS = np.linspace(0, 1, 5)
_COLOURS = np.array([(255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107)])

TICKS = (0, 1, 5, 10, 25, 50, 100)
"""Per cent on the colour bar."""


def cell_side(classes: int) -> int:
    """Return the side of a cell in pixels, for a matrix with at most `classes` rows and columns."""
    return max(1, min(LARGEST, SIDE // classes))


def colours(shares: np.ndarray) -> np.ndarray:
    """Return the colours uint8 [..., 3] of shares from 0 to 1, from white to dark blue.

    They follow the square root of the share, so that rare guesses can be seen.
    """
    roots = np.sqrt(shares)
    return np.rint(np.stack([np.interp(roots, _STOPS, c) for c in _COLOURS.T], axis=-1)).astype(np.uint8)


def cells(counts: np.ndarray) -> np.ndarray:
    """Return the colours uint8 [R, C, 3] of counts [R, C]: each is a share of its row's sum. Rows without images are
    grey."""
    images = counts.sum(1, keepdims=True)
    picture = colours(counts / np.maximum(images, 1))
    picture[images[:, 0] == 0] = EMPTY
    return picture


def draw(matrix: ConfusionMatrix) -> Image.Image:
    """Draw a matrix. Its rows are the data's classes, its columns the guesses and, apart, the unreadable images."""
    return _Drawing(matrix).image


class _Drawing:
    def __init__(self, matrix: ConfusionMatrix) -> None:
        self.matrix, self.font = matrix, ImageFont.load_default(FONT)
        rows, columns = matrix.counts.shape
        self.side = side = cell_side(max(rows, columns))
        self.gap = max(side // 3, 4)
        """Pixels before the column of unreadable images."""
        self.rows = [self._fitted(name, NAMES) for name in _names(matrix.classes)]
        self.columns = [self._fitted(name, NAMES) for name in _names(matrix.guesses)]
        self.left = PAD + FONT + PAD + max(map(self._width, self.rows)) + PAD
        self.top = 2 * (PAD + FONT) + PAD + max(map(self._width, (*self.columns, UNREADABLE))) + PAD
        self.right, self.bottom = self.left + columns * side + self.gap, self.top + rows * side
        bar = 4 * FONT + 2 * PAD + BAR + self._width("100 %")
        height = max(self.bottom, self.top + 20 * FONT) + 2 * PAD
        self.image = Image.new("RGB", (self.right + PAD + bar, height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self._cells()
        self._labels()
        self._colour_bar()

    def _x(self, column: int) -> int:
        """The left side of a column."""
        last = self.matrix.counts.shape[1] - 1
        return self.left + column * self.side + (self.gap if column == last else 0)

    def _cells(self) -> None:
        side, counts = self.side, self.matrix.counts
        picture = cells(counts).repeat(side, 0).repeat(side, 1)
        if side >= GRID:
            picture[side - 1 :: side], picture[:, side - 1 :: side] = LINE, LINE
        last = counts.shape[1] - 1
        for first, end in ((0, last), (last, last + 1)):
            part = Image.fromarray(np.ascontiguousarray(picture[:, first * side : end * side]))
            self.image.paste(part, (self._x(first), self.top))
            self.pen.rectangle((self._x(first) - 1, self.top - 1, self._x(end - 1) + side, self.bottom), outline=INK)
        if side >= GRID:
            place = {guess.wnid: i for i, guess in enumerate(self.matrix.guesses)}
            for row, named in enumerate(self.matrix.classes):
                if named.wnid in place:
                    x, y = self._x(place[named.wnid]), self.top + row * side
                    self.pen.rectangle((x - 1, y - 1, x + side - 1, y + side - 1), outline=RIGHT)
        if side >= COUNTED:
            for (row, column), count in np.ndenumerate(counts):
                if count and self._width(f"{count}") < side - 2:
                    dark = 3 * count > counts[row].sum()
                    middle = (self._x(column) + side // 2, self.top + row * side + side // 2)
                    self.pen.text(middle, f"{count}", "white" if dark else INK, self.font, anchor="mm")

    def _labels(self) -> None:
        title = self._fitted(printable(self.matrix.title), self.image.width - 2 * PAD)
        self.pen.text((PAD, PAD), title, INK, self.font)
        self.pen.text((self.left, 2 * PAD + FONT), "guessed class", INK, self.font)
        self._upright("class of the data", PAD, self.top, down=True)
        for row in self._shown(len(self.rows)):
            middle = (self.left - PAD, self.top + row * self.side + self.side // 2)
            self.pen.text(middle, self.rows[row], INK, self.font, anchor="rm")
            self._mark((self.left - 4, middle[1], self.left - 2, middle[1]))
        unreadable = len(self.columns)
        for column in (*self._shown(unreadable), unreadable):
            text = UNREADABLE if column == unreadable else self.columns[column]
            middle = self._x(column) + self.side // 2
            if column < unreadable and middle > self._x(unreadable) - FONT and self.side < FONT:
                continue  # would touch the heading of the unreadable images
            self._upright(text, middle - FONT // 2 - 1, self.top - PAD)
            self._mark((middle, self.top - 4, middle, self.top - 2))

    def _shown(self, count: int) -> Iterator[int]:
        """The rows or columns whose names are shown: all, or every 2nd, 5th, 10th, ... so that names don't touch."""
        steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
        return iter(range(0, count, next(step for step in steps if step * self.side >= FONT + 1)))

    def _mark(self, line: tuple[int, int, int, int]) -> None:
        if self.side < GRID:
            self.pen.line(line, fill=INK)

    def _colour_bar(self) -> None:
        x, height = self.right + 2 * PAD, 20 * FONT
        shares = np.linspace(1, 0, height)[:, None] ** 2
        bar = Image.fromarray(np.ascontiguousarray(colours(shares).repeat(BAR, 1)))
        self.image.paste(bar, (x, self.top))
        self.pen.rectangle((x - 1, self.top - 1, x + BAR, self.top + height), outline=INK)
        for per_cent in TICKS:
            y = self.top + round((height - 1) * (1 - (per_cent / 100) ** 0.5))
            self.pen.line((x + BAR, y, x + BAR + 3, y), fill=INK)
            self.pen.text((x + BAR + 6, y), f"{per_cent} %", INK, self.font, anchor="lm")
        self._upright("share of the row's images", x + BAR + PAD + self._width("100 %"), self.top, down=True)

    def _upright(self, text: str, x: int, y: int, *, down: bool = False) -> None:
        """Write text that is read from below. It ends above `y`, or with `down` begins at `y`."""
        width = max(self._width(text), 1)
        line = Image.new("RGB", (width + 2, FONT + 4), "white")
        ImageDraw.Draw(line).text((0, 0), text, INK, self.font)
        turned = line.rotate(90, expand=True)
        self.image.paste(turned, (x, y if down else y - turned.height))

    def _width(self, text: str) -> int:
        return int(self.font.getlength(text)) + 1

    def _fitted(self, text: str, width: int) -> str:
        if self._width(text) <= width:
            return text
        while text and self._width(f"{text}...") > width:
            text = text[:-1]
        return f"{text}..."


def _names(classes: Sequence[ClassName]) -> list[str]:
    """The short names. A name that several classes have is followed by the WordNet id."""
    count = Counter(named.short for named in classes)
    return [printable(c.short if count[c.short] == 1 else f"{c.short} {c.wnid}") for c in classes]
