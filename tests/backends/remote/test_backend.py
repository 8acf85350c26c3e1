"""A net on a server gives the probabilities of the net, or one error. The servers are real ones, on this machine."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer import load
from alexnet_infer.backends.remote import backend, client, http
from alexnet_infer.backends.remote.backend import IN_FLIGHT
from alexnet_infer.errors import AlexNetInferError, BackendError, ModelFileError, UsageError
from alexnet_infer.graph.served import SHA256_KEY
from tests.evaluation.toys import save_net

for package in ("onnxruntime", "tritonclient", "geventhttpclient", "grpc"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,client]'")

from tests.server import GrpcServer, Handler, HttpServer, Origin, serving  # noqa: E402 (after the packages)

SCHEMES = pytest.mark.parametrize("scheme", ["http", "grpc"])
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def squares(path) -> np.ndarray:
    side = load(path, backend="onnxruntime").manifest.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (13, side, side, 3), np.uint8)


@contextmanager
def opened(path: Path, scheme: str = "http", **options) -> Iterator[tuple]:
    """Serve a net, and load it from there: the server and the net."""
    with serving(Origin(path, **options), scheme) as server:
        net = load(server.url)
        try:
            yield server, net
        finally:
            net.backend.close()


def refused(action: Callable[[], object], kind: type[AlexNetInferError], *parts: str) -> None:
    with pytest.raises(kind, match=r"^[^\n]{1,590}$") as error:
        action()
    assert type(error.value) is kind
    for part in parts:
        assert part in str(error.value)


# Right answers.


@SCHEMES
@pytest.mark.parametrize("views", ["ten", "center", "none"])
def test_the_probabilities_are_those_of_the_net_in_the_order_of_the_images(path, squares, scheme, views):
    with opened(path, scheme, views=views) as (server, net):
        values = net.probabilities(list(squares))
        assert (net.views, net.backend.takes_squares) == ("ten" if views == "none" else views, views != "none")
        expected = server.origin.expected(squares, net.views)
        np.testing.assert_allclose(values, expected, atol=2e-6)
        assert np.abs(np.diff(expected, axis=0)).max() > 0.01, "no two images may be mistaken for each other"
        assert max(server.origin.requests) <= server.origin.max_batch
        assert len(server.origin.requests) >= IN_FLIGHT


def test_answers_that_overtake_each_other_are_put_in_order(path, squares):
    """The first request is answered last."""
    with opened(path) as (server, net):
        others = threading.Semaphore(0)

        def last(handler: Handler) -> None:
            for _ in range(3):
                assert others.acquire(timeout=10)
            handler.infer()

        def first(handler: Handler) -> None:
            handler.infer()
            others.release()

        server.script = [last, first, first, first]
        values = net.probabilities(list(squares))
        np.testing.assert_allclose(values, server.origin.expected(squares, "ten"), atol=2e-6)


def test_connections_are_kept_and_closed_at_the_end(path, squares):
    with serving(Origin(path)) as server:
        net = load(server.url)
        for _ in range(3):
            net.probabilities(list(squares))
        used = server.connections
        for _ in range(3):
            net.probabilities(list(squares))
        assert server.connections == used
        threads = [lane.thread for lane in net.backend._lanes]
        assert all(thread.is_alive() for thread in threads)
        del net
        gc.collect()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


def test_a_net_that_was_closed_says_so(path, squares):
    with opened(path) as (_, net):
        net.backend.close()
        refused(lambda: net.probabilities(list(squares[:1])), BackendError, "was closed: load it again")
        refused(net.backend.check_unchanged, BackendError, "was closed: load it again")


FORKED = """
import os, sys
import numpy as np
from alexnet_infer import load
from alexnet_infer.errors import BackendError

net = load(sys.argv[1])
child = os.fork()
if not child:
    try:
        net.probabilities([np.zeros((64, 64, 3), np.uint8)])
    except BackendError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_net_that_was_loaded_in_another_process_says_so(path):
    with serving(Origin(path)) as server:
        done = subprocess.run([sys.executable, "-c", FORKED, server.url], capture_output=True, text=True, timeout=60)
        assert "was loaded in another process: load it again in this one" in done.stdout, done.stderr


