"""Nets that a model file may describe, though no preset has them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import ModelFileError
from alexnet_infer.explain.measure import Explained
from alexnet_infer.explain.page import write
from alexnet_infer.preprocess import Preprocessing
from tests.evaluation.page import Page
from tests.explain.explained import explained, photo
from tests.nets import random_artifact

pytest.importorskip("jinja2", reason='needs jinja2: pip install "alexnet-infer[report]"')


def of(*operations, patch: int = 12) -> Artifact:
    """Return a net of these operations with random weights."""
    usual = random_artifact(size=64)
    architecture = Architecture(name="odd", patch=patch, operations=operations)
    rng = np.random.default_rng(2)
    tensors = {
        name: rng.uniform(0.1, 0.2, shape).astype(np.float32) * (-1) ** rng.integers(0, 2, shape)
        if "running_var" not in name
        else np.ones(shape, np.float32)
        for name, shape in architecture.tensors.items()
    }
    manifest = msgspec.structs.replace(
        usual.manifest,
        architecture=architecture,
        preprocessing=Preprocessing(size=patch + 2, patch=patch, mean=np.array([120.0, 110, 100])),
        classes=usual.manifest.classes[: architecture.classes],
    )
    return Artifact(manifest, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def page_of(folder: Path, *nets: Explained) -> Page:
    return Page(write(photo(), nets, folder / "page.html").read_text("utf-8"))


def run(folder: Path, *operations, patch: int = 12) -> Explained:
    return explained(folder, of(*operations, patch=patch), hidden=6)


def test_lrn_after_batch_norm_is_shown_on_what_it_reads(tmp_path):
    """Batch norm in front of the activation leaves the convolution without values."""
    found = run(
        tmp_path,
        Conv(name="conv1", kernels=6, size=3),
        BatchNorm(name="bn1"),
        Activation(name="act1"),
        LRN(name="norm1", size=3),
        Dense(name="fc", units=3),
    )
    assert "conv1" not in found.values
    strongest = int(found.values["act1"].mean((1, 2)).argmax())
    assert re.search(rf"norm1 on one map ?, the most active one, {strongest}\.", page_of(tmp_path, found).text)


def test_the_rows_of_a_second_net_are_in_its_own_order_and_the_difference_is_said(tmp_path, of_variant):
    nets = of_variant("two columns"), of_variant("pool first")
    page = page_of(tmp_path, *nets)
    rows = [row[0] for row in page.rows if len(row) == 6]
    expected = [[*(o.name for o in net.manifest.architecture.operations), "softmax", "all"] for net in nets]
    listed = [name for name in rows if name in {*expected[0]}]
    assert listed == expected[0] + expected[1]
    assert re.search(r"In random-alexnet-64 \(\w{8}\), this step comes before norm1 ?\.", page.text)


def test_many_columns_and_large_maps_make_no_large_page(tmp_path):
    many = run(
        tmp_path,
        Conv(name="conv1", kernels=2048, size=3),
        Activation(name="act1"),
        Conv(name="conv2", kernels=2048, size=1, groups=2048),
        MaxPool(name="pool2", size=9),
        Dense(name="fc", units=2),
        patch=11,
    )
    page = page_of(tmp_path, many)
    assert "And 2,044 more columns, not on this page." in page.text
    assert (tmp_path / "page.html").stat().st_size < 2e6
    large = run(
        tmp_path,
        Conv(name="conv1", kernels=64, size=3),
        MaxPool(name="p", size=198),
        Dense(name="fc", units=2),
        patch=200,
    )
    page = page_of(tmp_path, large)
    sizes = [(int(e["width"]), int(e["height"])) for e in page.all("img") if e["alt"].startswith("Map ")]
    assert sizes[0] == (128, 128)
    assert "Drawn smaller than they are." in page.text


def test_values_that_are_not_finite_are_an_error_of_the_file(tmp_path):
    artifact = of(Conv(name="conv1", kernels=4, size=3), Activation(name="act1"), Dense(name="fc", units=3))
    tensors = {name: np.full_like(tensor, 3e37) for name, tensor in artifact.tensors.items()}
    with pytest.raises(ModelFileError, match=r"its probabilities are not finite"), np.errstate(all="ignore"):
        explained(tmp_path, Artifact(artifact.manifest, tensors), hidden=6)
