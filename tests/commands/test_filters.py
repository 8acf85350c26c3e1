"""`alexnet-infer filters`: the figure, its options and errors."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.kernels import Kernels
from alexnet_infer.kernels.figure import MARK, figure
from tests.nets import random_artifact
from tests.program import one_line

DOCUMENTED = Path(__file__).parents[2] / "docs" / "kernels.png"
SVG = "{http://www.w3.org/2000/svg}"


def test_a_plain_picture_is_that_of_the_documentation_and_the_path_is_printed(run, tmp_path):
    out = tmp_path / "kernels.png"
    assert run("filters", "--plain", "-o", out) == (0, f"{out}\n", "")
    with Image.open(out) as picture, Image.open(DOCUMENTED) as documented:
        assert np.array_equal(np.asarray(picture), Kernels.of(load_artifact(embedded_model())).image())
        assert np.array_equal(np.asarray(picture), np.asarray(documented))


def test_a_named_nets_kernels_are_drawn(run, tmp_path):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    out = tmp_path / "KERNELS.PNG"
    assert run("filters", path, "--out", out, "--plain", "--scale", 11)[0] == 0
    with Image.open(out) as picture:
        assert np.array_equal(np.asarray(picture), Kernels.of(load_artifact(path)).image())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["KERNELS.PNG", "net.safetensors"]


def test_the_suffix_chooses_png_or_svg_with_the_same_figure(run, tmp_path):
    shown = figure(Kernels.of(load_artifact(embedded_model())))
    for name in ("kernels.png", "KERNELS.SVG"):
        assert run("filters", "-o", tmp_path / name)[0] == 0
    assert (tmp_path / "kernels.png").read_bytes() == shown.png()
    assert (tmp_path / "KERNELS.SVG").read_bytes() == shown.svg()
    root = ElementTree.parse(tmp_path / "KERNELS.SVG").getroot()
    assert "column 1: kernels 0 to 15" in [text.text for text in root.iter(f"{SVG}text")]


def test_scale_and_order_change_the_figure(run, tmp_path):
    files = {}
    for i, options in enumerate([(), ("--scale", 4), ("--sort", "colour")]):
        path = tmp_path / f"{i}.png"
        assert run("filters", "-o", path, *options)[0] == 0
        files[options] = path.read_bytes()
    assert len({*files.values()}) == 3


def test_json_has_the_shares_of_columns_and_of_kernels_in_the_nets_order(run, tmp_path):
    out = tmp_path / "kernels.svg"
    kernels = Kernels.of(load_artifact(embedded_model()))
    for options in ((), ("--sort", "colour", "--plain")):
        code, text, err = run("filters", "-o", out, "--json", *options)
        assert (code, err) == (0, "")
        data = json.loads(text)
        assert (data["file"], data["net"], data["layer"]) == (str(out), "alexnet-64-0", "conv1")
        assert (data["kernels"], data["size"], data["stride"], data["columns"]) == (32, [3, 3], 1, 2)
        assert data["colour_share"] == pytest.approx(kernels.colour_shares())
        assert data["kernel_colour_share"] == pytest.approx(kernels.kernel_colour_shares())
    assert out.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--scale", "0"], "1<=x<=64"), (["--scale", "2.5"], "2.5"), (["--sort", "hue"], "hue")]
)
def test_a_wrong_option_exits_2(run, tmp_path, arguments, message):
    code, out, err = run("filters", "-o", tmp_path / "x.png", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("name", "message"),
    [("kernels.jpg", "ending in .png or .svg"), ("absent/kernels.png", "can't be written (No such file or directory)")],
)
def test_a_file_that_cannot_be_written_is_a_one_line_error_and_exits_2(run, tmp_path, name, message):
    code, out, err = run("filters", "-o", tmp_path / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / name) in err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_a_net_exits_4_and_the_old_image_is_kept(run, tmp_path):
    picture = tmp_path / "kernels.png"
    picture.write_bytes(MARK)
    net = tmp_path / "net.safetensors"
    net.write_bytes(b"\x00" * 100)
    code, out, err = run("filters", net, "-o", picture)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert picture.read_bytes() == MARK


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_file_that_is_no_figure_of_alexnet_infer_is_never_replaced(run, tmp_path, kind):
    picture, other = tmp_path / "kernels.png", tmp_path / "other.png"
    other.write_bytes(MARK if kind == "link" else b"old")
    if kind == "file":
        picture.write_bytes(b"old")
    elif kind == "link":
        picture.symlink_to(other)
    else:
        picture.mkdir()
    one_line(run("filters", "-o", picture), 2, "exists, and isn't a figure that alexnet-infer drew")
    assert other.stat().st_size < 100
    if kind == "file":
        assert picture.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_an_earlier_figure_is_replaced(run, tmp_path, suffix):
    picture = tmp_path / f"kernels.{suffix}"
    first, second = (run("filters", "-o", picture, *options) and picture.read_bytes() for options in ((), ("--plain",)))
    assert len(first) != len(second)


def test_json_without_a_file_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("filters", "--json")
    assert (code, json.loads(out)["file"]) == (0, None)
    assert not [*tmp_path.iterdir()]
    assert run("filters") == (0, "kernels.png\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.png"]
