"""The figures on the cards of the bundled nets are those that the code measures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_infer.kernels import Kernels

MODELS = Path(__file__).parents[1] / "models"
NETS = sorted(path.stem for path in MODELS.glob("*.safetensors"))


def row(document: str, start: str) -> list[str]:
    """Return the cells of the last row of a Markdown table whose first cell begins with `start`."""
    rows = re.findall(rf"^\| ({re.escape(start)}.*) \|$", (MODELS / document).read_text(encoding="utf-8"), re.MULTILINE)
    return [cell.strip() for cell in rows[-1].split("|")]


def test_there_are_five_bundled_nets():
    assert [f"alexnet-64-{i}" for i in range(5)] == NETS


@pytest.mark.parametrize("net", NETS)
def test_the_shares_of_colour_are_those_of_the_weights(net):
    first, second = (f"{100 * share:.1f}" for share in Kernels.read(MODELS / f"{net}.safetensors").colour_shares())
    assert row("alexnet-64.md", f"`{net}`")[1:] == [f"{first} %", f"{second} %"]
    assert f"{first} / {second} %" in row("README.md", f"`{net}.safetensors`")
