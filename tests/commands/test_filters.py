"""`alexnet-infer filters`: the image and errors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.kernels import Kernels
from tests.nets import random_artifact


def test_the_embedded_nets_kernels_are_drawn_and_the_path_is_printed(run, tmp_path):
    out = tmp_path / "kernels.png"
    assert run("filters", "-o", out) == (0, f"{out}\n", "")
    with Image.open(out) as picture:
        assert np.array_equal(np.asarray(picture), Kernels.of(load_artifact(embedded_model())).image())


def test_a_named_nets_kernels_are_drawn(run, tmp_path):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    out = tmp_path / "KERNELS.PNG"
    assert run("filters", path, "--out", out)[0] == 0
    with Image.open(out) as picture:
        assert np.array_equal(np.asarray(picture), Kernels.of(load_artifact(path)).image())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["KERNELS.PNG", "net.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("kernels.jpg", "ending in .png"), ("absent/kernels.png", "can't be written (No such file or directory)")],
)
def test_a_file_that_cannot_be_written_is_a_one_line_error_and_exits_2(run, tmp_path, name, message):
    code, out, err = run("filters", "-o", tmp_path / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / name) in err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_a_net_exits_4_and_the_old_image_is_kept(run, tmp_path):
    picture = tmp_path / "kernels.png"
    picture.write_bytes(b"old")
    net = tmp_path / "net.safetensors"
    net.write_bytes(b"\x00" * 100)
    code, out, err = run("filters", net, "-o", picture)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert picture.read_bytes() == b"old"
