"""`alexnet-infer compare` and `export --verify`: compare the probabilities of two model files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import ENGINE_SUFFIXES
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.agreement import Agreement, check_tolerance, compare, default_tolerance
from alexnet_infer.evaluation.differences import NEAR_TIE
from alexnet_infer.evaluation.statistics import Pairing
from alexnet_infer.nets import load
from alexnet_infer.output import console, say_json, styled, tell
from alexnet_infer.photos import Photo, expand
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting
from alexnet_infer.published.get import set_at


def run(
    a: Path,
    b: Path,
    *,
    tolerance: float | None = None,
    data: Path | None = None,
    photos: Sequence[str] | None = None,
    limit: int | None = None,
    split: Literal["validation", "train"] = "validation",
    layout: str | None = None,
    views: Views | None = None,
    device: Device = "auto",
    backend: Choice = "auto",
    trust_engine: bool = False,
    as_json: bool = False,
) -> int:
    """Compare the net in `b` with that in `a`, and print the agreement. Returns the exit code of `report`.

    By default, `views` are those that one of the files cuts itself, or else ten, and `tolerance` is that of the coarser
    precision (`agreement.TOLERANCES`). Raises the errors of `load`, `choose_images` and `agreement.compare`.
    """
    if tolerance is not None:
        check_tolerance(tolerance)
    images = choose_images(data=data, photos=photos or (), limit=limit, split=split, layout=layout)
    nets = [_load(path, views, device, backend, trust_engine) for path in (a, b)]
    cut = [net.opened.views is not None for net in nets]
    if any(cut) and not all(cut):  # one file cuts its views itself, so the other net must use the same views
        adapting, shared = cut.index(False), nets[cut.index(True)].views
        if nets[adapting].views != shared:
            nets[adapting] = _load((a, b)[adapting], shared, device, backend, trust_engine)
    allowed = default_tolerance(*nets) if tolerance is None else tolerance
    return report(verify(*nets, images, limit=limit), allowed, as_json=as_json)


def _load(path: Path, views: Views | None, device: Device, backend: Choice, trust_engine: bool) -> Net:
    if path.suffix in ENGINE_SUFFIXES:  # an engine runs only in TensorRT; device and runtime are for the other net
        return load(path, views=views, trust_engine=trust_engine)
    return load(path, device=device, views=views, backend=backend)


def choose_images(
    *,
    data: Path | None = None,
    photos: Sequence[str] = (),
    limit: int | None = None,
    split: Literal["validation", "train"] = "validation",
    layout: str | None = None,
) -> list[Photo] | LabelledImages:
    """Return the labelled set `data`, or the photos that the user named, or else the bundled photos.

    Raises UsageError if options contradict each other, and the errors of `open_images`.
    """
    if data is not None and photos:
        raise UsageError(f"--data {data} and {photos[0]}: expected a labelled set or photos, not both")
    if data is not None:
        return open_images(set_at(data), split, layout)
    other_split = split if split != "validation" else None
    for option, value in (("--limit", limit), ("--format", layout), ("--split", other_split)):
        if value is not None:
            raise UsageError(f"{option} {value}: needs a labelled set; name it with --data")
    return list(expand(photos or [str(path) for path in example_photos()]))


def example_photos() -> list[Path]:
    """Return the bundled photos: in the installed package, or in `examples/` of a checkout.

    Raises UsageError if they are missing.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "examples", package.parent / "examples"):
        if photos := sorted(folder.glob("*.jpg")):
            return photos
    raise UsageError("the bundled example photos are missing: name other photos, or a labelled set with --data")


def verify(
    reference: Net, candidate: Net, images: Sequence[Photo] | LabelledImages, *, limit: int | None = None
) -> Agreement:
    """Run `agreement.compare` with a progress bar."""
    total = limit or len(images) * (1 if isinstance(images, LabelledImages) else 5)
    with counting("comparing", total) as advance:
        return compare(reference, candidate, images, limit=limit, on_images=advance)


def report(agreement: Agreement, tolerance: float, *, as_json: bool = False, silent: bool = False) -> int:
    """Print a table, or one JSON object, or nothing with `silent`. Errors are printed on stderr.

    Returns the exit code: 0, or 1 if a probability differs by more than `tolerance` or an image can't be read.
    """
    within = agreement.within(tolerance)
    if silent:
        pass
    elif as_json:
        say_json({**agreement.to_json(), "tolerance": tolerance, "within": within}, indent=1)
    else:
        _print_table(agreement, tolerance)
    name_unreadable(agreement.unreadable)
    if not within:
        tell(
            f"error: probabilities differ by up to {agreement.largest:.2g}, in {agreement.largest_image}: expected at "
            f"most {tolerance:g}; allow more with --tolerance"
        )
    return 0 if within and not agreement.unreadable else 1


def _print_table(agreement: Agreement, tolerance: float) -> None:
    from rich.table import Table

    views = "ten views averaged" if agreement.views == "ten" else "central view"
    out = console()
    for role, party in (("reference", agreement.reference), ("candidate", agreement.candidate)):
        out.print(styled(f"{role}: {party.net}, {views}, {party.backend}", "dim"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right", style="bold")
    table.add_column(justify="left", style="dim", overflow="fold")
    for name, value, note in _rows(agreement, tolerance):
        table.add_row(*map(styled, (name, value, note)))
    out.print(table)


def _rows(agreement: Agreement, tolerance: float) -> list[tuple[str, str, str]]:
    """Return the name, the value and a note for each line."""
    unreadable = len(agreement.unreadable)
    near = f"{agreement.near_ties:,} of them near ties (the reference's probabilities differ by at most {NEAR_TIE:g})"
    rows = [
        ("images", f"{agreement.compared:,}", f"{unreadable:,} more can't be read" if unreadable else ""),
        (
            "largest probability difference",
            f"{agreement.largest:.2g}",
            f"{'within' if agreement.within(tolerance) else 'above'} {tolerance:g}; in {agreement.largest_image}",
        ),
        ("mean probability difference", f"{agreement.mean:.2g}", f"over {agreement.classes:,} classes"),
        ("top-1 flips", f"{agreement.flips:,}", near if agreement.flips else ""),
    ]
    for name, pair in (("top-1", agreement.top1), ("top-5", agreement.top5)):
        if pair is not None:
            rows.append((f"{name} error, reference", f"{pair.second.error:.2%}", ""))
            rows.append((f"{name} error, candidate", f"{pair.first.error:.2%}", ""))
            rows.append((f"{name} change in points", f"{100 * pair.difference:+.2f}", _interval(pair)))
    return rows


def _interval(pair: Pairing) -> str:
    p = "< 1e-12" if pair.p < 1e-12 else f"{pair.p:.2g}"
    wrong = f"only candidate wrong {pair.first_only:,}, only reference {pair.second_only:,}"
    return f"[{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]; {wrong}; McNemar's p {p}"
