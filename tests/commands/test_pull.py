"""`alexnet-infer pull`, from a server on the loopback interface to labels for a photo."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import typer

from alexnet_infer.artifact import load_manifest
from alexnet_infer.cli import options
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.nets import NotPulledError
from alexnet_infer.presets import PRESETS, variant
from alexnet_infer.published.cache import cache_folder, cached
from alexnet_infer.published.registry import VARIABLE, published
from tests.importing.caffe_files import caffemodel
from tests.nets import random_artifact
from tests.published.conftest import _alone  # noqa: F401 (no proxies, no pauses)
from tests.published.server import Server

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with a small net of 1,000 classes, and a registry that lists it as "small", and one as "absent"."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "caffe", (replace(variant("caffe"), kernels=(8, 16, 12, 12, 16), hidden=24), ""))
    net = random_artifact(variant("caffe"))
    server = Server(caffemodel(net.manifest.architecture, net.tensors))
    small = msgspec.to_builtins(published("bvlc-alexnet-caffemodel")) | {
        "name": "small",
        "urls": [server.url],
        "size": len(server.content),
        "digest": f"sha256:{hashlib.sha256(server.content).hexdigest()}",
    }
    absent = small | {"name": "absent", "urls": [server.url + "-gone"], "digest": f"sha256:{'0' * 64}"}
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"format": 1, "nets": [small, absent]}))
    monkeypatch.setenv(VARIABLE, str(path))
    yield server
    server.close()


def test_a_net_is_fetched_converted_and_classifies_by_its_name_without_the_server(site, run):
    code, out, err = run("pull", "small")
    assert (code, err) == (0, "")
    path = Path(out.strip())
    assert path == cached(published("small"))
    manifest = load_manifest(path)
    assert manifest.name == "small"
    assert manifest.provenance.recipe["published_error"]["top1"] == 42.9
    assert manifest.provenance.recipe["digest"].startswith("sha256:")
    site.close()
    code, out, err = run("classify", CAT, "--model", "small", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["labels"]) == 5
    assert "published" in run("info", "small")[1]


def test_only_the_net_and_a_lock_stay_in_the_cache(site, run):
    run("pull", "small")
    left = [path.name for path in cache_folder().rglob("*") if path.is_file()]
    assert cached(published("small")).name in left
    assert not [name for name in left if not name.endswith((".safetensors", ".lock"))]


def test_a_pulled_net_is_not_fetched_again_unless_forced(site, run):
    assert run("pull", "small", "--json")[0] == 0
    before = len(site.requests)
    code, out, _ = run("pull", "small", "--json")
    assert (code, json.loads(out)["fetched"], len(site.requests)) == (0, False, before)
    code, out, _ = run("pull", "small", "--json", "--force")
    assert (code, json.loads(out)["fetched"], len(site.requests)) == (0, True, before + 1)


def test_a_download_continues_after_a_broken_connection(site, run):
    site.script = [site.drops(1000)]
    assert run("pull", "small")[0] == 0
    assert [header for _, header in site.requests] == [None, "bytes=1000-"]


def test_a_copy_is_verified_used_and_not_modified(site, run, tmp_path):
    copy = tmp_path / "copy.bin"
    copy.write_bytes(site.content)
    assert run("pull", "small", "--from", copy)[0] == 0
    assert not site.requests
    assert copy.read_bytes() == site.content
    copy.write_bytes(site.content[:-1])
    code, out, err = run("pull", "small", "--from", copy, "--force")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "copy.bin: has" in err
    assert run("pull", "small", "--from", tmp_path / "gone")[0] == 3  # even if the net has been pulled


def test_a_mirror_is_used(site, run):
    assert run("pull", "small", "--from", site.url.replace("net.bin", "mirror"))[0] == 0
    assert [path for path, _ in site.requests] == ["/mirror"]


def test_a_net_of_the_same_name_in_another_registry_is_another_net(site, run, tmp_path, monkeypatch):
    assert run("pull", "small")[0] == 0
    registry = json.loads((tmp_path / "registry.json").read_text())
    for field, value in (("preprocessing", "caffe-zoo"), ("digest", f"sha256:{'1' * 64}")):
        registry["nets"][0][field] = value
        other = tmp_path / f"{field}.json"
        other.write_text(json.dumps(registry))
        monkeypatch.setenv(VARIABLE, str(other))
        code, _, err = run("classify", CAT, "--model", "small")
        assert (code, "not on this machine yet" in err) == (4, True)


def test_html_is_a_one_line_error_and_exits_4(site, run):
    site.content = b"<html></html>"
    code, out, err = run("pull", "small")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "sent 13 bytes" in err


def test_a_missing_file_is_a_one_line_error_and_exits_3(site, run):
    site.script = [site.says(b"", 404)]
    code, out, err = run("pull", "small")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "HTTP 404" in err


def test_if_one_of_several_fails_the_others_are_pulled_and_the_code_is_1(site, run):
    code, out, err = run("pull", "absent", "small", "--json")
    assert (code, err.count("\n")) == (1, 1)
    assert json.loads(out)["name"] == "small"


def test_an_unknown_name_is_refused_before_anything_is_fetched(site, run):
    code, out, err = run("pull", "small", "smal")
    assert (code, out) == (2, "")
    assert "did you mean small" in err
    assert not site.requests


def test_one_copy_cannot_be_several_nets(site, run, tmp_path):
    assert run("pull", "small", "absent", "--from", tmp_path)[0] == 2


def test_a_net_that_was_not_pulled_is_refused_with_the_command(site, run):
    code, out, err = run("classify", CAT, "--model", "small")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "`alexnet-infer pull small` downloads it" in err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "fetched"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_a_net_that_was_not_pulled_is_offered(site, monkeypatch, capsys, answer, fetched):
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    if fetched:
        assert options.net("small") == cached(published("small"))
    else:
        with pytest.raises(NotPulledError):
            options.net("small")
    assert len(site.requests) == fetched
    assert "Download it now? [y/N]" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""  # reserved for the command's output


def test_an_offer_without_an_answer_ends_the_command(site, monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Terminal(""))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with pytest.raises(typer.Abort):
        options.net("small")


def test_an_offer_that_fails_ends_with_the_error(site, monkeypatch):
    site.script = [site.says(b"", 404)]
    monkeypatch.setattr(sys, "stdin", _Terminal("y\n"))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with pytest.raises(UnreadableInputError, match="HTTP 404"):
        options.net("small")


def test_a_cache_that_cannot_be_written_is_a_one_line_error(site, run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    code, out, err = run("pull", "small")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "XDG_CACHE_HOME" in err
