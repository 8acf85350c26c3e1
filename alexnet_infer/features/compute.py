"""From images to a file of features: the net runs in the pipeline of `eval`, and its rows go to the staging folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import describe, is_exported
from alexnet_infer.decode import Squares
from alexnet_infer.errors import AlexNetInferError, ModelFileError, UsageError, printable, shown
from alexnet_infer.features import hdf5, mapped, npy, parquet
from alexnet_infer.features.about import About, AboutLayer, FeaturesError
from alexnet_infer.features.images import Images
from alexnet_infer.features.opening import check_suffix, open_features
from alexnet_infer.features.staging import Staging
from alexnet_infer.features.table import LONGEST_TEXT, RESERVED, Row
from alexnet_infer.layers import find_layers
from alexnet_infer.nets import load
from alexnet_infer.pipeline import Clock, run
from alexnet_infer.predict import LARGEST_BATCH, Net
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting, fetching
from alexnet_infer.reading import Decoded, Unreadable
from alexnet_infer.version import __version__

BATCH = 16
"""Images per call of the net, as in `eval`."""


@dataclass(frozen=True, kw_only=True)
class FeaturesRequest:
    """What is computed, and the file that is written. Raises UsageError if a value is out of range or the file can't be
    written under its name, and BackendError if a package that writes it is missing."""

    model: Path
    layers: tuple[str, ...] = ("fc7",)
    out: Path
    views: Views | None = None
    """None for the views that an exported file cuts itself, or else the center."""
    half: bool = False
    """Store float16."""
    device: Device = "auto"
    backend: Choice = "auto"
    batch: int = BATCH
    workers: int | None = None
    fresh: bool = False
    """Discard the rows of an interrupted run."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected at least 1")
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise UsageError(f"--batch {self.batch}: expected 1 to {LARGEST_BATCH}")
        if not self.layers:
            raise UsageError("--layer is missing: expected at least one")
        check_out(self.out)
        if self.out.suffix == ".npy" and len(self.layers) > 1:
            raise UsageError(f"-o {self.out}: a .npy file has one layer, not {len(self.layers)}; choose .npz")
        for layer in self.layers:
            if layer in RESERVED:
                raise UsageError(f"--layer {layer}: the file has something else of this name; expected another layer")


def check_out(out: Path) -> None:
    """Raise UsageError unless a file of features may be written to `out`: only such a file is overwritten.

    Raises BackendError if a package that writes it is missing.
    """
    check_suffix(out, "-o ")
    if out.suffix == ".h5":
        hdf5.import_h5py()
    if out.suffix == ".parquet":
        parquet.import_pyarrow()
    if not out.parent.is_dir():
        raise UsageError(f"-o {out}: no such folder; create {out.parent} first")
    try:
        if out.exists():
            open_features(out)
        elif out.suffix == ".npy":
            npy.check_text_file(out)
    except FeaturesError:
        raise UsageError(f"-o {out}: is there already, and is no file of features; choose another name") from None


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A complete file of features."""

    about: About
    unreadable: Sequence[Unreadable]
    earlier: int
    """Images that an earlier run had computed."""
    earlier_unreadable: int
    """Those of them that it could not read. They were not tried again."""
    written: bool
    """False if no image could be read."""
    seconds: float
    """What this run took for the other images, without opening the net and writing the file."""


def load_net(request: FeaturesRequest) -> Net:
    """Load the net of a request, with its layers. Raises the errors of `nets.load`."""
    exported = describe(request.model)[1] if is_exported(request.model) else None
    fixed = None if exported is None or exported.views == "none" else exported.views
    views = request.views or fixed or "center"
    return load(request.model, device=request.device, views=views, backend=request.backend, layers=list(request.layers))


def compute(request: FeaturesRequest, net: Net, images: Images, clock: Clock | None = None) -> Computed:
    """Compute the features of `images` with a net from `load_net`, and write the file.

    If no image can be read, the file is not written. Raises UsageError if it can't be written, if an interrupted run
    with other options would be lost, or if a value doesn't fit into float16, ModelFileError if a value is not finite,
    and UnreadableInputError if the images change meanwhile.
    """
    about = _about(request, net, images)
    _check_form(request.out.suffix, about, images)
    with Staging(request.out, about, images.stamp, images.listed) as staging:
        if request.fresh and (problem := _lack_of_room(request.out, about, 0, freed=staging.size)):
            raise UsageError(problem)
        with counting("checking earlier rows", len(images)) as advance:
            staging.prepare(advance, fresh=request.fresh)
        if problem := _lack_of_room(request.out, about, staging.done):
            if not staging.done:
                staging.discard()
            raise UsageError(problem)
        earlier, earlier_unreadable, began = staging.done, len(staging.errors), time.perf_counter()
        if not staging.complete:
            with counting("computing", len(images)) as advance:
                _fill(staging, net, images, request, clock, advance)
        seconds = time.perf_counter() - began
        unreadable = [Unreadable(image=printable(images.listed[i][0]), reason=e) for i, e in staging.errors.items()]
        if written := len(unreadable) < len(images):
            with fetching(f"writing {request.out.name}", len(images) * about.row_bytes) as advance:
                about = staging.finish(advance)
        else:
            staging.discard()
    return Computed(
        about=about,
        unreadable=unreadable,
        earlier=earlier,
        earlier_unreadable=earlier_unreadable,
        written=written,
        seconds=seconds,
    )


def _check_form(suffix: str, about: About, images: Images) -> None:
    """Raise UsageError if a kind of file can't hold what is known of it before anything is computed."""
    longest = max((name for name, _ in images.listed), key=len)
    if len(longest) > LONGEST_TEXT:
        raise UsageError(f"{shown(longest)}: a name of {len(longest):,} characters; expected at most {LONGEST_TEXT:,}")
    if suffix == ".parquet":
        parquet.check_size(about)
    elif suffix != ".npy":
        mapped.check_texts("names", [name for name, _ in images.listed])


