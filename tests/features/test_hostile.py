"""Files of features that were damaged or made to do harm: one line, in little time and memory, and no code is run."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.features import open_features
from alexnet_infer.features.about import FeaturesError
from alexnet_infer.features.arrays import header
from alexnet_infer.features.npy import text_file
from tests.features.made import FORMS, Made, write

IMAGES = 6


@pytest.fixture
def good() -> Made:
    values = {"fc7": np.arange(IMAGES * 4, dtype=np.float32).reshape(IMAGES, 4)}
    values["fc7"][1] = np.nan
    return Made(values, [f"{i}.jpg" for i in range(IMAGES)], ["n01440764"] * IMAGES, {1: "damaged"})


def read(path: Path) -> list[np.ndarray]:
    features = open_features(path)
    return [block for layer in features.layers for block in features.blocks(layer)]


def refused(path: Path) -> str:
    """Read all of a file. Returns the message of the error."""
    with pytest.raises(FeaturesError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("text", [b"", b"x", b"\x93NUMPY", b"PK\5\6" + bytes(18), b"\x89HDF\r\n\x1a\n", b"PAR1" * 9])
def test_a_file_of_another_kind_is_refused(tmp_path, suffix, text):
    (tmp_path / f"f{suffix}").write_bytes(text)
    refused(tmp_path / f"f{suffix}")


@pytest.mark.parametrize("suffix", FORMS)
def test_a_missing_file_a_folder_and_an_unknown_suffix_are_refused(tmp_path, suffix):
    assert "no such file" in refused(tmp_path / f"f{suffix}") or suffix == ".npy"
    (tmp_path / f"d{suffix}").mkdir()
    refused(tmp_path / f"d{suffix}")
    with pytest.raises(UsageError, match=r"f\.csv: expected a file name that ends in \.npy, \.npz, \.parquet or \.h5"):
        open_features("f.csv")


@pytest.mark.parametrize("suffix", FORMS)
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, good, suffix):
    path = write(good, tmp_path / f"f{suffix}")
    data = path.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 97)):
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("suffix", FORMS)
def test_a_changed_byte_is_refused_or_changes_only_what_it_is_in(tmp_path, good, suffix):
    """No other error than FeaturesError, and no other shape."""
    path = write(good, tmp_path / f"f{suffix}")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(data), min(len(data), 300), replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            read = open_features(path)
            assert np.concatenate([*read.blocks("fc7")]).shape == (IMAGES, 4)
        except (FeaturesError, UsageError):
            continue
        assert len(read.names) == len(read.labels) == IMAGES


class Bomb:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return pytest.fail, ("a pickle was loaded",)


def rewritten(path: Path, **arrays: bytes | None) -> None:
    """Write a .npz file again with other arrays, or without one."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (content | {f"{name}.npy": data for name, data in arrays.items()}).items():
            if data is not None:
                archive.writestr(name, data)


def objects() -> bytes:
    start = header("<f4", (IMAGES,)).replace(b"'<f4'", b"'|O' ")
    return start + pickle.dumps(Bomb())


