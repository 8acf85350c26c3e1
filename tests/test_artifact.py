"""The model file: a saved net is restored exactly, and any other file is refused."""

from __future__ import annotations

import copy
import errno
import math
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import Artifact, load_artifact, load_manifest, sha256
from alexnet_infer.errors import ModelFileError, SpecError
from alexnet_infer.manifest import METADATA_KEY
from tests.modelfiles import NET, PROVENANCE, TYPES, compose, good, manifest, parse, random_tensors, refused, written


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(manifest(), random_tensors())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.safetensors"


# Saving and loading.


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_loaded_weights_are_float32_rounded_only_to_the_precision_on_disk(artifact, path, dtype):
    artifact.save(path, dtype)
    loaded = load_artifact(path)
    assert list(loaded.tensors) == list(NET.tensors)
    for name, original in random_tensors().items():
        assert loaded.tensors[name].dtype == np.float32
        assert np.array_equal(loaded.tensors[name], original.astype(dtype))


def test_weights_are_saved_as_float16_by_default(artifact, path):
    artifact.save(path)
    header, data = parse(path.read_bytes())
    assert {header[name]["dtype"] for name in NET.tensors} == {"F16"}
    assert len(data) == 2 * sum(math.prod(shape) for shape in NET.tensors.values())


def test_the_manifest_is_restored_completely_with_and_without_the_weights(artifact, path):
    artifact.save(path)
    for loaded in (load_manifest(path), load_artifact(path).manifest):
        assert loaded.to_json() == artifact.manifest.to_json()
        assert loaded.architecture == NET
        assert loaded.classes == artifact.manifest.classes
        assert loaded.preprocessing.mean.tobytes() == artifact.manifest.preprocessing.mean.tobytes()
        assert loaded.provenance == PROVENANCE


def test_saving_a_loaded_net_gives_the_same_bytes(artifact, path, tmp_path):
    artifact.save(path)
    load_artifact(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert sha256(path) == sha256(tmp_path / "again")


def orders(array: np.ndarray) -> Iterator[np.ndarray]:
    """The same values in other memory layouts."""
    yield np.asfortranarray(array)
    yield np.repeat(array, 2, axis=0)[::2]
    yield array[::-1].copy()[::-1]
    if array.ndim == 4:  # like torch's channels_last
        yield np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_are_saved_in_c_order_whatever_their_memory_layout(path, order, dtype):
    tensors = {name: [*orders(array)][order - (array.ndim == 1)] for name, array in random_tensors().items()}
    tensors["conv1.weight"] = [*orders(random_tensors()["conv1.weight"])][order + 1]
    assert not tensors["conv1.weight"].flags.c_contiguous
    Artifact(manifest(), tensors).save(path, dtype)
    header, data = parse(path.read_bytes())
    for name, original in random_tensors().items():
        start, end = header[name]["data_offsets"]
        assert data[start:end] == original.astype(dtype).tobytes(), name


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_weights_of_any_floating_type_are_converted_to_float32(dtype):
    tensors = {name: array.astype(dtype) for name, array in random_tensors().items()}
    for name, array in Artifact(manifest(), tensors).tensors.items():
        assert array.dtype == np.float32
        assert array.dtype.isnative
        assert np.array_equal(array, tensors[name].astype(np.float32))


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_a_file_of_any_floating_type_is_read(path, dtype):
    path.write_bytes(written({name: (dtype, array) for name, (_, array) in good().items()}))
    for name, array in load_artifact(path).tensors.items():
        assert np.array_equal(array, random_tensors()[name].astype(TYPES[dtype]).astype(np.float32))


def test_loaded_weights_do_not_depend_on_the_file(artifact, path):
    artifact.save(path)
    loaded = load_artifact(path)
    before = {name: array.copy() for name, array in loaded.tensors.items()}
    path.write_bytes(b"")
    assert all(np.array_equal(loaded.tensors[name], before[name]) for name in before)


# Invalid weights.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(path, bad):
    tensors = random_tensors()
    tensors["fc1.weight"][1, 2] = bad
    with pytest.raises(SpecError, match=r"fc1\.weight has weights that are NaN, infinite"):
        Artifact(manifest(), tensors)
    path.write_bytes(written(good(fc1__weight=("F16", tensors["fc1.weight"]))))
    refused(path, "fc1.weight has weights that are NaN, infinite")


def test_large_finite_weights_are_accepted_although_their_sum_overflows(path):
    tensors = random_tensors()
    tensors["fc1.weight"][:] = 3e38
    Artifact(manifest(), tensors).save(path, np.float32)
    assert (load_artifact(path).tensors["fc1.weight"] == np.float32(3e38)).all()
    tensors["fc1.weight"][0, :2] = math.inf, -math.inf
    with pytest.raises(SpecError, match=r"fc1\.weight has weights that are NaN"):
        Artifact(manifest(), tensors)


def test_a_weight_beyond_float32_is_refused_without_a_warning(path):
    path.write_bytes(written(good(fc1__bias=("F64", np.array([0, 1e300, 0])))))
    refused(path, "fc1.bias has weights that are NaN, infinite or beyond float32")


def test_a_variance_below_zero_is_refused(path):
    path.write_bytes(written(good(bn1__running_var=("F32", np.array([1, 0, -1e-3, 1])))))
    refused(path, "bn1.running_var has variances below 0")


@pytest.mark.parametrize("name", NET.tensors)
def test_a_missing_tensor_is_refused_by_name(path, name):
    path.write_bytes(written(good(**{name: None})))
    refused(path, "missing tensors", name)


def test_many_missing_tensors_still_give_one_line(path):
    path.write_bytes(written({}))
    refused(path, "missing tensors", "conv1.weight")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("conv2.weight", "conv2.weight"),
        ("", "''"),
        ("conv1", "conv1"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31m", r"\x1b[31m"),
        ("x" * 10_000, "x" * 40),
    ],
)
def test_an_unknown_tensor_is_refused_by_name(path, name, shown):
    path.write_bytes(written(good(**{name: ("F32", np.zeros(2))})))
    refused(path, f"unknown tensors: {shown}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (4, 3, 3)),
        ("conv1.weight", (4, 3, 9)),  # the same number of values
        ("conv1.bias", (4, 1)),
        ("conv1.bias", ()),
        ("fc1.weight", (16, 3)),  # transposed
        ("fc1.bias", (0,)),
    ],
)
def test_a_tensor_of_another_shape_is_refused_with_both_shapes(path, name, shape):
    path.write_bytes(written(good(**{name: ("F32", np.zeros(shape))})))
    refused(path, f"{name} has shape {list(shape)}: expected {list(NET.tensors[name])}")
    tensors = random_tensors() | {name: np.zeros(shape, np.float32)}
    with pytest.raises(SpecError, match=f"{name} has shape"):
        Artifact(manifest(), tensors)


