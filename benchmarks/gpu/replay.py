"""The engine backend's pinned copies, graph capture and replay on a GPU, without TensorRT.

`EngineBackend` runs as usual, except that two functions are replaced: `load_library` and `deserialize`. They return a
fake engine whose execution context launches the plugin's LRN kernel with the CUDA driver, on the backend's stream. Host
memory, copies, streams, CUDA graphs and threads are real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from alexnet_infer.architecture import LRN, Architecture, Dense
from alexnet_infer.backends import engine
from alexnet_infer.backends.reference import lrn
from alexnet_infer.engines.files import Built, EngineDescription, EnginePlatform, save_engine
from alexnet_infer.engines.library import Library
from alexnet_infer.export.lrn_plugin.kernel import Kernel, compile_ptx
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.net import INPUT, OUTPUT
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from benchmarks.gpu.driver import Launch

PATCH = 31
SHAPE = (3, PATCH, PATCH)
SPEC = LRN(name="norm", alpha=1.0, k=1.0)
"""With these constants, the sum matters for inputs from 0 to 1, and results stay in that range, like probabilities."""
SIZES = (8, 5, 3, 2, 1)
"""Batch sizes. There is one more than the number of contexts that the backend keeps."""
CALLS = 4
"""Consecutive calls with each size: one without a graph, the capture, and two replays."""
THREADS, CALLS_OF_A_THREAD = 2, 30
TOLERANCE = 4e-6

MODULE = SimpleNamespace(
    __version__="1.0",
    DataType=SimpleNamespace(FLOAT="float", UINT8="uint8"),
    TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
)
"""A fake `tensorrt` module with the names that the backend uses."""


class Context:
    """A fake IExecutionContext."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._addresses: dict[str, int] = {}
        self.executions = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._images = shape[0]
        return name == INPUT and shape[1:] == SHAPE

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        """Do nothing: the kernel needs no scratch memory."""

    def execute_async_v3(self, stream: int) -> bool:
        self.executions += 1
        self._launch(self._addresses[INPUT], self._images, self._addresses[OUTPUT], stream)
        return True


class Engine:
    """A fake ICudaEngine, whose output is the LRN of its input patches."""

    device_memory_size_v2 = 0

    def __init__(self, launch: Launch) -> None:
        mode, kind = MODULE.TensorIOMode, MODULE.DataType
        tensors = {INPUT: (mode.INPUT, (-1, *SHAPE)), OUTPUT: (mode.OUTPUT, (-1, int(np.prod(SHAPE))))}
        self.num_io_tensors = len(tensors)
        self.get_tensor_name = list(tensors).__getitem__
        self.get_tensor_mode = lambda name: tensors[name][0]
        self.get_tensor_shape = lambda name: tensors[name][1]
        self.get_tensor_dtype = lambda name: kind.FLOAT
        self.contexts: list[Context] = []
        self._launch = launch

    def create_execution_context(self, strategy: str) -> Context:
        self.contexts.append(Context(self._launch))
        return self.contexts[-1]


def check(capability: tuple[int, int], load: Callable[[Kernel], Launch]) -> dict[str, Any]:
    """Run batches of all sizes, first in one thread and then in two, and compare each result with float64.

    `captured` tells whether replays used a CUDA graph: each context is then executed exactly twice, the second time for
    the capture.
    """
    gpu = engine.this_gpu()  # also makes it the current GPU, before the kernel is loaded
    fake = Engine(load(compile_ptx(SPEC, *SHAPE, "fp32", capability)))
    library = Library(flavor="tensorrt", module=MODULE, title="a fake TensorRT", logger=None, errors=[])
    platform = EnginePlatform(
        flavor="tensorrt",
        version=library.version,
        compute_capabilities=(gpu.capability,),
        gpu=gpu.name,
        driver=gpu.driver,
        plugin=True,
    )
    with (
        TemporaryDirectory() as folder,
        patch.object(engine, "load_library", lambda flavor: library),
        patch.object(engine, "deserialize", lambda library, plan: (None, fake)),
    ):
        path = Path(folder, "fake.engine")
        save_engine(path, described(b"no plan", platform))
        backend = engine.EngineBackend(path, trust=True)
        errors = [error(backend, size, seed) for seed, size in enumerate(sizes())]
        captured = all(context.executions == 2 for context in fake.contexts[: len(SIZES)])
        with ThreadPoolExecutor(THREADS) as pool:
            errors += pool.map(lambda seed: worst(backend, seed), range(THREADS))
    largest = max(errors)
    return {
        "passed": captured and largest <= TOLERANCE,
        "error": largest,
        "tolerance": TOLERANCE,
        "captured": captured,
        "sizes": SIZES,
        "contexts": len(fake.contexts),
        "calls": len(errors) - THREADS + THREADS * CALLS_OF_A_THREAD,
    }


def described(plan: bytes, platform: EnginePlatform) -> Built:
    """Return a plan with the description of an engine that takes patches of `SHAPE` and returns as many values."""
    outputs = int(np.prod(SHAPE))
    architecture = Architecture(name="lrn", patch=PATCH, operations=(Dense(name="fc", units=outputs),))
    manifest = Manifest(
        name="lrn",
        architecture=architecture,
        preprocessing=Preprocessing(size=PATCH, patch=PATCH, mean=np.zeros(3)),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=f"value {i}") for i in range(outputs)),
        provenance=Provenance(data="none", recipe={}, seed=None, date=None, software="benchmarks"),
    )
    sha256 = hashlib.sha256(plan).hexdigest()
    info = ExportInfo(members=(Member(name="lrn", sha256=sha256),), batch=Batch(min=1, opt=8, max=max(SIZES)))
    return Built(
        plan=plan,
        description=EngineDescription(
            manifest=manifest, info=info, platform=platform, sha256=sha256, model_sha256=sha256
        ),
    )


def sizes() -> Iterator[int]:
    """Yield several calls of each size, then rounds in which no size's context is kept, then one larger batch."""
    for size in SIZES:
        yield from [size] * CALLS
    yield from SIZES * 2
    yield sum(SIZES)


def worst(backend: engine.EngineBackend, seed: int) -> float:
    """Return the largest error of one thread's calls."""
    rng = np.random.default_rng(seed)
    return max(error(backend, int(rng.choice(SIZES)), (seed, i)) for i in range(CALLS_OF_A_THREAD))


def error(backend: engine.EngineBackend, images: int, seed: int | tuple[int, ...]) -> float:
    """Return the largest relative error of one call, on random inputs from `seed`."""
    x = np.random.default_rng(seed).random((images, *SHAPE), np.float32)
    expected = lrn(x.astype(np.float64), SPEC).reshape(images, -1)
    relative = np.abs(backend.infer(x) - expected) / np.maximum(expected, 2.0**-14)
    return float(np.nan_to_num(relative, nan=np.inf).max())
