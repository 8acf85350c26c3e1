"""HTTP. tritonclient's client uses gevent, whose sockets belong to the thread that made them."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import clear_frames
from typing import Any, NoReturn

import msgspec
import numpy as np

from alexnet_infer.backends.remote.address import ServerAddress
from alexnet_infer.backends.remote.client import (
    CONNECT,
    MAX_ABOUT,
    MAX_ANSWER,
    WRONG,
    Answer,
    BusyError,
    Client,
    Config,
    Metadata,
    Missing,
    Tensor,
    UnsupportedError,
)
from alexnet_infer.errors import BackendError, ModelFileError, cause_of, one_line, shown
from alexnet_infer.graph.served import SHA256_KEY

MAX_ERROR = 1 << 20
"""Bytes of an error's text."""
CHUNK = 1 << 16


class _Limited:
    """A response as tritonclient reads it, of at most `most` bytes. Raises ValueError if it has more, or is compressed.

    A compressed one was not asked for, and may be a small answer that becomes a huge one.
    """

    def __init__(self, response: Any, most: int) -> None:
        self._response, self._left, self._most = response, most, most
        self.status_code: int = response.status_code
        if self.status_code != 200:
            return  # its text is not needed
        if (encoding := response.get("Content-Encoding")) not in (None, "identity"):
            raise ValueError(f"Content-Encoding {shown(encoding)}: expected none")
        if (response.content_length or 0) > most:
            raise ValueError(f"{response.content_length:,} bytes: expected at most {most:,}")

    def get(self, header: str) -> Any:
        return self._response.get(header)

    def read(self, length: int | None = None) -> bytes:
        content = bytearray()
        while length is None or len(content) < length:
            part = self._response.read(CHUNK if length is None else min(CHUNK, length - len(content)))
            if not part:
                break
            self._left -= len(part)
            if self._left < 0:
                raise ValueError(f"more than {self._most:,} bytes")
            content += part
        return bytes(content)