@pytest.mark.parametrize("dtype", ["I8", "BF16", "BOOL"])
def test_a_tensor_of_another_type_is_refused_with_its_type(path, dtype):
    path.write_bytes(written(good(conv1__bias=(dtype, np.zeros(4)))))
    refused(path, f"conv1.bias has type {dtype}: expected one of float16, float32, float64")


@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.complex64, object])
def test_an_array_of_another_type_is_refused(dtype):
    with pytest.raises(SpecError, match=r"conv1\.bias has type"):
        Artifact(manifest(), random_tensors() | {"conv1.bias": np.zeros(4, dtype)})


def test_a_weight_too_large_for_half_precision_is_refused_and_nothing_is_written(path):
    tensors = random_tensors()
    tensors["fc1.bias"][0] = 65_520  # the smallest value that rounds to infinity
    with pytest.raises(SpecError, match=r"fc1\.bias has weights too large for float16: save it as float32"):
        Artifact(manifest(), tensors).save(path)
    assert not path.exists()
    tensors["fc1.bias"][0] = 65_504
    Artifact(manifest(), tensors).save(path)
    assert load_artifact(path).tensors["fc1.bias"][0] == 65_504


# Files that are not model files.


@pytest.mark.parametrize("load", [load_artifact, load_manifest])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\xff" * 8, b"\x00" * 8],
    ids=["empty", "one byte", "ones", "zeros"],
)
def test_a_file_of_no_known_kind_is_refused(path, content, load):
    path.write_bytes(content)
    refused(path, "damaged, or not a safetensors file", load=load)


@pytest.mark.parametrize("load", [load_artifact, load_manifest])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\xd8\xff\xe0JFIF" * 50, "is an image, which can't be read"),
        (b"PK\x03\x04" * 50, "is an archive, which can't be read"),
        (b"\x80\x04\x95" * 50, "is a PyTorch file: expected a model file"),
    ],
    ids=["photo", "zip", "pickle"],
)
def test_a_file_of_another_kind_is_called_what_its_content_is(path, content, kind, load):
    path.write_bytes(content)
    refused(path, kind, load=load)


@pytest.mark.parametrize(
    ("suffix", "kind", "advice"),
    [
        (".pth", "is a PyTorch file", "; `alexnet-infer import {path} --as PRESET` converts it"),
        (".PT", "is a PyTorch file", "; `alexnet-infer import {path} --as PRESET` converts it"),
        (".caffemodel", "is a Caffe net", "; `alexnet-infer import {path} --as PRESET` converts it"),
        (".h5", "is a Keras file, which can't be read", "one that `alexnet-infer import` converts to it"),
        (".tflite", "is a TensorFlow Lite file, which can't be read", "one that `alexnet-infer import` converts to it"),
        (".prototxt", "is the description of a Caffe net", "one that `alexnet-infer import` converts to it"),
        (".safetensors", "damaged, or not a safetensors file", ""),
        ("", "damaged, or not a safetensors file", ""),
    ],
)
def test_a_file_of_another_program_is_called_what_it_is(path, suffix, kind, advice):
    foreign = path.with_suffix(suffix)
    foreign.write_bytes(b"?")
    with pytest.raises(ModelFileError) as caught:
        load_artifact(foreign)
    message = str(caught.value)
    assert message.startswith(f"{foreign}: {kind}")
    assert advice.format(path=foreign) in message
    assert ("import" in message) == bool(advice)


