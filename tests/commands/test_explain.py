"""`alexnet-infer explain`: the file, the JSON and errors."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import Artifact
from alexnet_infer.commands.explain import _shown_name
from alexnet_infer.nets import load
from alexnet_infer.photos import Photo
from tests.evaluation.page import Page
from tests.explain.explained import net, square

pytest.importorskip("jinja2", reason='needs jinja2: pip install "alexnet-infer[report]"')
pytest.importorskip("onnxruntime")

QUICK = ("--views", "center", "--square", "40", "--stride", "40", "--device", "cpu")
"""Few positions of the hiding square."""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.safetensors"
    net().save(path)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a photo.png"
    Image.fromarray(square(side=70)).save(path)
    return path


def test_the_page_is_written_beside_and_its_path_is_printed(run, tmp_path, monkeypatch, model, photo):
    monkeypatch.chdir(tmp_path)
    assert run("explain", photo, "--model", model, *QUICK) == (0, "a photo.html\n", "")
    page = Page((tmp_path / "a photo.html").read_text("utf-8"))
    assert "random-alexnet-64 looks at a photo.png" in page.text
    assert str(tmp_path) not in page.text, "a page is passed on; folders are private"


def test_json_has_the_probabilities_of_classify_and_all_numbers(run, tmp_path, model, photo):
    out = tmp_path / "page.html"
    code, text, err = run("explain", photo, "--model", model, "-o", out, "--json", *QUICK)
    assert (code, err, text.count("\n")) == (0, "", 1)
    found = json.loads(text)
    assert (found["photo"], found["page"]) == (str(photo), str(out))
    (own,) = found["nets"]
    classified = json.loads(run("classify", photo, "--model", model, "--json")[1])
    assert own["labels"] == classified["labels"]
    loaded = load(model, device="cpu", backend="onnxruntime", views="center")
    center = loaded.classify(photo)
    assert [label["index"] for label in own["views"][4]["labels"]] == [label.index for label in center]
    assert [(view["row"], view["column"], view["mirrored"]) for view in own["views"][3:6]] == [
        (7, 7, False),
        (3, 3, False),
        (0, 0, True),
    ]
    fc7 = loaded.features(photo, ["fc7"])["fc7"]
    (layer,) = [layer for layer in own["layers"] if layer["layer"] == "fc7"]
    assert (layer["operation"], layer["shape"], layer["not_zero"]) == ("act_fc7", [24], int((fc7 != 0).sum()))
    assert layer["max"] == pytest.approx(fc7.max(), rel=1e-5)
    occlusion = own["occlusion"]
    assert {key: occlusion[key] for key in ("views", "square", "stride", "offsets")} == {
        "views": "center",
        "square": 40,
        "stride": 40,
        "offsets": [3, 20],
    }
    classes = [label["index"] for label in own["labels"]]
    for view in own["views"]:
        assert [share["index"] for share in view["answer"]] == classes
    assert np.mean([view["answer"][0]["probability"] for view in own["views"]]) == pytest.approx(
        own["labels"][0]["probability"], abs=1e-6
    )
    assert np.shape(occlusion["probability"]) == (2, 2)
    assert occlusion["index"] == own["labels"][0]["index"]


def test_a_label_and_a_second_net_are_taken(run, tmp_path, model, photo):
    other = tmp_path / "other.safetensors"
    net("one column", name="other").save(other)
    options = ("--compare", other, "--label", "class 3", "-o", tmp_path / "two.html", "--json")
    found = json.loads(run("explain", photo, "--model", model, *options, *QUICK)[1])
    assert [own["net"] for own in found["nets"]] == ["random-alexnet-64", "other"]
    assert [own["occlusion"]["index"] for own in found["nets"]] == [3, 3]


def test_an_image_on_standard_input_is_read_once_for_two_nets(run, tmp_path, monkeypatch, model, photo):
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO(photo.read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
    assert run("explain", "-", "--model", model, "--compare", model, *QUICK) == (0, "photo.html\n", "")


def test_an_exported_file_is_refused_with_what_is_expected(run, tmp_path, model, photo):
    assert run("export", model, "-o", tmp_path / "exported")[0] == 0
    (exported,) = (tmp_path / "exported").glob("*.onnx")
    for option in ("--model", "--compare"):
        code, out, err = run("explain", photo, option, exported, "-o", tmp_path / "page.html")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "an exported file, whose weights can't be read; expected the model file" in err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.jpg"], 3, "absent.jpg: can't be read (No such file or directory)"),
        (["text.jpg"], 3, "text.jpg: not an image"),
        (["."], 2, "several photos; expected one"),
        (["a photo.png", "-o", "page.png"], 2, "page.png: expected a file name ending in .html"),
        (["a photo.png", "-o", "own.html"], 2, "own.html was not written by alexnet-infer"),
        (["a photo.png", "--square", "65"], 2, "--square 65: expected 1 to 64"),
        (["a photo.png", "--stride", "12"], 2, "--stride 12: expected 1 to 11"),
        (["a photo.png", "--label", "clas 1"], 2, "did you mean class 1?"),
        (["a photo.png", "-o", "folder.html"], 2, "--out folder.html: a folder; expected the name of a file"),
        (["a photo.png", "-o", "report.html"], 2, "report.html is a page of another command"),
        (["a photo.png", "-o", "text.jpg/page.html"], 2, "--out text.jpg/page.html: can't be written"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    run, tmp_path, monkeypatch, model, photo, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "own.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "report.html").write_text('<meta name="generator" content="alexnet-infer 0.1.0">')
    before = sorted(path.name for path in tmp_path.iterdir())
    quick = ["--views", "ten", "--square", "40"] if "text.jpg/page.html" in arguments else []
    result = run("explain", *arguments, "--model", model, *quick)
    assert (result[0], result[1], result[2].count("\n")) == (code, "", 1)
    assert message in result[2]
    assert len(result[2]) < 620
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_embedded_net_makes_a_page_of_less_than_8_megabytes(run, tmp_path):
    out = tmp_path / "cat.html"
    code, text, _ = run(
        "explain", "examples/cat.jpg", "-o", out, "--views", "center", "--square", "30", "--stride", "30"
    )
    assert (code, text) == (0, f"{out}\n")
    assert out.stat().st_size < 8e6


def test_an_unwritable_place_is_refused_before_the_net_is_run(run, tmp_path, monkeypatch, model, photo):
    monkeypatch.setattr("alexnet_infer.commands.explain.measure", None)
    (tmp_path / "text").write_text("text")
    code, _, err = run("explain", photo, "--model", model, "-o", tmp_path / "text" / "page.html", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "page.html: can't be written" in err


def test_a_large_jpeg_has_its_own_size_on_the_page(run, tmp_path, model):
    Image.new("RGB", (8000, 5000), "green").save(tmp_path / "large.jpg")
    out = tmp_path / "page.html"
    assert run("explain", tmp_path / "large.jpg", "--model", model, "-o", out, *QUICK)[0] == 0
    assert "The photo, 8,000 \u00d7 5,000 pixels." in Page(out.read_text("utf-8")).text


def test_the_query_of_a_url_is_not_on_the_page():
    url = "https://user:word@example.org/folder/cat.jpg?token=secret#part"
    assert _shown_name(Photo(name=url, url=url)) == "example.org: cat.jpg"


def test_classify_refuses_a_net_whose_probabilities_are_not_finite(run, tmp_path, photo):
    artifact = net()
    tensors = {name: np.full_like(tensor, 3e37) for name, tensor in artifact.tensors.items()}
    Artifact(artifact.manifest, tensors).save(tmp_path / "net.safetensors")
    for command in ("classify", "explain"):
        code, out, err = run(command, photo, "--model", tmp_path / "net.safetensors", "--backend", "onnxruntime")
        assert (code, out, err.count("\n")) == (4, "", 1)
        assert "its probabilities are not finite" in err
