"""`alexnet-infer similar` as a user sees it: output, exit codes, one line per bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer import load
from alexnet_infer.artifact import embedded_model, sha256
from alexnet_infer.errors import UsageError
from alexnet_infer.features import open_features
from alexnet_infer.features import similar as module
from alexnet_infer.features.about import AboutLayer
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Preprocessing
from tests.datasets.mini import WNIDS, jpeg
from tests.evaluation.toys import save_net, write_set
from tests.features.indexed import index_of_photos, index_of_set
from tests.features.made import Made, write
from tests.program import one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 12
CPU = {"backend": "onnxruntime", "device": "cpu"}
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A net, another net, a set, and its features."""
    room = tmp_path_factory.mktemp("similar")
    net = save_net(room / "net.safetensors", 0)
    save_net(room / "other.safetensors", 1, name="net")
    write_set(room / "set", IMAGES)
    index_of_set(room / "set", room / "set.npz", net, layers=("fc7", "fc6:pre", "conv5"), **CPU)
    index_of_set(room / "set", room / "ten.npy", net, views="ten", half=True, **CPU)
    return room


@pytest.fixture
def similar(run, room):
    """Run `similar` with the index and the net."""

    def similar(*arguments: object, index: str | Path = "ten.npy", model: str | Path | None = "net.safetensors"):
        named = () if model is None else ("--model", room / model)
        return run("similar", *arguments, "--index", room / index, *named, "--backend", "onnxruntime")

    return similar


@pytest.fixture
def photo(tmp_path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1000))
    return tmp_path / "photo.jpg"


def by_hand(room: Path, photo: Path, layer: str, views: str, dtype: str) -> list[tuple[float, str]]:
    """All images of the set, the nearest first, by the NumPy reference."""
    net = load(room / "net.safetensors", views=views, backend="reference")
    files = sorted((room / "set" / "val").rglob("*.jpg"))
    query, *rows = (net.features(path, [layer])[layer].astype(dtype).astype(float) for path in (photo, *files))
    distances = [float(np.sqrt(((row - query) ** 2).sum())) for row in rows]
    return sorted(zip(distances, [str(path.relative_to(room / "set").as_posix()) for path in files], strict=True))


@pytest.mark.parametrize(
    ("index", "layer", "views", "dtype"),
    [
        ("set.npz", "fc7", "center", "float32"),
        ("set.npz", "fc6:pre", "center", "float32"),
        ("set.npz", "conv5", "center", "float32"),
        ("ten.npy", "fc7", "ten", "float16"),
    ],
)
def test_the_neighbours_are_those_of_the_reference(similar, room, photo, index, layer, views, dtype):
    code, out, err = similar(photo, "--layer", layer, "-n", 10, "--json", index=index)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    expected = by_hand(room, photo, layer, views, dtype)
    assert [near["name"] for near in answer["neighbours"]] == [name for _, name in expected[:10]]
    np.testing.assert_allclose(
        [near["distance"] for near in answer["neighbours"]], [distance for distance, _ in expected[:10]], rtol=2e-3
    )
    apart = np.diff([distance for distance, _ in expected[:11]]) / expected[10][0]
    assert apart.min() > 1e-5, "neighbours at equal distances would prove nothing"


def test_json_says_what_was_compared_with_what(similar, room, photo):
    own = room / "set" / "val" / WNIDS[3] / "0003.jpg"
    code, out, _ = similar(own, photo, "--json", "-n", 2)
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first["photo"] == str(own)
    assert first["neighbours"][0] == {
        "row": 3 * IMAGES // 6,  # sorted by class
        "distance": 0,
        "name": f"val/{WNIDS[3]}/0003.jpg",
        "label": WNIDS[3],
        "class": "kit fox",
    }
    facts = {key: value for key, value in second.items() if key not in ("photo", "neighbours")}
    assert facts == {
        "index": str(room / "ten.npy"),
        "data": "set",
        "layer": "fc7",
        "net": "net",
        "sha256": sha256(room / "net.safetensors"),
        "views": "ten",
        "dtype": "float16",
        "searched": IMAGES,
        "left_out": 0,
    }
    assert second["neighbours"][0]["distance"] > 0


