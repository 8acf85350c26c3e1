"""`alexnet-infer compare` and `export --verify`: compare the probabilities of model files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import chooses_runtime
from alexnet_infer.backends.remote.address import Source
from alexnet_infer.commands.compare_tables import failures, print_one, print_several
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.agreement import Agreement, check_tolerance, compare_all, default_tolerance
from alexnet_infer.evaluation.gate import Verdict, judge
from alexnet_infer.evaluation.pictures import picture_count
from alexnet_infer.max_drop import parse_max_drop
from alexnet_infer.nets import load
from alexnet_infer.output import say_json, tell
from alexnet_infer.photos import IMAGE_SUFFIXES, Photo, expand
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting
from alexnet_infer.published.get import set_at


def run(
    a: Source,
    b: Source,
    more: Sequence[Source] = (),
    *,
    tolerance: float | None = None,
    max_drop: Sequence[str] | None = None,
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
    """Compare the nets in `b` and `more` with that in `a`, and print the agreement. Returns the exit code.

    It is 1 if a check fails or an image can't be read. `max_drop` are texts for `max_drop.parse_max_drop`. By default,
    `views` are those that one of the files cuts itself, or else ten. `tolerance` is by default that of the coarser
    precision (`agreement.TOLERANCES`), or none with `max_drop`.

    Raises UsageError if options contradict each other, and the errors of `load`, `choose_images` and
    `agreement.compare_all`.
    """
    if tolerance is not None:
        check_tolerance(tolerance)
    limits = parse_max_drop(max_drop or ())
    if data is None and (max_drop or more):
        given = f"--max-drop {max_drop[0]}" if max_drop else f"{more[0]}, a third net"
        raise UsageError(f"{given}: needs a labelled set; name it with --data")
    images = choose_images(data=data, photos=photos or (), limit=limit, split=split, layout=layout)
    paths = [a, b, *more]
    nets = _load_all(paths, views, device, backend, trust_engine)
    verdicts = []
    for agreement, candidate in zip(verify_all(nets, images, limit=limit), nets[1:], strict=True):
        allowed = tolerance if tolerance is not None or limits else default_tolerance(nets[0], candidate)
        verdicts.append(Verdict(agreement=agreement, tolerance=allowed, gate=judge(agreement, limits)))
    return _report_several(verdicts, paths, as_json=as_json) if more else report(verdicts[0], as_json=as_json)


def _load_all(
    paths: Sequence[Source], views: Views | None, device: Device, backend: Choice, trust_engine: bool
) -> list[Net]:
    nets = [_load(path, views, device, backend, trust_engine) for path in paths]
    cut = next((net.views for net in nets if net.opened.views is not None), None)
    if cut is None:
        return nets
    return [  # a file cuts its views itself, so the other nets must use the same views
        net if net.views == cut or net.opened.views is not None else _load(path, cut, device, backend, trust_engine)
        for path, net in zip(paths, nets, strict=True)
    ]


def _load(path: Source, views: Views | None, device: Device, backend: Choice, trust_engine: bool) -> Net:
    if not chooses_runtime(path):  # an engine runs only in TensorRT, a served net where it is: for the other net
        return load(path, views=views, trust_engine=trust_engine)
    return load(path, device=device, views=views, backend=backend)


def check_no_photos(data: Path, names: Sequence[str]) -> None:
    """Raise UsageError if one of `names`, which are those of nets beside a labelled set, is a photo or a folder.

    A folder without a separator in its name is not refused, since a net may have the same name.
    """
    for name in names:
        path = Path(name)
        if path.suffix.lower() in IMAGE_SUFFIXES or (os.sep in name and path.is_dir()):
            raise UsageError(f"--data {data} and {name}: expected a labelled set or photos, not both")


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
    (agreement,) = verify_all([reference, candidate], images, limit=limit)
    return agreement


def verify_all(
    nets: Sequence[Net], images: Sequence[Photo] | LabelledImages, *, limit: int | None = None
) -> list[Agreement]:
    """Run `agreement.compare_all` on a reference and its candidates with a progress bar."""
    with counting("comparing", picture_count(images, limit)) as advance:
        return compare_all(nets[0], nets[1:], images, limit=limit, on_images=advance)


def report(verdict: Verdict, *, as_json: bool = False, silent: bool = False) -> int:
    """Print a table, or one JSON object, or nothing with `silent`. Errors are printed on stderr.

    Returns the exit code: 0, or 1 if a check failed or an image can't be read.
    """
    if silent:
        pass
    elif as_json:
        say_json(verdict.to_json(), indent=1)
    else:
        print_one(verdict)
    return _exit_code([verdict], [""])


def _report_several(verdicts: Sequence[Verdict], paths: Sequence[Source], *, as_json: bool) -> int:
    """Print a table or one JSON object. `paths` are those of the reference and of the candidates."""
    parties = [verdicts[0].agreement.reference, *(verdict.agreement.candidate for verdict in verdicts)]
    reference, *candidates = _told_apart([party.net for party in parties], paths)
    if as_json:
        objects = [{"path": str(path), **verdict.to_json()} for path, verdict in zip(paths[1:], verdicts, strict=True)]
        references = [object.pop("reference") for object in objects]
        say_json({"reference": {"path": str(paths[0]), **references[0]}, "candidates": objects}, indent=1)
    else:
        print_several(verdicts, reference, candidates)
    return _exit_code(verdicts, [f"candidate {number} ({name})" for number, name in enumerate(candidates, 1)])


def _told_apart(names: Sequence[str], paths: Sequence[Source]) -> list[str]:
    """Return the names, with its path beside each that several nets have."""
    return [f"{name}, {path}" if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def _exit_code(verdicts: Sequence[Verdict], candidates: Sequence[str]) -> int:
    """Print an error for each failed check and each unreadable image. Returns 1 if there is one, otherwise 0."""
    unreadable = verdicts[0].agreement.unreadable
    name_unreadable(unreadable)
    for verdict, candidate in zip(verdicts, candidates, strict=True):
        for failure in failures(verdict, candidate):
            tell(f"error: {failure}")
    return 0 if all(verdict.passed for verdict in verdicts) and not unreadable else 1
