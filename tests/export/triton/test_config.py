"""Configs against Triton's own definition, and what they tell clients."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer.export.triton.config import QUEUE_DELAY, net_config
from alexnet_infer.export.triton.entries import jpeg_entries
from alexnet_infer.graph.info import Batch
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.manifest import ClassName
from tests.export.triton.models import CLASSES, MANIFEST, NAME, PATCH, SIZE, parsed, served


def test_the_config_of_an_onnx_file_fits_tritons_definition(model_config, onnx):
    config = parsed(model_config, net_config(onnx))
    assert (config.name, config.backend, config.max_batch_size) == ("random-alexnet-64", "onnxruntime", 64)
    (source,), (target,) = config.input, config.output
    assert (source.name, source.data_type) == ("images", model_config.TYPE_UINT8)
    assert list(source.dims) == [SIZE, SIZE, 3]
    assert (target.name, target.data_type) == ("probabilities", model_config.TYPE_FP32)
    assert (list(target.dims), target.label_filename) == ([CLASSES], "labels.txt")
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == QUEUE_DELAY == 1000
    assert [group.kind for group in config.instance_group] == [model_config.ModelInstanceGroup.KIND_AUTO]
    assert config.version_policy.latest.num_versions == 1


def test_the_config_of_an_onnx_file_turns_tf32_off_on_a_gpu(model_config, onnx):
    config = parsed(model_config, net_config(onnx))
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1", "heuristic, in the backend's numbering"


def test_the_config_of_an_engine_fits_tritons_definition(model_config, tmp_path):
    engine = served(tmp_path / "net.engine", tensorrt="11.4.0", lrn="plugin")
    config = parsed(model_config, net_config(engine))
    assert config.backend == "tensorrt"
    (source,) = config.input
    assert (source.name, source.data_type) == ("patches", model_config.TYPE_FP32)
    assert list(source.dims) == [3, PATCH, PATCH]
    assert [group.kind for group in config.instance_group] == [model_config.ModelInstanceGroup.KIND_GPU]
    assert not config.HasField("optimization"), "options of ONNX Runtime don't apply to TensorRT"
    assert config.parameters.keys() == {"alexnet_infer", "alexnet_infer_export"}, "none of ONNX Runtime's"


def test_a_fixed_batch_is_in_the_dimensions_and_requests_are_not_batched(model_config, tmp_path):
    model = served(tmp_path / "net.onnx", views="center", batch=Batch(min=4, opt=4, max=4))
    config = parsed(model_config, net_config(model))
    assert config.max_batch_size == 0  # dimensions are then those of the complete tensor
    assert list(config.input[0].dims) == [4, SIZE, SIZE, 3]
    assert list(config.output[0].dims) == [4, CLASSES]
    assert not config.HasField("dynamic_batching")


def described(config) -> ServedNet | None:
    return ServedNet.from_parameters({key: value.string_value for key, value in config.parameters.items()}, "config")


@pytest.mark.parametrize("tensorrt", [None, "11.4.0"])
@pytest.mark.parametrize("views", ["none", "ten"])
def test_clients_learn_the_net_from_the_parameters(model_config, tmp_path, tensorrt, views):
    names = [ClassName(wnid=c.wnid, name=f'"{i}" \\ \\n 猫 🐈, it\'s {{}}#') for i, c in enumerate(MANIFEST.classes)]
    manifest = structs.replace(MANIFEST, name='my "best" \\ net', classes=tuple(names))
    model = served(tmp_path / "net", manifest=manifest, views=views, tensorrt=tensorrt)
    net = described(parsed(model_config, net_config(model)))
    assert net == ServedNet(manifest=net.manifest, info=model.info), "no digest, which a later version would change"
    assert net.manifest.to_json() == manifest.to_json()
    assert net.manifest.classes == manifest.classes


def test_clients_learn_a_mean_per_pixel(model_config, tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    manifest = structs.replace(MANIFEST, preprocessing=structs.replace(MANIFEST.preprocessing, mean=mean))
    net = described(parsed(model_config, net_config(served(tmp_path / "net.onnx", manifest=manifest))))
    np.testing.assert_array_equal(net.manifest.preprocessing.mean, mean)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_models_for_encoded_images_fit_tritons_definition(model_config, tmp_path, fixed):
    batch = Batch(min=4, opt=4, max=4) if fixed else Batch(min=1, opt=8, max=64)
    outputs = ("fc7", "probabilities")
    model = served(tmp_path / "net.onnx", views="center", batch=batch, outputs=outputs)
    net, decode, ensemble = (
        parsed(model_config, text) for text in (net_config(model), *(entry.config for entry in jpeg_entries(model)))
    )
    first = [4] if fixed else []
    assert (net.name, decode.name, ensemble.name) == (NAME, f"{NAME}_decode", f"{NAME}_jpeg")
    assert (decode.backend, decode.platform, ensemble.backend, ensemble.platform) == ("python", "", "", "ensemble")
    assert {config.max_batch_size for config in (net, decode, ensemble)} == {0 if fixed else 64}
    for config in (decode, ensemble):
        (source,) = config.input
        assert (source.name, source.data_type) == ("encoded_images", model_config.TYPE_STRING)
        assert list(source.dims) == [*first, 1]
    (squares,), (images,) = decode.output, net.input
    assert (squares.name, squares.data_type, list(squares.dims)) == (images.name, images.data_type, list(images.dims))
    assert list(ensemble.output) == list(net.output)
    assert [output.label_filename for output in ensemble.output] == ["", "labels.txt"]
    assert not ensemble.instance_group, "Triton refuses it in an ensemble"
    assert not ensemble.HasField("dynamic_batching"), "Triton refuses it in an ensemble"
    assert [group.kind for group in decode.instance_group] == [model_config.ModelInstanceGroup.KIND_CPU]


def test_the_steps_of_the_ensemble_are_the_latest_versions_and_connected(model_config, onnx):
    _, ensemble = jpeg_entries(onnx)
    decode, net = parsed(model_config, ensemble.config).ensemble_scheduling.step
    assert (decode.model_name, decode.model_version) == (f"{NAME}_decode", -1)
    assert (net.model_name, net.model_version) == (NAME, -1)
    assert dict(decode.input_map) == {"encoded_images": "encoded_images"}
    assert dict(net.input_map) == {"images": decode.output_map["images"]}
    assert dict(net.output_map) == {"probabilities": "probabilities"}