def test_every_photo_gets_a_table(similar, room, photo):
    own = room / "set" / "val" / WNIDS[3] / "0003.jpg"
    code, out, err = similar(own, photo)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [i for i, line in enumerate(lines) if line.strip() in (str(own), str(photo))] == [0, 8]
    assert lines[1].split() == lines[9].split() == ["distance", "class", "name"]
    assert lines[2].split() == ["1", lines[2].split()[1], "kit", "fox", f"val/{WNIDS[3]}/0003.jpg"]
    assert float(lines[2].split()[1]) == 0
    assert [line.split()[0] for line in lines[10:16]] == ["1", "2", "3", "4", "5", "6"]
    assert lines[16] == f"fc7 of net, mean of ten views, {IMAGES} images of set"


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_answers_do_not_depend_on_how_many_photos_are_searched_for_at_once(
    run, similar, room, tmp_path, monkeypatch, form
):
    photos = sorted((room / "set").rglob("*.jpg"))[:5]
    photos.insert(3, tmp_path / "missing.jpg")
    together = similar(*photos, form)
    sizes = []
    search = module.search
    monkeypatch.setattr(module, "search", lambda *given: sizes.append(len(given[2])) or search(*given))
    monkeypatch.setattr(module, "PART", 2)
    assert similar(*photos, form) == together
    assert sizes == [2, 1, 2]


def test_an_answer_is_printed_before_the_next_photos_are_searched_for(similar, room, tmp_path, monkeypatch):
    photos = sorted((room / "set").rglob("*.jpg"))[:2]
    monkeypatch.setattr(module, "PART", 1)
    search, left = module.search, [1]

    def once(*given: object) -> object:
        if not left:
            raise UsageError("stopped")
        left.pop()
        return search(*given)

    monkeypatch.setattr(module, "search", once)
    code, out, err = similar(*photos, "--json")
    assert (code, json.loads(out)["photo"], err) == (2, str(photos[0]), "error: stopped\n")


def test_a_photo_whose_features_the_file_cannot_hold_is_one_error(similar, room, photo, monkeypatch):
    """As in an index of float16, if the net computes more than 65,504."""
    mean = Net.mean_over_views

    def large(scores: np.ndarray, images: int) -> np.ndarray:
        return mean(scores, images) * np.array([1, 1e6] + [1] * (images - 2))[:, None]

    monkeypatch.setattr(Net, "mean_over_views", staticmethod(large))
    own = sorted((room / "set").rglob("*.jpg"))[0]
    code, out, err = similar(own, photo, "-n", 1)
    assert code == 1
    assert "0000.jpg" in out
    assert err.startswith(f"error: {photo}: fc7: has the value ")
    assert "float16, the type of the file, holds at most 65,504; compute the file without --half" in err


def test_names_are_not_cut(run, room, tmp_path):
    folder = tmp_path / ("a-folder-with-a-long-name-" * 4)
    folder.mkdir()
    (folder / "x.jpg").write_bytes(jpeg(1))
    index = index_of_photos([folder / "x.jpg"], tmp_path / "long.npy", room / "net.safetensors", **CPU)
    _, out, _ = run("similar", folder / "x.jpg", "--index", index, "--model", room / "net.safetensors", columns=60)
    assert out.replace("\n", "").replace(" ", "").count(str(folder / "x.jpg")) == 2


def test_csv_has_all_neighbours(similar, photo):
    code, out, _ = similar(photo, "-n", 3, "--csv")
    header, *rows = csv.reader(io.StringIO(out))
    assert code == 0
    assert header == ["photo", "rank", "distance", "name", "label", "class"]
    assert [row[:2] for row in rows] == [[str(photo), "1"], [str(photo), "2"], [str(photo), "3"]]
    assert all(row[4] in WNIDS and row[3].startswith(f"val/{row[4]}/") for row in rows)