def test_a_fixed_batch_is_filled_and_the_filling_is_dropped(path, squares):
    origin = Origin(path)
    origin.metadata["inputs"][0]["shape"][0] = 4
    with serving(origin) as server:
        net = load(server.url)
        values = net.probabilities(list(squares))
        assert set(origin.requests) == {4}
        np.testing.assert_allclose(values, origin.expected(squares, "ten"), atol=2e-6)


@SCHEMES
def test_what_the_server_says_of_the_net_is_what_is_known_of_it(path, scheme):
    with opened(path, scheme) as (server, net):
        assert net.opened.sha256 == "a" * 64
        assert net.opened.members == ["b" * 64]
        assert net.manifest.to_json() == server.origin.net.manifest.to_json()
        assert net.backend.description == "served by ONNX Runtime somewhere"
        assert not net.opened.has_weights


@SCHEMES
def test_a_server_that_says_nothing_of_the_net_needs_a_manifest_and_views(path, squares, scheme):
    origin = Origin(path, views="center")
    origin.parameters = None
    with serving(origin, scheme) as server:
        refused(lambda: load(server.url), ModelFileError, "?manifest=NET")
        refused(lambda: load(f"{server.url}?manifest={path}"), ModelFileError, "&views=ten")
        net = load(f"{server.url}?manifest={path}&views=center")
        np.testing.assert_allclose(net.probabilities(list(squares)), origin.expected(squares, "center"), atol=2e-6)
        assert net.opened.sha256 is None
        assert net.opened.members == [server.url]
        assert server.url in net.backend.description


def test_a_version_is_asked_for_by_its_number(path, squares):
    with serving(Origin(path)) as server:
        load(f"{server.url}/versions/1").probabilities(list(squares[:1]))
        assert server.paths[-1] == "/v2/models/net/versions/1/infer"
        refused(lambda: load(f"{server.url}/versions/2"), ModelFileError, "no such model")


def test_kserves_form_of_an_address_is_the_same(path):
    with serving(Origin(path)) as server:
        assert load(f"http://{HERE}:{server.port}/v2/models/net").opened.source == load(server.url).opened.source


# A busy server.


def busy(after: str | None) -> Callable[[Handler], None]:
    headers = {} if after is None else {"Retry-After": after}
    return lambda handler: handler.answer_json({"error": "the queue is full"}, 503, **headers)


