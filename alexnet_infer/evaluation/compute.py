"""One evaluation, from the request to the predictions on disk."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL

from alexnet_infer.artifact import check_different
from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import is_engine
from alexnet_infer.backends.remote.address import ServerAddress, Source
from alexnet_infer.datasets import LabelledImages, map_classes, open_images
from alexnet_infer.errors import StoppedError, UnreadableInputError, UsageError, printable, shown
from alexnet_infer.evaluation.imagenet_c import example_set
from alexnet_infer.evaluation.on_ray import predict_on_ray
from alexnet_infer.evaluation.paper import deviations_of_net
from alexnet_infer.evaluation.pipeline import predict
from alexnet_infer.evaluation.predictions import About, AboutData, AboutNet, Predictions, hash_of, open_all
from alexnet_infer.evaluation.selection import known_positions, name_of, positions_of
from alexnet_infer.manifest import check_same_classes
from alexnet_infer.nets import load
from alexnet_infer.pipeline import Clock
from alexnet_infer.predict import LARGEST_BATCH, Net
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting
from alexnet_infer.published.get import set_at
from alexnet_infer.version import __version__

DATA_VARIABLE = "ALEXNET_INFER_DATA"

BATCH = 16
"""Images per call of a net. With ten views, that is 160 patches, enough to keep two cores or a GPU busy."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The nets, the data and the protocol of an evaluation. Raises UsageError if a value is out of range."""

    models: tuple[Source, ...]
    data: Path
    layout: str | None = None
    split: Literal["validation", "train"] = "validation"
    views: Views | None = None
    """None for the views that an exported file cuts itself, or else the paper's ten views."""
    device: Device = "auto"
    backend: Choice = "auto"
    trust_engine: bool = False
    batch: int = BATCH
    workers: int | None = None
    limit: int | None = None
    """The number of images of a stratified sample, or None for all images."""
    only_known: bool = False
    """Leave out the images of classes that the nets do not know, instead of counting them as wrong."""
    shard: int = 0
    """The part that this machine computes, from 0 to `shards` - 1."""
    shards: int = 1
    cache: Path
    on: Literal["local", "ray"] = "local"
    """With "ray", the machines of a cluster compute the predictions. The result is the same."""
    fresh: bool = False
    """Recompute predictions that are already in the cache."""
    address: str | None = None
    """The address of the Ray cluster, or None for the one that Ray finds."""

    def __post_init__(self) -> None:
        for option, value in (("--workers", self.workers), ("--limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: expected at least 1")
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise UsageError(f"--batch {self.batch}: expected 1 to {LARGEST_BATCH}")
        if not 0 <= self.shard < self.shards:
            raise UsageError(f"--shard {self.shard + 1}/{self.shards}: expected I/N with I from 1 to N")
        if self.address is not None and self.on != "ray":
            raise UsageError(f"--address {shown(self.address)}: needs --on ray")
        if self.on == "ray":
            for path in self.models:
                if is_engine(path):
                    raise UsageError(f"{path}: an engine runs only on the machine that built it; leave out --on ray")
                if isinstance(path, ServerAddress):
                    raise UsageError(f"{path}: a server computes the predictions, not a cluster; leave out --on ray")


def data_folder(given: Path | None) -> Path:
    """Return the path `given`, or else the one in $ALEXNET_INFER_DATA. The name of a fetched set stands for its folder.

    Raises UsageError if both are missing, and UnreadableInputError for the name of a set that has not been fetched.
    """
    path = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if path is None:
        raise UsageError(
            f"--data is missing, and ${DATA_VARIABLE} is not set: expected a labelled image set. "
            "`alexnet-infer data get tiny-imagenet` gets a free one (`alexnet-infer data get` lists others). For "
            "ILSVRC-2012, get ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from https://image-net.org and "
            "give the folder that contains them"
        )
    return set_at(path)


@dataclass(frozen=True)
class Computed:
    """Complete predictions with their data and nets. The nets are sorted by name."""

    data: LabelledImages
    positions: Sequence[int]
    """The positions of the images in `data`."""
    nets: list[Net]
    predictions: list[Predictions]
    cached: list[int]
    """The number of images of each net whose predictions were in the cache."""

    @property
    def notes(self) -> list[str]:
        """What a user should know before trusting a figure."""
        damaged = [
            f"{part.folder}: predictions were damaged ({part.damage}); they were computed again"
            for part in self.predictions
            if part.damage
        ]
        return [*self.data.notes, *damaged]


def compute(request: EvaluationRequest, clock: Clock | None = None) -> Computed:
    """Compute the predictions that the cache does not have.

    Raises the errors of `open_images`, `load` and `Predictions`, and UsageError if the nets can't be averaged.
    """
    return compute_with(load_nets(request), request, clock)


def load_nets(request: EvaluationRequest) -> list[Net]:
    """Load the nets of a request, sorted by name. Raises UsageError if they can't be averaged."""
    if not os.path.exists(request.data):  # noqa: PTH110 (false for a name too long); the nets may take a while to load
        raise UnreadableInputError(f"{request.data}: no such file or folder")
    nets = [_load(path, request) for path in request.models]
    nets.sort(key=lambda net: (net.manifest.name, net.opened.sha256 or "", str(net.opened.source)))
    _check_different(nets, request)
    _check_same_views(nets)
    check_same_classes([net.manifest.wnids for net in nets], [str(net.opened.source) for net in nets])
    return nets


def compute_with(
    nets: list[Net],
    request: EvaluationRequest,
    clock: Clock | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Computed:
    """Compute the predictions of nets from `load_nets`. Other arguments and errors are those of `compute`.

    `on_images` is called with the number of images done since the last call. By default, a bar shows it.
    """
    data, known = open_data(nets, request)
    positions = positions_of(data, request.limit, known)
    begin, end = _range(len(positions), request)
    own = positions[begin:end]
    images = data.listed(own)
    shared = {
        "data": _about_data(data, request, len(positions), known),
        "views": nets[0].views,
        "batch": request.batch,
        "software": f"alexnet-infer {__version__}, Pillow {PIL.__version__}, NumPy {np.__version__}",
        "begin": begin,
        "end": end,
        "images": hash_of(images),
    }
    abouts = [About(net=_about_net(net), **shared) for net in nets]
    predictions = open_all(request.cache, abouts, images, fresh=request.fresh)
    computed = Computed(data, own, nets, predictions, [part.done for part in predictions])
    with ExitStack() as stack:
        for part in predictions:
            stack.callback(part.close)
        if all(part.complete for part in predictions):
            if on_images is not None:
                on_images(end - begin)
        else:
            with counting("evaluating", end - begin) if on_images is None else nullcontext(on_images) as advance:
                common = {"workers": request.workers, "clock": clock, "on_images": advance}
                pairs = list(zip(nets, predictions, strict=True))
                with _interruptible(nets):
                    if request.on == "ray":
                        predict_on_ray(data, own, pairs, address=request.address, **common)
                    else:
                        predict(data, own, pairs, **common)
        stack.pop_all()  # the predictions stay locked while they are used
    return computed


@contextmanager
def _interruptible(nets: Sequence[Net]) -> Iterator[None]:
    """Turn Ctrl-C into StoppedError if nothing can be continued."""
    try:
        yield
    except KeyboardInterrupt:
        for opened in (net.opened for net in nets):
            if opened.sha256 is None:
                raise StoppedError(
                    f"interrupted: nothing of {opened.source} is kept, since the server gives no digest of its net"
                ) from None
        raise


def open_data(nets: Sequence[Net], request: EvaluationRequest) -> tuple[LabelledImages, Sequence[int] | None]:
    """Open a request's data. Returns it and, if images are left out, the positions of those with a known class.

    Raises the errors of `open_images`, and UsageError if the data and the nets share no class.
    """
    classes = nets[0].manifest.classes
    try:
        data = open_images(request.data, request.split, request.layout, numbered=classes)
    except UnreadableInputError:
        if example := example_set(request.data):
            raise UnreadableInputError(
                f"{request.data}: has the sets of ImageNet-C; add --mce for the mean corruption error, or give one "
                f"set, as in --data {shlex.quote(str(example))}"
            ) from None
        raise
    map_classes(data.classes, classes)  # raises before anything is computed
    return data, known_positions(data, classes) if request.only_known else None


def _load(source: Source, request: EvaluationRequest) -> Net:
    """Load a net. For a served one, device and backend are those of the other nets, if there are any."""
    if isinstance(source, ServerAddress) and any(isinstance(other, Path) for other in request.models):
        return load(source, views=request.views)
    return load(
        source, device=request.device, views=request.views, backend=request.backend, trust_engine=request.trust_engine
    )


def _check_different(nets: Sequence[Net], request: EvaluationRequest) -> None:
    """Raise UsageError if two files hold the same net.

    Also raises it if a file holds several nets and is not the only file, or can't be sent to a cluster, and if shards
    are to be joined that may be from different nets.
    """
    for opened in (net.opened for net in nets):
        if opened.sha256 is None and request.shards > 1:
            raise UsageError(
                f"{opened.source}: the server gives no digest of its net, so shards could be of different nets; leave "
                "out --shard"
            )
        if (count := len(opened.members)) > 1 and len(nets) > 1:
            raise UsageError(f"{opened.source}: contains {count} nets and would count as one; give one file per net")
        if request.on == "ray" and len(opened.files) > 1:
            raise UsageError(
                f"{opened.path}: has its weights in a second file, which is not sent to the cluster; leave out --on ray"
            )
    check_different((net.opened.source, net.opened.members) for net in nets)


def _check_same_views(nets: Sequence[Net]) -> None:
    """Raise UsageError unless all nets average the same views of an image."""
    for net in nets:
        if net.views != nets[0].views:
            fixed = all(member.opened.views is not None for member in (net, nets[0]))
            fix = "export again with the same --views" if fixed else "set --views center"
            raise UsageError(
                f"{net.opened.source}: uses views={net.views}, but {nets[0].opened.source} uses views={nets[0].views}; "
                f"expected the same: {fix}"
            )


def _range(count: int, request: EvaluationRequest) -> tuple[int, int]:
    """Return the range of this shard among `count` images. It consists of whole batches, the same as on one machine."""
    batches = -(-count // request.batch)
    begin, end = (request.batch * (batches * (request.shard + i) // request.shards) for i in (0, 1))
    if begin >= min(end, count):
        raise UsageError(f"--shard {request.shard + 1}/{request.shards}: has no images; use fewer shards")
    return begin, min(end, count)


def _about_data(data: LabelledImages, request: EvaluationRequest, count: int, known: Sequence[int] | None) -> AboutData:
    return AboutData(
        name=printable(name_of(request.data.resolve())) or "/",
        layout=data.layout,
        split=request.split,
        listing=data.listing,
        classes=tuple(data.classes),
        images=len(data) if known is None else len(known),
        sample=None if request.limit is None else count,
        left_out=0 if known is None else len(data) - len(known),
    )


def _about_net(net: Net) -> AboutNet:
    manifest = net.manifest
    return AboutNet(
        name=manifest.name,
        sha256=net.opened.sha256,
        backend=printable(net.backend.description),
        parameters=manifest.architecture.parameters,
        classes=manifest.classes,
        deviations=tuple(deviations_of_net(manifest.architecture, manifest.preprocessing.size)),
    )
