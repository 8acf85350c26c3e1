"""One file of somebody else's in, one model file of ours out."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from alexnet_infer import __version__
from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import Artifact, ClassName, Manifest, Provenance, sha256
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, shown, visible
from alexnet_infer.files import write_atomically
from alexnet_infer.importing.conventions import OF_PRESETS, Convention, convention, fold, published_convention
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import variant

Format = Literal["onnx", "onnx-quantized", "caffemodel", "state-dict", "checkpoint"]

SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".caffemodel": "caffemodel",
    ".pth": "state-dict",
    ".pt": "state-dict",
    ".safetensors": "checkpoint",
}


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What to import, and what no foreign file says of itself. Raises UsageError on values that make no sense."""

    source: Path
    out: Path
    """The file to write: .onnx for a quantized graph, which stays what it is, and else .safetensors."""
    name: str
    """What the net is called from now on."""
    format: Format | None = None
    """None: by the name's suffix."""
    preset: str | None = None
    """Which net it is; a checkpoint of our trainer knows it itself."""
    patch: int | None = None
    """Side of the patches, where the file's (the Model Zoo's 224) and the preset's (227) differ; None: the file's."""
    convention: str | None = None
    """Preprocessing: the name of a convention, or a JSON file; None for that of the preset's published nets on patches
    of this side."""
    classes: tuple[ClassName, ...] | None = None
    """In the order of the file's outputs; None for the 1,000 of ILSVRC-2012 in sorted order of their WordNet ids."""
    data: str | None = None
    """What it was trained on, where that is known and nothing else is."""
    provenance: Provenance | None = None
    """Where the net comes from, where all of it is known."""

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in get_args(Format):
            raise UsageError(f"format={shown(self.format)}: expected {', '.join(get_args(Format))}")
        suffix = ".onnx" if self.found_format == "onnx-quantized" else ".safetensors"
        if self.out.suffix != suffix:
            raise UsageError(f"{self.out}: expected a name that ends in {suffix}")
        if self.preset is None and self.found_format != "checkpoint":
            raise UsageError(f"{self.source}: which net is it? Name the preset with --as: {', '.join(OF_PRESETS)}, ...")
        if self.preset is not None:
            variant(self.preset)

    @property
    def found_format(self) -> Format:
        """`format`, or what the file's name says."""
        if self.format is not None:
            return self.format
        try:
            return SUFFIXES[self.source.suffix.lower()]
        except KeyError:
            raise UsageError(
                f"{self.source}: what kind of file is it? Expected a name that ends in {', '.join(SUFFIXES)}"
            ) from None


def import_net(request: ImportRequest) -> Path:
    """Reads the file, turns it into a model file of ours, writes that in one piece, and returns its path.

    Raises ModelFileError, naming the file and what is wrong, when it isn't what it is said to be; UsageError when the
    request contradicts it; BackendError when a package that reads it is missing; OSError when `out` can't be written.
    """
    with _naming(request.source):
        if not stat.S_ISREG(request.source.stat().st_mode):
            raise SpecError("is not a regular file: expected a model file")
    if request.found_format == "onnx-quantized":
        return _adopt(request)
    with _naming(request.source):
        found = _read(request)
        preprocessing, classes = found.preprocessing, found.classes
        tensors = found.tensors
        if preprocessing is None:
            said = _convention(request, found.architecture)
            tensors, preprocessing = fold(tensors, found.architecture, said)
        if classes is None or request.classes is not None:
            classes, order = _classes(request, found.architecture.classes)
            last = f"{found.architecture.operations[-1].name}."
            tensors = {name: t[order] if name.startswith(last) else t for name, t in tensors.items()}
        manifest = Manifest(
            name=request.name,
            architecture=found.architecture,
            preprocessing=preprocessing,
            classes=classes,
            provenance=request.provenance or _unknown_provenance(request),
        )
        artifact = Artifact(manifest, tensors)
    artifact.save(request.out, np.float32)
    return request.out


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What a file says of its net; the rest is for the request to say."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing | None = None
    classes: tuple[ClassName, ...] | None = None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is wrong with the file becomes a ModelFileError that begins with its name."""
    try:
        yield
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None


def _preset(request: ImportRequest) -> Architecture:
    assert request.preset is not None
    classes = len(request.classes) if request.classes is not None else 1000
    return replace(variant(request.preset), classes=classes).build()


def _on_patches(request: ImportRequest, side: int) -> Architecture:
    """The preset on patches of this side: its own, or other ones as in the Model Zoo's files, where only the last
    pooling hangs over the edge."""
    assert request.preset is not None
    ours = _preset(request)
    if side == ours.patch:
        return ours
    zoo = replace(variant(request.preset), patch=side, ceil_pools=(5,), classes=ours.classes).build()
    if zoo.tensors != ours.tensors:
        raise ModelFileError(f"{request.source}: takes patches of {side}: those of {request.preset} are {ours.patch}")
    return zoo


def _read(request: ImportRequest) -> _Source:
    match request.found_format:
        case "checkpoint":
            from alexnet_infer.importing.checkpoint import read_checkpoint

            found = read_checkpoint(request.source)
            if request.preset not in (None, found.architecture.name):
                raise SpecError(f"is of the preset {found.architecture.name}: expected {request.preset}, by --as")
            _check_patch(request, [found.architecture])
            keeps = request.convention is None  # what the request says goes first
            return _Source(
                architecture=found.architecture,
                tensors=found.tensors,
                preprocessing=found.preprocessing if keeps else None,
                classes=found.classes,
            )
        case "onnx":
            return _read_onnx(request)
        case "caffemodel":
            from alexnet_infer.importing.caffemodel import read_caffemodel as read
        case _:
            from alexnet_infer.importing.state_dict import read_state_dict as read
    architecture = _check_patch(request, [_preset(request)])
    return _Source(architecture=architecture, tensors=read(request.source, architecture))


def _read_onnx(request: ImportRequest) -> _Source:
    from alexnet_infer.importing.onnx_graph import read_onnx

    preset = _preset(request)
    graph, tensors = read_onnx(request.source, preset)
    # The weights of a net on 224 and on 227 pixels are the same: the maps before fc6 come out 6 x 6 either way.
    fitting = [graph, *([preset] if preset.tensors == graph.tensors else [])]
    return _Source(architecture=_check_patch(request, fitting), tensors=tensors)


def _check_patch(request: ImportRequest, fitting: Sequence[Architecture]) -> Architecture:
    """The architecture whose patches the request wants; the first where it doesn't say."""
    for architecture in fitting:
        if request.patch in (None, architecture.patch):
            return architecture
    sides = " or ".join(str(side) for side in dict.fromkeys(a.patch for a in fitting))
    raise UsageError(f"--patch {request.patch}: {request.source} fits patches of {sides}")


