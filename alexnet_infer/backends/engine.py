"""TensorRT and TensorRT-RTX engines, on a GPU that they were built for.

One file: an engine's buffers, contexts and CUDA graphs hold pointers to each other, and are read together.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import OrderedDict
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import EnginePlatform, read_engine
from alexnet_infer.engines.library import Gpu, Library, deserialize, load_library, this_gpu
from alexnet_infer.errors import BackendError, ModelFileError, listed, one_line
from alexnet_infer.graph.info import Batch
from alexnet_infer.graph.model import SQUARES_INPUT
from alexnet_infer.graph.net import INPUT, OUTPUT

SHAPES_KEPT = 4
"""Number of batch sizes whose execution contexts and CUDA graphs are kept: the full batch and some remainders."""


class EngineBackend:
    """An engine file in the runtime that built it.

    An engine is code. It is refused unless this user's cache records that it was built here, or `trust` is true. Its
    hash, trust, version and GPU are checked before it is loaded.

    Raises ModelFileError if the file is damaged, has no description or is not trusted, and BackendError if the runtime
    or GPU is missing or is not the one that the engine was built for.
    """

    device = "cuda"
    outputs = (OUTPUT,)

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        built = read_engine(path)
        description, info = built.description, built.description.info
        if info.outputs != self.outputs:
            raise ModelFileError(
                f"{path}: returns {listed(info.outputs)}: expected an engine that returns probabilities"
            )
        if not trust and not engine_cache.is_ours(description):
            raise ModelFileError(
                f"{path}: not built by you on this machine, or changed since; an engine is code that runs with your "
                "permissions: build your own with alexnet-infer export, or add --trust-engine if you trust its source"
            )
        platform = description.platform
        library = load_library(platform.flavor)
        check_version(path, platform, library.version)
        gpu = this_gpu()
        check_gpu(path, platform, gpu)
        manifest = description.manifest
        side, patch = manifest.preprocessing.size, manifest.preprocessing.patch
        self.manifest, self.info, self.takes_squares = manifest, info, info.takes_squares
        self.runtime = "tensorrt-rtx" if platform.flavor == "rtx" else "tensorrt"
        self.precision = info.precision
        self.description = f"{platform.title}, {gpu.name}, {info.precision}"
        self._shape = (side, side, 3) if info.takes_squares else (3, patch, patch)
        self._dtype = np.dtype(np.uint8 if info.takes_squares else np.float32)
        self._classes = len(manifest.classes)
        self._lock = threading.Lock()
        facts = {"engine": description.sha256, "version": library.version, "gpu": gpu.name, "driver": gpu.driver}
        signature = self._shape, self._dtype, self._classes
        try:
            self._net = _Net(library, built.plan, info.batch, *signature, kernels=engine_cache.key(facts))
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from None

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 [N, classes].

        `inputs` are patches, float32 [N, 3, patch, patch] with the mean subtracted, or squares, uint8 [N, S, S, 3], for
        an engine that cuts its views itself. Calls from several threads run one after the other. Raises BackendError if
        the GPU fails.
        """
        assert (inputs.dtype, inputs.shape[1:]) == (self._dtype, self._shape), (inputs.dtype, inputs.shape)
        results = np.empty((len(inputs), self._classes), np.float32)
        begin = 0
        with self._lock:
            for count, size in calls(len(inputs), self.info.batch):
                results[begin : begin + count] = self._net(inputs[begin : begin + count], size)
                begin += count
        return results

    def activations(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the probabilities by their name. Inputs and errors are those of `infer`."""
        return {OUTPUT: self.infer(inputs)}


def calls(count: int, batch: Batch) -> list[tuple[int, int]]:
    """Split `count` images into calls: a list of (number of images, batch size).

    Full batches come first, so that few sizes occur. Only the last call can have fewer images than its batch size; the
    rest of the batch is padding.
    """
    full, rest = divmod(count, batch.max)
    return [(batch.max, batch.max)] * full + ([(rest, max(rest, batch.min))] if rest else [])


def check_version(path: Path, platform: EnginePlatform, version: str) -> None:
    """Raise BackendError unless TensorRT has the version that built the engine, the only one that can run it."""
    if version != platform.version:
        package = "tensorrt-rtx" if platform.flavor == "rtx" else "tensorrt"
        raise BackendError(
            f"{path}: built by {platform.title}, but {version} is installed: "
            f"export it again, or pip install {package}=={platform.version}"
        )


def check_gpu(path: Path, platform: EnginePlatform, gpu: Gpu) -> None:
    """Raise BackendError unless the engine was built for `gpu`."""
    if gpu.capability not in platform.compute_capabilities:
        raise BackendError(
            f"{path}: built for compute capability {', '.join(platform.compute_capabilities)}, but this {gpu.name} has "
            f"{gpu.capability}: export it again for this GPU"
        )
    if platform.gpu is not None and platform.gpu != gpu.name:
        raise BackendError(f"{path}: built for {platform.gpu}, but this GPU is {gpu.name}: export it again on this GPU")


def check_signature(
    library: Library, engine: Any, source: str, dtype: np.dtype, shape: tuple[int, ...], classes: int
) -> None:
    """Raise ModelFileError unless the engine's inputs and outputs are those in its description.

    Buffers are allocated from the description, and a GPU silently writes past the end of a buffer. The description's
    hash binds it to the engine, but someone else may have written both.
    """
    trt = library.module
    kind = trt.DataType.UINT8 if dtype == np.uint8 else trt.DataType.FLOAT
    expected = {
        source: (trt.TensorIOMode.INPUT, kind, shape),
        OUTPUT: (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (classes,)),
    }
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    actual = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:])
        for name in names
    }
    if actual != expected:
        raise ModelFileError("its inputs or outputs differ from its description: export it again")


class _Net:
    """A deserialised engine with its memory: device buffers for a full batch, and pinned host memory for the copies.

    The GPU copies from and to pinned memory without the CPU.
    """

    def __init__(
        self,
        library: Library,
        plan: bytes,
        batch: Batch,
        shape: tuple[int, ...],
        dtype: np.dtype,
        classes: int,
        kernels: str,
    ) -> None:
        from cuda.core import Device, LegacyPinnedMemoryResource

        self._library, self._shape, self._is_rtx = library, shape, library.flavor == "rtx"
        self._input = SQUARES_INPUT if dtype == np.uint8 else INPUT
        self._runtime, self._engine = deserialize(library, plan)
        check_signature(library, self._engine, self._input, dtype, shape, classes)
        self._bytes = prod(shape) * dtype.itemsize, classes * 4
        input_bytes, output_bytes = (batch.max * size for size in self._bytes)
        try:
            self._device = Device(0)
            self._stream = self._device.create_stream()
            pinned = LegacyPinnedMemoryResource()
            self._host_in, self._host_out = pinned.allocate(input_bytes), pinned.allocate(output_bytes)
            self._in = self._device.allocate(input_bytes, stream=self._stream)
            self._out = self._device.allocate(output_bytes, stream=self._stream)
            # Contexts run one after the other on one stream, so they can share their working memory.
            self._scratch_bytes = self._engine.device_memory_size_v2
            self._scratch = self._device.allocate(max(self._scratch_bytes, 256), stream=self._stream)
            self._stream.sync()
        except Exception as error:  # CUDA's errors have no public base class
            raise BackendError(
                f"{library.title}: {one_line(error)}; export the engine with a smaller --batch to use less memory"
            ) from None
        self._inputs = host_array(self._host_in, dtype, (batch.max, *shape))
        self._outputs = host_array(self._host_out, np.dtype(np.float32), (batch.max, classes))
        self._strategy = self._context_strategy(kernels)
        self._shapes: OrderedDict[int, _Shape] = OrderedDict()

    def __call__(self, inputs: np.ndarray, size: int) -> np.ndarray:
        """Return the probabilities of `inputs`, computed in a batch of `size`; valid until the next call."""
        from cuda.core import Device

        Device(0).set_current()  # CUDA keeps the current device per thread
        count = len(inputs)
        self._inputs[:count] = inputs
        self._inputs[count:size] = 0
        shape = self._shapes.pop(size, None) or self._open(size)
        self._shapes[size] = shape
        if len(self._shapes) > SHAPES_KEPT:
            self._shapes.popitem(last=False)
        try:
            shape.launch(self._stream)
            self._stream.sync()
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{self._library.title}: {one_line(error)}") from None
        return self._outputs[:count]

    def _open(self, size: int) -> _Shape:
        context = self._context()
        copies = [
            (part(self._host_in, size * self._bytes[0]), part(self._in, size * self._bytes[0])),
            (part(self._out, size * self._bytes[1]), part(self._host_out, size * self._bytes[1])),
        ]
        succeeded = (
            context.set_input_shape(self._input, (size, *self._shape)),
            context.set_tensor_address(self._input, int(self._in.handle)),
            context.set_tensor_address(OUTPUT, int(self._out.handle)),
        )
        if not all(succeeded):
            raise BackendError(f"{self._library.title}: {self._library.complaint(f'no batch of {size}')}")
        return _Shape(self._library, context, copies, capture=not self._is_rtx)

    def _context(self) -> Any:
        """Create an execution context that uses the shared scratch memory.

        A CUDA graph belongs to one context with one shape, so each shape has its own context.
        """
        self._library.errors.clear()
        context = self._engine.create_execution_context(self._strategy)
        if context is None:
            raise BackendError(f"{self._library.title}: {self._library.complaint('no execution context')}")
        context.set_device_memory(int(self._scratch.handle), self._scratch_bytes)
        return context

    def _context_strategy(self, kernels: str) -> Any:
        """Return how execution contexts are created: with memory that this class allocates.

        RTX compiles kernels for a new shape in the background while it is already running, and captures its own CUDA
        graph when they are ready. The kernels are stored in the engine cache under the name `kernels`.
        """
        trt = self._library.module
        user_managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._is_rtx:
            return user_managed
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(user_managed)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        compiled = config.create_runtime_cache()
        known = engine_cache.read_kernels(kernels)
        if known:
            compiled.deserialize(known)  # ignores kernels of another version or GPU
        config.set_runtime_cache(compiled)  # all contexts share the compiled kernels
        # RTX continues to compile after a launch, so the kernels are saved when this object or the process ends.
        weakref.finalize(self, keep_kernels, compiled, kernels, known)
        return config


def keep_kernels(compiled: Any, name: str, known: bytes) -> None:
    """Write RTX's compiled kernels to the engine cache, unless they are the ones that were read from it."""
    with suppress(Exception):  # the next process can compile them again
        content = bytes(compiled.serialize())
        if content != known:
            engine_cache.write_kernels(name, content)


class _Shape:
    """One batch size: an execution context, the copies before and after it, and their CUDA graph.

    The first launch captures nothing, because TensorRT then does work that depends on the shape and can't be captured.
    The second launch captures the graph, so a size that occurs only once costs no capture.
    """

    def __init__(self, library: Library, context: Any, copies: list[tuple[Any, Any]], *, capture: bool) -> None:
        self._library, self._context, self._copies, self._capture = library, context, copies, capture
        self._launches = 0
        self._graph: Any = None

    def launch(self, stream: Any) -> None:
        """Put the work on the stream without waiting for it."""
        if self._capture and self._launches == 1:
            self._graph = self._captured(stream)
        self._launches += 1
        if self._graph is None:
            self._enqueue(stream)
        else:
            self._graph.launch(stream)

    def _captured(self, stream: Any) -> Any:
        """Capture the work as a CUDA graph. Returns None if that fails; the work is then launched without a graph."""
        builder = stream.create_graph_builder()
        try:
            builder.begin_building()
            self._enqueue(stream)
            return builder.end_building().complete()
        except Exception:
            return None
        finally:
            with suppress(Exception):  # the capture may have ended already
                builder.close()

    def _enqueue(self, stream: Any) -> None:
        (host_in, device_in), (device_out, host_out) = self._copies
        host_in.copy_to(device_in, stream=stream)
        self._library.errors.clear()
        if not self._context.execute_async_v3(int(stream.handle)):
            raise BackendError(f"{self._library.title}: {self._library.complaint('the GPU failed')}")
        device_out.copy_to(host_out, stream=stream)


def host_array(buffer: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return the host memory of a cuda.core Buffer as an array, valid as long as the buffer."""
    return np.frombuffer((ctypes.c_uint8 * buffer.size).from_address(int(buffer.handle)), dtype).reshape(shape)


def part(buffer: Any, size: int) -> Any:
    """Return the first `size` bytes of a cuda.core Buffer as a Buffer."""
    from cuda.core import Buffer

    return Buffer.from_handle(int(buffer.handle), size, owner=buffer)
