"""The engine backend: which engines are refused, how batches are split, and its CUDA calls against fakes."""

import ctypes
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer.backends.engine import (
    EngineBackend,
    _Net,
    _Shape,
    calls,
    check_gpu,
    check_signature,
    check_version,
    host_array,
    part,
)
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import Built, save_engine
from alexnet_infer.engines.library import Gpu, Library, this_gpu
from alexnet_infer.errors import BackendError, ModelFileError
from alexnet_infer.graph.info import Batch
from tests.engines.made import RTX, TENSORRT, build, engine_of, info_of
from tests.nets import large_patches, random_artifact

AMPERE = Gpu(name="An RTX", capability="8.6", driver="580.1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setattr(engine_cache, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "engines"


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")


def saved(folder: Path, built: Built, *, cached: bool) -> Path:
    path = folder / "net.engine"
    save_engine(path, engine_cache.cached("name", lambda: built) if cached else built)
    return path


@pytest.mark.parametrize("batch", [Batch(min=1, opt=4, max=8), Batch(min=3, opt=4, max=8), Batch(min=8, opt=8, max=8)])
def test_any_number_of_images_is_split_into_batches_that_the_engine_accepts(batch):
    for count in range(40):
        split = calls(count, batch)
        assert sum(images for images, _ in split) == count
        assert all(0 < images <= size and batch.min <= size <= batch.max for images, size in split)
        assert len(split) == -(-count // batch.max)
        assert all(images == size for images, size in split[:-1])


def test_the_last_batch_is_padded_to_the_smallest_batch_that_the_engine_accepts():
    assert calls(17, Batch(min=4, opt=4, max=8)) == [(8, 8), (8, 8), (1, 4)]
    assert calls(14, Batch(min=4, opt=4, max=8)) == [(8, 8), (6, 6)]


def test_an_engine_without_its_description_is_refused_even_if_trusted(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    with pytest.raises(ModelFileError, match=r"expected net\.engine\.json beside it") as raised:
        EngineBackend(path, trust=True)
    assert raised.value.exit_code == 4


def test_an_engine_that_is_not_in_the_cache_is_refused_before_anything_is_loaded(tmp_path):
    path = saved(tmp_path, engine_of(b"plan"), cached=False)
    with pytest.raises(ModelFileError, match=r"an engine is code .*--trust-engine") as raised:
        EngineBackend(path)
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)


def test_a_changed_engine_is_refused_even_if_trusted(tmp_path):
    path = saved(tmp_path, engine_of(b"plan"), cached=True)
    path.write_bytes(b"plam")
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        EngineBackend(path, trust=True)


def test_a_cached_engine_with_a_changed_description_is_refused(tmp_path):
    built = engine_cache.cached("name", lambda: engine_of(b"plan"))
    manifest = structs.replace(built.description.manifest, name="another")
    path = saved(
        tmp_path,
        dataclasses.replace(built, description=structs.replace(built.description, manifest=manifest)),
        cached=False,
    )
    with pytest.raises(ModelFileError, match="not built by you"):
        EngineBackend(path)


def test_another_engine_with_the_description_of_a_cached_one_is_refused(tmp_path):
    cached, other = engine_of(b"cached"), engine_of(b"other")
    path = saved(tmp_path, cached, cached=True)
    path.write_bytes(other.plan)
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        EngineBackend(path)


@pytest.mark.parametrize("trust", [False, True])
def test_an_engine_from_another_version_is_refused_with_the_version_it_needs(tmp_path, rtx, trust):
    path = saved(tmp_path, engine_of(b"plan", RTX), cached=not trust)
    with pytest.raises(BackendError, match=rf"built by TensorRT-RTX 1\.2\.3, but {rtx.__version__} is") as raised:
        EngineBackend(path, trust=trust)
    assert "pip install tensorrt-rtx==1.2.3" in str(raised.value)
    assert raised.value.exit_code == 5


def test_a_tensorrt_engine_names_the_tensorrt_package(tmp_path):
    with pytest.raises(BackendError, match=r"pip install tensorrt==11\.4\.0"):
        check_version(tmp_path, TENSORRT, "11.5.0")
    check_version(tmp_path, TENSORRT, "11.4.0")


def test_without_a_gpu_a_valid_engine_is_refused_because_of_the_gpu(tmp_path, rtx):
    try:
        this_gpu()
    except BackendError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    path = saved(tmp_path, build(), cached=False)  # `build` has put it into the cache
    with pytest.raises(BackendError, match="no working NVIDIA GPU") as raised:
        EngineBackend(path)
    assert raised.value.exit_code == 5
    assert "\n" not in str(raised.value)


def test_a_gpu_that_the_engine_was_not_built_for_is_refused(tmp_path):
    check_gpu(tmp_path, RTX, AMPERE)
    ada = dataclasses.replace(AMPERE, capability="8.9")
    with pytest.raises(BackendError, match=r"built for compute capability 8\.6, 12\.0, but this An RTX has 8\.9"):
        check_gpu(tmp_path, RTX, ada)


def test_a_tensorrt_engine_runs_only_on_the_gpu_model_that_built_it(tmp_path):
    same = Gpu(name="A GPU", capability="9.0", driver="590.2")
    check_gpu(tmp_path, TENSORRT, same)  # another driver version is fine
    with pytest.raises(BackendError, match="built for A GPU, but this GPU is Another"):
        check_gpu(tmp_path, TENSORRT, dataclasses.replace(same, name="Another"))


@pytest.fixture
def buffer_class():
    return pytest.importorskip("cuda.core", reason="needs CUDA for Python: pip install cuda-core").Buffer


def test_writing_to_the_array_writes_to_host_memory(buffer_class):
    memory = (ctypes.c_uint8 * 24)()
    buffer = buffer_class.from_handle(ctypes.addressof(memory), 24, owner=memory)
    array = host_array(buffer, np.dtype(np.float32), (2, 3))
    array[:] = [[1, 2, 3], [4, 5, 6]]
    assert bytes(memory) == np.arange(1, 7, dtype=np.float32).tobytes()


def test_a_part_of_a_buffer_starts_at_the_same_address(buffer_class):
    memory = (ctypes.c_uint8 * 24)()
    buffer = buffer_class.from_handle(ctypes.addressof(memory), 24, owner=memory)
    first = part(buffer, 8)
    assert (int(first.handle), first.size) == (int(buffer.handle), 8)


class _Engine:
    """A fake engine with the given `tensors`: name, mode, type and shape of each."""

    def __init__(self, *tensors: tuple) -> None:
        self.num_io_tensors = len(tensors)
        self.names, modes, dtypes, shapes = zip(*tensors, strict=True)
        self.get_tensor_name = self.names.__getitem__
        self.get_tensor_mode, self.get_tensor_dtype, self.get_tensor_shape = (
            dict(zip(self.names, values, strict=True)).__getitem__ for values in (modes, dtypes, shapes)
        )


def test_an_engine_whose_inputs_or_outputs_differ_from_its_description_is_refused(rtx):
    """Otherwise the GPU could write past the end of the buffers."""
    library = Library(flavor="rtx", module=rtx, title="TensorRT-RTX", logger=None, errors=[])
    kind, mode = rtx.DataType, rtx.TensorIOMode
    patches = ("patches", mode.INPUT, kind.FLOAT, (-1, 3, 57, 57))
    outputs = ("probabilities", mode.OUTPUT, kind.FLOAT, (-1, 7))
    described = "patches", np.dtype(np.float32), (3, 57, 57), 7
    check_signature(library, _Engine(patches, outputs), *described)
    images = ("images", mode.INPUT, kind.UINT8, (4, 64, 64, 3))
    check_signature(library, _Engine(outputs, images), "images", np.dtype(np.uint8), (64, 64, 3), 7)
    for engine in (
        _Engine(patches, (*outputs[:3], (-1, 8))),
        _Engine(patches, (*outputs[:2], kind.HALF, outputs[3])),
        _Engine((*patches[:3], (-1, 3, 58, 57)), outputs),
        _Engine((*patches[:2], kind.HALF, patches[3]), outputs),
        _Engine((patches[0], mode.OUTPUT, *patches[2:]), outputs),
        _Engine(images, outputs),
        _Engine(patches, outputs, ("more", *outputs[1:])),
        _Engine(patches),
    ):
        with pytest.raises(ModelFileError, match="inputs or outputs differ from its description"):
            check_signature(library, engine, *described)


class _Device:
    """A fake stream, graph builder, execution context and buffers in one object.

    It logs the operations that are run, and collects the ones that are captured in the graph.
    """

    handle = 7

    def __init__(self, *, can_capture: bool = True) -> None:
        self.log: list[str] = []
        self.captured: list[str] | None = None
        self.can_capture = can_capture

    def _note(self, operation: str) -> None:
        (self.log if self.captured is None else self.captured).append(operation)

    def copy(self, name: str):
        device = self

        class Source:
            def copy_to(self, target: object, *, stream: object) -> None:
                assert stream is device
                device._note(name)

        return Source(), object()

    def execute_async_v3(self, handle: int) -> bool:
        assert handle == self.handle
        self._note("run")
        return self.captured is None or self.can_capture

    def create_graph_builder(self):
        return self

    def begin_building(self):
        self.captured = []
        return self

    def end_building(self):
        return self

    def complete(self):
        graph = _Device()
        graph.log = self.log
        graph.launch = lambda stream, work=tuple(self.captured): self.log.append(("graph", *work))
        return graph

    def close(self) -> None:
        self.captured = None


def shape_on(device: _Device, *, capture: bool) -> _Shape:
    library = Library(flavor="tensorrt", module=None, title="TensorRT", logger=None, errors=[])
    return _Shape(library, device, [device.copy("in"), device.copy("out")], capture=capture)


def test_the_first_launch_runs_directly_the_second_captures_and_later_ones_replay():
    device = _Device()
    shape = shape_on(device, capture=True)
    for _ in range(3):
        shape.launch(device)
    graph = ("graph", "in", "run", "out")
    assert device.log == ["in", "run", "out", graph, graph]


def test_work_that_cannot_be_captured_runs_without_a_graph():
    device = _Device(can_capture=False)
    shape = shape_on(device, capture=True)
    for _ in range(3):
        shape.launch(device)
    assert device.log == ["in", "run", "out"] * 3
    assert device.captured is None


def test_if_a_capture_cannot_begin_work_runs_without_a_graph():
    device = _Device()
    device.begin_building = lambda: 1 / 0
    shape = shape_on(device, capture=True)
    for _ in range(3):
        shape.launch(device)
    assert device.log == ["in", "run", "out"] * 3


def test_rtx_captures_its_graph_itself():
    device = _Device()
    shape = shape_on(device, capture=False)
    for _ in range(3):
        shape.launch(device)
    assert device.log == ["in", "run", "out"] * 3


class _Compiler:
    """A fake for RTX's engine, its runtime configuration and its cache of compiled kernels, with RTX's method names."""

    def __init__(self, rtx) -> None:
        self.cache = rtx.IRuntimeCache  # the real class, to check that it has the methods that are faked here
        self.kernels, self.given, self.fails = b"", b"", False

    def create_runtime_config(self):
        return self

    def set_execution_context_allocation_strategy(self, strategy: object) -> None:
        pass

    def create_runtime_cache(self):
        return self

    def set_runtime_cache(self, cache: object) -> bool:
        return True

    def deserialize(self, blob: bytes) -> bool:
        assert hasattr(self.cache, "deserialize")
        self.given = self.kernels = blob
        return True

    def serialize(self) -> bytes | None:
        assert hasattr(self.cache, "serialize")
        return None if self.fails else self.kernels


class _Owner:
    """The attributes of a `_Net` that `_Net._context_strategy` uses."""

    def __init__(self, rtx, compiler: _Compiler) -> None:
        self._library = Library(flavor="rtx", module=rtx, title="TensorRT-RTX", logger=None, errors=[])
        self._is_rtx, self._engine = True, compiler


def one_process(rtx, *, compiles: bytes = b"", name: str = "name", fails: bool = False) -> bytes:
    """Open a net, compile more kernels and free the net. Returns the kernels that were in the cache."""
    compiler = _Compiler(rtx)
    net = _Owner(rtx, compiler)
    _Net._context_strategy(net, name)
    compiler.kernels, compiler.fails = compiler.given + compiles, fails
    del net
    return compiler.given


def test_rtx_kernels_are_compiled_once_for_all_processes(rtx, cache):
    assert one_process(rtx, compiles=b"first") == b""
    assert one_process(rtx, compiles=b"second") == b"first"
    written = (cache / "name.kernels").stat().st_mtime_ns
    assert one_process(rtx) == b"firstsecond"
    assert (cache / "name.kernels").stat().st_mtime_ns == written, "without new kernels, the file is not written"
    assert one_process(rtx, name="another engine, version, GPU or driver") == b""


def test_kernels_that_cannot_be_stored_are_ignored(rtx, cache):
    assert one_process(rtx, compiles=b"first", fails=True) == b""
    assert not cache.exists()


@pytest.mark.gpu
@pytest.mark.parametrize("flavor", ["rtx", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_agrees_with_the_reference(tmp_path, flavor, precision):
    pytest.importorskip({"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}[flavor], reason="needs TensorRT")
    try:
        gpu = this_gpu()
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    artifact = random_artifact()
    info = info_of(precision=precision, batch=Batch(min=2, opt=3, max=4))
    capabilities = (gpu.capability,) if flavor == "rtx" else ()
    built = build(artifact, info, flavor=flavor, capabilities=capabilities)
    assert built.description.sha256 == hashlib.sha256(built.plan).hexdigest()
    backend = EngineBackend(saved(tmp_path, built, cached=False))
    for count in (1, 4, 11, 11, 11, 0):
        patches = large_patches(count=count)
        expected = ReferenceBackend(artifact).infer(patches)
        np.testing.assert_allclose(backend.infer(patches), expected, atol={"fp32": 1e-5, "fp16": 2e-2}[precision])
