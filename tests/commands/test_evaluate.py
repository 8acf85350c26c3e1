"""`alexnet-infer eval`: the same result for every layout of a set, interrupted or not, in shards or not."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import embedded_model, load_artifact, sha256
from alexnet_infer.backends import onnxruntime
from alexnet_infer.datasets import open_images
from alexnet_infer.decode import read_square
from alexnet_infer.evaluation.paper import PUBLISHED
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.nets import load
from alexnet_infer.preprocess import Rescaling
from tests.datasets.mini import VALIDATION, WNIDS, WRITERS
from tests.evaluation.toys import OTHER_WNIDS, save_net, save_nets, write_set
from tests.program import PROGRAM, one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 60
FAST = ("--views", "center", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixty images, ten of each class. Tests must not change them."""
    return write_set(tmp_path_factory.mktemp("sets") / "sixty", IMAGES)


@pytest.fixture(autouse=True)
def no_default_set(monkeypatch):
    monkeypatch.delenv("ALEXNET_INFER_DATA", raising=False)


@pytest.fixture
def evaluate(run, tmp_path, models, images):
    """Run `eval` with the first net on the sixty images, with one cache. Arguments can override these."""

    def evaluate(*arguments: object, data: Path = images) -> tuple[int, str, str]:
        words = list(map(str, arguments))
        rest = [] if "--models" in words else ["--models", models[0]]
        rest += [] if "--cache" in words else ["--cache", tmp_path / "cache"]
        return run("eval", "--data", data, *FAST, *rest, *arguments)

    return evaluate


# One result.


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Path]:
    """The miniature in every form, in folders with the same name."""
    folders = {}
    for form, (_, write) in WRITERS.items():
        folders[form] = tmp_path_factory.mktemp("form") / "ilsvrc"
        folders[form].mkdir()
        write(folders[form])
    return folders


def wrong(net_files: list[Path], root: Path) -> list[dict[int, int]]:
    """Count the wrong images of each net, then of their mean, one image at a time in the Python API: {k: count}."""
    nets = [load(path, device="cpu") for path in net_files]
    counts = [Counter() for _ in range(len(nets) + 1)]
    for example in open_images(root):
        square = read_square(example.data, name="", rescaling=Rescaling(size=64))
        own = [net.probabilities([square])[0].tolist() for net in nets]
        own.append([sum(values) / len(nets) for values in zip(*own, strict=True)])
        for count, values in zip(counts, own, strict=True):
            order = sorted(range(len(values)), key=lambda i, values=values: (-values[i], i))
            for k in (1, 5):
                count[k] += WNIDS[example.label] not in [nets[0].manifest.classes[i].wnid for i in order[:k]]
    return counts


def test_every_form_of_a_set_gives_the_same_bytes_and_the_errors_are_those_of_the_api(run, forms, models, tmp_path):
    arguments = ["--device", "cpu", "--cache", tmp_path, "--batch", 4, "--json"]
    for path in models:
        arguments += ["--models", path]
    outputs = {form: run("eval", "--data", root, *arguments) for form, root in forms.items()}
    assert {(code, err) for code, _, err in outputs.values()} == {(0, "")}
    assert len({out for _, out, _ in outputs.values()}) == 1
    result = json.loads(outputs["tar"][1])
    assert list(result) == [
        *("alexnet_infer", "data", "protocol", "nets", "ensemble", "calibration", "classes", "confusions")
    ]
    assert (result["data"]["name"], result["data"]["images"]) == ("ilsvrc", len(VALIDATION))
    counts = [{k: entry[f"top{k}"]["wrong"] for k in (1, 5)} for entry in [*result["nets"], result["ensemble"]]]
    assert counts == wrong(models, forms["tar"])
    assert all(0 < count[1] < 18 for count in counts)
    assert len({count[1] for count in counts}) > 1


