"""`eval --classes`, `--only-known` and `--labels` end to end, against the Python API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends import onnxruntime
from alexnet_infer.datasets import open_images
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.nets import load
from tests.datasets.mini import WNIDS, jpeg, write
from tests.evaluation.toys import save_net, save_nets, write_set
from tests.program import one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

FAST = ("--views", "center", "--device", "cpu", "--backend", "onnxruntime", "--batch", 4)
MORE = sorted([*WNIDS[:4], "n00000001", "n05000000", "n09999999"])
"""Classes of a net: four of the data's six, and three others."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 2, wnids=MORE)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixty images, ten of each class. Tests must not change them."""
    return write_set(tmp_path_factory.mktemp("sets") / "sixty", 60)


@pytest.fixture
def evaluate(run, tmp_path, models, images):
    def evaluate(*arguments: object, nets: int = 1, data: Path = images) -> dict | tuple[int, str, str]:
        """The JSON's object, or the outcome if the program fails."""
        rest = [word for path in models[:nets] for word in ("--model", path)]
        rest += [] if "--cache" in arguments else ["--cache", tmp_path / "cache"]
        code, out, err = run("eval", "--data", data, *FAST, *rest, "--json", *arguments)
        return json.loads(out) if code == 0 and out else (code, out, err)

    return evaluate


