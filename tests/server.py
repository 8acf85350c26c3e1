"""A server of the Open Inference Protocol on the loopback interface, which can be told to misbehave: HTTP and gRPC."""

from __future__ import annotations

import functools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.graph.info import Batch, ExportInfo, FileViews, Member
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views

NUMBERS = {"UINT8": np.uint8, "FP32": np.float32}


class Origin:
    """What is served: the net in a model file, as `views`, and what the server says of it.

    `config` and `metadata` are what is sent, and may be edited. `requests` has the number of inputs of each request.
    """

    def __init__(
        self, path: Path, *, views: FileViews = "ten", sha256: str | None = "a" * 64, max_batch: int = 8, opt: int = 2
    ) -> None:
        self.net = _loaded(path, "ten" if views == "none" else views)
        manifest = self.net.manifest
        self.views, self.name = views, manifest.name
        self.served = ServedNet(
            manifest=manifest,
            info=ExportInfo(
                members=(Member(name=self.name, sha256="b" * 64),), views=views, batch=Batch(opt=opt, max=max_batch)
            ),
            sha256=sha256,
            backend="ONNX Runtime somewhere",
        )
        preprocessing = manifest.preprocessing
        side, patch = preprocessing.size, preprocessing.patch
        kind, shape = ("FP32", [3, patch, patch]) if views == "none" else ("UINT8", [side, side, 3])
        self.input = "patches" if views == "none" else "images"
        self.metadata: dict[str, Any] = {
            "name": self.name,
            "versions": ["1"],
            "platform": "tests",
            "inputs": [{"name": self.input, "datatype": kind, "shape": [-1, *shape]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.net.classes)]}],
        }
        self.parameters: dict[str, str] | None = self.served.parameters()
        """None if the server has no configurations."""
        self.max_batch = max_batch
        self.ready = True
        self.requests: list[int] = []
        self.version = "1"

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        self.requests.append(len(inputs))
        if self.views == "none":
            return self.net.backend.infer(inputs).astype(np.float32)
        return self.net.probabilities(list(inputs))

    def expected(self, squares: np.ndarray, views: Views) -> np.ndarray:
        """What a client must get for squares uint8 [N, S, S, 3]."""
        net = Net(self.net.manifest, self.net.backend, views)
        return mean_probabilities([net.probabilities(list(squares))])


@functools.cache
def _loaded(path: Path, views: Views) -> Net:
    return load(path, device="cpu", backend="onnxruntime", views=views)


