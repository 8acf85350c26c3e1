"""The layers of a file that `alexnet-infer export --outputs` wrote, compared with those of the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.evaluation.layer_agreement import IMAGES, TOLERANCES, LayerAgreement, compare_layers
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.nets import load
from alexnet_infer.output import console, styled, tell
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net


def verify_layers(
    model: Path, candidate: Net, images: Sequence[Photo] | LabelledImages, limit: int | None, *, silent: bool
) -> tuple[dict[str, Any], int]:
    """Compare all layers of `candidate` but the probabilities with those of the net in the file `model`.

    Prints a table unless `silent`. Returns the result as JSON data, and the exit code: 1 if a layer differs by more
    than rounding explains or an image can't be read. Images that can't be read are named, unless the file has
    probabilities, whose comparison named them. Raises UnreadableInputError if no image can be read.
    """
    names = candidate.backend.outputs
    reference = load(model, device="cpu", views=candidate.views, backend="onnxruntime", layers=names)
    layers = [name for name in names if name != PROBABILITIES]
    compared = compare_layers(reference, candidate, images, layers, limit, most=IMAGES, at_once=IMAGES)
    tolerance = TOLERANCES[candidate.backend.precision]
    if not silent:
        _print(compared.layers, tolerance)
    wrong = [agreement for agreement in compared.layers if not agreement.within(tolerance)]
    for agreement in wrong:
        tell(
            f"error: layer {agreement.layer} differs by {agreement.difference:.2g} of its size: expected at most "
            f"{tolerance:g}"
        )
    result: dict[str, Any] = {
        "layers": [{**a.to_json(), "tolerance": tolerance, "within": a.within(tolerance)} for a in compared.layers]
    }
    if PROBABILITIES not in names:
        name_unreadable(compared.unreadable)
        result["unreadable"] = [asdict(image) for image in compared.unreadable]
    return result, int(bool(wrong or compared.unreadable))


def _print(agreements: Sequence[LayerAgreement], tolerance: float) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("relative difference", justify="right", style="bold")
    table.add_column("", style="dim", overflow="fold")
    for agreement in agreements:
        verdict = "within" if agreement.within(tolerance) else "more than"
        note = f"{verdict} {tolerance:g}; root mean square"
        table.add_row(styled(agreement.layer), f"{agreement.difference:.2g}", note)
    out = console()
    out.print()
    out.print(table)