def _fill(
    staging: Staging,
    net: Net,
    images: Images,
    request: FeaturesRequest,
    clock: Clock | None,
    advance: Callable[[int], None],
) -> None:
    task = _Extraction(net, staging, images)
    source = images.source(staging.done)
    run(source, [task], batch=request.batch, workers=request.workers, clock=clock, on_images=advance)


def _about(request: FeaturesRequest, net: Net, images: Images) -> About:
    layers = find_layers(net.manifest.architecture, request.layers)
    return About(
        net=net.manifest.name,
        sha256=net.opened.sha256,
        layers=tuple(AboutLayer(name=layer.name, shape=layer.shape) for layer in layers),
        views=net.views,
        dtype="float16" if request.half else "float32",
        preprocessing=net.manifest.preprocessing,
        batch=request.batch,
        backend=printable(net.backend.description),
        software=f"alexnet-infer {__version__}, Pillow {PIL.__version__}, NumPy {np.__version__}",
        images=images.about,
    )


def _lack_of_room(out: Path, about: About, done: int, freed: int = 0) -> str | None:
    """Return a message if the disk has certainly not enough room, after `freed` bytes are removed.

    A .npy file needs none but for its rows.
    """
    whole = about.images.count * about.row_bytes
    needed = whole - done * about.row_bytes + (whole if out.suffix in (".npz", ".h5") else 0)
    free = shutil.disk_usage(out.parent).free + freed
    if needed <= free:
        return None
    from rich.filesize import decimal

    problem = f"-o {out}: needs {decimal(needed)} of free space, and {decimal(free)} are free; free some"
    if done:
        return f"{problem}, and run the same command again"
    less = "" if out.suffix == ".npy" else ", choose .npy" if len(about.layers) == 1 else ", choose fewer layers"
    return f"{problem}, choose another disk{less}{'' if about.dtype == 'float16' else ', or add --half'}"


class _Extraction:
    """A net that computes layers, and the rows that it appends."""

    def __init__(self, net: Net, staging: Staging, images: Images) -> None:
        self.net, self._staging, self._images = net, staging, images

    @property
    def done(self) -> int:
        return self._staging.done

    def run(self, images: Sequence[Decoded[Any, Squares]], inputs: np.ndarray | None, clock: Clock) -> None:
        """Append the values of the next images: NaN for those that can't be read."""
        about, rows = self._staging.about, [self._images.row(image) for image in images]
        readable = [i for i, row in enumerate(rows) if row.error is None]
        values = [np.full((len(rows), *layer.shape), np.nan, about.numpy_dtype) for layer in about.layers]
        if inputs is not None:
            with clock("net"):
                found = self.net.backend.activations(inputs)
            for layer, array in zip(about.layers, values, strict=True):
                means = self.net.mean_over_views(found[layer.name], about.batch)[: len(readable)]
                try:
                    array[readable] = _stored(means, about, layer, [rows[i] for i in readable])
                except AlexNetInferError:
                    self._staging.discard()  # the same options can't get past this image
                    raise
        self._staging.append(rows, values)


def _stored(values: np.ndarray, about: About, layer: AboutLayer, rows: Sequence[Row]) -> np.ndarray:
    """Return the values of a layer as they are stored. Raises an error if one is not finite, or too large."""
    finite = np.isfinite(values)
    if not finite.all():
        row = rows[int((~finite).reshape(len(rows), -1).any(1).argmax())]
        raise ModelFileError(
            f"{about.net}: layer {layer.name} has values that are not finite for {shown(row.name)}: the net's file is "
            "damaged, or its precision is too low; get or export it again"
        )
    if about.dtype == "float32":
        return values
    with np.errstate(over="ignore"):
        half = values.astype(about.numpy_dtype)
    if np.isinf(half).any():
        row, largest = rows[int(np.isinf(half).reshape(len(rows), -1).any(1).argmax())], float(abs(values).max())
        raise UsageError(
            f"--half: layer {layer.name} has the value {largest:,.0f} for {shown(row.name)}, and float16 holds at most "
            "65,504; leave out --half"
        )
    return half
