"""Commands with a net on a server. The figures are those of the net; a failure leaves no row behind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer import load
from alexnet_infer.graph.served import SHA256_KEY
from tests.evaluation.toys import save_nets, write_set
from tests.program import one_line

for package in ("onnxruntime", "tritonclient", "geventhttpclient", "grpc"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,client]'")

from tests.server import Handler, Origin, serving  # noqa: E402 (after the packages)

IMAGES, BATCH = 20, 4


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "set", IMAGES)


@pytest.fixture
def evaluate(run, images, tmp_path) -> Callable[..., tuple[int, str, str]]:
    common = ("--data", images, "--batch", BATCH, "--cache", tmp_path / "cache", "--json")

    def evaluate(*models: object, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return run("eval", *common, *options, *(word for model in models for word in ("--model", model)))

    return evaluate


def broken(handler: Handler) -> None:
    handler.answer_json({"error": "the GPU is gone"}, 500)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_eval_of_a_served_net_gives_its_figures_and_keeps_the_predictions(evaluate, nets, scheme):
    code, out, _ = evaluate(nets[0])
    assert code == 0
    local = json.loads(out)
    with serving(Origin(nets[0], max_batch=64), scheme) as server:
        code, out, _ = evaluate(server.url)
        assert code == 0
        served = json.loads(out)
        (own,), (its,) = local["nets"], served["nets"]
        assert {**its, "sha256": "", "backend": ""} == {**own, "sha256": "", "backend": ""}
        assert served["nets"][0]["sha256"] == "a" * 64
        assert sum(server.origin.requests) == IMAGES
        assert json.loads(evaluate(server.url)[1]) == served
        assert sum(server.origin.requests) == IMAGES, "the predictions were kept"
        evaluate(server.url, options=("--fresh",))
        assert sum(server.origin.requests) == 2 * IMAGES


def test_predictions_of_a_net_without_a_digest_are_never_kept(run, evaluate, images, nets, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with serving(Origin(nets[0], sha256=None, max_batch=64)) as server:
        for round in (1, 2):
            code, out, _ = evaluate(server.url)
            assert code == 0
            assert json.loads(out)["nets"][0]["sha256"] is None
            assert sum(server.origin.requests) == round * IMAGES
            assert not list((tmp_path / "temporary").iterdir())
            assert not (tmp_path / "cache").exists()
        shard = ("--shard", "1/2", "--cache", tmp_path / "shard")
        one_line(run("eval", "--data", images, "--model", server.url, *shard), 2, "leave out --shard")
        one_line(evaluate(server.url, options=("--on", "ray")), 2, "leave out --on ray")


def test_a_served_net_and_a_file_are_averaged_and_the_same_net_is_not_counted_twice(evaluate, nets):
    with serving(Origin(nets[0], max_batch=64)) as server, serving(Origin(nets[0], sha256="c" * 64)) as twin:
        code, out, _ = evaluate(server.url, nets[1])
        assert code == 0
        assert json.loads(out)["ensemble"]
        one_line(evaluate(server.url, twin.url), 2, "the same net")


def test_two_servers_that_say_nothing_are_two_nets(evaluate, nets):
    with serving(Origin(nets[0])) as a, serving(Origin(nets[1])) as b:
        for server in (a, b):
            server.origin.parameters = None
        urls = [f"{server.url}?manifest={nets[0]}&views=ten" for server in (a, b)]
        code, out, err = evaluate(*urls)
        assert code == 0, err
        assert len(json.loads(out)["nets"]) == 2


def test_a_failure_stops_eval_keeps_complete_batches_and_continues_there(evaluate, nets, tmp_path):
    with serving(Origin(nets[0], max_batch=64, opt=BATCH)) as server:  # one request per batch
        server.script = [Handler.infer, Handler.infer, broken]
        one_line(evaluate(server.url), 5, "the GPU is gone")
        (rows,) = (tmp_path / "cache").glob("*/rows.f32")
        kept = np.fromfile(rows, "<f4").reshape(-1, len(server.origin.net.classes))
        assert len(kept) == 2 * BATCH
        np.testing.assert_allclose(kept.sum(1), 1, atol=1e-5)
        before = sum(server.origin.requests)
        assert before == 2 * BATCH
        code, out, err = evaluate(server.url)
        assert (code, err) == (0, "")
        assert json.loads(out)["data"]["unreadable"] == []
        assert sum(server.origin.requests) - before == IMAGES - 2 * BATCH


def test_a_net_that_is_replaced_in_the_middle_fills_no_row(evaluate, nets, tmp_path):
    with serving(Origin(nets[0], max_batch=64, opt=BATCH)) as server:

        def replaced(handler: Handler) -> None:
            server.origin.parameters[SHA256_KEY] = "d" * 64
            handler.infer()

        server.script = [Handler.infer, replaced]
        one_line(evaluate(server.url), 4, "has changed")
        (rows,) = (tmp_path / "cache").glob("*/rows.f32")
        assert rows.stat().st_size == 4 * BATCH * len(server.origin.net.classes)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("command", ["compare", "classify", "benchmark"])
def test_figures_are_those_of_one_net_though_answers_have_no_digest(run, nets, folder, scheme, command):
    with serving(Origin(nets[0]), scheme) as server:
        ask = server.origin.infer

        def replaced(inputs: np.ndarray) -> np.ndarray:
            server.origin.parameters[SHA256_KEY] = "d" * 64
            return ask(inputs)

        server.origin.infer = replaced
        words = {
            "compare": (nets[0], server.url, *folder.iterdir()),
            "classify": (next(folder.iterdir()), "--model", server.url),
            "benchmark": (server.url, "--batch", "1", "--seconds", "0.001"),
        }
        code, out, err = run(command, *words[command])
        assert (code, err.count("\n")) == (4, 1), err
        assert "has changed since it was opened: run it again" in err
        assert (out == "") == (command != "classify"), "only labels are printed at once"


def test_the_other_options_of_eval_take_a_served_net(run, images, nets, tmp_path):
    with serving(Origin(nets[0], sha256=None, max_batch=64)) as server:
        files = {"--save-predictions": tmp_path / "all.csv", "--per-class": tmp_path / "classes.csv"}
        words = [word for pair in files.items() for word in pair]
        report = tmp_path / "report"
        pytest.importorskip("jinja2", reason="needs jinja2: pip install jinja2")
        code, _, err = run("eval", "--data", images, "--model", server.url, *words, "--report", report)
        assert code == 0, err
        assert all(path.is_file() for path in files.values())
        assert "not given by the server" in (report / "index.html").read_text()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_compare_says_that_the_deployed_net_is_the_same(run, nets, folder, scheme):
    photos = sorted(folder.iterdir())
    with serving(Origin(nets[0]), scheme) as server:
        code, out, _ = run("compare", nets[0], server.url, *photos, "--backend", "onnxruntime", "--json")
        agreement = json.loads(out)
        assert (code, agreement["within"], agreement["flips"]) == (0, True, 0)
        assert agreement["candidate"]["backend"] == "served by ONNX Runtime somewhere"
    with serving(Origin(nets[1]), scheme) as server:
        code, out, _ = run("compare", nets[0], server.url, *photos, "--json")
        assert (code, json.loads(out)["within"]) == (1, False)


def test_several_served_nets_are_compared_with_a_file(run, nets, images):
    with serving(Origin(nets[0])) as same, serving(Origin(nets[1])) as other:
        code, out, err = run("compare", nets[0], same.url, other.url, "--data", images, "--json")
        assert code == 1, err
        assert [candidate["path"] for candidate in json.loads(out)["candidates"]] == [same.url, other.url]
        one_line(run("compare", nets[0], same.url, "--layers"), 2, "leave out --layers")


def test_compare_cuts_the_views_of_the_server_for_the_file(run, nets, folder):
    with serving(Origin(nets[0], views="center")) as server:
        code, out, _ = run("compare", nets[0], server.url, *folder.iterdir(), "--json")
        assert (code, json.loads(out)["views"]) == (0, "center")


def test_classify_prints_the_labels_of_the_net(run, nets, folder):
    photo = next(folder.iterdir())
    with serving(Origin(nets[0])) as server:
        code, out, _ = run("classify", photo, "--model", server.url, "--json")
        row = json.loads(out)
        expected = load(nets[0], backend="onnxruntime").classify(str(photo))
        assert code == 0
        assert [label["wnid"] for label in row["labels"]] == [label.wnid for label in expected]
        assert row["backend"] == "served by ONNX Runtime somewhere"
        server.script = [broken]
        one_line(run("classify", photo, "--model", server.url), 5, "the GPU is gone")


def test_benchmark_measures_a_served_net_beside_a_file_without_a_floor(run, nets):
    with serving(Origin(nets[0])) as server:
        words = ("--batch", "2", "--seconds", "0.02", "--backend", "onnxruntime", "--views", "ten", "--json")
        code, out, _ = run("benchmark", server.url, nets[0], *words)
        assert code == 0
        served, local = json.loads(out)["rows"]
        assert (served["model"], served["over_floor"], served["views"]) == (server.url, None, "ten")
        assert local["over_floor"] is not None
        one_line(run("benchmark", server.url, "--views", "center"), 2, "the server averages views=ten")


@pytest.mark.parametrize(
    "words",
    [
        ("filters", "URL"),
        ("explain", "photo.jpg", "--model", "URL"),
        ("features", "photo.jpg", "--model", "URL", "-o", "x.npz"),
        ("export", "URL"),
        ("info", "URL"),
    ],
    ids=lambda words: words[0],
)
def test_commands_that_need_weights_refuse_a_server(run, words):
    url = "http://localhost:9/net"
    one_line(run(*(url if word == "URL" else word for word in words)), 2, "gives only probabilities")
