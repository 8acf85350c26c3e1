"""ImageNet-C's sets: the corruptions, where their folders are, and the baseline's errors.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(ICLR 2019). Each of 15 corruptions has five sets, one per severity. Four extra corruptions are for validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.datasets.places import refuse
from alexnet_infer.datasets.texts import read_file
from alexnet_infer.datasets.tree import children, distinct, subfolders
from alexnet_infer.errors import UnreadableInputError, UsageError, listed, one_line, shown
from alexnet_infer.files import MAX_JSON_BYTES
from alexnet_infer.preprocess import Views

GROUPS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""Archive -> its corruptions, in the paper's order."""

EXTRA = GROUPS["extra"]
"""These do not count towards the mean."""

STANDARD = tuple(name for group, names in GROUPS.items() if group != "extra" for name in names)

SEVERITIES = range(1, 6)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The folders of ImageNet-C that are there."""

    folders: Mapping[str, Mapping[int, Path]]
    """Corruption -> severity -> its folder, which isn't empty. In the order of GROUPS."""
    unknown: tuple[Path, ...] = ()
    """Folders with severities that are no corruption of ImageNet-C."""

    def __len__(self) -> int:
        return sum(map(len, self.folders.values()))

    def __iter__(self) -> Iterator[tuple[str, int, Path]]:
        for name, severities in self.folders.items():
            for severity, folder in severities.items():
                yield name, severity, folder

    @property
    def missing(self) -> tuple[str, ...]:
        """The standard corruptions that are missing, such as "frost", and their missing sets, such as "fog/3".

        Missing sets of an extra corruption are named if it has others.
        """
        missing = []
        for name in (*STANDARD, *(name for name in EXTRA if name in self.folders)):
            severities = self.folders.get(name, {})
            absent = [f"{name}/{severity}" for severity in SEVERITIES if severity not in severities]
            missing += absent if severities else [name]
        return tuple(missing)


def find_sets(root: Path) -> Sets:
    """Find the sets in `root`: CORRUPTION/SEVERITY, or one level deeper, GROUP/CORRUPTION/SEVERITY.

    A folder that contains nothing but another folder stands for that one. Raises UnreadableInputError if `root` has no
    set, and UsageError if it has a corruption twice.
    """
    try:
        if not root.exists():
            raise UnreadableInputError(f"{root}: no such file or folder")
        top = root
        while top.is_dir():
            inner = subfolders(top)
            found = [folder for group in (top, *inner) for folder in subfolders(group)]
            if sets := _sets(root, found):
                return sets
            if len(inner) != 1:
                break
            top = inner[0]
        has = f" (it has {listed(path.name for path in subfolders(top))})" if top.is_dir() else ""
    except OSError as error:  # a name too long
        refuse(root, error)
    raise UnreadableInputError(
        f"{root}: no sets of ImageNet-C here{has}; expected the unpacked archives, with folders such as "
        "gaussian_noise/1 or noise/gaussian_noise/1"
    )


def _sets(root: Path, folders: Sequence[Path]) -> Sets | None:
    known: dict[str, dict[int, Path]] = {name: {} for names in GROUPS.values() for name in names}
    paths: dict[str, Path] = {}
    unknown = []
    for folder in folders:
        severities = {severity: folder / f"{severity}" for severity in SEVERITIES}
        severities = {severity: path for severity, path in severities.items() if path.is_dir() and children(path)}
        if not severities:
            continue
        if len(distinct(severities.values())) < len(severities):
            raise UsageError(f"{folder}: two of its severities are links to one folder; expected five sets")
        if folder.name not in known:
            unknown.append(folder)
            continue
        if twin := paths.get(folder.name):
            raise UsageError(
                f"{root}: has {folder.name} twice ({twin.relative_to(root)} and {folder.relative_to(root)}); expected "
                "each corruption once"
            )
        paths[folder.name], known[folder.name] = folder, severities
    there = {name: severities for name, severities in known.items() if severities}
    return Sets(folders=there, unknown=tuple(unknown)) if there else None


def example_set(root: Path) -> Path | None:
    """Return the first set of ImageNet-C in `root`, or None if there is none."""
    with suppress(UnreadableInputError, UsageError, OSError):
        return next((folder for _, _, folder in find_sets(root)), None)
    return None


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The errors by which a net's errors are divided."""

    name: str
    errors: Mapping[str, Fraction]
    """Corruption -> the mean of its errors over the five severities, from 0 to 1 and above 0. It has at least all of
    STANDARD."""
    listing: str | None = None
    """That of the images on which it was measured, or None for the published baseline."""
    views: Views = "center"
    scoring: tuple[str, str | None, int | None] = ("all", None, None)
    """The values of --classes and --labels, and the number of classes among which the nets chose."""


