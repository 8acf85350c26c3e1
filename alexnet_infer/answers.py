"""What is said of a net's labels, beside the labels themselves: the nets, their views, and what ran them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alexnet_infer.predict import Ensemble, Label, Net


def names(net: Net | Ensemble) -> list[str]:
    """Return the names of the nets."""
    return [member.manifest.name for member in net.nets]


def backends(net: Net | Ensemble) -> str:
    """Return what runs the nets, for display."""
    return ", ".join(dict.fromkeys(member.backend.description for member in net.nets))


def labels_row(net: Net | Ensemble, labels: Sequence[Label]) -> dict[str, Any]:
    """Return the labels of a photo with the nets, views and backend, ready for JSON."""
    row: dict[str, Any] = {"labels": [asdict(label) for label in labels]}
    own = names(net)
    row |= {"net": own[0]} if len(own) == 1 else {"net": f"mean of {len(own)} nets", "nets": own}
    return row | {"views": net.nets[0].views, "backend": backends(net)}
