"""The two protocols of a server, HTTP and gRPC, as one small client. NVIDIA's `tritonclient` speaks them.

What goes wrong is one of three errors: `BusyError` for a 503, which may be tried again; BackendError if the server
can't be reached, is too slow or speaks another protocol; ModelFileError if it has no such model or answers wrongly.

A client belongs to the thread that made it.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import msgspec
import numpy as np

from alexnet_infer.backends.remote.address import ServerAddress
from alexnet_infer.errors import BackendError, ModelFileError, one_line, shown
from alexnet_infer.packages import missing_package

CONNECT = 10.0
"""Seconds that connecting may take."""
MAX_ANSWER = 1 << 30
"""Bytes of an answer: 250 images of 1,000,000 classes."""
MAX_ABOUT = 64 << 20
"""Bytes of what a server says of itself and its model: a manifest of 1,000,000 classes."""


WRONG = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError, EOFError),
    struct.error,
)
"""What tritonclient raises for JSON and tensors that are not as they should be."""

Missing = Callable[[str], Exception]
"""Makes the error if the server says, in a text, that there is no such thing."""


class BusyError(Exception):
    """The server is overloaded (HTTP 503). `retry_after` is the number of seconds that it asks to wait, if it does."""

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnsupportedError(Exception):
    """The server lacks an extension."""


class Tensor(msgspec.Struct, frozen=True):
    """An input or output of a model, in its metadata. A dimension of -1 is free."""

    name: str
    datatype: str
    shape: list[int]

    def __str__(self) -> str:
        return f"{shown(self.name)} {shown(self.datatype).strip(chr(39))} {shown(self.shape)}"


class Metadata(msgspec.Struct, frozen=True):
    """What a model takes and returns, as the server says."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is read from Triton's configuration of a model."""

    parameters: Mapping[str, str]
    max_batch: int
    """0 if the model's shapes have no batch dimension of their own, or if it isn't known."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one request."""

    values: np.ndarray
    model: str
    version: str
    sha256: str | None
    """The digest of what computed the values, if the server sends one with each answer."""


class Client(ABC):
    """A connection that is kept open."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address

    @abstractmethod
    def server(self) -> str:
        """Return the server's name and version. Raises BackendError unless it is one of this protocol, and live."""

    @abstractmethod
    def metadata(self) -> Metadata:
        """Return the model's metadata. Raises ModelFileError if there is no such model."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether the model can be used now."""

    @abstractmethod
    def config(self) -> Config | None:
        """Return the model's configuration, or None if the server has no such extension."""

    @abstractmethod
    def infer(self, source: Tensor, output: Tensor, inputs: np.ndarray) -> Answer:
        """Return the model's answer for `inputs`."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def abort(self) -> None:
        """Break off a request in progress. Any thread may call it."""

    def end(self) -> None:
        """Close the connection, and what this thread has for it. No other client may be made in this thread."""
        self.close()

    # Errors.

    def _metadata(self, fields: object) -> Metadata:
        try:
            return msgspec.convert(fields, Metadata)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"its metadata is not that of a model ({one_line(error)})") from None

    def _odd(self, what: str) -> BackendError:
        return BackendError(f"{self._address}: {what}: expected a server of the Open Inference Protocol (KServe v2)")

    def _slow(self, seconds: float) -> BackendError:
        if seconds < 0.9 * self._address.timeout:  # timers are not exact
            return self._unreachable(f"not within {seconds:.0f} s")
        return BackendError(
            f"{self._address}: no answer for {self._address.timeout:g} s: see the server, or wait longer with "
            f"?timeout={min(10 * self._address.timeout, 3600):g} after the address"
        )

    def _unreachable(self, cause: str) -> BackendError:
        return BackendError(f"{self._address}: no connection ({cause}): is the server running, and on that port?")

    def _unknown(self, reason: str) -> ModelFileError:
        return ModelFileError(f"{self._address}: the server has no such model (it says: {reason})")

    def _refused(
        self, status: str, reason: str, kind: type[ModelFileError | BackendError] = ModelFileError
    ) -> ModelFileError | BackendError:
        return kind(f"{self._address}: the server refused the request ({status}: {reason})")

    def _failed(self, status: str, reason: str) -> BackendError:
        return BackendError(f"{self._address}: the server failed ({status}: {reason})")

    def _unreadable(self, error: Exception, *, asking: bool = False) -> BackendError | ModelFileError:
        cause = one_line(error) or type(error).__name__
        if asking:
            return self._odd(f"it doesn't answer in this protocol ({cause})")
        return ModelFileError(f"{self._address}: an answer that can't be read ({cause}): its sizes or types are wrong")


def connect(address: ServerAddress) -> Client:
    """Return a client. It connects with the first request. Raises BackendError if tritonclient is missing."""
    from alexnet_infer.backends.remote.grpc import GrpcClient
    from alexnet_infer.backends.remote.http import HttpClient

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would log each failure on stderr, too
    try:
        import_module("tritonclient")
        import_module("grpc" if address.over_grpc else "geventhttpclient")  # tritonclient's error doesn't name it
        return (GrpcClient if address.over_grpc else HttpClient)(address)
    except ImportError as error:
        raise missing_package(error, f"a server as a model ({address.scheme}://)") from None
