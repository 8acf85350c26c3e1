"""`alexnet-infer classify --csv` and `--annotate` as a user sees them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer.artifact import Artifact, load_manifest
from alexnet_infer.manifest import ClassName
from tests.nets import random_artifact
from tests.program import one_line
from tests.published.conftest import _alone  # noqa: F401 (no proxies)
from tests.published.server import Server

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def table(out: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(out))]


def test_csv_has_the_labels_of_json_one_row_each(run, model, folder):
    (folder / "1.jpg").write_bytes(b"no image")
    code, out, err = run("classify", folder, "--model", model, "--csv", "--top", 3)
    in_json = run("classify", folder, "--model", model, "--json", "--top", 3)[1]
    expected = [json.loads(line) for line in in_json.splitlines()]
    assert (code, err.count("\n")) == (1, 1)
    assert out.splitlines()[0] == "photo,rank,index,wnid,name,probability,error"
    rows = table(out)
    assert [(Path(row["photo"]).name, row["rank"]) for row in rows] == [
        *[("0.jpg", f"{i}") for i in (1, 2, 3)],
        ("1.jpg", ""),
        *[("2.jpg", f"{i}") for i in (1, 2, 3)],
    ]
    assert rows[3]["error"] == expected[1]["error"] != ""
    labels = [label for row in (expected[0], expected[2]) for label in row["labels"]]
    for row, label in zip(rows[:3] + rows[4:], labels, strict=True):
        assert (int(row["index"]), row["wnid"], row["name"]) == (label["index"], label["wnid"], label["name"])
        assert float(row["probability"]) == label["probability"]
        assert row["error"] == ""


def test_csv_has_no_formulas_and_nothing_that_controls_a_terminal(run, folder, tmp_path, monkeypatch):
    artifact = random_artifact()
    classes = tuple(ClassName(wnid=f"+{i}", name=f'=cmd|"/c calc"!A{i}, x') for i in range(7))
    Artifact(structs.replace(artifact.manifest, classes=classes), artifact.tensors).save(tmp_path / "evil.safetensors")
    monkeypatch.chdir(folder)
    (folder / "0.jpg").rename("=cmd().jpg")
    (folder / "1.jpg").rename("@\x1b[31m\n\u202e.jpg")
    (folder / "2.jpg").write_bytes(b"no image")
    (folder / "2.jpg").rename("-2.jpg")
    code, out, _ = run("classify", "*.jpg", "--model", tmp_path / "evil.safetensors", "--csv")
    assert code == 1
    assert "\x1b" not in out
    assert "\u202e" not in out
    rows = table(out)
    assert len(rows) == 11
    assert {row["photo"] for row in rows} == {"'=cmd().jpg", "'@\\x1b[31m\\n\\u202e.jpg", "'-2.jpg"}
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]
    assert {row["name"][:6] for row in rows} == {"'=cmd|", ""}
    assert {row["wnid"][:2] for row in rows} == {"'+", ""}


def test_more_labels_than_classes_are_refused_by_the_options_name(run, model, folder):
    one_line(run("classify", folder, "--model", model, "--top", 1000), 2, "--top 1000: expected 1 to 7, the number")


def test_csv_and_json_together_are_refused(run, model, folder):
    result = run("classify", folder, "--model", model, "--csv", "--json")
    one_line(result, 2, "--json and --csv: expected one of the two")


def test_copies_are_written_for_all_photos_that_can_be_read(run, model, folder, tmp_path):
    (folder / "1.jpg").write_bytes(b"no image")
    code, plain, _ = run("classify", folder, "--model", model)
    out = tmp_path / "new" / "copies"
    code, shown, err = run("classify", folder, "--model", model, "--annotate", out)
    assert (code, shown) == (1, plain)
    assert err.splitlines()[0].startswith("error: ")
    assert err.splitlines()[1:] == [f"2 annotated copies in {out}"]
    assert sorted(path.name for path in out.iterdir()) == ["0.jpg", "2.jpg"]
    for name in ("0.jpg", "2.jpg"):
        with Image.open(out / name) as copy, Image.open(folder / name) as photo:
            left = (copy.width - photo.width) // 2
            part = np.asarray(copy.crop((left + 20, 10, left + 80, 70)), int)
            assert np.abs(part - np.asarray(photo)[10:70, 20:80]).mean() < 20


def test_json_names_each_copy_and_a_second_run_replaces_the_copies(run, model, folder, tmp_path):
    out = tmp_path / "copies"
    for _ in range(2):
        code, text, _ = run("classify", folder, folder, "--model", model, "--annotate", out, "--json")
        assert code == 0
        copies = [json.loads(line)["copy"] for line in text.splitlines()]
        assert copies == [str(out / f"{i}{number}.jpg") for number in ("", "-2") for i in range(3)]
        assert sorted(map(str, out.iterdir())) == sorted(copies)


def test_an_empty_name_of_a_folder_is_refused(run, model, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(run("classify", folder, "--model", model, "--annotate", ""), 2, "--annotate': expected a folder")


def test_with_the_central_view_the_frame_is_around_the_patch_that_the_net_sees(run, model, folder, tmp_path):
    photo = Image.new("RGB", (1280, 1280), "red")
    photo.save(tmp_path / "red.png")
    out = tmp_path / "out"
    assert run("classify", tmp_path / "red.png", "--model", model, "--annotate", out, "--views", "center")[0] == 0
    with Image.open(out / "red.png") as copy:
        changed = (np.asarray(copy)[:1280] != np.asarray(photo)).any(2)
    preprocessing = load_manifest(Path(model)).preprocessing
    assert preprocessing.patch < preprocessing.size == 64
    start = (64 - preprocessing.patch) // 2 * 20
    for axis in (0, 1):
        places = np.flatnonzero(changed.any(axis))
        assert (places.min(), places.max() + 1) == (start, start + preprocessing.patch * 20)
    assert run("classify", tmp_path / "red.png", "--model", model, "--annotate", out, "--views", "ten")[0] == 0
    with Image.open(out / "red.png") as copy:
        assert np.array_equal(np.asarray(copy)[:1280], np.asarray(photo))


def test_the_photos_own_folder_is_refused_before_anything_is_classified(run, model, folder, monkeypatch):
    monkeypatch.setattr("alexnet_infer.commands.classify.load", lambda *_, **__: pytest.fail("a net was loaded"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    one_line(run("classify", folder, "--model", model, "--annotate", folder), 2, "expected another folder")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_copies_of_standard_input_and_of_a_url_are_of_what_was_classified(run, model, folder, tmp_path, monkeypatch):
    data = (folder / "0.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    server = Server(data)
    out = tmp_path / "copies"
    try:
        code, text, _ = run("classify", "-", server.url, "--model", model, "--annotate", out, "--json")
    finally:
        server.close()
    assert code == 0
    assert len(server.requests) == 1
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["labels"] == second["labels"]
    assert [Path(row["copy"]).name for row in (first, second)] == ["standard-input.png", "net.png"]
    assert len([*out.iterdir()]) == 2


def test_a_class_name_that_no_font_has_is_reported_and_does_not_stop_the_run(run, folder, tmp_path):
    artifact = random_artifact()
    classes = tuple(ClassName(wnid=f"n{i:08}", name=f"\U00010600 {i}") for i in range(7))
    Artifact(structs.replace(artifact.manifest, classes=classes), artifact.tensors).save(tmp_path / "net.safetensors")
    code, _, err = run("classify", folder, "--model", tmp_path / "net.safetensors", "--annotate", tmp_path / "copies")
    assert code == 0
    assert "the copies show their WordNet ids instead" in err.splitlines()[0]
    assert len([*(tmp_path / "copies").iterdir()]) == 3
