"""`alexnet-infer eval --mce` end to end, against the errors of single sets and of the Python API."""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.backends import onnxruntime
from alexnet_infer.datasets import open_images
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from tests.datasets.mini import WNIDS
from tests.evaluation.corrupted import ALEXNET, IMAGES, STANDARD, write_corrupted
from tests.evaluation.toys import save_net, save_nets
from tests.program import one_line

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

FAST = ("--views", "center", "--device", "cpu", "--backend", "onnxruntime", "--batch", 6)
EXTRA = ("saturate",)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return save_nets(tmp_path_factory.mktemp("nets"), 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Tests must not change it."""
    return write_corrupted(tmp_path_factory.mktemp("sets") / "imagenet-c", extra=EXTRA)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One cache for the tests that do not look into it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def mce(run, models, root, cache):
    """Run `eval --mce` with the first net. Arguments can override the options."""

    def mce(*arguments: object, data: Path = root, nets: int = 1) -> tuple[int, str, str]:
        rest = [word for path in models[:nets] for word in ("--model", path)]
        rest += [] if "--cache" in arguments else ["--cache", cache]
        return run("eval", "--data", data, *FAST, *rest, "--mce", *arguments)

    return mce


def wrong_of(nets: list[Net], folder: Path) -> int:
    """Count the wrong images of a set for the mean of the nets, one image at a time in the Python API."""
    count = 0
    for example in open_images(folder):
        mean = np.mean([net.probabilities([example.square(net.rescaling)])[0] for net in nets], axis=0)
        count += nets[0].manifest.classes[int(mean.argmax())].wnid != WNIDS[example.label]
    return count


def test_the_mce_is_that_of_the_python_api_and_augmixs_formula(mce, models, root):
    code, out, err = mce("--json", nets=2)
    assert (code, err) == (0, "")
    result = json.loads(out)
    nets = [load(path, device="cpu", views="center", backend="onnxruntime") for path in models]
    wrong = {name: [wrong_of(nets, root / name / f"{s}") for s in range(1, 6)] for name in (*STANDARD, *EXTRA)}
    assert {c["name"]: [s["wrong"] for s in c["severities"]] for c in result["corruptions"]} == wrong
    assert len({tuple(counts) for counts in wrong.values()}) > 10
    total = sum(np.mean(wrong[name]) / IMAGES / error / 15 for name, error in zip(STANDARD, ALEXNET, strict=True))
    assert result["mce"] == pytest.approx(total, rel=1e-12)
    assert [c["ce"] for c in result["corruptions"] if c["name"] in EXTRA] == [None]


def test_every_error_is_that_of_eval_on_the_set_and_uses_its_cache(mce, run, models, root, cache, monkeypatch):
    result = json.loads(mce("--json")[1])
    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", lambda *_: pytest.fail("a net was run"))
    for corruption in result["corruptions"][:4]:
        for own in corruption["severities"]:
            folder = root / corruption["name"] / f"{own['severity']}"
            code, out, _ = run("eval", "--data", folder, *FAST, "--model", models[0], "--cache", cache, "--json")
            alone = json.loads(out)
            assert (code, alone["nets"][0]["top1"]["wrong"]) == (0, own["wrong"])
            assert alone["data"]["name"] == f"{corruption['name']}/{own['severity']}"


def test_sets_whose_files_have_the_same_names_and_sizes_are_told_apart(mce, root, tmp_path):
    """The files of a set differ from those of another only in their pixels, and so would the cache's keys."""
    sizes = {path.stat().st_size for path in root.rglob("*.JPEG")}
    assert len(sizes) == 1
    mce("--json", "--cache", tmp_path)
    assert len(list(tmp_path.glob("*/about.json"))) == 16 * 5


def test_grouped_folders_give_the_same_result(mce, root, tmp_path):
    plain = json.loads(mce("--json")[1])
    grouped = json.loads(mce("--json", data=write_corrupted(tmp_path / "imagenet-c", grouped=True, extra=EXTRA))[1])
    assert grouped == plain


def test_a_result_is_the_baseline_of_another_net(mce, tmp_path):
    (tmp_path / "base.json").write_text(mce("--json")[1])
    code, out, _ = mce("--json", "--mce-baseline", tmp_path / "base.json")
    assert (code, json.loads(out)["mce"], json.loads(out)["baseline"]) == (0, 1.0, "net-0")
    both = json.loads(mce("--json", "--mce-baseline", tmp_path / "base.json", nets=2)[1])
    own, base = ({c["name"]: c["error"] for c in json.loads(mce("--json", nets=n)[1])["corruptions"]} for n in (2, 1))
    assert both["mce"] == pytest.approx(np.mean([own[name] / base[name] for name in STANDARD]), rel=1e-12)


@pytest.mark.parametrize("form", [(), ("--csv",), ("--markdown",)])
def test_every_form_has_the_mce(mce, form):
    result = json.loads(mce("--json")[1])
    code, out, err = mce(*form)
    assert (code, err) == (0, "")
    assert f"{100 * result['mce']:.2f}" in out
    if form != ("--csv",):
        assert "The images of 8 x 8 pixels are rescaled to S = 64" in out


def test_a_sample_is_taken_of_each_set(mce):
    result = json.loads(mce("--json", "--limit", 3)[1])
    assert result["data"]["sample"] == {"images": 3, "of": 6}
    assert {s["images"] for c in result["corruptions"] for s in c["severities"]} == {3}
    assert "Only a sample of 3 of the 6 images of each set was evaluated." in result["protocol"]["deviations"]


def test_classes_and_only_known_change_the_score_and_are_named(mce, tmp_path):
    (tmp_path / "two.txt").write_text("\n".join(WNIDS[:2]))
    result = json.loads(mce("--json", "--classes", tmp_path / "two.txt")[1])
    assert result["protocol"]["outputs"] == 2
    assert (
        "Each set: 4 of the 6 classes are not among those that the net can choose: their 4 images count as wrong."
        in result["protocol"]["notes"]
    )
    assert all(s["wrong"] >= 4 for c in result["corruptions"] for s in c["severities"])
    other = save_net(tmp_path / "other.safetensors", 0, wnids=[*WNIDS[:3], "n05000000", "n06000000", "n07000000"])
    known = json.loads(mce("--json", "--model", other, "--only-known", nets=0)[1])
    assert {s["images"] for c in known["corruptions"] for s in c["severities"]} == {3}
    assert known["protocol"]["notes"][0] == "Each set: 3 images of classes unknown to the net were left out."


# What is missing or damaged.


@pytest.fixture
def copy(root, tmp_path) -> Path:
    shutil.copytree(root, tmp_path / "imagenet-c")
    return tmp_path / "imagenet-c"


def test_missing_sets_are_named_there_is_no_mce_and_the_exit_code_is_3(mce, copy):
    shutil.rmtree(copy / "frost" / "3")
    shutil.rmtree(copy / "zoom_blur")
    next(copy.glob("snow/2/*/*.JPEG")).unlink()
    words = "missing: zoom_blur, frost/3; other images than in most sets: snow/2"
    code, out, err = mce("--json", data=copy)
    assert (code, err) == (3, f"error: no mCE: {words}\n")
    result = json.loads(out)
    assert (result["mce"], result["error"]) == (None, None)
    assert [c["name"] for c in result["corruptions"] if c["standard"] and c["ce"] is None] == ["snow", "frost"]
    code, out, _ = mce(data=copy)
    assert code == 3
    assert f"mCE: none ({words})" in out


def test_an_unreadable_image_is_wrong_and_named_and_the_exit_code_is_1(mce, copy):
    path = next(copy.glob("fog/4/*/*.JPEG"))
    before = json.loads(mce("--json")[1])
    path.write_bytes(b"x" * path.stat().st_size)
    code, out, err = mce("--json", "--fresh", "--cache", copy.parent / "cache", data=copy)
    assert code == 1
    result = json.loads(out)
    assert result["data"]["unreadable"][0]["image"] == f"fog/4/{path.name}"
    assert err == f"error: fog/4/{path.name}: {result['data']['unreadable'][0]['reason']}\n"
    for then, now in zip(before["corruptions"], result["corruptions"], strict=True):
        changed = [a["wrong"] != b["wrong"] for a, b in zip(then["severities"], now["severities"], strict=True)]
        assert not any(changed[i] for i in range(5) if (now["name"], i) != ("fog", 3))
        assert all(b["wrong"] >= a["wrong"] for a, b in zip(then["severities"], now["severities"], strict=True))
    assert result["mce"] >= before["mce"]


def test_nothing_but_unreadable_images_exits_3(mce, copy):
    for path in copy.rglob("*.JPEG"):
        path.write_bytes(b"not an image")
    code, _, err = mce("--json", "--limit", 1, "--cache", copy.parent / "cache", data=copy)
    assert (code, err.count("\n")) == (3, 11)


def test_a_folder_that_is_no_corruption_is_named(mce, copy):
    (copy / "rain").mkdir()
    shutil.copytree(copy / "snow" / "1", copy / "rain" / "1")
    code, _, err = mce("--json", data=copy)
    assert (code, err) == (0, f"note: {copy / 'rain'} is no corruption of ImageNet-C and is left out\n")


def test_ctrl_c_says_how_to_continue_and_what_is_done_is_kept(mce, tmp_path, monkeypatch):
    whole = mce("--json")
    calls, infer = [], onnxruntime.OnnxRuntimeBackend.infer

    def interrupt(self, patches_nchw):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return infer(self, patches_nchw)

    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "infer", interrupt)
    stopped = mce("--json", "--cache", tmp_path)
    assert stopped == (130, "", "interrupted: run the same command again to continue\n")
    done = len(calls)
    assert mce("--json", "--cache", tmp_path) == whole
    assert len(calls) - done <= 16 * 5 - 28


