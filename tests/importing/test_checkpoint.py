"""The checkpoint of a training run, imported, compared with the model file that the trainer itself writes."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import load_artifact
from alexnet_infer.errors import ModelFileError, SpecError, UsageError
from alexnet_infer.importing.checkpoint import read_checkpoint
from alexnet_infer.importing.convert import ImportRequest, import_net

torch = pytest.importorskip("torch")

from tests.train.toys import BRIEF, TINY, finished, trainer  # noqa: E402 (imports torch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training, in units of 16 grey levels."""
    training = trainer(tmp_path_factory.mktemp("run") / "run", recipe=replace(BRIEF, unit=16.0))
    training.run()
    return training


@pytest.fixture
def path(run, tmp_path) -> Path:
    return Path(shutil.copy(run.saved.last, tmp_path / "last.safetensors"))


def test_the_net_is_the_trainers_except_for_rounding_to_float16(run, path):
    written = finished(run, run.saved.last.with_name("net.safetensors"))
    imported = load_artifact(import_net(ImportRequest(source=path, out=path.with_name("net.safetensors"), name="net")))
    manifest, expected = imported.manifest, written.artifact.manifest
    assert manifest.architecture == expected.architecture
    assert manifest.preprocessing.to_json() == expected.preprocessing.to_json()
    assert manifest.classes == expected.classes
    for name, tensor in imported.tensors.items():
        rounded = tensor.astype(np.float16).astype(np.float32)
        assert np.array_equal(rounded, written.artifact.tensors[name]), name


def test_a_preset_that_differs_from_the_checkpoints_is_refused(path):
    request = ImportRequest(source=path, out=path.with_name("net.safetensors"), name="net", preset="caffe")
    with pytest.raises(ModelFileError, match=r"last\.safetensors: has the preset .*: expected caffe, from --as"):
        import_net(request)


@pytest.mark.parametrize("unit", [16.0, 10.0, 1.0])
@pytest.mark.parametrize("switch", [{}, {"activation": "tanh"}, {"normalization": "batchnorm"}])
def test_weights_are_converted_to_grey_levels_exactly(tmp_path, unit, switch):
    run = trainer(tmp_path / "run", replace(TINY, **switch).build(), replace(BRIEF, unit=unit))
    run.save()
    checkpoint = read_checkpoint(run.saved.last)
    expected = run.saved.whole_model().artifact_tensors()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(checkpoint.tensors[name], tensor), name


def test_a_net_with_batch_norm_is_read_with_its_statistics(tmp_path):
    net = replace(TINY, normalization="batchnorm").build()
    training = trainer(tmp_path / "run", net, replace(BRIEF, unit=1.0))
    training.run()
    checkpoint = read_checkpoint(training.saved.last)
    expected = training.saved.whole_model().artifact_tensors()
    assert any("running_var" in name for name in expected)
    assert checkpoint.tensors.keys() == expected.keys()
    assert all(np.array_equal(checkpoint.tensors[name], tensor) for name, tensor in expected.items())


