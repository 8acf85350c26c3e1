"""The name of the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from alexnet_infer.machine import cpu_name


def test_the_name_is_that_of_the_first_core(monkeypatch, tmp_path):
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: One: a CPU\nprocessor\t: 1\nmodel name\t: Two\n")
    monkeypatch.setattr("alexnet_infer.machine.Path", lambda name: listing)
    assert cpu_name() == "One: a CPU"


@pytest.mark.parametrize("content", [None, "processor\t: 0\n"], ids=["no listing", "no name in it"])
def test_without_a_name_the_architecture_is_returned(monkeypatch, tmp_path, content):
    listing = Path(tmp_path / "cpuinfo")
    if content is not None:
        listing.write_text(content)
    monkeypatch.setattr("alexnet_infer.machine.Path", lambda name: listing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert cpu_name() == platform.machine()
