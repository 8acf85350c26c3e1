"""`eval` and `eval merge`: tables of classes, confusion matrices, reports of merged shards, and the profile's cache."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.datasets.mini import WNIDS
from tests.evaluation.page import Page
from tests.evaluation.toys import save_net, save_nets, write_set
from tests.program import PROGRAM, one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 60
FAST = ("--views", "center", "--device", "cpu", "--backend", "onnxruntime", "--batch", 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixty images, two of which can't be read. Tests must not change them."""
    root = write_set(tmp_path_factory.mktemp("sets") / "sixty", IMAGES)
    for i in (7, 20):
        next(root.rglob(f"{i:04}.jpg")).write_bytes(b"not an image")
    return root


@pytest.fixture
def evaluate(run, tmp_path, models, images):
    """Run `eval` with one or both nets on the sixty images."""

    def evaluate(*arguments: object, nets: int = 2, data: Path = images) -> tuple[int, str, str]:
        rest = [word for path in models[:nets] for word in ("--model", path)]
        rest += [] if "--cache" in arguments else ["--cache", tmp_path / "cache"]
        return run("eval", "--data", data, *FAST, *rest, *arguments)

    return evaluate


@pytest.fixture
def shards(evaluate, tmp_path) -> list[Path]:
    """The sixty images in three shards of both nets."""
    folders = [tmp_path / f"shard {i}" for i in (1, 2, 3)]
    for i, folder in enumerate(folders, start=1):
        assert evaluate("--shard", f"{i}/3", "--cache", folder)[0] == 0
    return folders


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --per-class and --confusion.


@pytest.mark.parametrize("nets", [1, 2])
def test_the_tables_of_classes_agree_with_the_table_of_images(evaluate, tmp_path, nets):
    files = {option: tmp_path / f"{option}.csv" for option in ("save-predictions", "per-class", "confusion")}
    code, out, _ = evaluate("--json", *(w for option, path in files.items() for w in (f"--{option}", path)), nets=nets)
    assert code == 1  # two images can't be read
    rows, classes, matrix = (read(files[option]) for option in files)
    pairs = Counter((row["label"], row["guess_1"] or "(unreadable)") for row in rows)
    assert len(matrix) == 6
    for row in matrix:
        label = row.pop("class")
        assert {guess: int(count) for guess, count in row.items()} == {
            guess: pairs[label, guess] for guess in (*WNIDS, "(unreadable)")
        }
    assert pairs[WNIDS[1], "(unreadable)"] == pairs[WNIDS[2], "(unreadable)"] == 1
    for row in classes:
        own = [image for image in rows if image["label"] == row["wnid"]]
        missed = {k: sum(row["wnid"] not in [i[f"guess_{n + 1}"] for n in range(k)] for i in own) for k in (1, 5)}
        assert [int(row[key]) for key in ("images", "top1_wrong", "top5_wrong")] == [len(own), missed[1], missed[5]]
        guesses = Counter(i["guess_1"] for i in own if i["guess_1"] not in ("", row["wnid"]))
        most = max(guesses.values())
        guess = min(guess for guess, count in guesses.items() if count == most)
        assert (row["wrong_guess"], row["wrong_guess_images"]) == (guess, str(most))
    result = json.loads(out)
    wrong = (result["ensemble"] or result["nets"][0])["top1"]["wrong"]
    assert sum(int(row["top1_wrong"]) for row in classes) == wrong


def test_merge_writes_the_same_bytes_as_one_machine(evaluate, run, shards, tmp_path):
    names = ("classes.csv", "matrix.csv", "matrix.png")
    for folder, command in (("one", evaluate), ("merged", lambda *a: run("eval", "merge", *shards, *a))):
        (tmp_path / folder).mkdir()
        classes, matrix, picture = (tmp_path / folder / name for name in names)
        assert command("--json", "--per-class", classes, "--confusion", matrix)[0] == 1
        assert command("--json", "--confusion", picture)[0] == 1
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()
    with Image.open(tmp_path / "one" / "matrix.png") as image:
        assert image.width > 300


def test_columns_are_the_classes_that_can_be_chosen(evaluate, tmp_path):
    (tmp_path / "three.txt").write_text("\n".join(WNIDS[2:5]))
    evaluate("--json", "--classes", tmp_path / "three.txt", "--confusion", tmp_path / "matrix.csv")
    header, *rows = (tmp_path / "matrix.csv").read_text().splitlines()
    assert header == ",".join(["class", *WNIDS[2:5], "(unreadable)"])
    assert len(rows) == 6
    assert all(sum(map(int, row.split(",")[1:])) == 10 for row in rows)


