"""A fake cuda.core for tests without a GPU: its memory is host memory, and its streams run work immediately.

The classes have cuda.core's names, methods and parameters, which test_gpu_plugin.py checks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import ClassVar


class Stream:
    """Runs work immediately, or collects it for the graph during a capture."""

    all: ClassVar[dict[int, Stream]] = {}
    can_capture = True

    def __init__(self) -> None:
        self.handle = 1 + len(self.all)
        self.captured: list[Callable[[], object]] | None = None
        self.all[self.handle] = self

    @classmethod
    def of(cls, handle: int) -> Stream:
        return cls.all[handle] if handle else cls()

    def do(self, work: Callable[[], object]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def sync(self) -> None:
        assert self.captured is None

    def create_graph_builder(self) -> GraphBuilder:
        return GraphBuilder(self)


class GraphBuilder:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.work = stream, ()

    def begin_building(self) -> GraphBuilder:
        if not Stream.can_capture:
            raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self.stream.captured = []
        return self

    def end_building(self) -> GraphBuilder:
        self.work, self.stream.captured = self.stream.captured, None
        return self

    def complete(self) -> Graph:
        return Graph(self.work)

    def close(self) -> None:
        self.stream.captured = None


class Graph:
    def __init__(self, work: list[Callable[[], object]]) -> None:
        self.work = work

    def launch(self, stream: Stream) -> None:
        for work in self.work:
            stream.do(work)


class Buffer:
    def __init__(self, handle: int, size: int, owner: object) -> None:
        self.handle, self.size, self.owner = handle, size, owner

    @classmethod
    def from_handle(cls, ptr: int, size: int, mr: object = None, owner: object = None) -> Buffer:
        return cls(ptr, size, owner)

    @classmethod
    def new(cls, size: int) -> Buffer:
        memory = (ctypes.c_uint8 * (size + 16))()
        return cls(-(-ctypes.addressof(memory) // 16) * 16, size, memory)

    def copy_to(self, dst: Buffer, *, stream: Stream) -> None:
        assert self.size == dst.size
        stream.do(lambda: ctypes.memmove(dst.handle, self.handle, self.size))


class Device:
    def __init__(self, device_id: int) -> None:
        assert device_id == 0

    def set_current(self) -> None:
        """Do nothing: there is only one device."""

    def create_stream(self) -> Stream:
        return Stream()

    def allocate(self, size: int, *, stream: Stream) -> Buffer:
        return Buffer.new(size)


class LegacyPinnedMemoryResource:
    def allocate(self, size: int) -> Buffer:
        return Buffer.new(size)
