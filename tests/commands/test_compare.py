"""`alexnet-infer compare` on real files: table, JSON, exit codes, and the choice of images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from msgspec.structs import replace
from PIL import Image

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.cli import app
from alexnet_infer.commands import compare, compare_tables
from alexnet_infer.commands.unreadable import NAMED
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.digests import image_digest
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.gate import Judgement
from alexnet_infer.graph.info import CalibrationRecord, ExportInfo, Member
from alexnet_infer.nets import load
from tests.datasets.mini import write_names
from tests.evaluation.toys import save_net, write_set
from tests.published.server import Server

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

IMAGES = 24


def export(source: Path, target: Path, *, scale: float = 1.0, **info: object) -> Path:
    """Export the net in `source` as an ONNX file, with the last layer's weights multiplied by `scale`."""
    from alexnet_infer.graph.file import save_model
    from alexnet_infer.graph.model import build_model

    artifact = load_artifact(source)
    last = (artifact.tensors["fc8.weight"].astype(np.float64) * scale).astype(np.float32)
    tensors = {**artifact.tensors, "fc8.weight": last}
    member = Member(name=artifact.manifest.name, sha256=sha256(source))
    weights: dict[str, np.ndarray] = {}
    model = build_model([Artifact(artifact.manifest, tensors)], ExportInfo(members=(member,), **info), weights)
    save_model(target, model, weights)
    return target


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), IMAGES)


