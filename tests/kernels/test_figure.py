"""The figure of kernels: its parts, as PNG and SVG."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.architecture import Conv
from alexnet_infer.errors import UsageError
from alexnet_infer.kernels import Kernels, kernel_image
from alexnet_infer.kernels.figure import MARK, figure

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '</text><script>alert(1)</script>&"\x1b[31m\u202e'


def kernels(count: int = 96, size: int = 11, columns: int = 2, net: str = "a net") -> Kernels:
    weights = np.random.default_rng(0).normal(size=(count, 3, size, size)).astype(np.float32)
    weights[: count // columns] = weights[: count // columns, :1]  # grey
    return Kernels(
        weights=weights, columns=columns, net=net, layer=Conv(name="conv1", kernels=count, size=size, stride=4)
    )


def drawn(figure) -> np.ndarray:
    with Image.open(io.BytesIO(figure.png())) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def texts(figure) -> list[str]:
    return [element.text for element in ElementTree.fromstring(figure.svg()).iter(f"{SVG}text")]


def images(figure) -> list[tuple[ElementTree.Element, np.ndarray]]:
    found = []
    for element in ElementTree.fromstring(figure.svg()).iter(f"{SVG}image"):
        kind, data = element.get("href").split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            found.append((element, np.asarray(image)))
    return found


def contains(picture: np.ndarray, part: np.ndarray) -> int:
    """The row at which `part` is in `picture`, or -1."""
    height, width, _ = part.shape
    for y in range(len(picture) - height + 1):
        for x in range(picture.shape[1] - width + 1):
            if np.array_equal(picture[y, x], part[0, 0]) and np.array_equal(
                picture[y : y + height, x : x + width], part
            ):
                return y
    return -1


def test_each_column_has_a_heading_with_its_kernels_and_share_of_colour():
    lines = texts(figure(kernels()))
    assert "a net, conv1: 96 kernels of 11 x 11 x 3, stride 4" in lines
    assert lines[lines.index("column 1: kernels 0 to 47") + 1] == "0 % colour"
    share = kernels().colour_shares()[1]
    assert 0.5 < share < 0.9
    assert lines[lines.index("column 2: kernels 48 to 95") + 1] == f"{100 * share:.0f} % colour"
    caption = " ".join(lines[lines.index("column 2: kernels 48 to 95") + 2 :])
    assert caption.startswith("A weight of 0 is grey (128). Each kernel has its own scale")
    assert "Kernels are numbered from 0." in caption
    assert "Sorted" not in caption


def test_one_column_has_no_number():
    lines = texts(figure(kernels(columns=1)))
    assert "kernels 0 to 95" in lines
    assert not [line for line in lines if "column" in line]


def test_a_sorted_figure_says_so_and_shows_the_sorted_kernels():
    by_colour = kernels().by_colour()
    shown = figure(by_colour)
    assert "Sorted by share of colour, grey first." in " ".join(texts(shown))
    assert "column 2: 48 kernels, sorted by colour" in texts(shown)
    assert not [line for line in texts(shown) if "kernels 48" in line or "numbered" in line]
    (_, _), (_, second) = images(shown)
    assert np.array_equal(second, kernel_image(by_colour.column(1), 1, 3))
    assert not np.array_equal(second, kernel_image(kernels().column(1), 1, 3))


@pytest.mark.parametrize("scale", [1, 3, 7])
def test_png_and_svg_show_the_same_tiles_the_columns_apart(scale):
    shown = figure(kernels(12, 3), scale=scale)
    picture = drawn(shown)
    assert picture.shape == (shown.height, shown.width, 3)
    columns = [kernel_image(kernels(12, 3).column(i), 1, scale) for i in range(2)]
    places = [contains(picture, column) for column in columns]
    assert 0 < places[0] < places[0] + len(columns[0]) + 14 < places[1]
    for (element, image), column, y in zip(images(shown), columns, places, strict=True):
        assert np.array_equal(image, column)
        assert (int(element.get("y")), int(element.get("height"))) == (y, len(column))


def test_the_text_of_a_png_is_inside_of_it_and_nothing_else_is_at_its_edges():
    for made in (kernels(), kernels(4, 1), kernels(4, 3, net="net " * 40), kernels(4, 3, net="x" * 300)):
        picture = drawn(figure(made))
        for edge in (picture[:5], picture[-5:], picture[:, :5], picture[:, -5:]):
            assert np.all(edge == 255)
        assert (picture != 255).any((1, 2)).sum() > 40


def test_the_coloured_part_of_the_bar_is_the_share():
    shown = figure(replace(kernels(), weights=kernels().weights[::-1]))
    picture = drawn(shown)
    tracks = (picture == (0xD0, 0xD0, 0xD0)).all(2).sum(1)
    coloured = (picture == (0xC2, 0x41, 0x0C)).all(2).sum(1)
    rows = np.flatnonzero((coloured > 200) | (tracks > 200))
    assert len(rows) >= 6
    shares = coloured[rows] / (coloured + tracks)[rows]
    assert shares[0] == pytest.approx(kernels().colour_shares()[1], abs=0.005)
    assert shares[-1] == 0


def test_a_title_of_two_lines_has_no_short_last_line():
    sizes = []
    for net in ("alexnet-64-0", "bvlc-alexnet", "a net", "alexnet-64-0-with-a-name"):
        root = ElementTree.fromstring(figure(kernels(32, 3, net=net)).svg())
        lines = [element.text for element in root.iter(f"{SVG}text") if element.get("class") == "title"]
        sizes.append(len(lines))
        assert min(map(len, lines)) > 0.4 * max(map(len, lines))
    assert 2 in sizes


@pytest.mark.parametrize("plain", [False, True])
def test_figures_have_the_mark_by_which_they_may_be_replaced(plain):
    shown = figure(kernels(), plain=plain)
    for data in (shown.png(), shown.svg()):
        assert MARK in data[:1024]


def test_plain_is_the_picture_alone():
    assert np.array_equal(drawn(figure(kernels(), plain=True)), kernels().image())
    shown = figure(kernels(), plain=True, scale=2)
    assert texts(shown) == []
    ((element, image),) = images(shown)
    assert np.array_equal(image, kernels().image(2))
    assert (int(element.get("width")), int(element.get("height"))) == (shown.width, shown.height)


def test_an_svg_has_a_description_and_neither_scripts_nor_references():
    root = ElementTree.fromstring(figure(kernels()).svg())
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text.startswith("a net, conv1")
    assert "column 1: kernels 0 to 47: 0.0 % colour" in root.find(f"{SVG}desc").text
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in ("svg", "title", "desc", "style", "rect", "text", "image")
        assert not [name for name in element.attrib if name.startswith("on")]
        assert element.get("href", "data:").startswith("data:")
    assert "url" not in root.find(f"{SVG}style").text


@pytest.mark.parametrize("plain", [False, True])
def test_a_name_that_is_markup_stays_text(plain):
    shown = figure(kernels(net=NASTY), plain=plain)
    root = ElementTree.fromstring(shown.svg())
    assert not [*root.iter(f"{SVG}script")]
    assert root.find(f"{SVG}title").text.startswith('</text><script>alert(1)</script>&"\\x1b[31m\\u202e, conv1')
    assert "\x1b" not in shown.svg().decode()
    drawn(shown)


def test_a_figure_that_would_be_too_large_is_refused():
    with pytest.raises(UsageError, match=r"^--scale 64: a picture of [\d,]+ x [\d,]+ pixels; expected a smaller scale"):
        figure(kernels(1000, 11), scale=64)