@pytest.mark.parametrize("after", ["0", None, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_server_is_asked_again(path, squares, monkeypatch, after):
    monkeypatch.setattr(backend, "FIRST_PAUSE", 0.001)
    with opened(path) as (server, net):
        server.script = [busy(after)] * 6
        values = net.probabilities(list(squares))
        assert not server.script
        np.testing.assert_allclose(values, server.origin.expected(squares, "ten"), atol=2e-6)


@pytest.mark.parametrize("after", ["0", None])
def test_the_time_of_a_busy_server_is_limited_however_long_it_takes_to_say_so(path, squares, monkeypatch, after):
    clock = count(0, 5)
    monkeypatch.setattr(backend, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(backend, "monotonic", lambda: next(clock))  # each refusal takes five seconds
    with opened(path) as (server, net):
        server.script = [busy(after)] * 100
        refused(
            lambda: net.probabilities(list(squares[:1])), BackendError, "too busy: 6 times 503", "the queue is full"
        )
        assert len(server.script) == 100 - 6
        server.script = [busy("3600")] * 100
        refused(lambda: net.probabilities(list(squares[:1])), BackendError, "too busy: 1 times 503")


def test_a_busy_grpc_server_is_asked_again(path, squares, monkeypatch):
    import grpc

    monkeypatch.setattr(backend, "FIRST_PAUSE", 0.001)
    with opened(path, "grpc") as (server, net):
        server.script = [lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "full")] * 5
        values = net.probabilities(list(squares))
        assert not server.script
        np.testing.assert_allclose(values, server.origin.expected(squares, "ten"), atol=2e-6)


# Wrong answers.


def changed(**changes) -> Callable[[Handler], None]:
    return lambda handler: handler.answer_tensor(handler.owner.origin.infer(handler.inputs()), **changes)


def of(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Handler], None]:
    return lambda handler: handler.answer_tensor(make(handler.owner.origin.infer(handler.inputs())))


def nan_in_the_last(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[-1, -1] = np.nan
    return values


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.send_header("Inference-Header-Content-Length", "3000")
    handler.end_headers()
    handler.wfile.write(b'{"model_name": "net", ')
    handler.close_connection = True


def encoded(name: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(b"neither", **{"Content-Encoding": name})


def closed(handler: Handler) -> None:
    handler.close_connection = True


WRONG = {
    "a class too many": (of(lambda values: np.pad(values, ((0, 0), (0, 1)))), ModelFileError, "returns float32"),
    "a row too few": (of(lambda values: values[:-1]), ModelFileError, "returns float32 [1, 6] for 2 inputs"),
    "a row too many": (of(lambda values: values[[0, *range(len(values))]]), ModelFileError, "for 2 inputs"),
    "flat": (of(lambda values: values.ravel()), ModelFileError, "returns float32 [12]"),
    "NaN": (of(nan_in_the_last), ModelFileError, "not probabilities"),
    "logits": (of(lambda values: np.log(values) + 3), ModelFileError, "not probabilities"),
    "half of each": (of(lambda values: values / 2), ModelFileError, "not probabilities"),
    "another type": (changed(datatype="INT32"), ModelFileError, "returns int32"),
    "an unknown type": (changed(datatype="FP5"), ModelFileError, "can't be read"),
    "a wider type": (changed(datatype="FP64"), ModelFileError, "can't be read"),
    "a shape of text": (changed(shape=["many"]), ModelFileError, "can't be read"),
    "another shape": (changed(shape=[3, 5]), ModelFileError, "can't be read"),
    "another output": (changed(name="logits"), ModelFileError, "can't be read"),
    "no output": (changed(outputs=[]), ModelFileError, "can't be read"),
    "no outputs": (changed(outputs=None), ModelFileError, "can't be read"),
    "too few bytes": (changed(content=b"\0" * 8), ModelFileError, "can't be read"),
    "part of a number": (changed(content=b"\0" * 47), ModelFileError, "can't be read"),
    "too large a size": (changed(parameters={"binary_data_size": 1 << 40}), ModelFileError, "can't be read"),
    "a negative size": (changed(parameters={"binary_data_size": -4}), ModelFileError, "can't be read"),
    "a size of text": (changed(parameters={"binary_data_size": "48"}), ModelFileError, "can't be read"),
    "another model": (changed(model_name="other"), ModelFileError, "another model answers"),
    "another net": (changed(parameters={"binary_data_size": 48}, model_name=5), ModelFileError, "another"),
    "texts": (changed(datatype="BYTES"), ModelFileError, "can't be read"),
    "deflate": (encoded("deflate"), ModelFileError, "Content-Encoding 'deflate': expected none"),
    "gzip": (encoded("gzip"), ModelFileError, "Content-Encoding 'gzip': expected none"),
    "no JSON": (lambda h: h.answer(b"<html>hello</html>"), ModelFileError, "can't be read"),
    "nothing": (lambda h: h.answer(b""), ModelFileError, "can't be read"),
    "a list": (lambda h: h.answer(b"[1, 2]"), ModelFileError, "can't be read"),
    "deep JSON": (lambda h: h.answer(b"[" * 100_000), ModelFileError, "can't be read"),
    "a header of no length": (
        lambda h: h.answer(b"{}", **{"Inference-Header-Content-Length": "x"}),
        ModelFileError,
        "can't be read",
    ),
    "refused": (lambda h: h.answer_json({"error": "no such input"}, 400), ModelFileError, "400: no such input"),
    "gone": (lambda h: h.answer_json({"error": "unloaded"}, 404), ModelFileError, "404: unloaded"),
    "too large": (lambda h: h.answer_json({"error": "large"}, 413), ModelFileError, "refused the request (413: large)"),
    "no user": (lambda h: h.answer_json({"error": "who?"}, 401), BackendError, "refused the request (401: who?)"),
    "elsewhere": (lambda h: h.answer(b"", 302, Location="/"), BackendError, "refused the request (302"),
    "too many": (lambda h: h.answer_json({"error": "slowly"}, 429), BackendError, "refused the request (429: slowly)"),
    "failed": (lambda h: h.answer_json({"error": "out of memory"}, 500), BackendError, "500: out of memory"),
    "failed in HTML": (lambda h: h.answer(b"<h1>oh\n no</h1>", 502), BackendError, "the server failed (502"),
    "cut": (cut, BackendError, "closed"),
    "closed": (closed, BackendError, "closed"),
    "no HTTP": (lambda h: h.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"), BackendError, "another protocol"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_answer_is_one_error_and_the_next_request_is_answered(path, squares, fault):
    answer, kind, part = WRONG[fault]
    with opened(path) as (server, net):
        server.script = [answer]
        refused(lambda: net.probabilities(list(squares[:2])), kind, server.url, part)
        assert len(server.origin.requests) <= 1, "only a 503 is tried again"
        np.testing.assert_allclose(
            net.probabilities(list(squares[:2])), server.origin.expected(squares[:2], "ten"), atol=2e-6
        )


def test_one_wrong_answer_of_many_stops_the_others(path, squares, monkeypatch):
    batches = []

    class Seen(backend._Batch):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            batches.append(self)

    def after_the_wrong_one(handler: Handler) -> None:
        assert batches[0].stop.wait(10)
        handler.infer()

    monkeypatch.setattr(backend, "_Batch", Seen)
    with opened(path) as (server, net):
        many = np.concatenate([squares] * 4)
        server.script = [of(nan_in_the_last), *[after_the_wrong_one] * (IN_FLIGHT - 1)]
        refused(lambda: net.probabilities(list(many)), ModelFileError, "not probabilities")
        assert len(server.origin.requests) <= IN_FLIGHT < len(batches[0].parts)


def grpc_faults(server: GrpcServer) -> dict[str, tuple]:
    import grpc

    def values(request) -> np.ndarray:
        return server.origin.infer(server.inputs(request))

    def aborts(code: str) -> Callable:
        return lambda request, context: context.abort(getattr(grpc.StatusCode, code), "why\nnot")

    def answers(**changes) -> Callable:
        return lambda request, context: server.answer(values(request), **changes)

    return {
        "a row too few": (lambda r, c: server.answer(values(r)[:-1]), ModelFileError, "for 2 inputs"),
        "NaN": (lambda r, c: server.answer(nan_in_the_last(values(r))), ModelFileError, "not probabilities"),
        "another shape": (answers(shape=[3, 5]), ModelFileError, "can't be read"),
        "another type": (answers(datatype="INT32"), ModelFileError, "returns int32"),
        "an unknown type": (answers(datatype="FP5"), ModelFileError, "can't be read"),
        "too few numbers": (lambda r, c: typed(server, [0.5] * 2), ModelFileError, "can't be read"),
        "another output": (answers(name="logits"), ModelFileError, "can't be read"),
        "another model": (answers(model_name="other"), ModelFileError, "another model answers"),
        "too few bytes": (answers(content=b"\0" * 8), ModelFileError, "can't be read"),
        "no bytes": (answers(content=b""), ModelFileError, "can't be read"),
        "refused": (aborts("INVALID_ARGUMENT"), ModelFileError, "INVALID_ARGUMENT: why not"),
        "gone": (aborts("NOT_FOUND"), ModelFileError, "NOT_FOUND: why not"),
        "failed": (aborts("INTERNAL"), BackendError, "INTERNAL: why not"),
        "full": (aborts("RESOURCE_EXHAUSTED"), BackendError, "RESOURCE_EXHAUSTED: why not"),
        "late": (aborts("DEADLINE_EXCEEDED"), BackendError, "the server failed (DEADLINE_EXCEEDED: why not"),
    }


def test_wrong_answers_over_grpc_are_one_error_each(path, squares):
    with opened(path, "grpc") as (server, net):
        for answer, kind, part in grpc_faults(server).values():
            server.script = [answer]
            refused(lambda: net.probabilities(list(squares[:2])), kind, server.url, part)
        assert net.probabilities(list(squares[:2])).shape == (2, 6)


def typed(server: GrpcServer, values: list[float]):
    """An answer whose numbers are in the tensor's own field."""
    response = server.answer(np.zeros((2, 6)))
    del response.raw_output_contents[:]
    response.outputs[0].contents.fp32_contents[:] = values
    return response


def test_numbers_over_grpc_may_be_in_the_field_of_their_type(path, squares):
    with opened(path, "grpc") as (server, net):
        values = server.origin.expected(squares[:2], "ten")
        server.script = [lambda request, context: typed(server, values.ravel().tolist())]
        np.testing.assert_array_equal(net.probabilities(list(squares[:2])), values)


def test_the_digest_of_an_answer_must_be_that_of_the_net_that_was_opened(path, squares):
    with opened(path) as (server, net):
        values = server.origin.expected(squares[:1], "ten")
        server.script = [with_digest(values, "a" * 64)]
        np.testing.assert_array_equal(net.probabilities(list(squares[:1])), values)
        for other in ("c" * 64, 5):
            server.script = [with_digest(values, other)]
            refused(lambda: net.probabilities(list(squares[:1])), ModelFileError, "another model answers")


def with_digest(values: np.ndarray, digest: object) -> Callable[[Handler], None]:
    """An answer in JSON alone, whose parameters have a digest."""
    tensor = {"name": "probabilities", "datatype": "FP32", "shape": [*values.shape], "data": values.ravel().tolist()}
    about = {"model_name": "net", "model_version": "1", "parameters": {SHA256_KEY: digest}, "outputs": [tensor]}
    return lambda handler: handler.answer_json(about)


@pytest.mark.parametrize("wrong", [True, "1", None, {}])
@pytest.mark.parametrize("rows", [False, True])
def test_a_tensor_in_json_has_only_numbers(path, squares, rows, wrong):
    with opened(path) as (server, net):
        row = [1, 0, 0.0, 0, 0, 0]
        server.script = [with_data([row] if rows else row)]
        np.testing.assert_array_equal(net.probabilities(list(squares[:1])), [row])
        row[0] = wrong
        server.script = [with_data([row] if rows else row)]
        refused(lambda: net.probabilities(list(squares[:1])), ModelFileError, "can't be read")


def with_data(data: list) -> Callable[[Handler], None]:
    tensor = {"name": "probabilities", "datatype": "FP32", "shape": [1, 6], "data": data}
    return lambda handler: handler.answer_json({"model_name": "net", "model_version": "1", "outputs": [tensor]})


def test_another_version_in_the_middle_is_an_error(path, squares):
    with opened(path) as (server, net):
        net.probabilities(list(squares[:1]))
        server.script = [changed(model_version="2")]
        refused(lambda: net.probabilities(list(squares[:1])), ModelFileError, "version '2' answers", "/versions/2")
        for none in (None, ""):
            server.script = [changed(model_version=none)]
            refused(lambda: net.probabilities(list(squares[:1])), ModelFileError, "version '' answers", "/versions/1")


@SCHEMES
def test_a_model_that_was_replaced_is_noticed(path, scheme):
    with opened(path, scheme) as (server, net):
        net.backend.check_unchanged()
        server.origin.parameters[SHA256_KEY] = "c" * 64
        refused(net.backend.check_unchanged, ModelFileError, "has changed")
        server.origin.parameters = None
        refused(net.backend.check_unchanged, ModelFileError, "has changed")


def test_a_server_that_is_busy_when_it_is_asked_again_for_its_net_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(backend, "FIRST_PAUSE", 0.001)
    with opened(path) as (_, net):
        script, get = [busy("0"), busy(None), busy("0")], Handler.do_GET
        monkeypatch.setattr(Handler, "do_GET", lambda handler: (script.pop() if script else get)(handler))
        net.backend.check_unchanged()
        assert not script
        clock = count(0, 20)
        monkeypatch.setattr(backend, "monotonic", lambda: next(clock))  # each refusal takes 20 seconds
        script += [busy("0")] * 9
        refused(net.backend.check_unchanged, BackendError, "too busy: 2 times 503", "the queue is full")


# A model that isn't what it should be.


def edited(origin: Origin, change: Callable[[Origin], object]) -> Origin:
    change(origin)
    return origin


def set_input(**fields) -> Callable[[Origin], object]:
    return lambda origin: origin.metadata["inputs"][0].update(fields)


def set_output(**fields) -> Callable[[Origin], object]:
    return lambda origin: origin.metadata["outputs"][0].update(fields)


CONTRADICTIONS = {
    "other squares": (set_input(shape=[-1, 65, 65, 3]), ModelFileError, "expected squares UINT8 [N, 64, 64, 3]"),
    "patches": (set_input(shape=[-1, 3, 57, 57], datatype="FP32"), ModelFileError, "expected squares"),
    "no batch": (set_input(shape=[64, 64, 3]), ModelFileError, "expected squares"),
    "no shape": (set_input(shape=[]), ModelFileError, "expected squares"),
    "floats": (set_input(datatype="FP32"), ModelFileError, "expected squares"),
    "JPEG": (set_input(datatype="BYTES", shape=[-1, 1]), ModelFileError, "takes 'images' BYTES [-1, 1]"),
    "other classes": (set_output(shape=[-1, 7]), ModelFileError, "expected FP32 [N, 6]"),
    "other outputs": (set_output(datatype="FP16"), ModelFileError, "expected FP32 [N, 6]"),
    "two inputs": (lambda o: o.metadata["inputs"].append(o.metadata["inputs"][0]), ModelFileError, "2 inputs"),
    "no outputs": (lambda o: o.metadata["outputs"].clear(), ModelFileError, "0 outputs"),
    "another name": (lambda o: o.metadata.update(name="other"), ModelFileError, "another model, 'other'"),
    "a broken manifest": (lambda o: o.parameters.update(alexnet_infer="{}"), ModelFileError, "is damaged"),
    "a manifest alone": (lambda o: o.parameters.pop("alexnet_infer_export"), ModelFileError, "without"),
    "not ready": (lambda o: setattr(o, "ready", False), BackendError, "not ready"),
}


@SCHEMES
@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_model_that_contradicts_its_manifest_is_refused(path, scheme, contradiction):
    change, kind, part = CONTRADICTIONS[contradiction]
    with serving(edited(Origin(path), change), scheme) as server:
        refused(lambda: load(server.url), kind, server.url, part)


@pytest.mark.parametrize("metadata", ["null", "[]", "{}", '{"name": "net"}', '{"name": 1, "inputs": {}}', "<p>", ""])
def test_metadata_that_is_none_is_refused(path, metadata):
    with serving(Origin(path)) as server:
        server.pages["/v2/models/net"] = (200, metadata.encode())
        refused(lambda: load(server.url), BackendError, server.url, "Open Inference Protocol")


@pytest.mark.parametrize("config", ["[]", '{"parameters": [1]}', '{"parameters": {"a": 1}}', '{"max_batch_size": "x"}'])
def test_a_configuration_that_is_none_is_refused(path, config):
    with serving(Origin(path)) as server:
        server.pages["/v2/models/net/config"] = (200, config.encode())
        refused(lambda: load(server.url), BackendError, server.url, "its configuration")


@SCHEMES
def test_an_unknown_model_is_named(path, scheme):
    with serving(Origin(path), scheme) as server:
        refused(lambda: load(server.url + "x"), ModelFileError, "netx", "no such model")


@SCHEMES
def test_options_of_an_address_that_the_server_makes_pointless_are_refused(path, scheme):
    with serving(Origin(path), scheme) as server:
        refused(lambda: load(f"{server.url}?manifest={path}"), UsageError, "leave out ?manifest=")
        refused(lambda: load(f"{server.url}?views=center"), UsageError, "leave out ?views=center")
        refused(lambda: load(server.url, views="center"), UsageError, "leave out views=center")
        refused(lambda: load(server.url, device="cuda"), BackendError, "leave out --device")
        refused(lambda: load(server.url, backend="openvino"), BackendError, "leave out --backend")
        refused(lambda: load(server.url, layers=["fc7"]), UsageError, "only probabilities")
        refused(lambda: load(server.url).features("photo.jpg"), UsageError, "only probabilities")


# A server that isn't one.


@contextmanager
def sockets(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, and call `serve` with each connection, in a thread: the port."""
    with closing(socket.create_server((HERE, 0))) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@SCHEMES
def test_no_server_is_no_connection(scheme):
    with closing(socket.create_server((HERE, 0))) as free:
        port = free.getsockname()[1]
    refused(lambda: load(f"{scheme}://{HERE}:{port}/net"), BackendError, "no connection", "refused")


@SCHEMES
def test_proxies_are_ignored(path, squares, monkeypatch, scheme):
    with closing(socket.create_server((HERE, 0))) as free:
        nowhere = f"http://{HERE}:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with opened(path, scheme) as (_, net):
        assert net.probabilities(list(squares[:1])).shape == (1, 6)


@SCHEMES
def test_a_host_that_does_not_exist_is_no_connection(scheme):
    refused(lambda: load(f"{scheme}://nowhere.invalid:8000/net"), BackendError, "no connection")


@SCHEMES
def test_a_server_that_never_answers_is_given_up(scheme):
    held = []
    with sockets(held.append) as port:
        refused(lambda: load(f"{scheme}://{HERE}:{port}/net?timeout=0.2"), BackendError, "no answer for 0.2 s")
    for connection in held:
        connection.close()


@SCHEMES
def test_an_answer_that_does_not_come_is_given_up(path, squares, scheme):
    with serving(Origin(path), scheme) as server:
        net = load(f"{server.url}?timeout=0.3")
        release = threading.Event()
        server.script = [lambda *arguments: release.wait(10) and None]
        try:
            refused(lambda: net.probabilities(list(squares[:1])), BackendError, "no answer for 0.3 s", "?timeout=3")
        finally:
            release.set()


def test_an_answer_that_trickles_is_given_up(path, squares, monkeypatch):
    """Each byte comes in time, and the whole would take an hour."""
    monkeypatch.setattr(http, "CONNECT", 0.1)
    with serving(Origin(path)) as server:
        net = load(f"{server.url}?timeout=0.4")
        stop = threading.Event()

        def trickle(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", "36000")
            handler.end_headers()
            while not stop.wait(0.05):
                handler.wfile.write(b" ")

        server.script = [trickle]
        try:
            refused(lambda: net.probabilities(list(squares[:1])), BackendError, "no answer for 0.4 s")
        finally:
            stop.set()


def endless(handler: Handler, status: int = 200) -> None:
    """An answer of chunks that don't end, until the client has had enough."""
    handler.send_response(status)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(b"400\r\n" + b" " * 1024 + b"\r\n")


@pytest.mark.parametrize(("status", "kind"), [(200, ModelFileError), (500, BackendError)])
def test_an_answer_without_an_end_is_given_up(path, squares, monkeypatch, status, kind):
    for limit in ("MAX_ANSWER", "MAX_ERROR"):
        monkeypatch.setattr(http, limit, 100_000)
    with opened(path) as (server, net):
        server.script = [lambda handler: endless(handler, status)]
        refused(lambda: net.probabilities(list(squares[:1])), kind, "more than 100,000 bytes")


def test_what_a_server_says_of_its_model_is_limited(path, monkeypatch):
    monkeypatch.setattr(http, "MAX_ABOUT", 100_000)
    with serving(Origin(path)) as server:
        load(server.url)
        server.pages["/v2/models/net/config"] = (200, b" " * 1_000_000)
        refused(lambda: load(server.url), BackendError, "1,000,000 bytes: expected at most 100,000")
        monkeypatch.setattr(Handler, "do_GET", endless)
        refused(lambda: load(server.url), BackendError, "more than 100,000 bytes")


@SCHEMES
def test_a_server_of_another_protocol_is_refused(path, scheme):
    """HTTP where gRPC is expected, and the reverse."""
    other = {"http": "grpc", "grpc": "http"}[scheme]
    with serving(Origin(path), other) as server:
        refused(lambda: load(f"{scheme}://{HERE}:{server.port}/net?timeout=5"), BackendError)


def test_a_plain_web_server_is_refused():
    def page(connection: socket.socket, status: bytes = b"200 OK") -> None:
        with connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 14\r\nConnection: close\r\n\r\n<html>x</html>"
            )

    for status in (b"200 OK", b"404 Not Found"):
        with sockets(lambda connection, status=status: page(connection, status)) as port:
            refused(lambda port=port: load(f"http://{HERE}:{port}/net"), BackendError, "Open Inference Protocol")


@pytest.mark.parametrize("status", [302, 401, 429, 503])
def test_a_server_that_does_not_say_that_it_is_live_is_shown_with_its_status(path, status):
    with serving(Origin(path)) as server:
        server.pages["/v2/health/live"] = (status, b"")
        refused(lambda: load(server.url), BackendError, f"GET /v2/health/live: {status})")


@SCHEMES
def test_a_server_that_dies_between_requests_is_no_connection(path, squares, scheme):
    with serving(Origin(path), scheme) as server:
        net = load(server.url)
        net.probabilities(list(squares[:1]))
        server.close()
        if isinstance(server, HttpServer):
            server.drop()
        refused(lambda: net.probabilities(list(squares[:1])), BackendError, "no connection")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    for scheme, package in (("http", "tritonclient"), ("http", "geventhttpclient"), ("grpc", "grpc")):
        name = "grpcio" if package == "grpc" else package
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            refused(
                lambda scheme=scheme: load(f"{scheme}://{HERE}:9/net"),
                BackendError,
                f'needs {name}: pip install "alexnet-infer[client]"',
            )


def test_waiting_ends_when_another_request_fails(path, squares):
    """A request that waits for a busy server doesn't delay the error of another one."""
    with opened(path) as (server, net):
        waiting = threading.Event()

        def wait(handler: Handler) -> None:
            busy("25")(handler)
            waiting.set()

        def fail(handler: Handler) -> None:
            assert waiting.wait(10)
            handler.answer_json({"error": "broken"}, 500)

        server.script = [wait, fail, fail, fail]
        began = time.monotonic()
        refused(lambda: net.probabilities(list(squares)), BackendError, "broken")
        assert time.monotonic() - began < 20, "it did not wait for the 25 seconds"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A certificate of "localhost" that no authority has signed, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost"], cwd=folder, check=True, capture_output=True
    )
    (folder / "both.pem").write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return folder / "both.pem"


@SCHEMES
def test_certificates_are_verified_and_an_authority_may_be_named(path, certificate, scheme):
    with closing({"http": HttpServer, "grpc": GrpcServer}[scheme](Origin(path), certificate)) as server:
        url = f"{scheme}s://localhost:{server.port}/net"
        refused(lambda: load(url), BackendError, "CERTIFICATE_VERIFY_FAILED")
        child = subprocess.run(  # which authorities there are is read when the package is imported
            [sys.executable, "-c", "import sys, alexnet_infer; print(alexnet_infer.load(sys.argv[1]))", url],
            env={**os.environ, "SSL_CERT_FILE": str(certificate.with_name("cert.pem"))},
            capture_output=True,
            text=True,
        )
        assert (child.returncode, child.stdout[:10]) == (0, "Net('net',"), child.stderr


CHILD = """
import sys, threading
from contextlib import suppress
import numpy as np
from alexnet_infer import load

net = load(sys.argv[1])
squares = [np.zeros((64, 64, 3), np.uint8)]
net.probabilities(squares)

def ask():
    with suppress(Exception):
        net.probabilities(squares)

threading.Thread(target=ask, daemon=True).start()
sys.stdin.read()
"""


@SCHEMES
def test_python_ends_in_the_middle_of_a_request(path, scheme):
    """Event loops and connections of other threads must not outlive the interpreter, nor delay its end."""
    with serving(Origin(path), scheme) as server:
        asked, release = threading.Event(), threading.Event()

        def hold(*arguments: object) -> None:
            asked.set()
            release.wait(30)

        if isinstance(server, HttpServer):
            server.script = [Handler.infer, hold]
        else:
            server.script = [lambda request, context: server.answer(np.eye(6)[:1]), hold]
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD, server.url], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert asked.wait(30)
            _, errors = child.communicate(timeout=20)
            assert (child.returncode, errors) == (0, b"")
        finally:
            release.set()
            child.kill()
            child.wait()


def test_the_limits_are_those_of_the_documentation():
    assert (client.CONNECT, backend.LONGEST_WAIT, IN_FLIGHT) == (10, 30, 4)
