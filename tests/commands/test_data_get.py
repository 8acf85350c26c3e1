"""`alexnet-infer data get`, from a server on the loopback interface to a folder that `eval --data` reads."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.datasets import open_images
from alexnet_infer.published.data_sets import VARIABLE, data_set, data_sets
from alexnet_infer.published.get import sets_folder
from tests.published.archives import packed
from tests.published.conftest import _alone  # noqa: F401 (no proxies, no pauses)
from tests.published.server import Server


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 64), "red").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with a set of three images in the layout of Imagenette, and a registry that lists it as "small".

    The registry also lists it as the parts "one" and "two" of "parted", whose folders it has.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wnids = load_manifest(embedded_model()).wnids[:3]
    files = {f"small2/{split}/{wnid}/a.JPEG": jpeg() for split in ("train", "val") for wnid in wnids}
    server = Server(packed(files, "tar.gz"))
    small = json.loads(msgspec.json.encode(data_set("imagenette-160"))) | {"name": "small", "model": None}
    archive = small["archives"][0]
    archive["urls"], archive["size"] = [server.url.replace("net.bin", "small2.tgz")], len(server.content)
    archive["digest"] = f"sha256:{hashlib.sha256(server.content).hexdigest()}"
    parts = [archive | {"part": part, "folders": [folder]} for part, folder in (("one", "train"), ("two", "val"))]
    parted = small | {"name": "parted", "archives": parts, "model": "caffenet"}
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"format": 1, "sets": [small, parted]}))
    monkeypatch.setenv(VARIABLE, str(path))
    yield server
    server.close()


def test_a_set_is_fetched_and_the_next_command_reads_it(site, run):
    code, out, err = run("data", "get", "small")
    path = sets_folder() / "small"
    assert (code, out) == (0, f"{path}\n")
    licence, following = err.splitlines()
    assert licence.startswith("small: licence: none stated; the images are ImageNet's")
    assert licence.endswith("(https://image-net.org/accessagreement)")
    assert following == f"small is ready; next: alexnet-infer eval --data {path}"
    for split in ("validation", "train"):
        assert len(open_images(path, split)) == 3
    code, out, err = run(*shlex.split(following.partition("alexnet-infer ")[2]), "--views", "center", "--json")
    assert (code, json.loads(out)["data"]["images"]) == (0, 3), err


@pytest.mark.parametrize(
    "command", [("eval", "--views", "center", "--json", "--data"), ("data", "check", "--json")], ids=["eval", "check"]
)
def test_the_name_of_a_fetched_set_stands_for_its_folder(site, run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command, "small")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "small: no such file or folder; `alexnet-infer data get small` gets the set" in err
    run("data", "get", "small")
    by_name, by_path = run(*command, "small"), run(*command, sets_folder() / "small")
    assert by_name == by_path
    assert by_name[0] in (0, 1)  # `check` finds that the three images are one
    (tmp_path / "small").mkdir()
    assert "small: " in run(*command, "small")[2]  # an existing folder comes first


def test_the_licence_comes_before_anything_is_fetched(site, run):
    site.script = [site.says(b"", 404)]
    code, out, err = run("data", "get", "small")
    assert (code, out, err.count("\n")) == (3, "", 2)
    assert err.splitlines()[0].startswith("small: licence: ")
    assert "HTTP 404" in err.splitlines()[1]


def test_a_set_that_is_there_is_reported_and_left_alone(site, run):
    run("data", "get", "small")
    site.requests.clear()
    code, out, err = run("data", "get", "small")
    assert (code, out, site.requests) == (0, f"{sets_folder() / 'small'}\n", [])
    assert "small is already there (--force gets it again); next: alexnet-infer eval --data" in err
    assert run("data", "get", "small", "--force")[0] == 0
    assert len(site.requests) == 1


def test_the_folder_is_below_the_named_one_and_quoted_for_the_shell(site, run, tmp_path):
    folder = tmp_path / "my sets"
    code, out, err = run("data", "get", "small", "--to", folder, "--keep")
    assert (code, out) == (0, f"{folder / 'small'}\n")
    assert f"alexnet-infer eval --data '{folder / 'small'}'" in err
    assert sorted(path.name for path in folder.iterdir()) == ["small", "small2.tgz"]


def test_json_has_the_path_and_the_command(site, run, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(site.content)
    code, out, _ = run("data", "get", "parted", "--part", "two", "--from", copy, "--json")
    path = str(sets_folder() / "parted")
    command = f"alexnet-infer eval --data {path} --model caffenet"
    assert code == 0
    assert json.loads(out) == {"name": "parted", "parts": ["two"], "path": path, "fetched": True, "command": command}
    assert [folder.name for folder in Path(path).iterdir()] == ["val"]
    assert not site.requests


def test_without_a_name_all_sets_are_listed(run, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    code, out, err = run("data", "get", columns=80)
    assert (code, err) == (0, "")
    assert max(map(len, out.partition("\n\n")[0].splitlines())) <= 80
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    for name, data in data_sets().items():
        assert rows[name][1:4] == [f"{data.validation:,}", f"{data.classes:,}", f"{data.size / 1e6:,.0f}"]
        assert rows[name][4] == data.archives[0].check
        assert f"\n{rows[name][5]}  {data.licence}\n   {data.terms}\n" in out
    assert "MD5 is not safe against a forger" in out
    assert "--part" in out


def test_the_list_as_json_says_what_is_there(site, run):
    run("data", "get", "parted", "--part", "one")
    code, out, err = run("data", "get", "--json")
    assert (code, err) == (0, "")
    small, parted = json.loads(out)["sets"]
    assert (small["path"], small["parts_there"], small["size"]) == (None, [], len(site.content))
    assert (parted["path"], parted["parts_there"]) == (str(sets_folder() / "parted"), ["one"])
    assert parted["archives"][0]["digest_source"]
    assert run("data", "get", "small")[0] == 0
    assert json.loads(run("data", "get", "--json")[1])["sets"][0]["path"] == str(sets_folder() / "small")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("smal",), 2, "did you mean small?"),
        (("parted",), 2, "parted has parts; name at least one with --part: expected one"),
        (("parted", "--part", "three"), 2, "--part 'three': expected one"),
        (("small", "--part", "one"), 2, "small has no parts"),
        (("parted", "--part", "all", "--from", "x"), 2, "--from x: one file for 2 parts"),
        (("small", "--from", "gone.tgz"), 3, "--from gone.tgz: No such file"),
        (("small", "--from", "ftp://x/y"), 2, "expected a URL"),
        (("small", "--to", "/dev/null"), 2, "/dev/null"),
        (("--to", "x"), 2, "--to: has no effect without the name of a set"),
        (("--from", "x"), 2, "--from: has no effect without the name of a set"),
        (("--force",), 2, "--force: has no effect without the name of a set"),
    ],
)
def test_mistakes_are_one_line_errors(site, run, arguments, code, message):
    exit_code, out, err = run("data", "get", *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (exit_code, out, len(errors)) == (code, "", 1)
    assert message in errors[0]
    assert not site.requests


def test_an_invalid_registry_is_a_one_line_error(site, run, tmp_path):
    (tmp_path / "registry.json").write_text("{")
    code, out, err = run("data", "get", "small")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "not a registry of sets" in err
