"""`alexnet-infer eval` and `data check` on one set in every layout: the same result, or a clear end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_infer.datasets import open_images
from tests.datasets.mini import MORE_WRITERS, WNIDS, WRITERS, pack, write_form, write_imagenette
from tests.evaluation.toys import save_net

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("scipy", reason="the devkit needs scipy")
pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def evaluate(run, net, tmp_path, monkeypatch):
    """Run `eval --json` on a set, with an empty cache."""
    monkeypatch.delenv("ALEXNET_INFER_DATA", raising=False)

    def evaluate(root: Path, *arguments: object) -> tuple[int, str, str]:
        cache = tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"
        options = ("--models", net, "--views", "center", "--device", "cpu", "--cache", cache, "--json")
        return run("eval", "--data", root, *options, *arguments)

    return evaluate


@pytest.fixture
def expected(evaluate, tmp_path) -> str:
    """The result for the set as folders named by WordNet ids."""
    code, out, err = evaluate(write_form("Imagenette", tmp_path / "reference" / "ilsvrc"))
    assert (code, err) == (0, "")
    return out


@pytest.fixture(autouse=True)
def reference_folder(tmp_path) -> None:
    (tmp_path / "reference").mkdir()


@pytest.mark.parametrize("form", [*WRITERS, *MORE_WRITERS])
def test_every_form_of_a_set_gives_the_same_json_byte_for_byte(evaluate, expected, tmp_path, form):
    root = write_form(form, tmp_path / "ilsvrc")
    assert evaluate(root) == (0, expected, "")
    result = json.loads(expected)
    assert (result["data"]["name"], result["data"]["images"]) == ("ilsvrc", 18)
    assert 0 < result["nets"][0]["top1"]["wrong"] < 18


@pytest.mark.parametrize("form", MORE_WRITERS)
def test_a_check_finds_nothing_worse_than_notes_in_any_form(run, tmp_path, form):
    code, out, err = run("data", "check", write_form(form, tmp_path / "ilsvrc"), "--no-hash", "--json")
    report = json.loads(out)
    bad = [f for f in report["findings"] if f["level"] in ("warning", "error")]
    assert (code, err, bad, report["images"], report["readable"]) == (0, "", [], 18, 18)


UNREADABLE = ("a.avif", "b.heic", "c.jp2", "d.jxl", "no suffix", "e.unknown", "f.JPEG")


def test_images_in_formats_that_are_not_read_count_as_wrong_and_are_named(evaluate, expected, tmp_path):
    root = write_form("Imagenette", tmp_path / "ilsvrc")
    for i, name in enumerate(UNREADABLE):
        (root / "val" / WNIDS[i % 6] / name).write_bytes(b"whatever it is")
    code, out, err = evaluate(root)
    assert code == 1
    assert {line.split(": ")[1] for line in err.splitlines()} == {*UNREADABLE}
    before, now = json.loads(expected), json.loads(out)
    assert now["data"]["images"] == before["data"]["images"] + len(UNREADABLE)
    for k in ("top1", "top5"):
        assert now["nets"][0][k]["wrong"] == before["nets"][0][k]["wrong"] + len(UNREADABLE)


def test_an_image_without_a_suffix_is_read_by_its_content(evaluate, expected, tmp_path):
    root = write_form("Imagenette", tmp_path / "ilsvrc")
    for path in sorted((root / "val").rglob("*.JPEG")):
        path.rename(path.with_suffix(""))
    code, out, err = evaluate(root)
    assert (code, err) == (0, "")
    assert json.loads(out)["nets"][0]["top1"] == json.loads(expected)["nets"][0]["top1"]


def test_numbered_folders_are_positions_in_the_nets_classes_and_the_program_says_so(evaluate, expected, tmp_path):
    root = write_form("numbered", tmp_path / "ilsvrc")
    (root / "classes.tsv").unlink()
    code, out, err = evaluate(root)
    assert (code, err.count("\n")) == (0, 1)
    assert "numbered" in err
    assert out == expected
    assert evaluate(root, "--format", "folders")[1] == expected


def test_a_check_of_numbered_folders_of_unknown_classes_warns_and_reads_the_images(run, tmp_path):
    root = write_form("numbered", tmp_path / "ilsvrc")
    (root / "classes.tsv").unlink()
    for path in (root, pack(root, tmp_path / "packed.zip")):
        code, out, _ = run("data", "check", path, "--json")
        report = json.loads(out)
        assert (code, report["images"], report["readable"]) == (0, 18, 18)
        (finding,) = (finding for finding in report["findings"] if finding["title"] == "class folders are numbered")
        assert finding["level"] == "warning"


@pytest.mark.parametrize("command", ["eval", "check"])
def test_two_folders_for_one_split_exit_2_with_both_names(run, evaluate, tmp_path, command):
    write_imagenette(tmp_path)
    (tmp_path / "validation" / WNIDS[0]).mkdir(parents=True)
    code, out, err = evaluate(tmp_path) if command == "eval" else run("data", "check", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has validation/ and val/" in err


def test_a_changed_order_of_the_labels_in_the_shards_is_not_answered_from_the_cache(run, net, tmp_path):
    """The two sets have the same files' sizes, names and numbers. Only the names of the labels differ."""
    from tests.datasets import mini

    results = []
    for i, order in enumerate((WNIDS, [*WNIDS[1:], WNIDS[0]])):
        root = tmp_path / str(i) / "ilsvrc"
        rows = [(data, name, WNIDS.index(wnid)) for name, (data, wnid) in sorted(mini.VALIDATION.items())]
        mini.write_shard(root / "validation.parquet", rows, order)
        options = ("--models", net, "--views", "center", "--device", "cpu", "--cache", tmp_path / "cache", "--json")
        code, out, err = run("eval", "--data", root, *options)
        assert (code, err) == (0, "")
        results.append(json.loads(out))
    first, second = results
    assert first["data"]["listing"] != second["data"]["listing"]
    assert first["classes"] != second["classes"]
    assert open_images(tmp_path / "0" / "ilsvrc").labels != open_images(tmp_path / "1" / "ilsvrc").labels
