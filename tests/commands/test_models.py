"""`alexnet-infer models`."""

from __future__ import annotations

import json

import pytest

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.nets import nets_at_hand
from alexnet_infer.published.registry import VARIABLE, registry
from tests.commands.test_pull import _alone, site  # noqa: F401 (fixtures)


def test_all_nets_are_listed_with_their_locations(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = run("models")
    assert (code, err) == (0, "")
    bundled = [path.stem for path in nets_at_hand()]
    for name in (*bundled, *registry()):
        assert name in out
    data = json.loads(run("models", "--json")[1])
    assert data["cache"] == str(tmp_path / "alexnet-infer" / "models")
    nets = {net["name"]: net for net in data["models"]}
    assert {nets[name]["where"] for name in bundled} == {"embedded"}
    default = nets[embedded_model().stem]
    assert default["size"] == embedded_model().stat().st_size
    (error,) = (e for e in load_manifest(embedded_model()).provenance.errors if e.views == "ten")
    assert default["top1"] == pytest.approx(100 * error.top1 / error.images)
    assert nets["caffenet"]["where"] == "published"
    assert nets["caffenet"]["path"] is None
    assert nets["caffenet"]["top1"] == 42.6


def test_a_pulled_net_is_listed_as_such(site, run):  # noqa: F811
    path = run("pull", "small")[1].strip()
    nets = {net["name"]: net for net in json.loads(run("models", "--json")[1])["models"]}
    assert (nets["small"]["where"], nets["small"]["path"]) == ("pulled", path)
    assert nets["absent"]["where"] == "published"


def test_names_and_figures_are_whole_in_a_narrow_terminal(run):
    for columns in (80, 60):
        lines = run("models", columns=columns)[1].splitlines()
        assert "top-1/-5 error" in lines[0]
        assert "…" not in "".join(lines)
        for net in registry().values():
            assert any(line.startswith(f"{net.name} ") and f"{net.error.top1:.1f} / " in line for line in lines)


def test_a_summary_is_shown_without_interpreting_markup(site, run, tmp_path, monkeypatch):  # noqa: F811
    content = json.loads((tmp_path / "registry.json").read_text())
    content["nets"][0]["summary"] = "a [red]net[/b]"
    (tmp_path / "other.json").write_text(json.dumps(content))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.json"))
    assert "a [red]net[/b]" in run("models")[1]
