import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import checker

from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import EngineOptions
from alexnet_infer.engines.library import Library, deserialize, load_library, this_gpu
from alexnet_infer.errors import BackendError, ModelFileError, UsageError
from alexnet_infer.export.engine_build import _check_model, _configure, _parse, build_engine
from alexnet_infer.graph.info import Batch
from tests.engines.made import WEIGHTY, build, info_of, model_of
from tests.nets import random_artifact

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A separate cache for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "engines"


@pytest.fixture
def gpu_capability() -> str:
    try:
        return this_gpu().capability
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")


FORMS = [
    {},
    {"lrn": "conv"},
    {"precision": "fp16"},
    {"precision": "fp16", "lrn": "conv"},
    {"precision": "int8"},
    {"views": "center"},
    {"views": "ten", "precision": "fp16"},
    {"batch": Batch.parse("4")},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "fp32")
def test_every_form_is_built_without_a_gpu_for_several_gpus_at_once(form, no_gpu):
    built = build(info=info_of(**form), capabilities=("8.6", "8.9", "12.0"))
    assert built.description.platform.compute_capabilities == ("8.6", "8.9", "12.0")
    source = b"images" if "views" in form else b"patches"
    assert source in built.plan
    assert b"probabilities" in built.plan
    # The runtime checks a plan before it looks for a GPU, so a valid plan fails only because there is no GPU.
    library = load_library("rtx")
    with pytest.raises(ModelFileError, match="CUDA driver"):
        deserialize(library, built.plan)
    for damaged in (built.plan[:-100], b"x" * 5000):
        with pytest.raises(ModelFileError, match="Serialization"):
            deserialize(library, damaged)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "fp32")
def test_an_engine_has_the_inputs_and_the_batch_of_its_export(form, gpu_capability):
    info = info_of(**form)
    built = build(info=info, capabilities=(gpu_capability,))
    library = load_library("rtx")
    _, engine = deserialize(library, built.plan)
    source, shape = ("images", (64, 64, 3)) if info.takes_squares else ("patches", (3, 57, 57))
    assert {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)} == {source, "probabilities"}
    batch = info.batch
    profile = [tuple(dims) for dims in engine.get_tensor_profile_shape(source, 0)]
    assert profile == [(count, *shape) for count in (batch.min, batch.opt, batch.max)]
    inspector, kind = engine.create_engine_inspector(), library.module.LayerInformationFormat.JSON
    assert "conv1" in inspector.get_engine_information(kind)


def test_the_engine_has_the_precision_of_the_model():
    artifact = random_artifact(WEIGHTY)
    sizes = [len(build(artifact, info_of(precision=precision)).plan) for precision in ("fp32", "fp16", "int8")]
    weights = sum(tensor.nbytes for tensor in artifact.tensors.values())
    overhead = sizes[0] - weights
    assert 0 < overhead < weights / 2  # weights dominate the size
    assert [size - overhead for size in sizes] == pytest.approx([weights, weights / 2, weights / 4], rel=0.3)


def test_the_int8_model_of_these_tests_is_valid():
    artifact = random_artifact()
    model = model_of(artifact, info_of(precision="int8"))
    checker.check_model(model, full_check=True)
    ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    patches = np.random.default_rng(0).normal(0, 200, (2, 3, 57, 57)).astype(np.float32)
    probabilities = session.run(None, {"patches": patches})[0]
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_the_builder_gets_the_requested_options(monkeypatch):
    library = load_library("rtx")
    trt = library.module
    builder = trt.Builder(library.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    info = info_of(batch=Batch(min=2, opt=4, max=6))
    _parse(library, network, model_of(random_artifact(), info).SerializeToString(), 0)
    profiles = []

    def create_profile():
        profiles.append(builder.create_optimization_profile())
        return profiles[-1]

    recording = SimpleNamespace(
        create_builder_config=builder.create_builder_config, create_optimization_profile=create_profile
    )
    options = EngineOptions(flavor="rtx", workspace=2**28, optimization_level=1, capabilities=("8.9", "12.1"))
    config = _configure(library, recording, network, info, options)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 2**28
    assert config.builder_optimization_level == 1
    assert [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)] == [
        trt.ComputeCapability.SM89,
        trt.ComputeCapability.SM121,
    ]
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_optimization_profiles == 1
    assert [tuple(dims) for dims in profiles[0].get_shape("patches")] == [(n, 3, 57, 57) for n in (2, 4, 6)]