def guesses(net_files: Sequence[Path], root: Path, allowed: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(label, classes by the nets' mean among the allowed ones) of each image, one at a time in the Python API."""
    nets = [load(path, device="cpu", views="center", backend="onnxruntime") for path in net_files]
    wnids = list(nets[0].manifest.wnids)
    chosen = [i for i, wnid in enumerate(wnids) if wnid in allowed]
    data, found = open_images(root), []
    for example in data:
        square = example.square(nets[0].rescaling)
        own = [net.probabilities([square])[0][chosen].astype(float) for net in nets]
        mean = np.mean([values / values.sum() for values in own], axis=0)
        order = sorted(range(len(chosen)), key=lambda i, mean=mean: (-mean[i], i))
        found.append((data.classes[example.label].wnid, [wnids[chosen[i]] for i in order]))
    return found


def wrong(found: list[tuple[str, list[str]]], k: int) -> int:
    return sum(label not in order[:k] for label, order in found)


@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize("classes", ["all", "shared", "file"])
def test_errors_among_the_chosen_classes_are_those_of_the_api(evaluate, models, images, tmp_path, nets, classes):
    allowed = {"all": MORE, "shared": WNIDS, "file": [WNIDS[0], WNIDS[2], "n05000000"]}[classes]
    (tmp_path / "ids.txt").write_text("\n".join(f"{wnid} name" for wnid in allowed))
    result = evaluate("--classes", tmp_path / "ids.txt" if classes == "file" else classes, nets=nets)
    found = guesses(models[:nets], images, allowed)
    headline = result["ensemble"] or result["nets"][0]
    assert [headline[f"top{k}"]["wrong"] for k in (1, 5)] == [wrong(found, k) for k in (1, 5)]
    assert result["protocol"]["outputs"] == len({*allowed} & {*MORE})
    assert result["protocol"]["classes"] == ("ids.txt" if classes == "file" else classes)


def test_the_score_depends_on_the_classes_but_no_net_runs_again(evaluate, monkeypatch):
    whole = evaluate()
    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", lambda *_: pytest.fail("a net was run"))
    shared = evaluate("--classes", "shared")
    assert shared["nets"][0]["top5"]["wrong"] == 20 < whole["nets"][0]["top5"]["wrong"]
    assert [note.partition(":")[0] for note in whole["protocol"]["notes"]] == [
        "2 of the 6 classes are unknown to the net",
        "3 of the net's 7 classes are not in the data (see --classes shared).",
    ]
    assert len(shared["protocol"]["notes"]) == 1


@pytest.mark.parametrize("width", [80, 160])
def test_the_first_line_says_that_classes_are_unknown(run, models, images, tmp_path, width):
    words = ("eval", "--data", images, *FAST, "--model", models[0], "--cache", tmp_path)
    lines = run(*words, columns=width)[1].splitlines()
    assert lines[0] == (
        "2 of the 6 classes are unknown to the net: their 20 images count as wrong (--only-known leaves them out)."
    )
    assert lines[1] == "3 of the net's 7 classes are not in the data (see --classes shared)."
    for form in ("--csv", "--markdown"):
        text = run(*words, form)[1]
        assert lines[0].removesuffix(".") in text
    assert lines[0] + "\n" in run(*words, "--markdown")[1]


def test_the_report_has_the_notes(run, models, images, tmp_path):
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    run("eval", "--data", images, *FAST, "--model", models[0], "--cache", tmp_path, "--report", tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text("utf-8")
    assert "2 of the 6 classes are unknown to the net: their 20 images count as wrong" in text.partition("<main>")[0]


# --only-known.


def known(found: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    return [pair for pair in found if pair[0] in MORE]


def test_only_known_leaves_out_the_images_of_unknown_classes(evaluate, models, images):
    result = evaluate("--only-known")
    assert result["data"]["images"] == 40
    found = known(guesses(models[:1], images, MORE))
    assert [result["nets"][0][f"top{k}"]["wrong"] for k in (1, 5)] == [wrong(found, k) for k in (1, 5)]
    assert [named["images"] for named in result["classes"]] == [10, 10, 10, 10, 0, 0]
    assert result["protocol"]["notes"][0] == "20 images of classes unknown to the net were left out."
    assert not [note for note in result["protocol"]["notes"] if "count as wrong" in note]


def test_only_known_with_a_limit_samples_the_known_images(evaluate):
    result = evaluate("--only-known", "--limit", 8)
    assert result["data"]["sample"] == {"images": 8, "of": 40}
    assert [named["images"] for named in result["classes"]] == [2, 2, 2, 2, 0, 0]
    one_line(evaluate("--only-known", "--limit", 41), 2, "the set has 40 images of classes that the nets know")


@pytest.mark.parametrize("options", [("--only-known",), ("--only-known", "--limit", 20)])
def test_only_known_in_shards_gives_the_bytes_of_one_machine(run, models, images, tmp_path, options):
    words = ("eval", "--data", images, *FAST, "--model", models[0], *options)
    whole = run(*words, "--cache", tmp_path / "whole", "--json")
    for i in (1, 2, 3):
        assert run(*words, "--shard", f"{i}/3", "--cache", tmp_path / f"{i}")[0] == 0
    assert run("eval", "merge", *(tmp_path / f"{i}" for i in (3, 1, 2)), "--json") == whole
    assert json.loads(whole[1])["data"]["images"] in (20, 40)


def test_only_known_changes_nothing_if_all_classes_are_known(evaluate, tmp_path, monkeypatch):
    net = save_net(tmp_path / "net.safetensors")
    whole = evaluate("--model", net, nets=0)
    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", lambda *_: pytest.fail("a net was run"))
    assert evaluate("--model", net, "--only-known", nets=0) == whole


def test_only_known_without_an_image_of_a_known_class_is_a_clear_error(evaluate, tmp_path):
    write_set(tmp_path / "set", 60)
    for wnid in WNIDS[:4]:
        shutil.rmtree(tmp_path / "set" / "val" / wnid)
        (tmp_path / "set" / "val" / wnid).mkdir()
    result = evaluate("--only-known", data=tmp_path / "set")
    one_line(result, 2, "--only-known: none of the 20 images is of a class that the nets know")


# --labels.

INDEX = {named.wnid: i for i, named in enumerate(ilsvrc_classes())}


@pytest.fixture
def validation(tmp_path) -> Path:
    """Twelve of ILSVRC's validation images, by class. The third class has images of its own."""
    for i in range(1, 13):
        write(tmp_path / "ILSVRC" / "val" / WNIDS[i % 6] / f"ILSVRC2012_val_{i:08}.JPEG", jpeg(i))
    return tmp_path / "ILSVRC"


def real(path: Path, lists: Sequence[Sequence[int]]) -> Path:
    path.write_text(json.dumps([*lists, *[[]] * (50_000 - len(lists))]))
    return path


def test_labels_are_those_of_real_right_if_the_guess_is_among_them(evaluate, models, validation, tmp_path):
    rng = np.random.default_rng(0)
    lists = [[INDEX[w] for w in rng.choice(WNIDS, rng.integers(0, 4), replace=False).tolist()] for _ in range(12)]
    result = evaluate("--labels", real(tmp_path / "real.json", lists), data=validation)
    data = open_images(validation)
    order = [int(example.name[-13:-5]) for example in data]
    found = [order for _, order in guesses(models[:1], validation, MORE)]
    names = dict(zip(order, found, strict=True))
    kept = [n for n in range(1, 13) if lists[n - 1]]
    assert result["data"]["images"] == len(kept) < 12
    for k in (1, 5):
        expected = sum(not {INDEX.get(w) for w in names[n][:k]} & {*lists[n - 1]} for n in kept)
        assert result["nets"][0][f"top{k}"]["wrong"] == expected
    assert result["protocol"]["labels"] == "real.json"


def test_labels_work_with_a_sample_and_in_merged_shards(run, models, validation, tmp_path):
    labels = ("--labels", real(tmp_path / "real.json", [[INDEX[WNIDS[n % 3]]] * (n % 4 > 0) for n in range(12)]))
    words = ("eval", "--data", validation, *FAST, "--model", models[0])
    whole = run(*words, "--cache", tmp_path / "whole", "--json", *labels)
    assert json.loads(whole[1])["data"]["images"] == 9
    for i in (1, 2):
        run(*words, "--shard", f"{i}/2", "--cache", tmp_path / f"{i}")
    assert run("eval", "merge", tmp_path / "1", tmp_path / "2", "--json", *labels) == whole
    few = json.loads(run(*words, "--cache", tmp_path / "few", "--json", "--limit", 6, *labels)[1])
    assert few["data"]["sample"]["of"] == 12
    assert few["data"]["images"] < 6


def test_labels_for_a_set_that_is_not_ilsvrcs_are_refused(evaluate, images, tmp_path):
    one_line(
        evaluate("--labels", real(tmp_path / "real.json", [[1]])), 2, "has no labels for val/", "expected ILSVRC's"
    )


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--labels", "[[1], [2]]", "has labels for 2 images; expected 50,000"),
        ("--labels", "{}", "expected JSON with one list"),
        ("--labels", None, "no such file"),
        ("--classes", "tench", "line 1: 'tench'"),
        ("--classes", None, "no such file; expected all, shared or a file"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_computed(evaluate, tmp_path, option, content, words):
    if content is not None:
        (tmp_path / "file").write_text(content)
    one_line(evaluate(option, tmp_path / "file"), 3, f"{option} {tmp_path / 'file'}", words)
    assert not (tmp_path / "cache").exists()


def test_classes_that_the_nets_lack_are_refused(evaluate, tmp_path):
    (tmp_path / "ids.txt").write_text("n11111111\n")
    one_line(evaluate("--classes", tmp_path / "ids.txt"), 2, "--classes ids.txt: the nets have none of these classes")


def test_classes_that_the_data_lacks_are_refused(evaluate, tmp_path):
    """All images would be wrong."""
    (tmp_path / "ids.txt").write_text("n09999999\n")
    one_line(evaluate("--classes", tmp_path / "ids.txt"), 2, "share no class")


@pytest.mark.parametrize("option", [("--classes", "shared"), ("--labels", "real.json")])
def test_a_shard_is_scored_when_it_is_merged(evaluate, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    real(Path("real.json"), [])
    one_line(evaluate("--shard", "1/2", "--cache", tmp_path / "c", *option), 2, "--shard", "eval merge")