@pytest.mark.parametrize("form", ["flat", "folders", "kaggle", "caffe"])
def test_unreadable_images_count_as_wrong_are_listed_and_exit_1(run, forms, models, tmp_path, form):
    root = tmp_path / "ilsvrc"
    shutil.copytree(forms[form], root)
    bad = ["ILSVRC2012_val_00000004.JPEG", "ILSVRC2012_val_00000011.JPEG"]
    for name in bad:
        (path,) = root.rglob(name)
        path.write_bytes(b"not an image")
    code, out, err = run(
        "eval", "--data", root, "--models", models[0], *FAST, "--cache", tmp_path / "cache", "--json", "--batch", 1
    )
    assert code == 1
    result = json.loads(out)
    reason = result["data"]["unreadable"][0]["reason"]
    assert reason.startswith("not an image, or damaged at its start; expected JPEG, PNG")
    assert err.splitlines() == [f"error: {name}: {reason}" for name in bad]
    assert result["data"]["unreadable"] == [{"image": name, "reason": reason} for name in bad]
    whole = run("eval", "--data", forms[form], "--models", models[0], *FAST, "--cache", tmp_path / "cache", "--json")
    before = json.loads(whole[1])
    assert before["data"]["listing"] == result["data"]["listing"]
    for wnid in WNIDS:
        unreadable = [name for name in bad if VALIDATION[name][1] == wnid]
        (then,), (now,) = ([c for c in r["classes"] if c["wnid"] == wnid] for r in (before, result))
        assert now["images"] == then["images"] == 3
        assert then["top5"] <= now["top5"] <= then["top5"] + len(unreadable)
    assert result["nets"][0]["top5"]["wrong"] >= 2
    assert sum(bin_["images"] for bin_ in result["calibration"]["bins"]) == 16


# Interrupted runs.

EVAL = [*PROGRAM, "eval", *FAST]


def size_of(cache: Path) -> int:
    """Return the number of bytes of predictions in the cache."""
    sizes = 0
    for name in ("*/images.jsonl", "*/rows.f32"):
        sizes += sum(path.stat().st_size for path in cache.glob(name))
    return sizes


