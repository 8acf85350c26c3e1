"""The page of `similar`: rows as in the paper's figure, names from files as text, and no other file."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import sha256
from alexnet_infer.features import open_features
from alexnet_infer.photos import named
from alexnet_infer.preprocess import Rescaling
from tests.datasets.mini import WNIDS, jpeg
from tests.evaluation.page import Page
from tests.evaluation.toys import save_net, write_set
from tests.features.indexed import index_of_photos, index_of_set
from tests.program import one_line

pytest.importorskip("jinja2", reason='needs jinja2: pip install "alexnet-infer[report]"')
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 12
CPU = {"backend": "onnxruntime", "device": "cpu"}


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    room = tmp_path_factory.mktemp("page")
    net = save_net(room / "net.safetensors")
    index_of_set(write_set(room / "set", IMAGES), room / "set.npy", net, **CPU)
    for i in range(2):
        (room / f"query-{i}.jpg").write_bytes(jpeg(1000 + i))
    return room


@pytest.fixture
def report(run, room, tmp_path):
    """Run `similar --report`, and return the exit code, standard error and the page."""

    def report(*arguments: object, index: Path | None = None) -> tuple[int, str, Page]:
        out = tmp_path / "report"
        index = index or room / "set.npy"
        named = ("--index", index, "--model", room / "net.safetensors", "--backend", "onnxruntime")
        code, _, err = run("similar", *arguments, *named, "--report", out)
        return code, err, Page((out / "index.html").read_text("utf-8"))

    return report


def pixels(image: dict[str, str | None]) -> np.ndarray:
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def test_each_row_is_a_photo_and_its_neighbours(report, room):
    code, err, page = report(room / "query-0.jpg", room / "query-1.jpg", "-n", 4)
    assert code == 0
    assert err.startswith("wrote ")
    images = page.all("img")
    assert len(images) == 2 * (1 + 4)
    squares = {path.name: named(path).square(Rescaling(size=64)).astype(int) for path in room.rglob("*.jpg")}
    for i, image in enumerate(images):
        name = re.search(r"([\w-]+\.jpg)", image["alt"])[1]
        assert (name == f"query-{i // 5}.jpg") == (i % 5 == 0)
        apart = {other: abs(square - pixels(image)).mean() for other, square in squares.items()}
        assert min(apart, key=apart.get) == name
        assert image["decoding"] == "async"
        assert image["loading"] == "lazy"
    assert re.findall(r"Neighbour (\d):", " ".join(image["alt"] for image in images)) == [*"1234"] * 2


def test_names_labels_distances_and_origin_are_on_the_page(report, run, room):
    _, _, page = report(room / "query-0.jpg", "-n", 3)
    options = ("--index", room / "set.npy", "--model", room / "net.safetensors", "--backend", "onnxruntime")
    _, out, _ = run("similar", room / "query-0.jpg", *options, "-n", 3)
    for line in out.splitlines()[2:5]:
        distance, name = line.split()[1], line.split()[-1]
        assert f"{distance} {name}" in page.text.replace("/ ", "/")
    assert sha256(room / "net.safetensors") in page.text
    assert f"{IMAGES} compared" in page.text
    assert "fc7, central view, float32" in page.text
    assert "six training images that produce feature vectors in the last hidden layer" in page.text


def test_the_page_loads_nothing_and_runs_nothing(report, room):
    _, _, page = report(room / "query-0.jpg", "-n", 3)
    assert not page.all("script") + page.all("link") + page.all("iframe")
    assert all(
        value.startswith("data:")
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key == "src"
    )
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in page.style


def test_too_many_pictures_for_a_page_are_refused_before_anything_is_computed(run, room, tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_infer.features.page.MOST", 11)
    monkeypatch.setattr("alexnet_infer.commands.similar.find_similar", None)  # would raise an error
    options = ("--index", room / "set.npy", "--model", room / "net.safetensors", "--report", tmp_path / "report")
    result = run("similar", room / "query-0.jpg", room / "query-1.jpg", *options, "-n", 5)
    one_line(result, 2, "would have 12 pictures, 6 for each photo; expected at most 11", "a smaller -n")
    (units,) = open_features(room / "set.npy").layers["fc7"]
    monkeypatch.setattr("alexnet_infer.features.page.MOST_BYTES", 3 * (8 * units + 3 * 64 * 64))
    result = run("similar", room / "query-0.jpg", *options, "-n", 3)
    one_line(result, 2, "would have 4 pictures, 4 for each photo; expected at most 3")
    assert not (tmp_path / "report").exists()


def test_images_that_are_not_on_the_page_are_counted(run, room, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(3))
    monkeypatch.chdir(tmp_path)
    index_of_photos(["a.jpg"], tmp_path / "photos.npz", room / "net.safetensors", **CPU)
    (tmp_path / "a.jpg").unlink()
    options = ("--index", tmp_path / "photos.npz", "--model", room / "net.safetensors", "--report", tmp_path / "report")
    code, _, err = run("similar", room / "query-0.jpg", *options)
    note = "note: images not shown: 1 of 1; the page says why"
    hint = "; --data names the folder in which `features` was run"
    assert (code, err.splitlines()[0]) == (0, note + hint)
    code, _, err = run("similar", room / "query-0.jpg", *options, "--data", tmp_path)
    assert (code, err.splitlines()[0]) == (0, note)
    too_long = run("similar", room / "query-0.jpg", *options, "--data", "a" * 300)
    one_line(too_long, 2, "--data aaa", "expected the folder in which `features` was run")


def test_equal_inputs_give_equal_pages(report, room, tmp_path):
    pages = []
    for _ in range(2):
        report(room / "query-0.jpg")
        pages.append((tmp_path / "report" / "index.html").read_bytes())
    assert pages[0] == pages[1]


def test_hostile_names_are_text(report, room, tmp_path):
    names = ['"onerror="alert(1).jpg', "<script>alert(1)<", "{{ 7 * 7 }}.jpg", "\u202egpj.jpg", "'x.jpg"]
    for i, name in enumerate(names):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(i))
    photos = [tmp_path / "photos" / name for name in names]
    index = index_of_photos(photos, tmp_path / "photos.npz", room / "net.safetensors", **CPU)
    code, _, page = report(*photos, "-n", 5, index=index)
    assert code == 0
    assert len(page.all("img")) == 5 * 6
    assert not page.all("script")
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert "{{ 7 * 7 }}.jpg" in page.text
    assert "\\u202egpj.jpg" in page.text
    assert "\u202e" not in page.text


def test_images_that_are_not_found_are_boxes_with_the_reason(report, room, tmp_path):
    photos = [tmp_path / f"{i}.jpg" for i in range(3)]
    for i, photo in enumerate(photos):
        photo.write_bytes(jpeg(i))
    index = index_of_photos(photos, tmp_path / "photos.npz", room / "net.safetensors", **CPU)
    photos[0].unlink()
    photos[1].write_bytes(jpeg(99))
    _, _, page = report(room / "query-0.jpg", "-n", 3, index=index)
    assert len(page.all("img")) == 1 + 1
    assert "Not shown: can't be read (No such file or directory)" in page.text
    assert "Not shown: another image than the one whose features were computed" in page.text


def test_a_set_that_is_missing_is_said_before_and_on_the_page(report, room, tmp_path):
    root = write_set(tmp_path / "set", IMAGES)
    index = index_of_set(root, tmp_path / "set.npy", room / "net.safetensors", **CPU)
    root.rename(tmp_path / "moved")
    code, err, page = report(room / "query-0.jpg", index=index)
    assert code == 0
    assert err.startswith("note: the page will have no images of the set; name it with --data (")
    assert page.text.count("Not shown: the images were not found") == 6
    _, err, page = report(room / "query-0.jpg", "--data", tmp_path / "moved", index=index)
    assert err.startswith("wrote ")
    assert len(page.all("img")) == 7


def test_photos_that_cannot_be_read_are_listed(report, run, room, tmp_path):
    (tmp_path / "bad.jpg").write_text("<b>")
    code, _, page = report(tmp_path / "bad.jpg", room / "query-0.jpg", "-n", 2)
    assert code == 1
    assert "Photos that could not be read" in page.text
    assert "bad.jpg : not an image" in page.text
    out = tmp_path / "none"
    options = ("--index", room / "set.npy", "--model", room / "net.safetensors", "--report", out)
    assert run("similar", tmp_path / "bad.jpg", *options)[0] == 3
    assert not out.exists()


def test_a_foreign_page_or_a_file_is_refused_before_anything_is_read(run, room, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    missing = ("--index", tmp_path / "missing.npz")
    one_line(run("similar", "x.jpg", *missing, "--report", tmp_path), 2, "--report", "would be overwritten")
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / "index.html").write_text('<meta name="generator" content="alexnet-infer 1.0">')  # as `eval --report`
    one_line(run("similar", "x.jpg", *missing, "--report", tmp_path), 2, "--report", "is a page of another command")
    (tmp_path / "file").write_text("")
    one_line(run("similar", "x.jpg", *missing, "--report", tmp_path / "file"), 2, "is a file")


def test_classes_are_named(report, room):
    own = room / "set" / "val" / WNIDS[3] / "0003.jpg"
    _, _, page = report(own, "-n", 1)
    assert page.all("img")[1]["alt"] == f"Neighbour 1: val/{WNIDS[3]}/0003.jpg, labelled kit fox"