def test_the_profile_says_how_many_predictions_were_cached(mce, tmp_path):
    _, _, err = mce("--json", "--profile", "--limit", 2, "--cache", tmp_path)
    assert "cached" not in err
    assert "bound by" in err
    _, _, err = mce("--json", "--profile", "--limit", 2, "--cache", tmp_path)
    assert err.splitlines()[0] == "the predictions of 160 of the 160 images were cached"
    assert "seconds" not in err


# Mistakes of the user.


@pytest.mark.parametrize(
    "option",
    [
        ("--report", "page"),
        ("--save-predictions", "t.csv"),
        ("--per-class", "t.csv"),
        ("--confusion", "t.png"),
        ("--fail-if", "top1>5"),
        ("--references", "all"),
        ("--shard", "1/2"),
    ],
)
def test_the_outputs_of_one_set_are_refused_before_anything_is_computed(mce, tmp_path, monkeypatch, option):
    pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    monkeypatch.chdir(tmp_path)
    one_line(mce(*option, "--cache", tmp_path / "cache"), 2, option[0], "--mce")
    assert not any(tmp_path.iterdir())


def test_a_baseline_needs_mce(run, root):
    one_line(run("eval", "--data", root, "--mce-baseline", "x.json"), 2, "--mce-baseline x.json: needs --mce")


