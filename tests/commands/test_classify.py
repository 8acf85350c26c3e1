"""`alexnet-infer classify` as a user sees it: output, exit codes, one line per bad input."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from alexnet_infer import nets
from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.formats import FIXES
from alexnet_infer.presets import variant
from alexnet_infer.published import cache
from alexnet_infer.published.registry import VARIABLE, published
from tests.nets import random_artifact
from tests.program import PROGRAM
from tests.published.conftest import _alone  # noqa: F401 (no proxies)
from tests.published.server import Server

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTS_MODULES = [
    sys.executable,
    "-c",
    "import sys\nfrom alexnet_infer.cli import main\n"
    "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)\n",
]
"""The command line of the program, which then prints the names of all loaded modules on standard error."""


def test_the_default_net_recognises_the_example_of_an_espresso(run):
    code, out, _ = run("classify", EXAMPLES / "coffee.jpg", "--json")
    assert code == 0
    first = json.loads(out)["labels"][0]
    assert first["name"] == "espresso"
    assert first["probability"] > 0.9


def test_one_photo_gets_a_table_with_labels_bars_net_and_runtime(run, model, folder):
    code, out, err = run("classify", folder / "0.jpg", "--model", model, "--top", "3")
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if "n0000000" in line]
    assert len(rows) == 3
    percent = [float(row.split()[-1].rstrip("%")) for row in rows]
    assert percent == sorted(percent, reverse=True)
    assert rows[0].count("█") == round(percent[0] / 100 * 24)
    assert "random-alexnet-64, ten views averaged, ONNX Runtime" in out


def test_many_photos_get_one_line_each_in_the_order_given(run, model, folder):
    code, out, err = run("classify", folder / "2.jpg", folder / "0.jpg", "--model", model, "--top", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == ["2.jpg", "0.jpg"]
    assert all(line.count("%") == 2 for line in lines)


def test_json_gives_one_complete_object_per_line(run, model, folder):
    code, out, err = run("classify", folder, "--model", model, "--json", "--top", "7", "--views", "center")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["photo"]).name for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    for row in rows:
        assert sum(label["probability"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)
        assert list(row) == ["photo", "labels", "net", "views", "backend"]
        assert row["labels"][0].keys() == {"index", "wnid", "name", "probability"}
        assert (row["net"], row["views"]) == ("random-alexnet-64", "center")
        assert row["backend"].startswith("ONNX Runtime")


def test_ten_views_and_the_central_view_differ(run, model, folder):
    outputs = [
        run("classify", folder / "0.jpg", "--model", model, "--json", "--views", v)[1] for v in ("ten", "center")
    ]
    assert json.loads(outputs[0])["labels"] != json.loads(outputs[1])["labels"]


def test_some_failures_exit_1_with_one_line_each_and_the_rest_get_labels(run, model, folder):
    (folder / "1.jpg").write_bytes(b"not an image")
    code, out, err = run("classify", folder, folder / "absent.png", "--model", model, "--json")
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert ["error" in row for row in rows] == [False, True, False, True]
    errors = err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)
    assert "1.jpg" in errors[0]
    assert "absent.png" in errors[1]


def test_a_picture_in_a_folder_that_cannot_be_read_gets_an_error_and_exits_1(run, model, folder):
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    (folder / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    code, out, err = run("classify", folder, "--model", model)
    assert (code, err) == (1, f"error: {folder / 'phone.HEIC'}: HEIC, which isn't read; {FIXES['HEIC']}\n")
    assert len(out.splitlines()) == len([*folder.glob("*.jpg")])


@pytest.mark.parametrize("arguments", [["absent.jpg"], ["absent.jpg", "nothing-*.png"]])
def test_nothing_readable_exits_3(run, model, arguments):
    code, out, err = run("classify", *arguments, "--model", model)
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == len(arguments)


def test_a_dash_reads_standard_input(run, model, folder, monkeypatch):
    data = (folder / "0.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, _ = run("classify", "-", "--model", model, "--json")
    named = run("classify", folder / "0.jpg", "--model", model, "--json")[1]
    assert code == 0
    assert json.loads(out)["labels"] == json.loads(named)["labels"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--top", "0"], 2, "Invalid value for '--top'"),
        (["--top", "8"], 2, "--top 8: expected 1 to 7"),
        (["--views", "five"], 2, "five"),
        (["--device", "tpu"], 2, "tpu"),
        (["--colour"], 2, "--colour"),
        (["--model", "absent.safetensors"], 4, "absent.safetensors: No such file"),
        (["--model", "."], 4, "."),
    ],
)
def test_a_mistake_of_the_user_gets_its_exit_code_and_no_traceback(run, model, folder, arguments, code, words):
    net_options = [] if "--model" in arguments else ["--model", model]
    result, out, err = run("classify", folder / "0.jpg", *net_options, *arguments)
    assert (result, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_a_missing_runtime_exits_5_with_the_pip_command(run, model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, err = run("classify", folder / "0.jpg", "--model", model, "--backend", "onnxruntime")
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert 'pip install "alexnet-infer[cpu]"' in err


def test_an_interrupt_exits_130(run, model, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("alexnet_infer.commands.classify.load", interrupt)
    assert run("classify", folder / "0.jpg", "--model", model)[0] == 130


def test_a_reader_that_stops_reading_causes_no_traceback(model, folder):
    arguments = ["classify", *[str(folder / "0.jpg")] * 30, "--model", model, "--json"]
    child = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline()
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert errors == ""


def test_classify_loads_neither_torch_nor_scipy_nor_pyarrow(model, folder):
    arguments = ["classify", str(folder / "0.jpg"), "--model", model]
    child = subprocess.run([*LISTS_MODULES, *arguments], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in child.stderr.split()}
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "scipy", "pyarrow", "pandas", "matplotlib", "train"}


def test_the_default_net_fits_the_wheel_and_has_200_classes():
    assert embedded_model().stat().st_size <= 16e6
    manifest = load_artifact(embedded_model()).manifest
    assert len(manifest.classes) == 200
    assert {error.views for error in manifest.provenance.errors} == {"ten", "center"}


@pytest.mark.parametrize(
    ("installed", "expected"),
    [(("onnxruntime", "openvino"), "onnxruntime"), (("openvino",), "auto")],
    ids=["both", "one"],
)
def test_few_photos_use_the_runtime_that_starts_faster_if_installed(
    run, model, folder, monkeypatch, installed, expected
):
    from alexnet_infer.commands import classify

    backends, load = [], classify.load
    monkeypatch.setattr(classify, "installed", lambda name: name in installed)

    def spy(path, **options):
        backends.append(options["backend"])
        return load(path, **options)

    monkeypatch.setattr(classify, "load", spy)
    assert run("classify", folder, "--model", model)[0] == 0
    assert backends == [expected]


# Ensembles.


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> list[Path]:
    """Three bundled nets in place of the package's: net-0 (the default), net-1 and net-2."""
    paths = [tmp_path / "bundled" / f"net-{seed}.safetensors" for seed in range(3)]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        artifact = random_artifact(seed=seed)
        replace(artifact, manifest=structs.replace(artifact.manifest, name=path.stem)).save(path)
    monkeypatch.setattr(nets, "embedded_model", lambda: paths[0])
    return paths