class HttpClient(Client):
    def __init__(self, address: ServerAddress) -> None:
        super().__init__(address)
        import gevent
        import gevent.ssl
        import tritonclient.http as http
        from geventhttpclient.response import HTTPParseError
        from tritonclient.utils import InferenceServerException

        class Noting(http.InferenceServerClient):
            """Limits answers, and notes what tritonclient doesn't say: the status, and when to try again."""

            status = 0
            retry_after: object = None

            def _get(self, *arguments: Any, **named: Any) -> _Limited:
                return self._limited(super()._get(*arguments, **named), MAX_ABOUT)

            def _post(self, *arguments: Any, **named: Any) -> _Limited:
                return self._limited(super()._post(*arguments, **named), MAX_ANSWER)

            def _limited(self, response: Any, most: int) -> _Limited:
                self.status, self.retry_after = response.status_code, response.get("Retry-After")
                return _Limited(response, most if response.status_code == 200 else MAX_ERROR)

        self._gevent, self._http = gevent, http
        self._hub, self._greenlet = gevent.get_hub(), gevent.getcurrent()
        self._waiting = False
        """Whether its greenlet waits for the server."""
        self._broken, self._refusal = HTTPParseError, InferenceServerException
        port = "" if address.host.rpartition("]")[2].count(":") else (":443" if address.encrypted else ":80")
        self._client = Noting(
            address.host + port + address.base,
            connection_timeout=CONNECT,
            network_timeout=address.timeout,
            ssl=address.encrypted,
            ssl_context_factory=gevent.ssl.create_default_context if address.encrypted else None,
        )

    def server(self) -> str:
        with self._failures():
            if not self._client.is_server_live():
                raise self._odd(f"doesn't say that it is live (GET /v2/health/live: {self._client.status})")
            about = self._client.get_server_metadata()
            return f"{one_line(about['name'])[:60]} {one_line(about['version'])[:40]}"

    def metadata(self) -> Metadata:
        with self._failures(missing=self._unknown):
            fields = self._client.get_model_metadata(self._address.name, self._address.version)
        return self._metadata(fields)

    def ready(self) -> bool:
        with self._failures():
            return self._client.is_model_ready(self._address.name, self._address.version)

    def config(self) -> Config | None:
        try:
            with self._failures(missing=UnsupportedError):
                fields = self._client.get_model_config(self._address.name, self._address.version)
        except UnsupportedError:
            return None
        try:
            parameters = fields.get("parameters") or {}
            texts = {key: value["string_value"] for key, value in parameters.items() if "string_value" in value}
            return Config(parameters=texts, max_batch=_whole(fields.get("max_batch_size", 0)))
        except (AttributeError, TypeError, ValueError) as error:
            raise self._odd(f"its configuration is not that of a model ({one_line(error)})") from None

    def infer(self, source: Tensor, output: Tensor, inputs: np.ndarray) -> Answer:
        with self._failures(asking=False):
            tensor = self._http.InferInput(source.name, list(inputs.shape), source.datatype)
            tensor.set_data_from_numpy(inputs)
            result = self._client.infer(
                self._address.name,
                [tensor],
                self._address.version,
                outputs=[self._http.InferRequestedOutput(output.name)],
            )
            values, about = result.as_numpy(output.name), result.get_response()
            if values is None:
                raise ValueError(f"without the output {shown(output.name)}")
            tensor = result.get_output(output.name)
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                _check_numbers(tensor["data"])
            elif size != values.nbytes:
                raise ValueError(f"{size} bytes for {values.nbytes}")
            sha256 = (about.get("parameters") or {}).get(SHA256_KEY)
            return Answer(
                values=values, model=about["model_name"], version=str(about.get("model_version") or ""), sha256=sha256
            )

    def close(self) -> None:
        self._client.close()

    def end(self) -> None:
        self.close()
        self._hub.destroy(destroy_loop=True)  # this thread's event loop has open files

    def abort(self) -> None:
        with suppress(Exception):  # it has just ended
            self._hub.loop.run_callback_threadsafe(self._throw)

    def _throw(self) -> None:
        if self._waiting:
            self._greenlet.throw(OSError(errno.ECANCELED, "stopped"))

    @contextmanager
    def _failures(self, missing: Missing | None = None, *, asking: bool = True) -> Iterator[None]:
        """Turn what tritonclient and its libraries raise into this module's errors.

        `missing` makes the error if the server says that there is no such thing. `asking`: about the server or model.
        """
        began = time.monotonic()
        try:
            with self._gevent.Timeout(CONNECT + self._address.timeout), _released():  # also for an answer that trickles
                self._waiting = True
                yield
        except (self._gevent.Timeout, TimeoutError):
            raise self._slow(time.monotonic() - began) from None
        except self._refusal as error:
            self._raise(str(error.status()), one_line(error.message()), missing)
        except self._broken as error:
            raise self._odd(f"the connection was closed, or has another protocol ({one_line(error)})") from None
        except OSError as error:
            raise self._unreachable(cause_of(error)) from None
        except WRONG as error:
            raise self._unreadable(error, asking=asking) from None
        finally:
            self._waiting = False

    def _raise(self, status: str, reason: str, missing: Missing | None) -> NoReturn:
        if status == "503":
            raise BusyError(reason, _pause(self._client.retry_after)) from None
        if status in ("400", "404") and missing is not None:  # Triton says 400 of an unknown model, KServe 404
            raise missing(reason) from None
        if status.startswith("5"):
            raise self._failed(status, reason) from None
        request = status in ("400", "404", "413")  # others are about the user, the rate or another place
        raise self._refused(status, reason, ModelFileError if request else BackendError) from None


@contextmanager
def _released() -> Iterator[None]:
    """Let go of the response, and so of its socket, if an error is raised: sockets must be closed in their thread."""
    try:
        yield
    except BaseException as error:
        each: BaseException | None = error
        while each is not None:
            clear_frames(each.__traceback__)
            each = each.__context__
        raise


def _check_numbers(data: object) -> None:
    """Raise ValueError if a tensor in JSON, flat or in rows, is not of numbers: numpy takes true and "1" for 1."""
    rows = isinstance(data, list) and data and isinstance(data[0], list)
    msgspec.convert(data, list[list[float]] if rows else list[float])


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"max_batch_size={shown(value)}")
    return value


def _pause(header: object) -> float | None:
    """Return the seconds in a Retry-After header, or None for a date or anything else."""
    return float(header) if isinstance(header, str) and header.isascii() and header.isdigit() else None