ARRAYS = {
    "a pickle as a layer": ({"fc7": objects()}, "not an array"),
    "a pickle as names": ({"names": objects()}, "not an array"),
    "names of another number": ({"names": header("<U1", (9,)) + bytes(36)}, "has 9 names"),
    "names that are numbers": ({"names": header("<i8", (IMAGES,)) + bytes(8 * IMAGES)}, "names is int64"),
    "names of billions": ({"names": header("<U1", (10**12,))}, "an array of"),
    "names that are no characters": ({"names": header("<U1", (IMAGES,)) + b"\xff" * 4 * IMAGES}, "names"),
    "a layer of another shape": ({"fc7": header("<f4", (IMAGES, 2)) + bytes(8 * IMAGES)}, "not what `about` says"),
    "a layer of another type": ({"fc7": header("<f2", (IMAGES, 4)) + bytes(8 * IMAGES)}, "not what `about` says"),
    "a layer in columns": (
        {"fc7": header("<f4", (IMAGES, 4)).replace(b"False", b"True ") + bytes(16 * IMAGES)},
        "not an array",
    ),
    "a missing layer": ({"fc7": None}, "the array fc7 is missing"),
    "no description": ({"about": None}, "about is missing"),
    "a description that is a list": ({"about": header("<U1", (3,)) + bytes(12)}, "damaged"),
    "a description that is no JSON": ({"about": header("<U1", ()) + b"x\0\0\0"}, "not JSON"),
    "an error of a row that isn't there": ({"error_rows": header("<i8", (1,)) + b"\x09" + bytes(7)}, "errors"),
    "errors in another number": ({"error_rows": header("<i8", (0,))}, "errors"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_archive_with_another_array_is_refused(tmp_path, good, kind):
    path = write(good, tmp_path / "f.npz")
    arrays, expected = ARRAYS[kind]
    rewritten(path, **arrays)
    assert expected in refused(path)


def test_a_rewritten_archive_is_read(tmp_path, good):
    """What the test above changes is the cause of the errors."""
    path = write(good, tmp_path / "f.npz")
    rewritten(path)
    np.testing.assert_array_equal(open_features(path).array("fc7"), good.array("fc7"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused(tmp_path, good, compression):
    path = write(good, tmp_path / "f.npz")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("about.npy", b"0" * 10**6)
    assert "compressed" in refused(path)


ABOUTS = {
    "format": 2,
    "sha256": "0" * 63,
    "views": "all",
    "dtype": "float64",
    "batch": 0,
    "net": "\x1b[2J",
    "layers": [{"name": "fc7", "shape": [4]}] * 2,
    "preprocessing": {},
    "images": None,
    "more": 1,
}


@pytest.mark.parametrize("field", ABOUTS)
def test_a_wrong_description_is_refused(tmp_path, good, field):
    path = write(good, tmp_path / "f.npz")
    text = json.dumps(json.loads(good.about.to_json()) | {field: ABOUTS[field]})
    rewritten(path, about=header(f"<U{len(text)}", ()) + np.array(text).tobytes())
    assert field in refused(path) or field == "more"


LINES = {
    "no line": (lambda lines: lines[:-1], "has 5 names"),
    "one more line": (lambda lines: [*lines, lines[-1]], "more than 6 images"),
    "no JSON": (lambda lines: [*lines[:3], "x\n", *lines[4:]], "line 4 is damaged"),
    "deep JSON": (lambda lines: [lines[0], "[" * 10**5 + "\n", *lines[2:]], "line 2 is damaged"),
    "a long name": (lambda lines: [lines[0], json.dumps({"name": "x" * 40000}), *lines[2:]], "damaged"),
    "no description": (lambda lines: lines[1:], "npy.jsonl"),
    "another field": (
        lambda lines: [lines[0], '{"name":"a","label":null,"error":null,"x":1}\n', *lines[2:]],
        "line 2 is damaged",
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_wrong_text_file_is_refused(tmp_path, good, kind):
    path = write(good, tmp_path / "f.npy")
    change, expected = LINES[kind]
    text_file(path).write_text("".join(change(text_file(path).read_text().splitlines(keepends=True))))
    assert expected in refused(path)


def test_an_array_without_its_text_or_with_that_of_another_is_refused(tmp_path, good):
    path = write(good, tmp_path / "f.npy")
    np.save(path, np.zeros((IMAGES, 5), np.float32))
    assert "not what f.npy.jsonl says" in refused(path)
    text_file(path).unlink()
    assert "f.npy.jsonl, which describes it, is missing" in refused(path)


def test_hdf5_data_elsewhere_or_in_pieces_is_refused(tmp_path, good):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    path = write(good, tmp_path / "f.h5")
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(1000))
    shape, kind = (IMAGES, 4), "<f4"
    sources = h5py.VirtualLayout(shape, kind)
    sources[:] = h5py.VirtualSource(str(path), "fc7", shape)
    makers = {
        "external": lambda file: file.create_dataset("fc7", shape, kind, external=[(str(outside), 0, 1000)]),
        "virtual": lambda file: file.create_virtual_dataset("fc7", sources),
        "chunked": lambda file: file.create_dataset("fc7", shape, kind, chunks=(2, 4)),
        "compressed": lambda file: file.create_dataset("fc7", shape, kind, compression="gzip"),
        "never written": lambda file: file.create_dataset("fc7", shape, kind),
        "a link": lambda file: file.__setitem__("fc7", h5py.ExternalLink(str(path), "fc7")),
        "texts of any length": lambda file: file.create_dataset("fc7", (IMAGES,), h5py.string_dtype()),
        "a folder": lambda file: file.create_group("fc7"),
    }
    for name, make in makers.items():
        with h5py.File(path, "r+") as file:
            del file["fc7"]
            make(file)
        assert "fc7" in refused(path), name


def test_parquet_with_other_columns_or_without_the_description_is_refused(tmp_path, good):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    path = write(good, tmp_path / "f.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.replace_schema_metadata(None), path)
    assert "no description" in refused(path)
    for changed in (
        table.slice(1),
        table.drop_columns("label"),
        table.append_column("more", table["name"]),
        table.set_column(3, "fc7", table["name"]),
        table.set_column(3, "fc7", pyarrow.array([[1.0] * 4] * IMAGES, pyarrow.list_(pyarrow.float32()))),
    ):
        parquet.write_table(changed, path)
        assert "columns or rows" in refused(path)
    nulls = pyarrow.array([None] * IMAGES, pyarrow.list_(pyarrow.float32(), 4))
    parquet.write_table(table.set_column(3, "fc7", nulls), path)
    assert "values are missing" in refused(path)


def test_a_layer_that_is_not_there_is_a_usage_error_with_the_layers(tmp_path, good):
    features = open_features(write(good, tmp_path / "f.npz"))
    for ask in (features.array, lambda layer: next(features.blocks(layer))):
        with pytest.raises(UsageError, match=r"f\.npz: has no layer 'fc6:pre'; expected one of fc7"):
            ask("fc6:pre")
