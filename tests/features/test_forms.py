"""Every form of file gives back what was written, and standard libraries read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.features import open_features
from alexnet_infer.features.npz import ALIGNMENT
from tests.features.made import FORMS, Made, same, write

NAMES = ["a.jpg", "b\x1b[2J\n.jpg", "=cmd|' /C calc'!A0", "<script>é🐈.jpg", "x" * 300]
LABELS = ["n01440764", "n01440764", "n01443537", "n01440764", "n01443537"]


def features(*layers: str, dtype: str = "float32") -> Made:
    """Five images, of which the fourth can't be read."""
    rng = np.random.default_rng(0)
    shapes = {"fc7": (4,), "fc6:pre": (6,), "pool5": (3, 2, 2)}
    values = {layer: rng.normal(0, 9, (5, *shapes[layer])).astype(dtype) for layer in layers}
    for array in values.values():
        array[3] = np.nan
    return Made(values, NAMES, LABELS, {3: "not an image <b>\u202e"})


def check_reading(folder: Path, layers: tuple[str, ...], suffix: str, dtype: str) -> None:
    made = features(*layers, dtype=dtype)
    read = open_features(write(made, folder / f"f{suffix}"))
    assert all(same(read, made))
    assert list(read.layers) == list(layers)
    assert np.isnan(read.array(layers[0])[3]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("layer", ["fc7", "pool5"])
def test_what_is_read_is_what_was_written(tmp_path, layer, suffix, dtype):
    check_reading(tmp_path, (layer,), suffix, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("suffix", [form for form in FORMS if form != ".npy"])  # which has one layer
def test_several_layers_are_read_as_they_were_written(tmp_path, suffix, dtype):
    check_reading(tmp_path, ("fc6:pre", "pool5", "fc7"), suffix, dtype)


@pytest.mark.parametrize("suffix", FORMS)
def test_photos_have_no_labels_and_a_file_without_errors_is_read(tmp_path, suffix):
    made = Made({"fc7": np.ones((7, 2), np.float32)})
    read = open_features(write(made, tmp_path / f"f{suffix}"))
    assert read.labels == [None] * 7
    assert read.errors == {}
    assert all(same(read, made))


@pytest.mark.parametrize("suffix", FORMS)
def test_the_same_features_give_the_same_bytes(tmp_path, suffix):
    first, second = (write(features("fc7"), tmp_path / f"{name}{suffix}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_numpy_reads_npz_without_pickle(tmp_path):
    made = features("fc7", "pool5")
    with np.load(write(made, tmp_path / "f.npz"), allow_pickle=False) as file:
        assert file["names"].tolist() == NAMES
        assert file["labels"].tolist() == LABELS
        assert dict(zip(file["error_rows"].tolist(), file["errors"].tolist(), strict=True)) == made.errors
        assert json.loads(file["about"].item())["net"] == "a net"
        np.testing.assert_array_equal(file["pool5"], made.array("pool5"))


def test_arrays_in_npz_are_mapped_and_aligned(tmp_path):
    read = open_features(write(features("fc7", "pool5"), tmp_path / "f.npz"))
    for layer in read.layers:
        values = read.array(layer)
        assert isinstance(values, np.memmap)
        assert values.ctypes.data % ALIGNMENT == 0
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_numpy_and_json_read_npy(tmp_path):
    made = features("fc7")
    np.testing.assert_array_equal(np.load(write(made, tmp_path / "f.npy")), made.array("fc7"))
    about, *rows = map(json.loads, (tmp_path / "f.npy.jsonl").read_text().splitlines())
    assert about["layers"] == [{"name": "fc7", "shape": [4]}]
    assert [row["name"] for row in rows] == NAMES
    assert [row["error"] for row in rows] == [None] * 3 + [made.errors[3], None]


def test_pyarrow_reads_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    made = features("fc7", "pool5")
    table = parquet.read_table(write(made, tmp_path / "f.parquet"))
    assert table["name"].to_pylist() == NAMES
    assert table["label"].to_pylist() == LABELS
    assert table["error"].to_pylist() == [None] * 3 + [made.errors[3], None]
    np.testing.assert_array_equal(np.stack(table["pool5"].to_pylist()), made.array("pool5").reshape(5, -1))


def test_h5py_reads_h5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    made = features("fc7", "pool5")
    with h5py.File(write(made, tmp_path / "f.h5")) as file:
        assert file["names"].asstr()[:].tolist() == NAMES
        assert json.loads(file["about"].asstr()[()])["net"] == "a net"
        np.testing.assert_array_equal(file["pool5"][:], made.array("pool5"))


@pytest.mark.parametrize("suffix", FORMS)
def test_a_per_pixel_mean_is_kept(tmp_path: Path, suffix):
    mean = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)
    from alexnet_infer.preprocess import Preprocessing

    preprocessing = Preprocessing(size=256, patch=227, mean=mean)
    made = Made({"fc7": np.ones((2, 2), np.float32)}, preprocessing=preprocessing)
    read = open_features(write(made, tmp_path / f"f{suffix}"))
    np.testing.assert_array_equal(read.about.preprocessing.mean, mean)
