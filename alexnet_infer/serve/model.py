"""A net, or the mean of several, as a model on a server: squares in, probabilities out, and what is said of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from msgspec.structs import asdict, replace

from alexnet_infer.answers import backends
from alexnet_infer.artifact import sha256
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.files import safe_name
from alexnet_infer.graph.info import Batch, CalibrationRecord, ExportInfo, Member
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.manifest import Manifest
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.predict import Ensemble, Net
from alexnet_infer.reading import PHOTOS_PER_CALL

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
"""A model's name: what needs no escape in a URL."""

GPU_BATCH = 64
"""Images per call of a net on a GPU by default."""

Inputs = tuple[np.ndarray, ...]
"""What each net's backend takes for the same images."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model on a server. `net` was loaded from files.

    Raises UsageError for a name that can't be in a URL, or if the nets of an ensemble take different squares or differ
    in views or precision, which the server states once for all of them.
    """

    name: str
    net: Net | Ensemble

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name in (".", ".."):
            raise UsageError(f"name {shown(self.name)}: expected 1 to 100 of the characters A-Z a-z 0-9 _ . -")
        first = self.net.nets[0]
        for other in self.net.nets[1:]:
            for fact, values in {
                "the squares that they take": (asdict(first.rescaling), asdict(other.rescaling)),
                "views": (first.views, other.views),
                "precision": (first.backend.precision, other.backend.precision),
            }.items():
                if values[0] != values[1]:
                    raise UsageError(
                        f"{first.manifest.name} and {other.manifest.name} differ in {fact} ({shown(values[0])} and "
                        f"{shown(values[1])}): nets that are averaged on a server need the same"
                    )

    @classmethod
    def of(cls, net: Net | Ensemble, name: str | None = None) -> Model:
        """Return the model with this name, or with that of the net, as in "alexnet-64" or "alexnet-64-and-4-more"."""
        more = len(net.nets) - 1
        default = safe_name(net.nets[0].manifest.name, 80) + (f"-and-{more}-more" if more else "")
        return cls(name=default if name is None else name, net=net)

    @property
    def side(self) -> int:
        """S, the side of the squares."""
        return self.net.nets[0].rescaling.size

    def prepare(self, squares: np.ndarray) -> Inputs:
        """Return the inputs for squares uint8 [N, S, S, 3] RGB. Nets with the same preprocessing share theirs."""
        made: dict[tuple[str, bool], np.ndarray] = {}
        for net, recipe in zip(self.net.nets, self._recipes, strict=True):
            if recipe not in made:
                made[recipe] = np.concatenate([net.inputs(square) for square in squares])
        return tuple(made[recipe] for recipe in self._recipes)

    @cached_property
    def _recipes(self) -> list[tuple[str, bool]]:
        """For each net, what its inputs depend on. The views are the same for all."""
        return [(str(net.manifest.preprocessing.to_json()), net.backend.takes_squares) for net in self.net.nets]

    def run(self, inputs: Sequence[Inputs]) -> np.ndarray:
        """Return float32 [N, classes] for the images of all `inputs`: the mean over the views, then over the nets.

        The values may be not finite. Raises the errors of the backends.
        """
        probabilities = []
        for net, own in zip(self.net.nets, zip(*inputs, strict=True), strict=True):
            values = np.concatenate(own) if len(own) > 1 else own[0]
            views = 1 if net.backend.takes_squares or net.views == "center" else 10
            probabilities.append(net.mean_over_views(net.backend.infer(values), len(values) // views))
        return mean_probabilities(probabilities)

    @property
    def backend(self) -> str:
        """What runs the nets, for display."""
        return backends(self.net)

    def served(self, max_batch: int) -> ServedNet:
        """Return what clients are told of the model. Reads the nets' files, once, for their digests."""
        first = self.net.nets[0]
        info = first.opened.info
        facts = {} if info is None else {"lrn": info.lrn, "int8_for": info.int8_for, "calibration": self._calibration}
        return ServedNet(
            manifest=_manifest(self.net),
            info=ExportInfo(
                members=tuple(member for net in self.net.nets for member in _members(net)),
                views=first.views,
                precision=first.backend.precision,
                batch=Batch(opt=max_batch, max=max_batch),
                **facts,
            ),
            sha256=self.digest,
            backend=self.backend,
        )

    @property
    def _calibration(self) -> CalibrationRecord | None:
        """The first net's record, with the images of all. None if the file of one does not name them."""
        infos = [net.opened.info for net in self.net.nets]
        records = [None if info is None else info.calibration for info in infos]
        if records[0] is None or None in records:
            return None
        images = {image for record in records if record is not None for image in record.images}
        return replace(records[0], images=tuple(sorted(images)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the answers depend on: the nets' files, in order, their views, and what runs them."""
        digest = hashlib.sha256()
        for net in self.net.nets:
            for path in net.opened.files:
                digest.update(bytes.fromhex(sha256(path)))
            digest.update(f"{net.views} {net.backend.description}\n".encode())
        return digest.hexdigest()


def _members(net: Net) -> Sequence[Member]:
    opened = net.opened
    return opened.info.members if opened.info else [Member(name=net.manifest.name, sha256=opened.sha256)]


def _manifest(net: Net | Ensemble) -> Manifest:
    """Return a net's manifest. For several nets, it is the first net's with all names, and without measured errors."""
    first = net.nets[0].manifest
    if len(net.nets) == 1:
        return first
    return replace(
        first,
        name=" + ".join(member.manifest.name for member in net.nets),
        provenance=replace(first.provenance, errors=()),
    )


def default_batch(models: Sequence[Model]) -> int:
    """Return the number of images per call of a net by default."""
    on_gpu = any(net.backend.device == "cuda" for model in models for net in model.net.nets)
    return GPU_BATCH if on_gpu else PHOTOS_PER_CALL