def stopped_at(threshold: int, command: list[str], cache: Path, by: int) -> subprocess.Popen | None:
    """Send the signal `by` to a run once its predictions have `threshold` bytes. Return it, or None if it had ended."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job ignores it
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while child.poll() is None and size_of(cache) < threshold:
        time.sleep(0.0003)
    child.send_signal(by)
    child.communicate()
    return child if child.returncode not in (0, 1) else None


def arguments(models: list[Path], images: Path, cache: Path) -> list[str]:
    nets = itertools.chain.from_iterable(("--models", str(path)) for path in models)
    return ["--data", str(images), "--cache", str(cache), "--batch", "2", "--json", *nets]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_exits_130_and_the_next_run_continues(evaluate, models, images, tmp_path):
    whole = evaluate(*arguments(models, images, tmp_path / "whole"))
    for attempt in range(5):
        cache = tmp_path / f"cache {attempt}"
        child = stopped_at(1, [*EVAL, *arguments(models, images, cache)], cache, signal.SIGINT)
        if child is not None:
            break
    assert child.returncode == 130
    done = size_of(cache)
    assert 0 < done < size_of(tmp_path / "whole")
    assert evaluate(*arguments(models, images, cache)) == whole


@pytest.mark.parametrize(("options", "again"), [((), "again"), (("--fresh",), "again without --fresh")])
def test_an_interrupt_prints_how_to_continue_and_nothing_else(evaluate, monkeypatch, options, again):
    def interrupt(self, patches_nchw):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", interrupt)
    code, out, err = evaluate("--json", *options)
    assert (code, out, err) == (130, "", f"interrupted: run the same command {again} to continue\n")


# Shards.


def test_shards_merged_in_any_order_give_the_same_bytes_as_one_machine(evaluate, run, models, tmp_path):
    nets = ["--models", models[1], "--models", models[0], "--batch", 4]
    whole = evaluate(*nets, "--json")
    caches = [tmp_path / f"shard {i}" for i in (1, 2, 3)]
    for i, cache in enumerate(caches, start=1):
        code, out, err = evaluate(*nets, "--shard", f"{i}/3", "--cache", cache)
        assert (code, out) == (0, "")
        assert f"shard {i}/3: images {20 * (i - 1) + 1} to {20 * i} are in {cache}" in err
    for order in itertools.permutations(caches):
        assert run("eval", "merge", *order, "--json") == whole
    one_line(run("eval", "merge", *caches[:2], "--json"), 3, "images 40 to 59 are missing")
    one_line(run("eval", "merge", *caches[1:], "--json"), 3, "images 0 to 19 are missing")
    evaluate(*nets, "--shard", "1/2", "--cache", tmp_path / "half")
    one_line(run("eval", "merge", *caches, tmp_path / "half"), 3, "present twice", "do not mix shards")
    evaluate(*nets, "--views", "ten", "--shard", "1/3", "--cache", tmp_path / "ten")
    one_line(run("eval", "merge", *caches, tmp_path / "ten"), 3, "data, views or batch differ")


@pytest.mark.parametrize(
    ("name", "data"), [("about.json", b"{}"), ("images.jsonl", b"\n" * 60), ("rows.f32", b"\xff" * 60 * 24)]
)
def test_damaged_predictions_are_a_one_line_error(evaluate, run, tmp_path, name, data):
    evaluate()
    (path,) = (tmp_path / "cache").glob(f"*/{name}")
    path.write_bytes(data)
    one_line(run("eval", "merge", tmp_path / "cache"), 3, str(path.parent))


@pytest.mark.parametrize(
    "option", [["--json"], ["--fail-if", "top1>1"], ["--save-predictions", "rows.csv"], ["--references", "all"]]
)
def test_a_result_that_a_shard_cannot_give_is_refused_before_anything_is_computed(evaluate, tmp_path, option):
    one_line(evaluate("--shard", "1/3", "--cache", tmp_path / "cache", *option), 2, "--shard", "eval merge")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "shard", ["4/3", "0/3", "x", "1/0", "1", "-1/3", "1/3/5", "1.0/3", "1/3\n", "1/9999999", "²/3"]
)
def test_an_impossible_shard_is_refused(evaluate, shard):
    one_line(evaluate("--shard", shard), 2, "--shard", "expected I/N with I from 1 to N")


def test_more_shards_than_batches_are_refused(evaluate):
    one_line(evaluate("--batch", 32, "--shard", "1/3"), 2, "use fewer shards")


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_without_predictions_is_refused(run, tmp_path, folder):
    one_line(run("eval", "merge", tmp_path / folder), 3, "no predictions;", "eval --shard")


# Options.


def test_a_sample_is_marked_as_a_sample(evaluate, images):
    result = json.loads(evaluate("--limit", 12, "--json")[1])
    assert result["data"]["sample"] == {"images": 12, "of": 60}
    assert [class_["images"] for class_ in result["classes"]] == [2] * 6
    assert "Only a sample of 12 of the 60 images was evaluated." in result["protocol"]["deviations"]
    assert json.loads(evaluate("--json")[1])["data"]["sample"] is None
    one_line(evaluate("--limit", 61), 2, "--limit 61: the set has 60 images")


def test_fail_if_exits_1_exactly_when_it_holds(evaluate):
    code, out, _ = evaluate("--json")
    assert code == 0
    wrong = json.loads(out)["nets"][0]["top1"]["wrong"]
    assert 0 < wrong < 60
    below, above = 100 * wrong // 60, 100 * wrong // 60 + 1
    for condition, holds in (
        (f"top1>{below - 1}", True),
        (f"top1>{above}", False),
        (f"top1<{above}", True),
        (f"top1<{below - 1}", False),
        ("top5>=0", True),
        ("top5>100", False),
    ):
        code, again, err = evaluate("--json", "--fail-if", condition)
        assert (code, again) == (int(holds), out)
        assert err.startswith("--fail-if: top") == holds
    code, _, err = evaluate("--json", "--fail-if", "top5>100", "--fail-if", "top1>=0", "--fail-if", "top5>=0")
    assert (code, err.count("\n")) == (1, 2)
    one_line(evaluate("--fail-if", "top3>5"), 2, "'top3>5'")


def test_too_many_nets_are_refused_with_the_available_ones(evaluate, run, images):
    one_line(evaluate("--ensemble", 9), 2, "--ensemble 9: expected at most 1, ", "(net-0.safetensors)")
    one_line(run("eval", "--data", images, "--ensemble", 9), 2, embedded_model().name)


def test_a_net_named_twice_is_refused(evaluate, models, tmp_path):
    one_line(evaluate("--models", models[0], "--models", models[0]), 2, "named twice")
    shutil.copy(models[0], tmp_path / "copy.safetensors")
    one_line(evaluate("--models", models[0], "--models", tmp_path / "copy.safetensors"), 2, "the same net as")


def test_nets_with_other_classes_are_refused(evaluate, models, tmp_path):
    other = save_net(tmp_path / "other.safetensors", wnids=OTHER_WNIDS)
    one_line(evaluate("--models", models[0], "--models", other), 2, "has different classes from")


def test_nets_with_the_same_name_are_distinguished(evaluate, tmp_path):
    twins = [save_net(tmp_path / f"{seed}.safetensors", seed, name="twin") for seed in (0, 1)]
    table = tmp_path / "table.csv"
    code, out, _ = evaluate("--models", twins[0], "--models", twins[1], "--json", "--save-predictions", table)
    assert code == 0
    nets = json.loads(out)["nets"]
    names = [f"twin {net['sha256'][:8]}" for net in nets]
    assert [net["name"] for net in nets] == names
    assert names[0] != names[1]
    assert [comparison["net"] for comparison in json.loads(out)["ensemble"]["against"]] == names
    header = table.read_text().splitlines()[0]
    assert all(f"{name}: guess" in header for name in names)


def test_without_a_set_the_error_says_how_to_get_ilsvrc(run):
    one_line(run("eval"), 2, "--data is missing", "ILSVRC2012_img_val.tar", "https://image-net.org")


def test_the_environment_names_the_set(evaluate, run, models, images, tmp_path, monkeypatch):
    named = evaluate("--json")
    monkeypatch.setenv("ALEXNET_INFER_DATA", str(images))
    assert run("eval", *FAST, "--models", models[0], "--cache", tmp_path / "cache", "--json") == named


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "absent"], 3, "absent: no such file or folder"),
        (["--format", "zip"], 2, "--format 'zip': expected one of tar, flat"),
        (["--split", "train"], 3, "no train split here"),
        (["--models", "absent.safetensors"], 4, "absent.safetensors: No such file"),
        (["--batch", "0"], 2, "--batch 0"),
        (["--workers", "0"], 2, "--workers 0"),
        (["--limit", "0"], 2, "--limit 0"),
        (["--ensemble", "0"], 2, "--ensemble 0"),
        (["--json", "--csv"], 2, "--json and --csv: expected one of them"),
        (["--save-predictions", "table.xls"], 2, "ends in .csv or .parquet"),
        (["--save-predictions", "absent/table.csv"], 2, "no such folder"),
        (["--device", "cuda"], 5, "--device cuda"),
    ],
)
def test_a_mistake_of_the_user_is_a_one_line_error_with_its_exit_code(evaluate, monkeypatch, arguments, code, words):
    import onnxruntime as runtime

    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    one_line(evaluate(*arguments), code, words)


def test_predictions_are_saved_as_both_kinds_of_table(evaluate, models, images, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    nets = ["--models", models[0], "--models", models[1], "--json"]
    for name in ("table.csv", "table.parquet"):
        code, out, _ = evaluate(*nets, "--save-predictions", tmp_path / name)
        assert code == 0
    csv_rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    parquet_rows = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in parquet_rows] == csv_rows
    assert len(csv_rows) == IMAGES
    result = json.loads(out)
    for k in (1, 5):
        missed = sum(row["label"] not in [row[f"guess_{i + 1}"] for i in range(k)] for row in csv_rows)
        assert missed == result["ensemble"][f"top{k}"]["wrong"]
    for net in result["nets"]:
        assert net["top1"]["wrong"] == sum(row["label"] != row[f"{net['name']}: guess"] for row in csv_rows)
    probabilities = np.array([[float(row[f"p_{k}"]) for k in range(1, 6)] for row in csv_rows])
    assert (np.diff(probabilities, axis=1) <= 0).all()


@pytest.mark.parametrize("form", ["--csv", "--markdown", None])
def test_other_output_formats_come_from_the_same_predictions(evaluate, monkeypatch, form):
    code, out, _ = evaluate("--json")
    error = json.loads(out)["nets"][0]["top1"]["error"]
    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", lambda *_: pytest.fail("a net was run"))
    code, text, err = evaluate(*([form] if form else []))
    assert (code, err) == (0, "")
    assert f"{100 * error:.2f}" in text


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_references_select_the_published_rows_of_eval_and_merge(evaluate, run, tmp_path, form):
    option = [] if form == "table" else [f"--{form}"]
    evaluate("--json")
    for arguments, rows in (([], 1), (["--references", "near"], 1), (["--references", "all"], len(PUBLISHED))):
        code, text, err = evaluate(*option, *arguments)
        assert (code, err) == (0, "")
        assert text.count("not comparable") == rows
        assert run("eval", "merge", tmp_path / "cache", *option, *arguments) == (code, text, err)


def test_the_json_does_not_depend_on_the_references(evaluate):
    assert evaluate("--json", "--references", "all") == evaluate("--json")


def test_the_profile_names_every_stage_on_stderr(evaluate):
    plain = evaluate("--json", "--profile")
    assert plain[0] == 0
    json.loads(plain[1])
    for stage in ("read", "decode", "resize", "patches", "net"):
        assert stage in plain[2]
    assert re.search(
        r"bound by (reading|decoding on \d+ threads|cutting patches|the net), which was busy \d+%", plain[2]
    )


def test_a_report_is_one_page_beside_the_same_result(evaluate, tmp_path):
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    without = evaluate("--json")
    code, out, err = evaluate("--json", "--report", tmp_path / "report")
    assert (code, out) == without[:2]
    page = tmp_path / "report" / "index.html"
    assert err == f"report: {page}\n"
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
    wrong = json.loads(out)["nets"][0]["top1"]["wrong"]
    assert f"{wrong / IMAGES:.2%}".replace("%", " %") in page.read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")


def test_a_report_on_an_exported_net_beside_a_model_file_shows_no_kernels(evaluate, models, tmp_path):
    """The weights of an exported file can't be read, and the page shows the kernels of all nets or of none."""
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    from alexnet_infer.graph.file import save_model
    from alexnet_infer.graph.model import build_model

    weights: dict[str, np.ndarray] = {}
    info = ExportInfo(members=(Member(name="exported", sha256=sha256(models[0])),))
    save_model(tmp_path / "exported.onnx", build_model([load_artifact(models[0])], info, weights), weights)
    nets = ["--models", models[1], "--models", tmp_path / "exported.onnx"]
    code, out, _ = evaluate(*nets, "--json", "--report", tmp_path / "report")
    assert (code, len(json.loads(out)["nets"])) == (0, 2)
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "mean of 2 nets" in page
    assert 'class="kernels"' not in page


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        (["--json"], "put it after merge"),
        (["--fail-if", "top1>1"], "put it after merge"),
        (["--batch", "4"], "leave it out"),
    ],
)
def test_an_option_before_merge_is_refused(run, tmp_path, option, fix):
    one_line(run("eval", *option, "merge", tmp_path), 2, f"{option[0]}: has no effect before merge; {fix}")