def probabilities(row: dict) -> dict[str, float]:
    return {label["wnid"]: label["probability"] for label in row["labels"]}


def test_an_ensemble_gives_the_mean_of_the_first_bundled_nets(run, bundled, folder):
    alone = []
    for path in bundled[:2]:
        out = run("classify", folder, "--model", path, "--json", "--top", 7)[1]
        alone.append([probabilities(json.loads(line)) for line in out.splitlines()])
    code, out, err = run("classify", folder, "--ensemble", 2, "--json", "--top", 7)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    for row, first, second in zip(rows, *alone, strict=True):
        mean = {wnid: (first[wnid] + second[wnid]) / 2 for wnid in first}
        assert probabilities(row) == pytest.approx(mean, abs=1e-6)
        assert list(row) == ["photo", "labels", "net", "nets", "views", "backend"]
        assert (row["net"], row["nets"], row["views"]) == ("mean of 2 nets", ["net-0", "net-1"], "ten")


def test_the_table_names_the_nets_of_an_ensemble(run, bundled, folder):
    out = run("classify", folder / "0.jpg", "--ensemble", 3)[1]
    assert "mean of 3 nets (net-0, net-1, net-2), ten views averaged, ONNX Runtime" in out.splitlines()[-1]


def test_an_ensemble_of_one_is_the_default_net(run, bundled, folder):
    out = run("classify", folder, "--ensemble", 1, "--json")[1]
    assert out == run("classify", folder, "--json")[1]
    assert json.loads(out.splitlines()[0])["net"] == "net-0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ensemble", "4"], "--ensemble 4: expected at most 3, the number of nets available (net-0.safetensors, "),
        (["--ensemble", "2", "--model", "net-1"], "averages bundled nets, and --model "),
    ],
)
def test_an_ensemble_that_cannot_be_made_is_a_one_line_error_and_exits_2(run, bundled, folder, arguments, words):
    code, out, err = run("classify", folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_bundled_nets_with_other_classes_are_refused_by_name(run, bundled, folder):
    artifact = load_artifact(bundled[1])
    classes = artifact.manifest.classes
    changed = structs.replace(
        artifact.manifest, classes=(*classes[:-1], structs.replace(classes[-1], wnid="n99999999"))
    )
    replace(artifact, manifest=changed).save(bundled[1])
    code, out, err = run("classify", folder, "--ensemble", 2)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "net-1: has different classes from net-0" in err


# URLs.


@pytest.fixture
def server(folder) -> Iterator[Server]:
    server = Server((folder / "0.jpg").read_bytes())
    yield server
    server.close()


def test_urls_are_classified_among_files_and_a_url_that_fails_is_a_one_line_error(run, model, folder, server):
    urls = [server.url, server.url.replace("net.bin", "gone?x=%C3%A4")]

    def answer(request):  # the requests are sent in parallel
        (server.says(b"", 404) if request.path.startswith("/gone") else server.serve)(request)

    server.script = [answer] * 2
    code, out, err = run("classify", folder, urls[0], urls[1], "--model", model, "--json")
    rows = {row["photo"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1
    assert err.splitlines() == [f"error: {urls[1]}: can't be fetched (HTTP 404 Not Found)"]
    assert rows[urls[0]]["labels"] == rows[str(folder / "0.jpg")]["labels"]
    assert "error" in rows[urls[1]]
    assert len(rows) == 5


def test_urls_are_fetched_a_few_at_a_time(run, model, server, monkeypatch):
    from alexnet_infer.predict import PHOTOS_PER_CALL, Net

    requests, probabilities = [], Net.probabilities

    def spy(net, squares):
        requests.append(len(server.requests))
        return probabilities(net, squares)

    monkeypatch.setattr(Net, "probabilities", spy)
    urls = [f"{server.url}?{i}" for i in range(2 * PHOTOS_PER_CALL + 1)]
    assert run("classify", *urls, "--model", model)[0] == 0
    assert requests == [PHOTOS_PER_CALL, 2 * PHOTOS_PER_CALL, 2 * PHOTOS_PER_CALL + 1]


def test_an_interrupt_does_not_wait_for_a_url(folder, server):
    server.script = [server.hangs(30)]
    arguments = [*PROGRAM, "classify", server.url, str(folder)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job ignores it
    try:
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not server.requests:
        time.sleep(0.05)
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert child.communicate(timeout=30) == ("", "interrupted\n")
    assert child.returncode == 130
    assert time.monotonic() - started < 5  # half of the read timeout


def test_a_url_that_fails_alone_exits_3_without_its_password(run, model, server):
    server.script = [server.says(b"<html></html>", Content_Type="text/html")]
    url = server.url.replace("//", "//me:secret@")
    code, out, err = run("classify", url, "--model", model)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {url.replace('secret', '***')}: can't be fetched (a web page, text/html; expected ")
    assert err.count("\n") == 1


# The suggestion of a larger net.

SUGGESTION = "This net knows 7 classes. For a net that knows 1,000: alexnet-infer pull bvlc-alexnet\n"


def test_a_bundled_net_is_followed_by_one_line_on_stderr_about_a_larger_net(run, bundled, folder):
    assert variant(published("bvlc-alexnet").preset).classes == 1000
    for arguments in ([], ["--model", "net-1"]):
        code, out, err = run("classify", folder, *arguments)
        assert (code, len(out.splitlines()), err) == (0, 3, SUGGESTION)
    assert run("classify", folder, "--ensemble", 2)[2] == SUGGESTION.replace("This net knows", "These nets know")


def test_the_suggestion_is_left_out_with_json_another_net_or_no_labels(run, bundled, model, folder):
    assert run("classify", folder, "--json")[2] == ""
    assert run("classify", folder, "--model", model)[2] == ""
    assert run("classify", "absent.jpg")[2].count("\n") == 1


def test_the_suggestion_disappears_once_the_larger_net_is_pulled(run, bundled, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("classify", folder)[2] == SUGGESTION
    path = cache.cache_path(published("bvlc-alexnet"))
    path.parent.mkdir(parents=True)
    path.touch()
    assert run("classify", folder)[2] == ""


@pytest.mark.parametrize("content", ["damaged", '{"format": 1, "nets": []}', None])
def test_without_the_larger_net_in_the_registry_there_is_no_suggestion(
    run, bundled, folder, tmp_path, monkeypatch, content
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "registry.json"))
    if content is not None:
        (tmp_path / "registry.json").write_text(content)
    code, out, err = run("classify", folder)
    assert (code, len(out.splitlines()), err) == (0, 3, "")


def test_the_suggestion_loads_neither_http_nor_the_readers_of_data_sets(folder):
    arguments = ["classify", str(folder / "0.jpg")]
    child = subprocess.run([*LISTS_MODULES, *arguments], capture_output=True, text=True, check=True)
    suggestion, modules = child.stderr.splitlines()
    assert "alexnet-infer pull bvlc-alexnet" in suggestion
    assert not {"urllib.request", "http.client", "ssl", "alexnet_infer.datasets"} & set(modules.split())