def test_the_default_net_is_that_which_the_file_names(run, tmp_path):
    index = index_of_photos([EXAMPLES], tmp_path / "examples.npy", embedded_model(), **CPU)
    code, out, err = run(
        "similar", EXAMPLES / "cat.jpg", "--index", index, "-n", 3, "--json", "--backend", CPU["backend"]
    )
    assert (code, err) == (0, "")
    first, *others = json.loads(out)["neighbours"]
    assert (first["name"], first["distance"], first["label"], first["class"]) == (
        *(str(EXAMPLES / "cat.jpg"), 0, None, None),
    )
    assert len(others) == 2


def test_unreadable_images_are_left_out_and_counted(similar, room, tmp_path, photo):
    (tmp_path / "bad.jpg").write_text("not an image")
    photos = [tmp_path / "bad.jpg", photo, room / "set" / "val" / WNIDS[0]]
    index = index_of_photos(photos, tmp_path / "photos.npz", room / "net.safetensors", **CPU)
    one_line(similar(photo, "-n", 4, index=index), 2, "-n 4: expected 1 to 3, the number of readable images")
    code, out, _ = similar(photo, "--json", index=index)  # without -n, all if there are less than six
    answer = json.loads(out)
    assert (code, answer["searched"], answer["left_out"]) == (0, 3, 1)
    assert answer["neighbours"][0]["name"] == str(photo)
    assert len(answer["neighbours"]) == 3
    assert str(tmp_path / "bad.jpg") not in [near["name"] for near in answer["neighbours"]]
    assert "3 photos, 1 left out" in similar(photo, index=index)[1]


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_searched(similar, photo, tmp_path):
    (tmp_path / "bad\x1b[2J.jpg").write_text("not an image")
    code, out, err = similar(tmp_path / "bad\x1b[2J.jpg", photo)
    assert code == 1
    assert str(photo) in out
    assert "bad\\x1b[2J.jpg: not an image" in err
    assert err.count("\n") == 1
    code, out, err = similar(tmp_path / "bad\x1b[2J.jpg", "--json")
    assert code == 3
    assert json.loads(out).keys() == {"photo", "error"}


HOSTILE = ["=HYPERLINK(1)", "\x1b]0;owned\x07\u202egpj.exe", "a\nb\t<script>alert(1)</script>.jpg", "/etc/passwd"]