@pytest.fixture
def run(capsys, monkeypatch):
    """run(a, b) runs the command and returns (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(a: Path, b: Path, *more, **options) -> tuple[int, str, str]:
        code = compare.run(a, b, *more, device="cpu", **options)
        return code, *capsys.readouterr()

    return run


def test_a_faithful_export_agrees_on_the_bundled_photos(run, net, tmp_path):
    code, out, err = run(net, export(net, tmp_path / "net.onnx", lrn="op"))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("reference: net, ten views averaged, ONNX Runtime")
    assert lines[1].startswith("candidate: net, ten views averaged, ONNX Runtime")
    assert lines[2].split() == ["images", "15"]  # three photos, whole and in quarters
    assert "within 1e-05; in " in lines[3]
    assert "top-1 error" not in out


def test_a_photo_at_a_url_is_compared_like_a_file(run, net, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)).save(photo)
    wrong = export(net, tmp_path / "net.onnx", scale=1.01)
    server = Server(photo.read_bytes())
    try:
        outputs = [run(net, wrong, photos=[name], as_json=True)[1] for name in (server.url, str(photo))]
    finally:
        server.close()
    from_url, from_file = map(json.loads, outputs)
    assert from_url.pop("largest_image").startswith(server.url)
    assert from_file.pop("largest_image").startswith(str(photo))
    assert from_url == from_file
    assert from_url["largest"] > 0


def test_standard_input_is_refused_in_one_line(run, net):
    with pytest.raises(UnreadableInputError, match="standard input can't be compared"):
        run(net, net, photos=["-"])


def test_an_export_that_gives_other_probabilities_exits_1_and_says_where(run, net, tmp_path):
    wrong = export(net, tmp_path / "net.onnx", scale=1.01)
    code, out, err = run(net, wrong)
    assert code == 1
    assert "above 1e-05; in " in out
    assert err.startswith("error: probabilities differ by up to 0.00")
    assert err.endswith("expected at most 1e-05; allow more with --tolerance\n")
    assert err.count("\n") == 1
    assert run(net, wrong, tolerance=0.05)[0] == 0


def test_json_has_the_figures_and_the_verdict(run, net, images, tmp_path):
    wrong = export(net, tmp_path / "net.onnx", scale=1.5)
    code, out, _ = run(net, wrong, data=images, as_json=True)
    fields = json.loads(out)
    assert (code, fields["within"], fields["tolerance"]) == (1, False, 1e-5)
    assert (fields["images"], fields["classes"], fields["views"], fields["unreadable"]) == (IMAGES, 6, "ten", [])
    assert 1e-5 < fields["mean"] < fields["largest"] < 1
    for metric in ("top1", "top5"):
        change = fields[metric]
        assert 0 < change["reference"]["wrong"] <= IMAGES
        assert change["low"] <= change["difference"] <= change["high"]
    assert type(fields["flips"]) is type(fields["near_ties"]) is int


def test_the_errors_are_those_that_eval_measures(run, net, images, tmp_path):
    from alexnet_infer.evaluation.assemble import assemble
    from alexnet_infer.evaluation.compute import EvaluationRequest, compute

    _, out, _ = run(net, export(net, tmp_path / "net.onnx"), data=images, as_json=True)
    computed = compute(EvaluationRequest(models=(net,), data=images, device="cpu", cache=tmp_path / "cache"))
    evaluated = assemble([[part] for part in computed.predictions]).nets[0]
    compared = json.loads(out)
    for metric in ("top1", "top5"):
        assert compared[metric]["reference"]["wrong"] == getattr(evaluated, metric).wrong
    assert evaluated.top1.wrong < IMAGES


def test_labels_give_rows_with_the_change_in_error(run, net, images, tmp_path):
    code, out, err = run(net, export(net, tmp_path / "net.onnx"), data=images, limit=12)
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if line.startswith("top-1")]
    assert [row[:22].rstrip() for row in rows] == [
        "top-1 flips",
        "top-1 error, reference",
        "top-1 error, candidate",
        "top-1 change in points",
    ]
    assert "+0.00" in rows[-1]
    assert "McNemar's p 1" in rows[-1]


@pytest.mark.parametrize("views", ["ten", "center"])
def test_a_file_that_cuts_its_views_is_compared_with_the_same_views_of_the_other_net(run, net, tmp_path, views):
    cut = export(net, tmp_path / "cut.onnx", views=views)
    for a, b in ((net, cut), (cut, net)):
        code, out, _ = run(a, b)
        assert code == 0
        assert out.count("ten views averaged" if views == "ten" else "central view") == 2


def test_files_that_cut_other_views_are_refused(run, net, tmp_path):
    files = [export(net, tmp_path / f"{views}.onnx", views=views) for views in ("ten", "center")]
    with pytest.raises(UsageError, match="views=ten, the other views=center"):
        run(*files)
    with pytest.raises(UsageError, match="views=ten"):
        run(net, files[0], views="center")


def test_float16_has_its_own_tolerance(run, net, tmp_path):
    assert "within 0.01; in" in run(net, export(net, tmp_path / "half.onnx", precision="fp16"))[1]


def test_an_unreadable_image_exits_1_though_all_others_agree(run, net, tmp_path):
    Image.new("RGB", (80, 70), "green").save(tmp_path / "a.png")
    for i in range(12):
        (tmp_path / f"b{i:02}.png").write_bytes(b"not an image")
    code, out, err = run(net, net, photos=[str(tmp_path)])
    assert code == 1
    assert "12 more can't be read" in out
    lines = err.splitlines()
    assert len(lines) == NAMED + 1
    assert lines[0].startswith(f"error: {tmp_path}/b00.png: not an image")
    assert lines[-1] == "error: 2 more can't be read; --json lists them"


def test_a_comparison_without_readable_images_is_refused(run, net, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableInputError, match="none of the 1 images can be read"):
        run(net, net, photos=[str(tmp_path / "a.png")])


def test_a_file_whose_logits_overflow_to_nan_is_refused(run, net, tmp_path):
    scale = 3e38 / float(np.abs(load_artifact(net).tensors["fc8.weight"]).max())
    with pytest.raises(ModelFileError, match="are not probabilities"):
        run(net, export(net, tmp_path / "net.onnx", scale=scale))


@pytest.mark.parametrize("tolerance", [-0.1, 2.0, float("nan")])
def test_a_tolerance_out_of_range_is_refused_before_anything_is_loaded(run, tolerance):
    with pytest.raises(UsageError, match="--tolerance"):
        run(Path("absent"), Path("absent"), tolerance=tolerance)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photos": ["a.jpg"], "data": Path("set")}, "expected a labelled set or photos, not both"),
        ({"limit": 3}, "--limit 3: needs a labelled set"),
        ({"layout": "flat"}, "--format flat: needs a labelled set"),
        ({"split": "train"}, "--split train: needs a labelled set"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        compare.choose_images(**options)


def test_a_labelled_set_is_used_if_it_is_named(images):
    assert isinstance(compare.choose_images(data=images), LabelledImages)


def test_the_bundled_photos_are_in_the_package_or_else_in_the_checkout(tmp_path, monkeypatch):
    checkout = Path(__file__).parents[2] / "examples"
    assert compare.example_photos() == sorted(checkout.glob("*.jpg"))
    (tmp_path / "package" / "commands").mkdir(parents=True)
    monkeypatch.setattr(compare, "__file__", str(tmp_path / "package" / "commands" / "compare.py"))
    with pytest.raises(UsageError, match="the bundled example photos are missing"):
        compare.example_photos()
    places = [tmp_path / "examples", tmp_path / "package" / "examples"]
    for place in places:
        place.mkdir()
        (place / "b.jpg").touch()
        (place / "a.jpg").touch()
        (place / "README.md").touch()
        assert compare.example_photos() == [place / "a.jpg", place / "b.jpg"]


def test_names_from_files_cannot_control_the_terminal(run, net, tmp_path):
    artifact = load_artifact(net)
    path = tmp_path / "net.safetensors"
    Artifact(replace(artifact.manifest, name="[red]net[/red]"), artifact.tensors).save(path)
    photo = tmp_path / "a\x1b[31m[bold].png"
    Image.new("RGB", (80, 70), "green").save(photo)
    out = run(path, path, photos=[str(photo)])[1]
    assert "reference: [red]net[/red], " in out
    assert "\x1b" not in out
    assert "\\x1b[31m[bold].png" in out


@pytest.fixture(scope="module")
def easy(net, images, tmp_path_factory) -> Path:
    """A set whose labels are the first guesses of `net`, which is right everywhere."""
    root = tmp_path_factory.mktemp("easy") / "set"
    files = sorted(images.rglob("*.jpg"))
    guesses = [result.labels[0] for result in load(net, device="cpu", views="center").classify_all(files, top=1)]
    for file, guess in zip(files, guesses, strict=True):
        (folder := root / "val" / guess.wnid).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    write_names(root / "classes.tsv", "\t")
    return root


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("stranger") / "stranger.safetensors", seed=1)


def test_a_gate_replaces_the_default_tolerance(run, net, easy, tmp_path):
    other = export(net, tmp_path / "net.onnx", scale=1.001)
    assert run(net, other, data=easy, views="center")[0] == 1
    code, out, err = run(net, other, data=easy, views="center", max_drop=["top1=20"])
    assert (code, err) == (0, "")
    assert re.search(
        r"^top-1 gate +passed +the upper end \+13\.80 is at most 20 *$", out, re.MULTILINE
    )  # z^2 / (24 + z^2)
    assert not re.search("top-5 gate|within|above", out)


def test_both_a_gate_and_a_tolerance_must_hold_if_both_are_given(run, net, easy, tmp_path):
    other = export(net, tmp_path / "net.onnx", scale=1.001)
    assert run(net, other, data=easy, views="center", max_drop=["top1=20"], tolerance=0.5)[0] == 0
    code, out, err = run(net, other, data=easy, views="center", max_drop=["top1=20"], tolerance=1e-6)
    assert (code, err.count("\n")) == (1, 1)
    assert "probabilities differ by" in err
    assert "passed" in out


def test_a_worse_net_fails_with_the_figures(run, net, stranger, easy):
    code, out, err = run(net, stranger, data=easy, views="center", max_drop=["top1=0.5", "top5=90"])
    assert code == 1
    assert re.fullmatch(
        r"error: top-1 error changed by \+\d+\.\d\d points, 95 % interval \[\+\d+\.\d\d, \+\d+\.\d\d\]: "
        r"expected at most 0\.5 \(--max-drop\)\n",
        err,
    )
    assert re.search(r"^top-1 gate +failed +the lower end \+\d+\.\d\d is above 0\.5 *$", out, re.MULTILINE)
    assert re.search("^top-5 gate +passed ", out, re.MULTILINE)


def test_too_few_images_are_undecided_and_the_table_says_how_many_more_would_decide(run, net, easy):
    code, out, err = run(net, net, data=easy, views="center", max_drop=["top1=0.5"])
    assert code == 1
    assert err == (
        "error: top-1 error changed by +0.00 points, 95 % interval [-13.80, +13.80]: undecided, expected at most 0.5 "
        "(--max-drop); about 750 more images would decide\n"  # 765 - 24, rounded up
    )
    assert "undecided  0.5 is between -13.80 and +13.80; about 750 more images would decide " in out


def test_no_number_of_images_is_given_if_the_difference_is_the_limit(run, net, easy):
    code, out, _ = run(net, net, data=easy, views="center", max_drop=["top1=0"])
    assert code == 1
    assert "the difference is the limit itself, so that no number of images would decide" in out


def test_a_figure_that_rounds_to_the_limit_has_more_digits():
    rest = {"metric": "top1", "max_drop": 0.005, "difference": 0.001, "low": 0.0}
    over = Judgement(**rest, outcome="undecided", high=0.0050004, more_images=1)
    assert "between +0.00000 and +0.50004" in compare_tables._reason(over)
    at = Judgement(**rest, outcome="passed", high=0.005, more_images=None)
    assert compare_tables._reason(at) == "the upper end +0.50 is at most 0.5"


@pytest.mark.parametrize("view", ["table", "json"])
def test_images_of_calibration_are_said_in_the_table_on_the_gate_and_in_json(run, net, easy, tmp_path, view):
    files = sorted(easy.rglob("*.jpg"))[:7]
    record = CalibrationRecord(method="entropy", images=tuple(sorted(image_digest(f.read_bytes()) for f in files)))
    int8 = export(net, tmp_path / "net.onnx", precision="int8", int8_for="cpu", calibration=record)
    code, out, err = run(net, int8, data=easy, views="center", max_drop=["top1=0.5"], as_json=view == "json")
    said = "; 7 of the 24 images were used for calibration: the drop may be larger on others"
    assert code == 1
    assert err.endswith(f"{said}\n")
    if view == "json":
        assert json.loads(out)["calibration_images"] == 7
    else:
        assert re.search("^calibration images +7 ", out, re.MULTILINE)
        assert f"about 750 more images would decide{said}" in " ".join(out.split())


def test_several_candidates_have_one_table_of_80_columns(run, net, stranger, easy, tmp_path, monkeypatch):
    same = export(net, tmp_path / "net.onnx")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(net, same, [stranger, same], data=easy, views="center", max_drop=["top1=20", "top5=1"])
    assert code == 1
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith(f"reference: net, {net}, central view, ONNX Runtime")
    assert lines[1].startswith(f"1: net, {same}, ONNX Runtime")
    assert lines[2].startswith("2: stranger, ONNX Runtime")  # no other net has this name
    assert lines[4] == "24 images"
    assert max(map(len, lines[5:])) <= 80
    rows = [line.split() for line in lines[6:] if "top-" in line]
    assert [row[0] for row in rows] == ["ref", "top-5", "1", "top-5", "2", "top-5", "3", "top-5"]
    assert rows[0] == ["ref", "top-1", "0.00%"]
    assert rows[2][2:] == ["0", "top-1", "0.00%", "+0.00", "[-13.80,", "+13.80]", "passed", "at", "20"]
    assert rows[2][1:] == rows[6][1:]
    assert " ".join(rows[4]).endswith("failed at 20")
    assert [line.partition("): ")[0] for line in err.splitlines()] == [
        f"error: candidate 1 (net, {same}",
        "error: candidate 2 (stranger",
        "error: candidate 2 (stranger",
        f"error: candidate 3 (net, {same}",
    ]


def test_several_candidates_without_a_gate_have_their_own_tolerances(run, net, easy, tmp_path):
    half, wrong = export(net, tmp_path / "half.onnx", precision="fp16"), export(net, tmp_path / "b.onnx", scale=1.001)
    code, out, err = run(net, half, [wrong], data=easy, views="center")
    assert code == 1
    assert [re.findall("(?:within|above) [0-9.e-]+", line) for line in out.splitlines() if "top-5" in line] == [
        [],
        ["within 0.01"],
        ["above 1e-05"],
    ]
    assert "gate" not in out.splitlines()[4]
    assert err.startswith(f"error: candidate 2 (net, {wrong}): probabilities differ by")
    assert run(net, half, [half], data=easy, views="center")[0] == 0


def test_json_of_several_candidates_has_each_as_it_is_alone(run, net, stranger, easy, tmp_path):
    same = export(net, tmp_path / "net.onnx")
    options = {"data": easy, "views": "center", "max_drop": ["top1=20"], "as_json": True}
    code, out, _ = run(net, same, [stranger], **options)
    together = json.loads(out)
    alone = [json.loads(run(net, other, **options)[1]) for other in (same, stranger)]
    assert (code, [*together]) == (1, ["reference", "candidates"])
    assert together["reference"] == {"path": str(net), **alone[0]["reference"]}
    for path, candidate, expected in zip((same, stranger), together["candidates"], alone, strict=True):
        del expected["reference"]
        assert candidate == {"path": str(path), **expected}
    assert [candidate["gate"]["passed"] for candidate in together["candidates"]] == [True, False]
    assert together["candidates"][1]["gate"]["top1"]["outcome"] == "failed"


def test_the_other_candidates_use_the_views_of_a_file_that_cuts_its_own(run, net, stranger, easy, tmp_path):
    cut = export(net, tmp_path / "cut.onnx", views="center")
    assert run(net, stranger, [cut], data=easy, tolerance=1.0)[1].startswith(f"reference: net, {net}, central view, ")


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        ((), {"max_drop": ["top1=1"]}, "--max-drop top1=1: needs a labelled set; name it with --data"),
        ((), {"max_drop": ["top1=1"], "photos": ["a.jpg"]}, "--max-drop top1=1: needs a labelled set"),
        ((), {"max_drop": ["top9=1"], "data": Path("absent")}, "--max-drop 'top9=1': expected"),
        ((Path("c.onnx"),), {}, "c.onnx, a third net: needs a labelled set; name it with --data"),
    ],
)
def test_a_gate_and_further_nets_need_labels(run, more, options, words):
    with pytest.raises(UsageError, match=f"^{re.escape(words)}"):
        run(Path("absent"), Path("absent"), more, **options)


def test_names_beside_a_labelled_set_are_nets(net, easy, tmp_path, capsys, monkeypatch):
    """On the command line: photos are refused, and a net's name or file is a candidate."""

    def program(*words: object) -> int:
        return typer.main.get_command(app)([*map(str, words)], standalone_mode=False)

    for name in ("photo.JPG", tmp_path):
        with pytest.raises(UsageError, match=f"^--data {easy} and {name}: expected a labelled set or photos, not both"):
            program("compare", net, net, name, "--data", easy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger").mkdir()  # `export` makes a folder named after the net
    with pytest.raises(ModelFileError, match="'stranger' is neither a file nor the name of a net"):
        program("compare", net, net, "stranger", "--data", easy)
    options = (
        "--data",
        easy,
        "--views",
        "center",
        "--max-drop",
        "top1=20",
        "--max-drop",
        "top5=20",
        "--device",
        "cpu",
        "--json",
    )
    assert program("compare", net, net, net, *options) == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert [candidate["gate"]["top5"]["outcome"] for candidate in candidates] == ["passed"] * 2
