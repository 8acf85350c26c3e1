"""No name from outside controls a terminal, whatever it is the name of: folders, classes, files, arguments, nets.

Hypothesis makes the names. ALEXNET_INFER_EXAMPLES is the number of names per property, 4 without it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import LONGEST
from alexnet_infer.manifest import ClassName
from tests.datasets.mini import WNIDS, jpeg, write, write_names
from tests.evaluation.toys import save_net
from tests.nets import TINY, random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

Run = Callable[..., tuple[int, str, str]]

PIECES = [
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\x07", "\x08", "\x7f", "\r", "\n", "\nFAKE", "\r\nFAKE", "\t"),
    *("\u2028FAKE", "\u2029", "\x85FAKE", "\v", "\f", "\x1c", "\u202e", "\u2066", "\u200f", "\u061c", "\u200b"),
    *("\u2060", "\ufeff", "\u00ad", "\u3164", "\u034f", "\ue000", "\U000e0041", "\U0010ffff", "\u0378"),
    *("\udcff", "\ud800", "[red]x[/red]", "[/]", ":smile:", "=1+1", "@x", "|", "`", "<b>", "*", "\\", "%s", "{0}"),
    *("$x$", "&amp;", "'", '"', ",", ";", "é", "名", " ", "a", "n01440764", ".jpg", "-", "~", "!"),
]
"""What makes a name hostile: sequences and characters that terminals, formats and shells interpret."""

TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(exclude_characters="\0"), min_size=1, max_size=8).map("".join)


def _is_name(text: str) -> bool:
    try:
        return "/" not in text and "\0" not in text and not text.startswith(".") and 0 < len(os.fsencode(text)) < 200
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False


NAMES = TEXTS.filter(_is_name)
"""Names that a file can have, and that isn't hidden. Bytes that aren't UTF-8 are surrogates in them."""

ARGUMENTS = TEXTS.filter(lambda text: _is_name(text.replace("/", "")))

NASTY = "\x1b[31m\x9b2J\n\rFAKE\u202e\u200b\udcff[red]x[bold]:smile:"
FORMULA = "=1+1|`<b>`,;-x"

names = settings(
    max_examples=int(os.environ.get("ALEXNET_INFER_EXAMPLES", "4")),
    deadline=None,
    derandomize="ALEXNET_INFER_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def clean(text: str) -> None:
    """Check that no character of `text` is unseen, except line breaks, and that no line is made by a name."""
    unseen = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
    assert not unseen, (unseen, text)
    assert not {*"\u034f\u3164"} & {*text}, text
    assert not [line for line in text.split("\n") if line.startswith("FAKE")], text


def check(result: tuple[int, str, str]) -> tuple[int, str, str]:
    code, out, err = result
    assert code in (0, 1, 2, 3, 4, 5), result
    assert "Traceback" not in err
    clean(out)
    clean(err)
    assert all(len(line) <= LONGEST for line in err.split("\n"))
    return result


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return save_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def place(tmp_path) -> Callable[[], Path]:
    """place() -> an empty folder, the same each time."""

    def place() -> Path:
        folder = tmp_path / "place"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return place


FAST = ("--views", "center", "--device", "cpu", "--backend", "onnxruntime")
COMMANDS = """
--bad
benchmark
benchmark --batch
benchmark --plot
classify
classify --annotate x
classify --top
classify x --annotate
classify x --device
classify x --model
classify x --views
compare net
data
data check
data get tiny-imagenet --part
data get
eval --classes
eval --data
eval --fail-if
eval --format
eval --labels
eval --mce --data
eval --mce-baseline
eval --report x --data
eval --save-predictions
eval --shard
eval --split
eval merge
export
export --batch
export --calibrate
export --precision
export --trt --workspace
export --outputs
export --web x --runtime
export x --out
explain
explain x --model
explain x -o
features
features --data
features -o
features x -o f.npz --layer
features x -o f.npz --model
filters
filters --sort
filters -o
filters --scale
import
import --as
import x --classes
import x --name
import x --preprocessing
info
info x
models
pull
pull bvlc-alexnet --from
serve
serve x --host
serve x --port
serve --max-body
serve a=
similar
similar --index
similar x --index
similar x --index y --layer
similar x --index y --report
"""
"""The words before a hostile argument."""


@pytest.mark.parametrize("command", COMMANDS.splitlines())
def test_every_command_repeats_an_argument_as_one_printable_line(run: Run, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    for argument in (NASTY, f"--{NASTY}", NASTY * 2000):
        assert check(run(*command.split(), argument))[0] != 0


@names
@given(command=st.sampled_from(COMMANDS.splitlines()), argument=ARGUMENTS)
def test_an_argument_may_be_anything(run: Run, monkeypatch, tmp_path, command, argument):
    monkeypatch.chdir(tmp_path)
    check(run(*command.split(), argument))


@names
@given(name=NAMES, text=TEXTS)
@example(name=NASTY, text=NASTY)
@example(name=FORMULA, text=FORMULA)
def test_a_photo_and_its_folder_may_have_any_name(run: Run, net, place, name, text):
    folder = place() / name
    write(folder / f"{name}.jpg", jpeg(0))
    write(folder / f"2{name}.jpg", text.encode("utf-8", "replace"))
    write(folder / f"3{name}.jpg", jpeg(1))
    assert check(run("classify", folder, "--model", net, *FAST))[0] == 1
    for photo in folder.iterdir():
        check(run("classify", photo, "--model", net, *FAST))
    copies = folder.parent / f"c{name}"
    code, out, _ = check(run("classify", folder, "--model", net, *FAST, "--csv", "--annotate", copies))
    assert code == 1
    cells = [cell for row in csv.reader(out.splitlines()) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert len([*copies.iterdir()]) == 2
    rows = [json.loads(line) for line in run("classify", folder, "--model", net, *FAST, "--json")[1].splitlines()]
    assert sorted(row["photo"] for row in rows) == sorted(map(str, folder.iterdir()))


@names
@given(name=NAMES, text=NAMES)
@example(name=NASTY, text=NASTY)
@example(name=FORMULA, text=FORMULA)
def test_a_set_its_classes_its_images_and_a_net_may_have_any_name(run: Run, net, place, name, text):
    folder = place()
    data, model = folder / name, folder / f"{name}.safetensors"
    shutil.copy(net, model)
    for i, wnid in enumerate(WNIDS):
        write(data / "val" / wnid / f"{text}{i}.jpg", jpeg(i))
        write(data / "val" / wnid / f"{i}{text}.jpg", b"no image")
    write_names(data / "classes.tsv", "\t")
    files = [folder / f"{name}-{i}.csv" for i in range(3)]
    options = ["--save-predictions", files[0], "--per-class", files[1], "--confusion", files[2]]
    arguments = ["eval", "--data", data, "--model", model, *FAST, "--cache", folder / f"c{name}"]
    for more in (options, ["--csv"], ["--markdown"], ["--json"], ["--profile", "--report", folder / f"r{name}"]):
        assert check(run(*arguments, *more))[0] == 1
    for file in files:
        content = file.read_text("utf-8")
        clean(content)
        cells = [cell for row in csv.reader(content.splitlines()) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    check(run("eval", "merge", folder / f"c{name}", "--markdown"))
    check(run("data", "check", data))
    check(run("compare", model, net, "--data", data, *FAST))
    write(data / "val" / text / "1.jpg", jpeg(9))
    check(run(*arguments))
    check(run("data", "check", data, "--model", model))


@names
@given(line=TEXTS, label=TEXTS)
@example(line=NASTY, label=NASTY)
@example(line="x" * 3000, label="y" * 3000)
def test_a_line_of_a_list_or_of_a_table_may_be_anything(run: Run, net, place, line, label):
    folder = place()
    write(folder / "1.jpg", jpeg(0))
    write_names(folder / "synset_words.txt", " ")
    for text in (f"{line} 0\n", f"1.jpg {label}\n", f"{line}\n"):
        (folder / "val.txt").write_bytes(text.encode("utf-8", "surrogateescape" if _is_name(text) else "replace"))
        check(run("eval", "--data", folder, "--model", net, *FAST, "--cache", folder / "cache"))
        check(run("data", "check", folder))
    (folder / "synset_words.txt").write_bytes(f"{WNIDS[0]} {line}\n{label}\n".encode("utf-8", "replace"))
    check(run("eval", "--data", folder, "--model", net, *FAST, "--cache", folder / "cache"))
    (folder / "classes.tsv").write_bytes(f"{WNIDS[0]}\t{line}\n{label}\tx\n".encode("utf-8", "replace"))
    check(run("import", net, "--as", "caffe", "--classes", folder / "classes.tsv"))


VISIBLE = TEXTS.map(lambda text: "".join(c for c in text if c.isprintable()).replace("FAKE", "").strip()).filter(bool)


@names
@given(text=VISIBLE)
@example(text="[red]x[/red]")
@example(text=":smile:")
@example(text=FORMULA)
def test_the_names_in_a_model_file_are_shown_as_they_are(run: Run, place, text):
    artifact = random_artifact(TINY)
    classes = tuple(ClassName(wnid=f"n{i:08}{text}", name=f"{text} {i}") for i in range(7))
    provenance = structs.replace(artifact.manifest.provenance, data=text, software=text)
    manifest = structs.replace(artifact.manifest, name=text, classes=classes, provenance=provenance)
    path = place() / "net.safetensors"
    try:
        Artifact(manifest, artifact.tensors).save(path)
    except ValueError:
        return
    write(path.parent / "1.jpg", jpeg(0))
    shown = text.split(",")[0].strip()
    classify = ["classify", path.parent / "1.jpg", "--model", path, *FAST]
    assert check(run(*classify, "--annotate", path.parent / "copies"))[0] == 0
    for suffix in ("png", "svg"):
        assert check(run("filters", path, "-o", path.parent / f"kernels.{suffix}"))[0] == 0
    for words in (["info", path], classify):
        _, out, _ = check(run(*words, columns=400))
        assert not shown or {*shown} & {*"\u034f\u3164"} or shown in out


@names
@given(words=st.lists(ARGUMENTS, min_size=1, max_size=3))
@example(words=["prepare", NASTY, "--out", "x"])
@example(words=["plot", NASTY])
@example(words=["--data", NASTY])
@example(words=["--init-from", NASTY, "--data", "x"])
@example(words=["--name", NASTY, "--data", "x"])
@example(words=["--lr", NASTY])
@example(words=[NASTY])
def test_the_trainer_repeats_an_argument_as_one_printable_line(monkeypatch, capsys, tmp_path, words):
    from train import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    check((end.value.code, *capsys.readouterr()))


def test_a_message_of_megabytes_is_one_short_line(run: Run, tmp_path, net):
    write(tmp_path / "1.jpg", jpeg(0))
    write_names(tmp_path / "synset_words.txt", " ")
    (tmp_path / "val.txt").write_text("1.jpg " + "\x1b" * 20_000_000)
    assert check(run("eval", "--data", tmp_path, "--model", net))[0] == 3
    for words in (
        ["classify"],
        ["info"],
        ["eval", "--data"],
        ["--x"],
        ["pull"],
        ["import"],
        ["classify", "x", "--top"],
    ):
        check(run(*words, "\x1b" * 100_000))