def test_a_wrong_baseline_is_refused_before_anything_is_computed(mce, tmp_path):
    one_line(mce("--mce-baseline", tmp_path / "x.json", "--cache", tmp_path / "cache"), 3, "x.json: no such file")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("grouped", [False, True])
def test_without_mce_the_error_names_it_and_one_set(run, models, tmp_path, grouped):
    data = write_corrupted(tmp_path / "c", grouped=grouped)
    folder = data / "noise" if grouped else data
    result = run("eval", "--data", data, *FAST, "--model", models[0])
    one_line(result, 3, "has the sets of ImageNet-C; add --mce", f"--data {folder / 'gaussian_noise' / '1'}")


@pytest.mark.parametrize("name", ["absent", "gaussian_noise", "gaussian_noise/1"])
def test_a_folder_without_the_sets_is_a_clear_error(mce, root, name):
    one_line(mce(data=root / name), 3, f"{root / name}: no ")


def test_a_set_of_other_classes_is_refused(mce, tmp_path):
    other = save_net(tmp_path / "other.safetensors", wnids=[f"n0000000{i}" for i in range(6)])
    one_line(mce("--model", other, nets=0), 2, "share no class")


def test_one_bar_covers_all_sets(mce, monkeypatch, tmp_path):
    totals, counts = [], []

    @contextmanager
    def counting(title, total, unit="images"):
        totals.append(total)
        yield counts.append

    monkeypatch.setattr("alexnet_infer.commands.mce.counting", counting)
    assert mce("--json", "--limit", 3, "--cache", tmp_path)[0] == 0
    assert totals == [16 * 5 * 3]
    assert sum(counts) == totals[0]
    assert mce("--json", "--limit", 3, "--cache", tmp_path)[0] == 0  # all cached
    assert sum(counts) == sum(totals) == 2 * totals[0]


def test_the_csv_is_read_back_as_the_json(mce):
    rows = list(csv.DictReader(io.StringIO(mce("--csv")[1])))
    result = json.loads(mce("--json")[1])
    for row, corruption in zip(rows, result["corruptions"], strict=False):
        assert row["mean"] == f"{100 * corruption['error']:.2f}"