def test_names_from_the_file_control_neither_a_terminal_nor_a_spreadsheet(similar, room, photo):
    net = load(room / "net.safetensors", backend="reference")
    values = np.zeros((4, *net.features(photo)["fc7"].shape), np.float32)
    about = {"net": "net", "sha256": sha256(room / "net.safetensors"), "preprocessing": net.manifest.preprocessing}
    index = write(Made({"fc7": values}, HOSTILE, ["n1\x1b[2J", *["=1+1"] * 3], {}, **about), room / "hostile.npz")
    code, out, err = similar(photo, "-n", 4, index=index)
    assert (code, err) == (0, "")
    assert out.replace("\n", "").isprintable()
    assert out.count("\n") == 7
    rows = [*csv.reader(io.StringIO(similar(photo, "-n", 4, "--csv", index=index)[1]))]
    assert len(rows) == 5
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    names = [near["name"] for near in json.loads(similar(photo, "-n", 4, "--json", index=index)[1])["neighbours"]]
    assert names == HOSTILE  # all are as far: in the file's order, exactly


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["-n", 0], 2, ["-n 0: expected at least 1"]),
        (["-n", 13], 2, ["-n 13: expected 1 to 12, the number of readable images in", "ten.npy"]),
        (["--layer", "fc6"], 2, ["has no layer 'fc6'; expected one of fc7"]),
        (["--json", "--csv"], 2, ["--json and --csv"]),
        (["--data", "set"], 2, ["--data set: is only for the images of a report; add --report"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line(similar, photo, arguments, code, parts):
    one_line(similar(photo, *arguments), code, *parts)


def test_a_layer_is_named_if_the_file_has_several(similar, photo):
    one_line(similar(photo, index="set.npz"), 2, "several layers", "--layer", "fc7, fc6:pre, conv5")


def test_features_of_another_net_are_refused_with_both_digests(similar, room, photo):
    own, other = (sha256(room / f"{name}.safetensors")[:12] for name in ("net", "other"))
    one_line(similar(photo, model="other.safetensors"), 2, f"net with SHA-256 {own}...", f"{other}...", "--model")


def test_a_net_that_is_not_known_by_name_is_asked_for(similar, room, photo):
    digest = sha256(room / "net.safetensors")[:12]
    one_line(similar(photo, model=None), 2, f"its net net ({digest}...) is not known by name", "--model")


def edited(index: Path, out: Path, **fields: object) -> Path:
    """Write a file of features again with another description."""
    features = open_features(index)
    values = {layer: features.array(layer) for layer in features.layers}
    same = structs.asdict(features.about) | {"layers": None} | fields
    same.pop("images")
    made = Made(values, features.names, features.labels, {}, **{k: v for k, v in same.items() if v is not None})
    return write(made, out)


def test_a_file_does_not_choose_a_path_from_which_a_net_is_loaded(similar, room, tmp_path, photo, monkeypatch):
    monkeypatch.chdir(room)
    for name in ("net.safetensors", "./net", str(room / "net.safetensors")):
        shutil.copy(room / "net.safetensors", room / "net")
        index = edited(room / "ten.npy", tmp_path / "edited.npy", net=name)
        one_line(similar(photo, index=index, model=None), 2, "is not known by name")


def test_a_bundled_net_of_that_name_but_another_file_is_refused(similar, room, tmp_path, photo):
    index = edited(room / "ten.npy", tmp_path / "edited.npy", net="alexnet-64-0")
    result = similar(photo, index=index, model=None)
    one_line(result, 2, sha256(embedded_model())[:12], sha256(room / "net.safetensors")[:12], "--model")


def test_a_file_that_contradicts_its_net_is_refused(similar, room, tmp_path, photo):
    preprocessing = Preprocessing(size=99, patch=57, mean=np.array([1, 2, 3]))
    index = edited(room / "ten.npy", tmp_path / "edited.npy", preprocessing=preprocessing)
    one_line(similar(photo, index=index), 3, "preprocessing", "damaged")
    features = open_features(room / "ten.npy")
    values = features.array("fc7")[:, :-1]
    layers = (AboutLayer(name="fc7", shape=values.shape[1:]),)
    facts = {"sha256": features.about.sha256, "preprocessing": features.about.preprocessing, "layers": layers}
    index = write(Made({"fc7": values}, **facts), tmp_path / "narrow.npy")
    one_line(similar(photo, index=index), 3, "another fc7", "damaged")


def test_damaged_files_are_one_line(similar, room, tmp_path, photo):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "text.npz").write_text("text")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "cut.npz").write_bytes((room / "set.npz").read_bytes()[:-100])
    for name in ("folder", "text", "pipe", "cut"):
        one_line(similar(photo, index=tmp_path / f"{name}.npz"), 3, f"{name}.npz: can't be read as features")
    one_line(similar(photo, index=tmp_path / "missing.npz"), 3, "no such file", "alexnet-infer features")
    one_line(similar(photo, index=tmp_path), 2, "expected a file name that ends in")


def test_a_file_without_readable_images_is_refused(similar, room, tmp_path, photo):
    features = open_features(room / "ten.npy")
    values = np.full((2, *features.layers["fc7"]), np.nan, np.float16)
    index = write(Made({"fc7": values}, ["a", "b"], None, {0: "x", 1: "x"}), tmp_path / "nothing.npy")
    one_line(similar(photo, index=index), 2, "none of its 2 images could be read")


def test_rows_that_are_not_finite_without_an_error_are_no_neighbours(similar, room, tmp_path, photo):
    features = open_features(room / "ten.npy")
    values = np.full((2, *features.layers["fc7"]), np.inf, np.float16)
    facts = {"net": features.about.net, "sha256": features.about.sha256, "preprocessing": features.about.preprocessing}
    index = write(Made({"fc7": values}, **facts), tmp_path / "infinite.npy")
    one_line(similar(photo, "-n", 2, index=index), 3, "no row of finite values")