def test_a_shard_needs_its_own_cache(run, models, images):
    one_line(run("eval", "--data", images, "--models", models[0], "--shard", "1/2"), 2, "--shard", "--cache")


def test_a_report_or_table_that_cannot_be_written_is_refused_before_anything_is_computed(evaluate, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    one_line(evaluate("--report", tmp_path / "file"), 2, "--report", "is a file")
    one_line(evaluate("--report", tmp_path / "site"), 2, "--report", "index.html was not written by alexnet-infer")
    one_line(evaluate("--save-predictions", tmp_path / "folder.csv"), 2, "--save-predictions", "is a folder")
    assert not (tmp_path / "cache").exists()


def test_a_set_in_which_nothing_can_be_read_exits_3_and_names_ten_images(evaluate, tmp_path):
    write_set(tmp_path / "set", 12)
    for path in (tmp_path / "set").rglob("*.jpg"):
        path.write_bytes(b"not an image")
    code, out, err = evaluate("--json", data=tmp_path / "set")
    assert code == 3
    assert json.loads(out)["nets"][0]["top1"]["wrong"] == 12
    assert err.count("\n") == 11
    assert "2 more can't be read" in err


def test_fresh_reads_again_what_could_not_be_read_before(evaluate, tmp_path):
    write_set(tmp_path / "set", 12)
    path = next((tmp_path / "set").rglob("*.jpg"))
    good = path.read_bytes()
    path.write_bytes(b"x" * len(good))
    assert evaluate("--json", data=tmp_path / "set")[0] == 1
    path.write_bytes(good)
    assert evaluate("--json", data=tmp_path / "set")[0] == 1
    code, out, _ = evaluate("--json", "--fresh", data=tmp_path / "set")
    assert (code, json.loads(out)["data"]["unreadable"]) == (0, [])
