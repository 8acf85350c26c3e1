"""The model file: a saved net is restored exactly, and any other file is refused."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool
from alexnet_infer.artifact import Artifact, load_artifact, load_manifest, sha256
from alexnet_infer.errors import ModelFileError, SpecError
from alexnet_infer.manifest import METADATA_KEY, ClassName, Manifest, MeasuredError, Provenance
from alexnet_infer.preprocess import Preprocessing

NET = Architecture(
    name="net",
    patch=6,
    operations=(
        Conv(name="conv1", kernels=4, size=3),
        BatchNorm(name="bn1"),
        Activation(name="act1"),
        LRN(name="norm1", groups=2),
        MaxPool(name="pool1", size=2),
        Dense(name="fc1", units=3),
    ),
)

PROVENANCE = Provenance(
    data="nothing, 12 images",
    recipe={"name": "fast", "lr": 0.04, "epochs": 3, "decay": [1, 0.5, None], "flags": {"mirror": True}},
    seed=7,
    date="2026-01-31",
    software="alexnet-infer 0",
    errors=(MeasuredError(data="nothing", views="ten", images=10, top1=4, top5=1),),
)


def manifest(**fields: Any) -> Manifest:
    classes = tuple(ClassName(wnid=f"n{i:08}", name=f"thing {i}, Res ignota") for i in range(3))
    mean = np.random.default_rng(0).uniform(0, 255, (8, 8, 3))
    defaults = {
        "name": "test-net",
        "architecture": NET,
        "preprocessing": Preprocessing(size=8, patch=6, mean=mean),
        "classes": classes,
        "provenance": PROVENANCE,
    }
    return Manifest(**(defaults | fields))


def random_tensors(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in NET.tensors.items()}
    tensors["bn1.running_var"] = abs(tensors["bn1.running_var"])
    return tensors


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(manifest(), random_tensors())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.safetensors"


# The format, written and read here from its specification (8 bytes of length, JSON header, data), without the library.

TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I8": np.int8, "BF16": np.uint16, "BOOL": np.bool_}


def parse(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def compose(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def written(tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of (type, array) pairs, with a valid manifest unless `metadata` is given."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: manifest().to_json()} if metadata is None else metadata}
    data = b""
    for name, (dtype, array) in tensors.items():
        content = np.ascontiguousarray(array, TYPES[dtype]).tobytes()
        shape, offsets = list(array.shape), [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    return compose(header, data)


def good(**changed: tuple[str, np.ndarray] | None) -> dict[str, tuple[str, np.ndarray]]:
    """Tensors for `written`; `changed` replaces some or, with None, omits them. "conv1__weight" means conv1.weight."""
    tensors = {name: ("F32", array) for name, array in random_tensors().items()}
    for name, value in changed.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


def refused(path: Path, *parts: str, load: Callable[[Path], Any] = load_artifact) -> str:
    """Check that loading raises ModelFileError (exit code 4) in one line that starts with the path and has `parts`."""
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), message
    assert len(message) < 500 + len(str(path)), message
    for part in parts:
        assert part in message, (part, message)
    return message


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
    [b"", b"\x00", b"\xff" * 8, b"\x00" * 8, b"\xff\xd8\xff\xe0JFIF" * 50, b"PK\x03\x04" * 50, b"\x80\x04\x95" * 50],
    ids=["empty", "one byte", "ones", "zeros", "photo", "zip", "pickle"],
)
def test_a_file_of_another_kind_is_refused(path, content, load):
    path.write_bytes(content)
    refused(path, "damaged, or not a safetensors file", load=load)


@pytest.mark.parametrize(
    ("suffix", "kind", "advice"),
    [
        (".pth", "is a PyTorch file", "; `alexnet-infer import {path}` converts it"),
        (".PT", "is a PyTorch file", "; `alexnet-infer import {path}` converts it"),
        (".caffemodel", "is a Caffe net", "; `alexnet-infer import {path}` converts it"),
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
    checkpoint.write_bytes(written(good(), {"config": "{}"}))
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

    monkeypatch.setattr(Path, "open", denied)  # chmod would not stop root
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


# Manifests.


def with_manifest(path: Path, text: str) -> Path:
    path.write_bytes(written(good(), {METADATA_KEY: text}))
    return path


def edited(*keys: str | int, to: Any) -> str:
    """The manifest's JSON with one value replaced (or, with `...`, removed)."""
    data = json.loads(manifest().to_json())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "not json", "\x00", "[" * 100_000, '{"format": NaN}', '{"a": 1, "a": 1}', '{"format": Infinity}',
        pytest.param('{"format": ' + "1" * 5000 + "}", id="5000 digits"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_manifest_that_is_not_json_is_refused(path, text):
    refused(with_manifest(path, text), "manifest: not JSON (")
    refused(path, "manifest: not JSON (", load=load_manifest)


@pytest.mark.parametrize("text", ["{}", '{"format": 3}', '{"format": 0}', '{"format": true}'])
def test_another_format_is_refused(path, text):
    refused(with_manifest(path, text), "manifest: format", "this version reads formats 1 to 2")


@pytest.mark.parametrize("text", ["null", "[]", "3", '"format"'])
def test_a_manifest_that_is_not_an_object_is_refused(path, text):
    refused(with_manifest(path, text), f"manifest={json.loads(text)!r}: expected an object")


def test_format_1_which_has_no_fit_means_crop(path):
    data = json.loads(manifest().to_json())
    del data["preprocessing"]["fit"]
    refused(with_manifest(path, json.dumps(data)), "preprocessing: missing fields: fit")
    assert load_artifact(with_manifest(path, json.dumps(data | {"format": 1}))).manifest.preprocessing.fit == "crop"


def test_an_unknown_seed_and_date_stay_unknown(path):
    unknown = replace(manifest().provenance, seed=None, date=None)
    Artifact(replace(manifest(), provenance=unknown), random_tensors()).save(path)
    assert load_manifest(path).provenance == unknown


@pytest.mark.parametrize("field", ["name", "architecture", "preprocessing", "classes", "provenance"])
def test_a_missing_part_is_refused_by_name(path, field):
    refused(with_manifest(path, edited(field, to=...)), f"manifest: missing fields: {field}")


def test_an_unknown_part_is_refused_by_name(path):
    refused(with_manifest(path, edited("new\npart", to=1)), r"manifest: unknown fields: new\npart")


@pytest.mark.parametrize("field", ["data", "recipe", "seed", "date", "software", "errors"])
def test_a_missing_field_of_the_provenance_is_refused_by_name(path, field):
    refused(with_manifest(path, edited("provenance", field, to=...)), f"provenance: missing fields: {field}")


@pytest.mark.parametrize("field", ["data", "views", "images", "top1", "top5"])
def test_a_missing_field_of_an_error_figure_is_refused_by_name(path, field):
    refused(
        with_manifest(path, edited("provenance", "errors", 0, field, to=...)), f"errors[0]: missing fields: {field}"
    )


DEEP: Any = "bottom"
for _ in range(200):
    DEEP = [DEEP]

WRONG = [
    (("name",), "", "manifest: name=''"),
    (("name",), None, "name=None"),
    (("name",), "two\nlines", r"name='two\nlines'"),
    (("architecture",), None, "architecture=None: expected an object"),
    (("architecture", "patch"), 7, "preprocessing: patch=6: expected 7, the net's patch size"),
    (("architecture", "channels"), 1, "the net takes 1 channels: expected 3"),
    (("architecture", "operations", 0, "kernels"), 2**40, "conv1: kernels=1099511627776"),
    (("architecture", "operations", 5, "units"), 4, "3 class names: expected 4, one for each output"),
    (("preprocessing",), [], "preprocessing=[]: expected an object"),
    (("preprocessing", "patch"), 5, "preprocessing: patch=5: expected 6, the net's patch size"),
    (("preprocessing", "mean"), {"float32": "AAAA"}, "preprocessing.mean has 3 bytes"),
    (("classes",), {}, "classes={}: expected a list"),
    (("classes",), [], "0 class names: expected 3, one for each output"),
    (("classes", 1), ["n00000001"], "classes[1]=['n00000001']: expected a [WordNet id, name] pair"),
    (("classes", 1), "ab", "classes[1]='ab': expected a [WordNet id, name] pair"),
    (("classes", 1), ["n00000001", ""], "classes[1]: name=''"),
    (("classes", 1), ["n00000001", "\x1b[2J"], r"classes[1]: name='\x1b[2J'"),
    (("classes", 1), ["n00000001", "\ud800"], r"classes[1]: name='\ud800'"),
    (("classes", 1), [1, "name"], "classes[1]: wnid=1: expected printable text"),
    (("classes", 1, 0), "n00000000", "class n00000000 comes after n00000000"),
    (("classes", 1, 0), "n00000002", "class n00000002 comes after n00000002"),
    (("classes", 0, 0), "n00000009", "class n00000001 comes after n00000009: expected distinct WordNet ids in sorted"),
    (("provenance",), [], "provenance=[]: expected an object"),
    (("provenance", "data"), None, "provenance: data=None"),
    (("provenance", "software"), ["x"], "provenance: software=['x']"),
    (("provenance", "date"), "yesterday", "provenance: date='yesterday': expected an ISO 8601 date"),
    (("provenance", "date"), 20260131, "provenance: date=20260131: expected an ISO 8601 date"),
    (("provenance", "seed"), 1.5, "provenance: seed=1.5: expected a whole number"),
    (("provenance", "seed"), True, "provenance: seed=True"),
    (("provenance", "recipe"), ["lr"], "provenance: recipe=['lr']: expected an object"),
    (("provenance", "recipe"), {"lr": {"a": {"b": {"c": {}}}}}, "at most four levels deep"),
    (("provenance", "recipe"), {"deep": DEEP}, "at most four levels deep"),
    (("provenance", "recipe"), {"note": "\x1b[2J"}, "provenance: recipe="),
    (("provenance", "errors"), {}, "provenance.errors={}: expected a list"),
    (("provenance", "errors"), [3], "errors[0]=3: expected an object"),
    (("provenance", "errors", 0, "top1"), -1, "0 <= top5 <= top1 <= images > 0"),
    (("provenance", "errors", 0, "top1"), 11, "errors[0]: top5, top1, images=(1, 11, 10)"),
    (("provenance", "errors", 0, "top5"), 5, "errors[0]: top5, top1, images=(5, 4, 10)"),
    (("provenance", "errors", 0, "images"), 0, "errors[0]: top5, top1, images=(1, 4, 0)"),
    (("provenance", "errors", 0, "images"), 10.0, "images=10.0: expected a whole number"),
    (("provenance", "errors", 0, "images"), True, "images=True: expected a whole number"),
    (("provenance", "errors", 0, "views"), 10, "errors[0]: views=10: expected printable text"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG, ids=lambda part: str(part)[:60])
def test_a_wrong_value_in_the_manifest_is_refused_by_field_and_value(path, keys, value, message):
    refused(with_manifest(path, edited(*keys, to=value)), message)
    refused(path, message, load=load_manifest)


def test_a_number_too_large_for_any_float_is_refused_in_a_recipe(path):
    text = manifest().to_json().replace('"lr": 0.04', '"lr": 1e999')
    refused(with_manifest(path, text), "provenance: recipe=")


def paths(data: Any, here: tuple = ()) -> Iterator[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from paths(value, (*here, key))


HOSTILE = [..., None, True, -1, 0, 2**63, 10**400, 1e308, "", "x", "\n", "\ud800", [], [[]], {}, {"x": 1}, DEEP]


def test_any_value_at_any_position_gives_a_manifest_or_a_one_line_spec_error():
    messages = []
    for keys in paths(json.loads(manifest().to_json())):
        for value in HOSTILE:
            try:
                read = Manifest.from_json(edited(*keys, to=value))
            except SpecError as error:
                messages.append(str(error))
            else:  # a manifest that can be read can be written and read again
                assert Manifest.from_json(read.to_json()).to_json() == read.to_json()
    assert len(messages) > 700
    assert [message for message in messages if not message.isprintable() or len(message) > 400] == []


def test_an_absurd_net_is_refused_before_its_weights_are_read(path):
    refused(
        with_manifest(path, edited("architecture", "operations", 0, "pad", to=4096)), "conv1: an output of 4 x 8196"
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: ClassName(wnid="", name="x"),
        lambda: ClassName(wnid="n1", name=""),
        lambda: ClassName(wnid="n1", name="a\tb"),
        lambda: MeasuredError(data="d", views="ten", images=1, top1=2, top5=0),
        lambda: MeasuredError(data="d", views="ten", images=0, top1=0, top5=0),
        lambda: replace(PROVENANCE, date="2026-02-30"),
        lambda: replace(PROVENANCE, recipe={"lr": math.nan}),
        lambda: replace(PROVENANCE, recipe={"path": Path("x")}),
        lambda: replace(PROVENANCE, recipe={1: 2}),
        lambda: replace(PROVENANCE, seed="7"),
        lambda: manifest(name=""),
        lambda: manifest(classes=manifest().classes[:2]),
        lambda: manifest(classes=manifest().classes[::-1]),
        lambda: manifest(preprocessing=Preprocessing(size=8, patch=5, mean=np.zeros(3))),
    ],
)
def test_no_object_can_be_created_that_could_be_saved_but_not_loaded(build):
    with pytest.raises(SpecError) as caught:
        build()
    assert str(caught.value).isprintable()


def test_equal_manifests_give_equal_text():
    data = json.loads(manifest().to_json())
    data["provenance"]["recipe"] = dict(reversed(data["provenance"]["recipe"].items()))
    shuffled = dict(reversed(data.items()))
    assert Manifest.from_json(json.dumps(shuffled)).to_json() == manifest().to_json()


def test_the_first_name_of_a_class_is_its_short_name():
    assert ClassName(wnid="n02123045", name="tabby, tabby cat").short == "tabby"
    assert ClassName(wnid="n02123045", name="tabby").short == "tabby"


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
