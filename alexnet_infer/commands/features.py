"""`alexnet-infer features`: write the values of layers for many images to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from alexnet_infer.artifact import embedded_model
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import open_images
from alexnet_infer.errors import StoppedError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.compute import data_folder
from alexnet_infer.evaluation.selection import positions_of
from alexnet_infer.features.compute import Computed, FeaturesRequest, compute, load_net
from alexnet_infer.features.images import Images, images_of_photos, images_of_set
from alexnet_infer.output import console, say_json, styled, tell
from alexnet_infer.photos import expand
from alexnet_infer.predict import Net


def run(
    inputs: Sequence[str] | None,
    *,
    data: Path | None,
    layout: str | None,
    split: Literal["validation", "train"],
    limit: int | None,
    model: Path | None,
    layers: Sequence[str] | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Compute the features of photos or of a labelled set, and print what was written.

    Returns the exit code: 0, or 1 if some images can't be read, or 3 if none can. Raises StoppedError on Ctrl-C, and
    the errors of `compute`.
    """
    if bool(inputs) == (data is not None):
        problem = "both are given" if inputs else "both are missing"
        raise UsageError(f"INPUT and --data: {problem}; expected photos, or a labelled image set with --data")
    if data is None and (layout is not None or limit is not None or split != "validation"):
        raise UsageError("--format, --split and --limit are for a labelled image set; add --data, or leave them out")
    request = FeaturesRequest(model=model or embedded_model(), layers=tuple(layers or ("fc7",)), **given)
    net = load_net(request)
    images = images_of_photos(list(expand(inputs or ()))) if data is None else _set(data, split, layout, limit, net)
    try:
        computed = compute(request, net, images)
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted: {_continuing(request, images)}") from None
    if computed.earlier_unreadable:
        tell(
            f"note: what could not be read before the interruption ({computed.earlier_unreadable:,} of the images) was "
            "not tried again; the same command, run once more, computes all images again"
        )
    if as_json:
        say_json(_json(request, computed), indent=1)
    elif computed.written:
        _print(request, computed)
    name_unreadable(computed.unreadable)
    if not computed.written:
        tell(f"error: no image could be read; {request.out} was not written")
        return UnreadableInputError.exit_code
    return 1 if computed.unreadable else 0


def _continuing(request: FeaturesRequest, images: Images) -> str:
    if images.stamp is None:
        return "standard input can't be read again, so the next run begins again"
    return f"run the same command again{' without --fresh' if request.fresh else ''} to continue"


def _set(root: Path, split: Literal["validation", "train"], layout: str | None, limit: int | None, net: Net) -> Images:
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1")
    data = open_images(data_folder(root), split, layout, numbered=net.classes)
    for note in data.notes:
        tell(f"note: {note}")
    return images_of_set(data, positions_of(data, limit, None), root)


def _json(request: FeaturesRequest, computed: Computed) -> dict[str, Any]:
    about = computed.about
    return {
        "file": str(request.out) if computed.written else None,
        "net": about.net,
        "sha256": about.sha256,
        "backend": about.backend,
        "software": about.software,
        "views": about.views,
        "dtype": about.dtype,
        "layers": msgspec.to_builtins(about.layers),
        "images": msgspec.to_builtins(about.images),
        "computed_earlier": computed.earlier,
        "seconds": round(computed.seconds, 3),
        "unreadable": [asdict(image) for image in computed.unreadable],
    }


def _print(request: FeaturesRequest, computed: Computed) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    about = computed.about
    table = Table(box=None, pad_edge=False)
    for heading, side in (("layer", "left"), ("shape", "left"), ("values", "left"), ("size", "right")):
        table.add_column(heading, justify=side)
    for layer in about.layers:
        size = about.images.count * layer.size * about.numpy_dtype.itemsize
        shape = " x ".join(f"{length:,}" for length in (about.images.count, *layer.shape))
        table.add_row(styled(layer.name, "bold"), shape, about.dtype, decimal(size))
    views = "mean of ten views" if about.views == "ten" else "central view"
    earlier = f", {computed.earlier:,} of them by an earlier run" if computed.earlier else ""
    unreadable = f", {len(computed.unreadable):,} of them unreadable (NaN)" if computed.unreadable else ""
    images = "1 image" if about.images.count == 1 else f"{about.images.count:,} images"
    out = console()
    out.print(styled(f"{request.out}: {images}{earlier}{unreadable}", "italic"), soft_wrap=True)
    out.print(table)
    out.print(styled(f"{about.net}, {views}, {about.backend}", "dim"), soft_wrap=True)