@pytest.mark.parametrize("finished", [True, False])
def test_for_a_checkpoint_of_the_trainer_the_finished_net_beside_it_is_named(path, artifact, finished):
    checkpoint = path.with_name("last.safetensors")
    checkpoint.write_bytes(written(good(), {"config": "{}", "state": "{}"}))
    if finished:
        artifact.save(path)
    for load in (load_artifact, load_manifest):
        with pytest.raises(ModelFileError, match="is a checkpoint of the trainer: expected the finished net") as caught:
            load(checkpoint)
        assert str(caught.value).count(f", such as {path}; ") == finished
        assert str(caught.value).endswith(f"; `alexnet-infer import {checkpoint}` makes a net of the checkpoint")


@pytest.mark.parametrize("load", [load_artifact, load_manifest])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, path, load):
    refused(path, "No such file", load=load)
    refused(tmp_path, "is not a regular file", load=load)
    path.symlink_to("nowhere")
    refused(path, "No such file", load=load)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(path):
    os.mkfifo(path)
    handler = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a pipe"))
    signal.alarm(5)
    try:
        refused(path, "is not a regular file")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def test_a_file_without_read_permission_is_refused(artifact, path, monkeypatch):
    artifact.save(path)

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)  # chmod would not stop root
    refused(path, "Permission denied")


def test_a_file_truncated_anywhere_is_refused(artifact, path):
    artifact.save(path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in {*range(20), *range(0, header, 37), *range(header - 3, header + 40), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "damaged, or not a safetensors file")


def test_bytes_after_the_end_are_refused(artifact, path):
    artifact.save(path)
    path.write_bytes(path.read_bytes() + b"\x00")
    refused(path, "damaged, or not a safetensors file")


@pytest.mark.parametrize("wrong", [0, 1, -1, +1, 2**31, 2**63, 2**64 - 1], ids=str)
def test_a_header_with_a_wrong_length_is_refused(artifact, path, wrong):
    artifact.save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    path.write_bytes(struct.pack("<Q", length + wrong if wrong in (-1, 1) else wrong) + content[8:])
    refused(path, "damaged, or not a safetensors file")


@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [0, 8]},
        {"data_offsets": [-4, 12]},
        {"data_offsets": [16, 0]},
        {"shape": [2**62, 2**62]},
        {"shape": [-4]},
        {"shape": "four"},
        {"dtype": "F99"},
        {"dtype": "two\nlines"},
        {"two\nlines": 1, "dtype": None},
    ],
    ids=str,
)
def test_a_header_with_a_wrong_tensor_entry_is_refused(path, entry):
    header, data = parse(written(good()))
    header["conv1.bias"] = header["conv1.bias"] | entry
    path.write_bytes(compose(header, data))
    refused(path)


def test_tensors_that_share_bytes_are_refused(path):
    header, data = parse(written(good()))
    header["bn1.bias"]["data_offsets"] = header["bn1.weight"]["data_offsets"]
    path.write_bytes(compose(header, data))
    refused(path, "damaged, or not a safetensors file")


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {METADATA_KEY.upper(): manifest().to_json()}])
def test_a_file_without_a_manifest_is_refused(path, metadata):
    path.write_bytes(written(good(), metadata))
    for load in (load_artifact, load_manifest):
        refused(path, "has no alexnet-infer manifest", "expected a model file", load=load)


def test_any_flipped_byte_is_refused_or_changes_only_values(artifact, path):
    artifact.save(path, np.float32)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for position in rng.choice(len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            loaded = load_artifact(path)
        except ModelFileError as error:
            refusals += str(error).isprintable()
        else:  # a weight or a letter in a text changed: the format has no checksum
            assert all(np.isfinite(array).all() for array in loaded.tensors.values())
    assert refusals > 40


# Failed saves.


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(artifact, path, monkeypatch):
    artifact.save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = Artifact(manifest(), random_tensors(seed=2))
    with pytest.raises(OSError, match="No space left"):
        other.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert load_artifact(path).manifest.name == "test-net"


def test_a_refused_save_keeps_the_old_file(artifact, path):
    artifact.save(path)
    before = path.read_bytes()
    tensors = copy.deepcopy(random_tensors())
    tensors["conv1.bias"][0] = 1e6
    with pytest.raises(SpecError):
        Artifact(manifest(), tensors).save(path)
    assert path.read_bytes() == before