def parsed(model: onnx.ModelProto, plugins: int):
    library = load_library("rtx")
    builder = library.module.Builder(library.logger)
    network = builder.create_network(1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(library, network, model.SerializeToString(), plugins)
    return network, library.module


def lrn_layers(network, trt) -> list:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    selected = [layer for layer in layers if layer.type == trt.LayerType.LRN]
    for layer in selected:
        layer.__class__ = trt.ILRNLayer
    return selected


def test_lrn_has_the_papers_constants_in_the_parsed_network():
    """ONNX's alpha is divided by the window's size, 5, and the paper's is 1e-4."""
    network, trt = parsed(model_of(random_artifact(), info_of()), 0)
    layers = lrn_layers(network, trt)
    assert len(layers) == 2
    for layer in layers:
        assert (layer.window_size, layer.beta, layer.k) == (5, 0.75, 2)
        assert layer.alpha == pytest.approx(5e-4)
        assert tuple(layer.get_input(0).shape)[1] in (8, 16)  # one column of two


def test_progress_begins_and_ends_each_phase():
    seen: list[tuple[str, int, int]] = []
    build(on_progress=lambda *step: seen.append(step))
    outer = [(done, total) for phase, done, total in seen if phase == "Building engine"]
    assert outer[0] == (0, outer[0][1])
    assert outer[-1] == (outer[0][1], outer[0][1])
    assert all(0 <= done <= total for _, done, total in seen)
    ended = {phase for phase, done, total in seen if done == total}
    assert ended == {phase for phase, _, _ in seen}


def test_a_second_build_comes_from_the_cache():
    first = build()
    seen: list[object] = []
    again = build(on_progress=lambda *step: seen.append(step))
    assert again.plan == first.plan
    assert not seen


@pytest.mark.parametrize(
    "change",
    [
        lambda: build(random_artifact(seed=1)),
        lambda: build(info=info_of(batch=Batch.parse("1,2,3"))),
        lambda: build(optimization_level=2),
        lambda: build(capabilities=("8.9",)),
        lambda: build(workspace=2**28),
    ],
    ids=["net", "batch", "level", "capability", "workspace"],
)
def test_a_change_of_anything_an_engine_depends_on_gives_another_engine(change, cache):
    build()
    change()
    assert len(list(cache.glob("*.engine"))) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process on Windows")
def test_ctrl_c_stops_a_build_and_leaves_nothing(cache):
    sent = []

    def interrupt(phase: str, done: int, total: int) -> None:
        if done and not sent:
            sent.append(phase)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(on_progress=interrupt)
    assert sent
    assert not list(cache.glob("*.engine*"))
    assert signal.getsignal(signal.SIGINT) is before
    assert build().plan  # the lock is free again


def test_an_error_while_progress_is_shown_stops_the_build_and_is_raised(cache):
    calls = []

    def fail(phase: str, done: int, total: int) -> None:
        calls.append(phase)
        raise BrokenPipeError("terminal gone")

    with pytest.raises(BrokenPipeError, match="terminal gone"):
        build(on_progress=fail)
    assert len(calls) == 1
    assert not list(cache.glob("*.engine*"))


def test_rtx_refuses_plugin_nodes_and_names_the_form_that_works():
    with pytest.raises(
        UsageError, match=r"'norm1' is a node of the domain 'alexnet_infer'.*does not support plugins.*--lrn op"
    ):
        build(info=info_of(lrn="plugin"))


def test_a_window_that_the_plugin_does_not_support_is_refused_before_tensorrt_asks_for_it():
    model = model_of(random_artifact(), info_of(lrn="plugin"))
    assert _check_model(model.SerializeToString(), EngineOptions()) == 2
    next(attribute for attribute in model.graph.node[2].attribute if attribute.name == "size").i = 33
    with pytest.raises(UsageError, match=r"'norm1': LRN over 33 channels: .* at most 31; export with --lrn op"):
        _check_model(model.SerializeToString(), EngineOptions())


def test_a_library_that_cannot_start_is_a_one_line_error_with_its_reason():
    """If the driver is too old, TensorRT logs the reason and returns null, and its bindings raise TypeError."""

    class Failing:
        __version__ = "11.4.0"

        def __init__(self) -> None:
            self.errors: list[str] = ["of something else"]

        def fail(self, logger: object) -> None:
            self.errors.append("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        Runtime = Builder = fail

    module = Failing()
    library = Library(flavor="tensorrt", module=module, title="TensorRT", logger=None, errors=module.errors)
    for start in (lambda: deserialize(library, b"plan"), lambda: library.start("Builder")):
        with pytest.raises(BackendError, match=r"TensorRT 11\.4\.0 can't start: CUDA .* error: 35; .*driver") as raised:
            start()
        assert "\n" not in str(raised.value)


def test_a_plugin_node_for_which_the_parser_does_not_use_the_plugin_is_refused():
    with pytest.raises(BackendError, match="uses the LRN plugin for 0 of 2 nodes: expected all; export with --lrn op"):
        parsed(model_of(random_artifact(), info_of(lrn="plugin")), 2)


def test_without_the_plugin_a_parser_uses_the_definition_in_the_file_and_never_another_lrn():
    """trtexec does the same.

    A node called LRN would become TensorRT's own layer with k = 1 and alpha divided by the size.
    GroupedLRN is expanded to its definition, where x is multiplied by sqrt(5) and alpha is the paper's.
    """
    model = model_of(random_artifact(), info_of(lrn="plugin"))
    network, trt = parsed(model, 0)
    layers = lrn_layers(network, trt)
    assert len(layers) == 2
    for layer in layers:
        assert (layer.window_size, layer.beta, layer.k) == (5, 0.75, 2)
        assert layer.alpha == pytest.approx(1e-4)
    del model.functions[:]
    with pytest.raises(BackendError, match="Plugin not found"):
        parsed(model, 0)


def changed(change) -> bytes:
    model = model_of(random_artifact(), info_of())
    change(model)
    return model.SerializeToString()


def build_bytes(model: bytes, **options: object):
    artifact = random_artifact()
    return build_engine(model, artifact.manifest, info_of(), EngineOptions(flavor="rtx", **options))


def test_other_foreign_nodes_are_refused():
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].domain = "com.microsoft"

    with pytest.raises(UsageError, match=r"'act1' is a node of the domain 'com\.microsoft'"):
        build_bytes(changed(change))


def test_a_node_that_the_parser_does_not_know_is_named_in_one_line():
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = "Nonsense"

    with pytest.raises(BackendError, match=r"TensorRT-RTX .* can't parse this net: .*'act1', 'Nonsense'") as raised:
        build_bytes(changed(change))
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 5


def test_weights_beside_the_model_are_refused():
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    with pytest.raises(UsageError, match="at most 2 GB"):
        build_bytes(changed(change))


def test_bytes_that_are_not_an_onnx_model_are_refused():
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        build_bytes(b"\xff" * 100)


def test_a_precision_that_a_gpu_does_not_support_is_a_one_line_error_with_the_fix():
    with pytest.raises(BackendError, match=r"FP32 GEMM is not supported.*7\.5 does not support float32") as raised:
        build(capabilities=("7.5",))
    assert "\n" not in str(raised.value)
    assert build(info=info_of(precision="fp16"), capabilities=("7.5",)).plan


def test_a_capability_that_rtx_does_not_know_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"--compute-capability 9\.0: this TensorRT-RTX builds for .*8\.6"):
        build(capabilities=("9.0",))


@pytest.mark.parametrize(
    ("flavor", "module", "extra"), [("tensorrt", "tensorrt", "trt"), ("rtx", "tensorrt_rtx", "rtx")]
)
def test_a_missing_package_is_a_one_line_error_with_the_command_that_installs_it(monkeypatch, flavor, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf'pip install "alexnet-infer\[{extra}\]"') as raised:
        load_library.__wrapped__(flavor)  # bypasses the cache
    assert "\n" not in str(raised.value)