class HttpServer:
    """Serves `origin`. `script` has functions that answer the next requests for inference, given the handler.

    With a `certificate`, a PEM file with its key, it speaks TLS as "localhost".
    """

    scheme = "http"

    def __init__(self, origin: Origin, certificate: Path | None = None) -> None:
        self.origin = origin
        self.script: list[Callable[[Handler], None]] = []
        self.pages: dict[str, tuple[int, bytes]] = {}
        """Path -> status and body, in place of what is served there."""
        self.paths: list[str] = []
        self.connections = 0
        self.open: list[Handler] = []
        server = self

        class Bound(Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.origin.name}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def drop(self) -> None:
        """Close the connections that clients keep."""
        for handler in self.open:
            with suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    owner: HttpServer

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1
        self.owner.open.append(self)

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def do_GET(self) -> None:
        self.owner.paths.append(self.path)
        origin = self.owner.origin
        if self.path in self.owner.pages:
            status, body = self.owner.pages[self.path]
            self.answer(body, status)
            return
        path = self.path.replace(f"/versions/{origin.version}", "")
        model = f"/v2/models/{origin.name}"
        match path:
            case "/v2/health/live":
                self.answer_json({"live": True})
            case "/v2":
                self.answer_json({"name": "stand-in", "version": "1.0", "extensions": []})
            case _ if path == model:
                self.answer_json(origin.metadata)
            case _ if path == f"{model}/ready":
                self.answer_json({"ready": origin.ready}, 200 if origin.ready else 503)
            case _ if path == f"{model}/config" and origin.parameters is not None:
                parameters = {key: {"string_value": value} for key, value in origin.parameters.items()}
                self.answer_json({"max_batch_size": origin.max_batch, "parameters": parameters})
            case _:
                self.answer_json({"error": f"nothing at {self.path}"}, 404)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.paths.append(self.path)
        (self.owner.script.pop(0) if self.owner.script else Handler.infer)(self)

    def infer(self) -> None:
        self.answer_tensor(self.owner.origin.infer(self.inputs()))

    def inputs(self) -> np.ndarray:
        """The tensor of a request: JSON, then its bytes."""
        length = int(self.headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(self.body[:length])["inputs"]
        assert tensor["name"] == self.owner.origin.input
        assert tensor["parameters"]["binary_data_size"] == len(self.body) - length
        return np.frombuffer(self.body[length:], NUMBERS[tensor["datatype"]]).reshape(tensor["shape"])

    def answer_tensor(self, values: np.ndarray, content: bytes | None = None, **changes: Any) -> None:
        """Send `values`, with `content` in place of their bytes. `changes` are fields of the tensor or the answer."""
        content = values.astype("<f4").tobytes() if content is None else content
        tensor = {"name": "probabilities", "datatype": "FP32", "shape": [*values.shape]}
        tensor |= {"parameters": {"binary_data_size": len(content)}}
        origin = self.owner.origin
        about = {"model_name": origin.name, "model_version": origin.version, "outputs": [tensor]}
        for key, value in changes.items():
            (tensor if key in tensor else about)[key] = value
        header = json.dumps(about).encode()
        self.answer(header + content, **{"Inference-Header-Content-Length": str(len(header))})

    def answer_json(self, data: object, status: int = 200, **headers: str) -> None:
        self.answer(json.dumps(data).encode(), status, **headers)

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class GrpcServer:
    """Serves `origin` over gRPC. `script` has functions that answer the next requests, given request and context.

    `certificate` is as in `HttpServer`.
    """

    scheme = "grpc"

    def __init__(self, origin: Origin, certificate: Path | None = None) -> None:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        self.origin = origin
        self.script: list[Callable[[Any, Any], Any]] = []
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(self._threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_servicer(self), self._server)
        if certificate is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pem = certificate.read_bytes()
            self.port = self._server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(pem, pem)]))
        self._server.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}/{self.origin.name}"

    def close(self) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()

    def answer(self, values: np.ndarray, content: bytes | None = None, **changes: Any) -> Any:
        from tritonclient.grpc import service_pb2

        response = service_pb2.ModelInferResponse(model_name=self.origin.name, model_version=self.origin.version)
        response.outputs.add(name="probabilities", datatype="FP32", shape=values.shape)
        response.raw_output_contents.append(values.astype("<f4").tobytes() if content is None else content)
        for key, value in changes.items():
            if key == "shape":
                response.outputs[0].shape[:] = value
            else:
                setattr(response.outputs[0] if key in ("name", "datatype") else response, key, value)
        return response

    def inputs(self, request: Any) -> np.ndarray:
        (tensor,), (content,) = request.inputs, request.raw_input_contents
        return np.frombuffer(content, NUMBERS[tensor.datatype]).reshape(tensor.shape)


def _servicer(server: GrpcServer) -> Any:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name, as below)
            return service_pb2.ServerLiveResponse(live=True)

        def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ServerMetadataResponse(name="stand-in", version="1.0")

        def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ModelReadyResponse(ready=server.origin.ready)

        def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            if request.name != server.origin.name or request.version not in ("", server.origin.version):
                context.abort(grpc.StatusCode.NOT_FOUND, f"nothing called {request.name}")
            return service_pb2.ModelMetadataResponse(**server.origin.metadata)

        def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
            origin = server.origin
            if origin.parameters is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no configurations")
            response = service_pb2.ModelConfigResponse()
            response.config.max_batch_size = origin.max_batch
            for key, value in origin.parameters.items():
                response.config.parameters[key].string_value = value
            return response

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            if server.script:
                return server.script.pop(0)(request, context)
            return server.answer(server.origin.infer(server.inputs(request)))

    return Servicer()


SERVERS: Mapping[str, type[HttpServer | GrpcServer]] = {"http": HttpServer, "grpc": GrpcServer}


@contextmanager
def serving(origin: Origin, scheme: str = "http") -> Iterator[HttpServer | GrpcServer]:
    with closing(SERVERS[scheme](origin)) as server:
        yield server