def _convention(request: ImportRequest, architecture: Architecture) -> Convention:
    name = request.convention or published_convention(request.preset, architecture.patch)
    if name is None:
        raise UsageError(
            f"{request.source}: doesn't say how its images were prepared, and no published net of this preset does; "
            "name it with --preprocessing"
        )
    said = convention(name)
    if said.size < architecture.patch:
        raise UsageError(
            f"--preprocessing {name}: gives images of {said.size} pixels, and the patches have {architecture.patch}; "
            "choose another, or another --patch"
        )
    return said


def _classes(request: ImportRequest, outputs: int) -> tuple[tuple[ClassName, ...], np.ndarray]:
    """The classes in sorted order of their WordNet ids, and which of the file's outputs each one is."""
    found = ilsvrc_classes() if request.classes is None else request.classes
    if len(found) != outputs:
        raise ModelFileError(
            f"{request.source}: has {outputs} outputs, and there are {len(found)} classes; name them with --classes"
        )
    order = sorted(range(outputs), key=lambda i: found[i].wnid)
    return tuple(found[i] for i in order), np.array(order)


def _unknown_provenance(request: ImportRequest) -> Provenance:
    """Of a file of which no more is known than what it is called and holds."""
    return Provenance(
        data=request.data or "unknown images",
        recipe={"name": "imported", "file": visible(request.source.name), "sha256": sha256(request.source)},
        seed=None,
        date=None,
        software=f"imported by alexnet-infer {__version__}",
    )


def _adopt(request: ImportRequest) -> Path:
    from alexnet_infer.importing.quantized import adopt_quantized, input_side

    graph_classes, order = _classes(request, len(request.classes or ilsvrc_classes()))
    if (order != np.arange(len(order))).any():
        raise UsageError("--classes: a quantized net stays as it is: expected its outputs in order of WordNet ids")
    with _naming(request.source):
        side = input_side(request.source)
    if request.patch not in (None, side):
        raise UsageError(f"--patch {request.patch}: {request.source} takes patches of {side}, and stays as it is")
    architecture = _on_patches(request, side)
    said = _convention(request, architecture)
    if said.std != (1.0, 1.0, 1.0):
        raise UsageError("--preprocessing: a quantized net stays as it is: expected one that divides by nothing")
    manifest = Manifest(
        name=request.name,
        architecture=architecture,
        preprocessing=said.preprocessing(architecture.patch),
        classes=graph_classes,
        provenance=request.provenance or _unknown_provenance(request),
    )
    with _naming(request.source):
        content = adopt_quantized(request.source, manifest)
    write_atomically(request.out, content)
    return request.out