PUBLISHED = Baseline(
    name="AlexNet (Hendrycks and Dietterich)",
    errors={
        name: Fraction(error)
        for name, error in {
            "gaussian_noise": "0.886428",
            "shot_noise": "0.894468",
            "impulse_noise": "0.922640",
            "defocus_blur": "0.819880",
            "glass_blur": "0.826268",
            "motion_blur": "0.785948",
            "zoom_blur": "0.798360",
            "snow": "0.866816",
            "frost": "0.826572",
            "fog": "0.819324",
            "brightness": "0.564592",
            "contrast": "0.853204",
            "elastic_transform": "0.646056",
            "pixelate": "0.717840",
            "jpeg_compression": "0.606500",
        }.items()
    },
)
"""The errors of torchvision's AlexNet with one central view of 224 x 224, by the authors of ImageNet-C
(ImageNet-C/test.py in hendrycks/robustness).

The figures are those of `ALEXNET_ERR` in imagenet.py of google-research/augmix, which shares an author with ImageNet-C
and cites hendrycks/robustness. Those of `get_ce_alexnet` in OpenMMLab's corruption metric are the same, and they are
the means of the five errors per corruption that a third program lists.
"""


class _Severity(msgspec.Struct):
    severity: Annotated[int, Meta(ge=1, le=5)]
    images: Annotated[int, Meta(ge=1, le=10**9)]
    wrong: Annotated[int, Meta(ge=0, le=10**9)]


class _Corruption(msgspec.Struct):
    name: str
    severities: list[_Severity]
    error: float | None


class _Data(msgspec.Struct):
    listing: str


class _Protocol(msgspec.Struct):
    views: Views
    classes: str
    outputs: int | None
    labels: str | None


class _Net(msgspec.Struct):
    name: str


class _Result(msgspec.Struct):
    """The part of a result of `--mce --json` that a baseline needs."""

    data: _Data
    protocol: _Protocol
    nets: Annotated[list[_Net], Meta(min_length=1)]
    corruptions: list[_Corruption]


def read_baseline(path: Path) -> Baseline:
    """Read a baseline from the JSON that `eval --mce --json` printed for a net.

    Raises UnreadableInputError if the file can't be read, isn't such a result, or lacks a standard corruption.
    """
    option = f"--mce-baseline {path}"
    try:
        result = msgspec.convert(strict_json.parse(read_file(path, MAX_JSON_BYTES), "the file"), _Result)
    except FileNotFoundError:
        raise UnreadableInputError(f"{option}: no such file; expected the output of eval --mce --json") from None
    except UnreadableInputError as error:
        raise UnreadableInputError(f"--mce-baseline {error}") from None
    except ValueError as error:
        raise UnreadableInputError(f"{option}: {one_line(error)}; expected the output of eval --mce --json") from None
    errors: dict[str, Fraction] = {}
    for corruption in result.corruptions:
        name, severities = corruption.name, corruption.severities
        if name in errors:
            raise UnreadableInputError(f"{option}: has {shown(name)} twice; expected each corruption once")
        for counts in severities:
            if counts.wrong > counts.images:
                raise UnreadableInputError(
                    f"{option}: {shown(name)}/{counts.severity} has {counts.wrong} wrong of {counts.images} images; "
                    "expected at most all of them"
                )
        whole = sorted(counts.severity for counts in severities) == [*SEVERITIES]
        if whole and corruption.error is not None:
            errors[name] = mean([Fraction(counts.wrong, counts.images) for counts in severities])
    if missing := [name for name in STANDARD if name not in errors]:
        raise UnreadableInputError(
            f"{option}: no error for {listed(missing)}; expected the result of a net on all sets of the 15 corruptions"
        )
    if zero := [name for name, error in errors.items() if not error]:
        raise UnreadableInputError(
            f"{option}: has no errors for {listed(zero)}, and no error can be divided by them; expected another net"
        )
    nets = [net.name for net in result.nets]
    protocol = result.protocol
    return Baseline(
        name=one_line(nets[0] if len(nets) == 1 else f"mean of {len(nets)} nets"),
        errors=errors,
        listing=result.data.listing,
        views=protocol.views,
        scoring=(protocol.classes, protocol.labels, protocol.outputs),
    )


def mean(values: Sequence[Fraction]) -> Fraction:
    """Return the exact mean."""
    return sum(values, Fraction()) / len(values)
