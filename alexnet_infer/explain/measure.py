"""Everything that the page shows of one net, computed for one photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from alexnet_infer.artifact import load_manifest, sha256
from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import is_exported, open_model
from alexnet_infer.errors import ModelFileError, UsageError, listed, meant, shown
from alexnet_infer.explain.occlusion import Hiding, Occlusion, View, occlude, view_places
from alexnet_infer.explain.stages import values
from alexnet_infer.kernels import Kernels
from alexnet_infer.manifest import ClassName, Manifest
from alexnet_infer.metrics import highest
from alexnet_infer.predict import Net, finite
from alexnet_infer.preprocess import Views, patches

CENTRAL = 4
"""The position of the central patch, not mirrored, among the ten views."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A net to explain, before it is run."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the file."""
    hiding: Hiding
    label: int | None
    """The class whose probability is measured while parts are hidden; None for the first label of the answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What a net computed for a photo."""

    manifest: Manifest
    sha256: str
    """Of the model file."""
    backend: str
    """What ran the net, for display."""
    square: np.ndarray
    """uint8 [S, S, 3] RGB."""
    patch: np.ndarray
    """float32 [3, patch, patch]: the central patch as the net reads it, the mean subtracted."""
    places: tuple[View, ...]
    """Where the ten patches are cut."""
    votes: np.ndarray
    """float32 [10, classes]: the probabilities of each patch."""
    mean: np.ndarray
    """float32 [classes]: their mean over the patches, which `classify` reports."""
    values: dict[str, np.ndarray]
    """What each operation computed from the central patch, float32 [*shape], by the operation's name.

    `stages.values` says which operations there are.
    """
    kernels: Kernels | None
    """Those of the first layer; None if that is not a convolution over three colours."""
    occlusion: Occlusion

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.manifest.classes

    def named(self, i: int) -> ClassName:
        """Return a class to show. If another one has the same short name, its own has the WordNet id behind it."""
        known = self.classes[i]
        if self._short_names[known.short.casefold()] == 1:
            return known
        return ClassName(wnid=known.wnid, name=f"{known.short} ({known.wnid})")

    @cached_property
    def _short_names(self) -> Counter[str]:
        return Counter(known.short.casefold() for known in self.classes)

    def top(self, probabilities: np.ndarray) -> list[int]:
        """Return the up to five most probable classes, as `classify` orders them."""
        return highest(probabilities, 5).tolist()


def subject(path: Path, views: Views, square: int | None, stride: int | None, label: str | None) -> Subject:
    """Read a net's manifest and check the request against it.

    Raises UsageError for an exported file, whose layers and weights can't be read, for an unknown label and for the
    sizes that `Hiding.of` refuses. Raises ModelFileError if the file can't be read.
    """
    if is_exported(path):
        raise UsageError(f"{path}: an exported file, whose weights can't be read; expected the model file")
    load_manifest(path)  # the errors of a file that is no model file
    digest, manifest = sha256(path), load_manifest(path)  # in this order: what is read later must have this digest
    hiding = Hiding.of(manifest.preprocessing, views, square, stride, manifest.name)
    return Subject(
        path=path,
        manifest=manifest,
        sha256=digest,
        hiding=hiding,
        label=None if label is None else _class(manifest, label),
    )


def _class(manifest: Manifest, label: str) -> int:
    """Return the position of the class that has this WordNet id, this position or, in any case, this name.

    A name is looked for among the full names, then among the first names, then among all. Raises UsageError if no class
    has it, or if several have it there.
    """
    for i, known in enumerate(manifest.classes):
        if label == known.wnid:
            return i
    if label.isdecimal() and label.isascii():
        if len(label) < 10 and int(label) < len(manifest.classes):
            return int(label)
        raise UsageError(
            f"--label {shown(label)}: expected 0 to {len(manifest.classes) - 1}, the classes of {manifest.name}"
        )
    wanted = _plain(label)
    names = [[_plain(name) for name in (known.name, *known.name.split(","))] for known in manifest.classes]
    for part in (slice(0, 1), slice(1, 2), slice(2, None)):  # the full name, the first one, the others
        found = [i for i, own in enumerate(names) if wanted in own[part]]
        if len(found) > 1:
            several = listed(f"{i} ({manifest.classes[i].wnid})" for i in found)
            raise UsageError(
                f"--label {shown(label)}: several classes of {manifest.name} have this name; expected one of these "
                f"indices or WordNet ids: {several}"
            )
        if found:
            return found[0]
    raise UsageError(
        f"--label {shown(label)}: {manifest.name} doesn't know this class"
        f"{meant(wanted, {name for own in names for name in own})}; expected a name, a WordNet id or an index"
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def measure(
    subject: Subject,
    square_hwc: np.ndarray,
    *,
    device: Device,
    backend: Choice,
    advance: Callable[[int], None] = lambda count: None,
) -> Explained:
    """Run a net on a photo's square uint8 [S, S, 3] RGB.

    The net is opened twice: for the probabilities alone, so that they are those of `classify` to the last digit, and
    then for all layers. `advance` is that of `occlude`. Raises the errors of `nets.load`, and ModelFileError if
    probabilities or values are not finite, or if the file is replaced in the meantime.
    """
    opened = open_model(subject.path, device=device, backend=backend)
    preprocessing = subject.manifest.preprocessing
    ten = patches(square_hwc, preprocessing)
    name = subject.manifest.name
    votes = finite(opened.backend.infer(ten), name)
    mean = Net.mean_over_views(votes, 1)[0]
    label = int(mean.argmax()) if subject.label is None else subject.label
    occlusion = occlude(square_hwc, preprocessing, opened.backend, subject.hiding, label, advance, name)
    layers = values(subject.manifest.architecture)
    described = opened.backend.description
    del opened  # its weights, before they are read again
    inside = open_model(subject.path, device=device, backend=backend, outputs=tuple(dict.fromkeys(layers.values())))
    activations = inside.backend.activations(ten[CENTRAL : CENTRAL + 1])
    for layer, value in activations.items():
        finite(value, name, f"values of {layer}")
    try:
        kernels = Kernels.read(subject.path)
    except UsageError:
        kernels = None
    if sha256(subject.path) != subject.sha256:
        raise ModelFileError(f"{subject.path}: has changed while it was read: run the command again")
    return Explained(
        manifest=subject.manifest,
        sha256=subject.sha256,
        backend=described,
        square=square_hwc,
        patch=ten[CENTRAL],
        places=view_places(preprocessing, "ten"),
        votes=votes,
        mean=mean,
        values={operation: activations[layer][0] for operation, layer in layers.items()},
        kernels=kernels,
        occlusion=occlusion,
    )