def rewritten(path: Path, **metadata: str | None) -> Path:
    """Rewrite the file with other metadata in its header. None removes a key."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {k: v for k, v in {**header["__metadata__"], **metadata}.items() if v is not None}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


def test_an_old_checkpoint_without_preprocessing_has_neither_it_nor_classes(path):
    checkpoint = read_checkpoint(rewritten(path, net=None))
    assert (checkpoint.preprocessing, checkpoint.classes) == (None, None)
    with pytest.raises(UsageError, match="doesn't state its preprocessing; choose --preprocessing "):
        import_net(ImportRequest(source=path, out=path.with_name("net.safetensors"), name="net"))


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": None}, {"config": "{"}, {"config": "3"}, {"config": "{}"}, {"config": "[" * 100_000},
        {"net": "{"}, {"net": "{}"}, {"net": '{"preprocessing": 3, "classes": []}'}, {"net": "null"},
        {"config": '{"architecture": {}, "recipe": {"unit": 16}}'},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_with_invalid_metadata_is_refused_in_one_line(path, metadata):
    with pytest.raises(SpecError) as caught:
        read_checkpoint(rewritten(path, **metadata))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("unit", [0, -1, "16", None, True, 1e9])
def test_an_invalid_unit_is_refused(path, run, unit):
    config = json.loads(json.dumps(run.config))
    config["recipe"]["unit"] = unit
    with pytest.raises(SpecError, match="unit"):
        read_checkpoint(rewritten(path, config=json.dumps(config)))


def test_an_architecture_that_does_not_match_the_tensors_is_refused(path, run):
    config = json.loads(json.dumps(run.config))
    config["architecture"]["operations"][0]["kernels"] = 32
    with pytest.raises(SpecError):
        read_checkpoint(rewritten(path, config=json.dumps(config)))


def test_a_file_cut_anywhere_is_refused(path):
    content = path.read_bytes()
    for cut in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(SpecError):
            read_checkpoint(path)


@pytest.fixture
def changed(path, run):
    """A function that rewrites the checkpoint with other tensors. None removes a tensor."""
    from safetensors.numpy import load_file, save_file

    def write(config: dict | None = None, **tensors: np.ndarray | None) -> Path:
        named = {f"model.{name.replace('_', '.', 1)}": tensor for name, tensor in tensors.items()}
        kept = {name: tensor for name, tensor in {**load_file(path), **named}.items() if tensor is not None}
        save_file(kept, path, {"config": json.dumps(config or run.config), "net": json.dumps(run._net())})
        return path

    return write


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv1_bias": None}, "missing tensors: conv1.bias"),
        ({"conv6_weight": np.ones(3, np.float32), "norm1_gamma": np.ones(1, np.float32)},
         "unknown tensors: conv6.weight, norm1.gamma"),
        ({"fc8_bias": np.ones(4, np.float32)}, "fc8.bias is F32 of shape [4]: expected F32 of shape [3]"),
        ({"fc8_bias": np.ones(3, np.int8)}, "fc8.bias is I8"),
        ({"fc8_bias": np.ones(3, bool)}, "fc8.bias is BOOL"),
    ],
)  # fmt: skip
def test_missing_unknown_and_misshapen_tensors_are_refused_with_their_names(changed, tensors, message):
    with pytest.raises(SpecError) as caught:
        read_checkpoint(changed(**tensors))
    assert str(caught.value).startswith(message)


def test_an_eight_bit_float_tensor_is_refused(path):
    """safetensors has this type, but its reader for NumPy doesn't."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"dtype":"F32"', b'"dtype": "F8"', 1).replace(b'"F8"', b'"F8_E5M2"', 1))
    with pytest.raises(SpecError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()


def test_a_model_file_is_not_a_checkpoint(run, tmp_path):
    path = tmp_path / "net.safetensors"
    finished(run, path)
    with pytest.raises(SpecError, match="is already a model file"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [1e300, float("nan")])
def test_a_float64_weight_beyond_float32_is_refused_without_a_warning(changed, path, value):
    weights = np.array([value, 0, 0])
    weights.view("<u8")[1] = 0x7FF0_0000_0000_0001  # a signalling NaN: NumPy warns when it is converted
    changed(fc8_bias=weights)
    with pytest.raises(ModelFileError, match=r"fc8\.bias has weights that are NaN, infinite or beyond float32"):
        import_net(ImportRequest(source=path, out=path.with_name("net.safetensors"), name="net"))


def test_a_weight_that_overflows_in_grey_levels_is_refused_in_one_line(path, run):
    """Found by fuzzing: NumPy also printed a warning."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    tensors["model.conv1.bias"] = np.full_like(tensors["model.conv1.bias"], 3e38)
    texts = {"config": json.dumps(run.config), "net": json.dumps(run._net())}
    save_file(tensors, path, texts)
    with pytest.raises(ModelFileError, match=r"conv1\.bias has weights that are NaN, infinite or beyond float32"):
        import_net(ImportRequest(source=path, out=path.with_name("net.safetensors"), name="net"))