def test_a_hostile_class_name_is_no_formula_in_any_table(run, tmp_path):
    """Class folders are named by the user's own classes, such as one that a spreadsheet would run."""
    names = ["=1+1", "@x", "cat", "dog", "eel", "fox"]
    wnids = dict(zip(names, WNIDS, strict=True))
    write_set(tmp_path / "set", 12)
    for name, wnid in wnids.items():
        (tmp_path / "set" / "val" / wnid).rename(tmp_path / "set" / "val" / name)
    (tmp_path / "set" / "classes.tsv").unlink()
    net = save_net(tmp_path / "net.safetensors", wnids=sorted(names))
    files = {option: tmp_path / f"{option}.csv" for option in ("save-predictions", "per-class", "confusion")}
    words = [w for option, path in files.items() for w in (f"--{option}", path)]
    assert run("eval", "--data", tmp_path / "set", *FAST, "--model", net, "--cache", tmp_path / "c", *words)[0] == 0
    for path in files.values():
        cells = [cell for row in csv.reader(path.read_text().splitlines()) for cell in row]
        assert "'=1+1" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize("command", ["eval", "merge"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--per-class", "t.png"), "--per-class t.png: expected a file name that ends in .csv"),
        (("--per-class", "t"), "ends in .csv"),
        (("--confusion", "t.parquet"), "--confusion t.parquet: expected a file name that ends in .csv or .png"),
        (("--confusion", "absent/t.csv"), "no such folder; create absent first"),
        (("--per-class", "folder.csv"), "is a folder; expected a file name"),
        (("--per-class", "t.csv", "--confusion", "./t.csv"), "--confusion t.csv: is the file of --per-class, too"),
        (("--save-predictions", "t.csv", "--per-class", "t.csv"), "is the file of --save-predictions, too"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(
    evaluate, run, tmp_path, monkeypatch, command, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    result = evaluate(*arguments) if command == "eval" else run("eval", "merge", tmp_path / "cache", *arguments)
    one_line(result, 2, words)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_picture_needs_freetype_and_the_error_says_so(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "freetype2")
    one_line(evaluate("--confusion", tmp_path / "m.png"), 5, "needs Pillow with FreeType", "choose .csv")
    assert evaluate("--json", "--confusion", tmp_path / "m.csv")[0] == 1


@pytest.mark.parametrize("option", ["--per-class", "--confusion"])
def test_a_shard_has_no_such_output(evaluate, tmp_path, option):
    one_line(evaluate("--shard", "1/3", "--cache", tmp_path / "c", option, tmp_path / "t.csv"), 2, "eval merge")


# The report of merged shards.


@pytest.fixture
def jinja() -> None:
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")


def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text("utf-8"))


def test_a_merged_report_has_the_same_figures_and_images_as_one_machine(jinja, evaluate, run, shards, images, tmp_path):
    whole = evaluate("--json", "--report", tmp_path / "one")
    merged = run("eval", "merge", *shards, "--json", "--report", tmp_path / "two", "--data", images)
    assert merged[:2] == whole[:2]
    assert merged[2].endswith(f"report: {tmp_path / 'two' / 'index.html'}\n")
    one, two = page(tmp_path / "one"), page(tmp_path / "two")
    assert two.tables[:2] == one.tables[:2]
    named = [img["alt"] for img in one.all("img") if "labelled" in img["alt"]]
    assert [img["alt"] for img in two.all("img")] == named
    assert len(named) > 20
    assert "cropped to their central squares" in two.text
    assert "as the net sees them" in one.text


def test_without_the_data_the_report_says_that_it_has_no_images(jinja, run, shards, tmp_path):
    code, _, err = run("eval", "merge", *shards, "--json", "--report", tmp_path / "report")
    assert code == 1
    assert err.endswith("index.html\n")
    report = page(tmp_path / "report")
    assert report.all("img") == []
    assert "This page has no images, because it was made from predictions alone." in report.text
    assert "Most confident mistakes" not in report.text


@pytest.mark.parametrize("options", [("--limit", 30), ("--only-known",), ("--only-known", "--limit", 12)])
def test_a_merged_report_of_a_sample_shows_its_own_images(jinja, run, images, tmp_path, options):
    net = save_net(tmp_path / "net.safetensors", wnids=[*WNIDS[:4], "n05000000", "n06000000"])
    common = ("eval", "--data", images, *FAST, "--model", net, *options)
    for i in (1, 2):
        assert run(*common, "--shard", f"{i}/2", "--cache", tmp_path / f"{i}")[0] == 0
    run(*common, "--cache", tmp_path / "whole", "--report", tmp_path / "one")
    run("eval", "merge", tmp_path / "1", tmp_path / "2", "--report", tmp_path / "two", "--data", images)
    one, two = ([i["alt"] for i in page(tmp_path / n).all("img") if "labelled" in i["alt"]] for n in ("one", "two"))
    assert one == two
    assert one


def test_data_that_differs_from_the_predictions_is_refused(jinja, run, shards, images, tmp_path):
    other = tmp_path / "sixty"
    shutil.copytree(images, other)
    next(other.rglob("0003.jpg")).write_bytes(b"a file of another size")
    result = run("eval", "merge", *shards, "--report", tmp_path / "report", "--data", other)
    one_line(result, 2, f"--data {other}: its 60 images are not those of the predictions", "the 60 images of 'sixty'")
    assert not (tmp_path / "report").exists()
    for image in (other / "val" / WNIDS[0]).iterdir():
        image.unlink()  # the class stays
    one_line(run("eval", "merge", *shards, "--report", tmp_path / "report", "--data", other), 2, "its 50 images")
    one_line(run("eval", "merge", *shards, "--report", tmp_path / "report", "--data", tmp_path / "absent"), 3, "absent")


def test_data_without_a_report_is_refused(run, shards, images):
    one_line(run("eval", "merge", *shards, "--data", images), 2, f"--data {images}: is only for the images of a report")


def test_a_merged_report_that_cannot_be_written_is_refused_first(jinja, run, shards, tmp_path):
    (tmp_path / "file").write_text("")
    one_line(run("eval", "merge", *shards, "--report", tmp_path / "file"), 2, "--report", "is a file")


# --profile.


def test_a_profile_without_cached_predictions_has_times_only(evaluate):
    err = evaluate("--json", "--profile")[2]
    assert "cached" not in err
    assert "bound by" in err


def test_the_profile_of_cached_predictions_says_so_and_has_no_times(evaluate):
    evaluate("--json")
    code, _, err = evaluate("--json", "--profile")
    assert code == 1
    assert err.splitlines()[:2] == [
        "the predictions of 60 of the 60 images were cached",
        "nothing was computed, so there are no times; --fresh computes the predictions again",
    ]
    assert "seconds" not in err
    assert "bound by" not in err


def test_a_profile_names_each_net_if_only_some_predictions_were_cached(evaluate):
    evaluate("--json", nets=1)
    err = evaluate("--json", "--profile")[2]
    assert err.splitlines()[0] == "net-0: the predictions of 60 of the 60 images were cached"
    assert "net-1: " not in err
    assert "bound by" in err


def test_a_profile_counts_the_images_of_an_interrupted_run(evaluate, tmp_path):
    evaluate("--json", nets=1)
    for name, size in (("rows.f32", 24), ("images.jsonl", None)):
        (path,) = (tmp_path / "cache").glob(f"*/{name}")
        data = path.read_bytes()
        path.write_bytes(data[: 22 * size] if size else b"".join(data.splitlines(keepends=True)[:22]))
    err = evaluate("--json", "--profile", nets=1)[2]
    assert err.splitlines()[0] == "the predictions of 20 of the 60 images were cached"  # five whole batches of four
    assert re.search(r"net +\d+\.\d\d +\d", err)


def test_the_profile_of_a_shard_counts_its_own_images(evaluate, tmp_path):
    for _ in range(2):
        err = evaluate("--shard", "2/3", "--cache", tmp_path / "shard", "--profile")[2]
    assert err.startswith("the predictions of 20 of the 20 images were cached\n")


def test_pictures_of_the_same_predictions_are_the_same(evaluate, tmp_path):
    for name in ("a.png", "b.png"):
        evaluate("--json", "--confusion", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).std() > 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_files_are_written_even_if_the_result_cannot_be_printed(models, images, tmp_path):
    files = {"--save-predictions": "rows.csv", "--per-class": "classes.csv", "--confusion": "confusion.csv"}
    options = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    command = [*PROGRAM, "eval", "--data", str(images), "--model", str(models[0]), "--views", "center", *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--device", "cpu", "--cache", str(tmp_path / "cache")], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert all((tmp_path / name).stat().st_size for name in files.values())
