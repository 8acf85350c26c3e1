"""gRPC."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np

from alexnet_infer.backends.remote.address import ServerAddress
from alexnet_infer.backends.remote.client import (
    CONNECT,
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
from alexnet_infer.errors import one_line, shown
from alexnet_infer.graph.served import SHA256_KEY


class GrpcClient(Client):
    def __init__(self, address: ServerAddress) -> None:
        super().__init__(address)
        import tritonclient.grpc as grpc
        from tritonclient.utils import InferenceServerException

        self._grpc, self._refusal = grpc, InferenceServerException
        self._client = grpc.InferenceServerClient(
            address.host,
            ssl=address.encrypted,
            root_certificates=os.environ.get("SSL_CERT_FILE"),
            channel_args=[
                ("grpc.enable_http_proxy", 0),  # as over HTTP
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", MAX_ANSWER),
            ],
        )

    def server(self) -> str:
        with self._failures():
            if not self._client.is_server_live(client_timeout=min(CONNECT, self._address.timeout)):
                raise self._odd("says that it is not live")
            about = self._client.get_server_metadata(client_timeout=self._address.timeout)
            return f"{one_line(about.name)[:60]} {one_line(about.version)[:40]}"

    def metadata(self) -> Metadata:
        with self._failures(missing=self._unknown):
            about = self._client.get_model_metadata(
                self._address.name, self._address.version, client_timeout=self._address.timeout
            )
        inputs, outputs = (
            [{"name": each.name, "datatype": each.datatype, "shape": [*each.shape]} for each in tensors]
            for tensors in (about.inputs, about.outputs)
        )
        return self._metadata({"name": about.name, "inputs": inputs, "outputs": outputs})

    def ready(self) -> bool:
        with self._failures():
            return self._client.is_model_ready(
                self._address.name, self._address.version, client_timeout=self._address.timeout
            )

    def config(self) -> Config | None:
        try:
            with self._failures(missing=UnsupportedError):
                config = self._client.get_model_config(
                    self._address.name, self._address.version, client_timeout=self._address.timeout
                ).config
        except UnsupportedError:
            return None
        texts = {key: value.string_value for key, value in config.parameters.items()}
        return Config(parameters=texts, max_batch=config.max_batch_size)

    def infer(self, source: Tensor, output: Tensor, inputs: np.ndarray) -> Answer:
        with self._failures(asking=False):
            tensor = self._grpc.InferInput(source.name, list(inputs.shape), source.datatype)
            tensor.set_data_from_numpy(inputs)
            result = self._client.infer(
                self._address.name,
                [tensor],
                self._address.version,
                outputs=[self._grpc.InferRequestedOutput(output.name)],
                client_timeout=self._address.timeout,
            )
            about, tensor = result.get_response(), result.get_output(output.name)
            typed = tensor is not None and tensor.datatype == "FP32" and not about.raw_output_contents
            if typed:  # the numbers are in the field of their type
                values = np.array(tensor.contents.fp32_contents, np.float32).reshape([*tensor.shape])
            else:
                values = result.as_numpy(output.name)
            if values is None:
                raise ValueError(f"without the output {shown(output.name)}")
            sha256 = about.parameters[SHA256_KEY].string_param if SHA256_KEY in about.parameters else None
            return Answer(values=values, model=about.model_name, version=about.model_version, sha256=sha256)

    def close(self) -> None:
        self._client.close()

    def abort(self) -> None:
        self._client.close()  # which may be done from any thread

    @contextmanager
    def _failures(self, missing: Missing | None = None, *, asking: bool = True) -> Iterator[None]:
        """As in `HttpClient`."""
        began = time.monotonic()
        try:
            yield
        except self._refusal as error:
            status, seconds = str(error.status()).removeprefix("StatusCode."), time.monotonic() - began
            if status == "DEADLINE_EXCEEDED" and seconds > 0.9 * min(CONNECT, self._address.timeout):
                raise self._slow(seconds) from None  # otherwise the server says it of something else
            self._raise(status, one_line(error.message()), missing)
        except WRONG as error:
            raise self._unreadable(error, asking=asking) from None

    def _raise(self, status: str, reason: str, missing: Missing | None) -> NoReturn:
        if status == "UNAVAILABLE":  # gRPC's code of a server that is overloaded, and of one that is not there
            if self._is_live():
                raise BusyError(reason, None) from None
            raise self._unreachable(reason) from None
        if status in ("NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED") and missing is not None:
            raise missing(reason) from None
        if status == "UNIMPLEMENTED":
            raise self._odd(f"has another service ({reason})") from None
        client = status in ("NOT_FOUND", "INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION")
        raise (self._refused if client else self._failed)(status, reason) from None

    def _is_live(self) -> bool:
        try:
            return self._client.is_server_live(client_timeout=min(CONNECT, self._address.timeout))
        except self._refusal:
            return False
