"""Convert one file from another tool to one model file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import Artifact, sha256
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, printable, shown
from alexnet_infer.files import size_of, write_atomically
from alexnet_infer.importing.conventions import (
    CONVENTIONS,
    OF_PRESETS,
    Convention,
    convention,
    fold,
    published_convention,
)
from alexnet_infer.importing.formats import Format
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import variant
from alexnet_infer.recognize import CAFFEMODEL, ONNX, SAFETENSORS, TORCH, Kind, by_suffix, recognize
from alexnet_infer.version import __version__

FORMATS: dict[Kind, Format] = {
    ONNX: "onnx",
    CAFFEMODEL: "caffemodel",
    TORCH: "state-dict",
    SAFETENSORS: "checkpoint",
}


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What to import, and what the file itself doesn't state. Raises UsageError on invalid values."""

    source: Path
    out: Path
    """The file to write: `.onnx` for a quantized graph, which is kept as it is, otherwise `.safetensors`."""
    name: str
    """The name of the net in the model file."""
    format: Format | None = None
    """The format of the file.

    None: told by its content or, if that says nothing, by its suffix. ONNX to a `.onnx` file must be quantized.
    """
    preset: str | None = None
    """The preset that describes the net. It may be None for a checkpoint, which contains its architecture."""
    patch: int | None = None
    """Side of the patches, for files that take other patches (the Model Zoo's: 224) than the preset (227).

    None: the file's or, if the file doesn't state it, the preset's.
    """
    convention: str | None = None
    """Preprocessing: the name of a convention, or of a JSON file.

    None: the checkpoint's own, or the convention of the preset's published nets on patches of this side.
    """
    classes: tuple[ClassName, ...] | None = None
    """The classes, in the order of the file's outputs.

    None: the checkpoint's own, or the 1,000 of ILSVRC-2012, sorted by WordNet id.
    """
    data: str | None = None
    """What the net was trained on. Ignored if `provenance` is given."""
    provenance: Provenance | None = None
    """The complete origin of the net, if it is known."""

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in get_args(Format):
            raise UsageError(f"format={shown(self.format)}: expected {', '.join(get_args(Format))}")
        if self.preset is not None:
            variant(self.preset)
        try:
            found = self.resolved_format
        except ModelFileError:
            return  # `import_net` raises it
        suffix = ".onnx" if found == "onnx-quantized" else ".safetensors"
        if self.out.suffix != suffix:
            raise UsageError(f"{self.out}: expected a name that ends in {suffix}")
        if self.preset is None and found != "checkpoint":
            names = ", ".join(OF_PRESETS)
            raise UsageError(f"{self.source}: its preset is unknown. Name the preset with --as: {names}, ...")

    @cached_property
    def resolved_format(self) -> Format:
        """`format`, or the format of the file's content. Raises ModelFileError if that can't be imported."""
        if self.format is not None:
            return self.format
        found = FORMATS[_importable(self.source)]
        return "onnx-quantized" if found == "onnx" and self.out.suffix == ".onnx" else found


def _importable(path: Path) -> Kind:
    """The kind of a file. If it can't be read, the kind that its name suggests: `import_net` then gives the cause."""
    try:
        kind = recognize(path)
    except (OSError, SpecError):
        kind = by_suffix(path)
        if kind is None:
            with _naming(path):
                raise
    if kind in FORMATS:
        return kind
    expected = "expected an ONNX file, a caffemodel, a PyTorch file or a checkpoint of alexnet-infer's trainer"
    if kind is None:
        raise ModelFileError(f"{path}: its format is not recognised: {expected}; --format names the format")
    advice = f"; {kind.advice}" if kind.advice else ""
    raise ModelFileError(f"{path}: is {kind.text}, which can't be imported: {expected}{advice}")


def import_net(request: ImportRequest) -> Path:
    """Convert the file to a model file, write that atomically, and return its path.

    Raises ModelFileError, which names the file and the cause, if the file isn't what the request says. Raises
    UsageError if the request contradicts the file. Raises BackendError if a package that reads the file is missing.
    Raises OSError if `out` can't be written.
    """
    with _naming(request.source):
        size_of(request.source)
    if request.resolved_format == "onnx-quantized":
        return _adopt(request)
    with _naming(request.source):
        net = _read(request)
        preprocessing, classes = net.preprocessing, net.classes
        tensors = net.tensors
        if preprocessing is None:
            tensors, preprocessing = fold(tensors, net.architecture, _convention(request, net.architecture))
        if classes is None or request.classes is not None:
            classes, order = _classes(request, net.architecture.classes)
            last = f"{net.architecture.operations[-1].name}."
            tensors = {name: t[order] if name.startswith(last) else t for name, t in tensors.items()}
        manifest = Manifest(
            name=request.name,
            architecture=net.architecture,
            preprocessing=preprocessing,
            classes=classes,
            provenance=request.provenance or _unknown_provenance(request),
        )
        artifact = Artifact(manifest, tensors)
    artifact.save(request.out, np.float32)
    return request.out


@dataclass(frozen=True, kw_only=True)
class _FileNet:
    """The net as the file describes it. Fields that are None must come from the request."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing | None = None
    classes: tuple[ClassName, ...] | None = None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors about the file into a ModelFileError whose message begins with its path."""
    try:
        yield
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None
    except MemoryError:
        raise ModelFileError(f"{path}: needs more memory than this machine has") from None


def _preset(request: ImportRequest) -> Architecture:
    assert request.preset is not None
    classes = len(request.classes) if request.classes is not None else 1000
    return replace(variant(request.preset), classes=classes).build()


def _on_patches(request: ImportRequest, side: int) -> Architecture:
    """The preset on patches of this side.

    If the side differs from the preset's, only the last pooling layer has a window that extends past the edge, as in
    the Model Zoo's files.
    """
    assert request.preset is not None
    preset = _preset(request)
    if side == preset.patch:
        return preset
    zoo = replace(variant(request.preset), patch=side, ceil_pools=(5,), classes=preset.classes).build()
    if zoo.tensors != preset.tensors:
        raise ModelFileError(
            f"{request.source}: takes patches of {side}: expected {preset.patch}, as in the preset {request.preset}"
        )
    return zoo


def _read(request: ImportRequest) -> _FileNet:
    match request.resolved_format:
        case "checkpoint":
            from alexnet_infer.importing.checkpoint import read_checkpoint

            checkpoint = read_checkpoint(request.source)
            if request.preset not in (None, checkpoint.architecture.name):
                raise SpecError(f"has the preset {checkpoint.architecture.name}: expected {request.preset}, from --as")
            _check_patch(request, [checkpoint.architecture])
            keeps = request.convention is None  # otherwise the request takes precedence
            return _FileNet(
                architecture=checkpoint.architecture,
                tensors=checkpoint.tensors,
                preprocessing=checkpoint.preprocessing if keeps else None,
                classes=checkpoint.classes,
            )
        case "onnx":
            return _read_onnx(request)
        case "caffemodel":
            from alexnet_infer.importing.caffemodel import read_caffemodel as read
        case _:
            from alexnet_infer.importing.state_dict import read_state_dict as read
    architecture = _check_patch(request, [_preset(request)])
    return _FileNet(architecture=architecture, tensors=read(request.source, architecture))


def _read_onnx(request: ImportRequest) -> _FileNet:
    from alexnet_infer.importing.onnx_graph import read_onnx

    preset = _preset(request)
    graph, tensors = read_onnx(request.source, preset)
    # The same weights serve patches of 224 and of 227 pixels: the maps before fc6 are 6 x 6 for both.
    fitting = [graph, *([preset] if preset.tensors == graph.tensors else [])]
    return _FileNet(architecture=_check_patch(request, fitting), tensors=tensors)


def _check_patch(request: ImportRequest, fitting: Sequence[Architecture]) -> Architecture:
    """The architecture with the requested patches, by default the first. Raises UsageError if no architecture fits."""
    for architecture in fitting:
        if request.patch in (None, architecture.patch):
            return architecture
    sides = " or ".join(str(side) for side in dict.fromkeys(a.patch for a in fitting))
    raise UsageError(f"--patch {request.patch}: {request.source} fits patches of {sides}")


def _convention(request: ImportRequest, architecture: Architecture) -> Convention:
    name = request.convention or published_convention(request.preset, architecture.patch)
    if name is None:
        preset = f", and no published net has the preset {request.preset}" if request.preset else ""
        raise UsageError(
            f"{request.source}: doesn't state its preprocessing{preset}; choose --preprocessing "
            f"{', '.join(CONVENTIONS)} or a JSON file"
        )
    chosen = convention(name)
    if chosen.size < architecture.patch:
        raise UsageError(
            f"--preprocessing {name}: gives images of {chosen.size} pixels, but the patches have {architecture.patch}; "
            "choose another --preprocessing or another --patch"
        )
    return chosen


def _classes(request: ImportRequest, outputs: int) -> tuple[tuple[ClassName, ...], np.ndarray]:
    """The classes sorted by WordNet id, and the index of each one among the file's outputs."""
    classes = ilsvrc_classes() if request.classes is None else request.classes
    if len(classes) != outputs:
        raise ModelFileError(
            f"{request.source}: has {outputs} outputs for {len(classes)} classes; name its classes with --classes"
        )
    order = sorted(range(outputs), key=lambda i: classes[i].wnid)
    return tuple(classes[i] for i in order), np.array(order)


def _unknown_provenance(request: ImportRequest) -> Provenance:
    """The provenance of a file of which only the name and the content are known."""
    return Provenance(
        data=request.data or "unknown images",
        recipe={"name": "imported", "file": printable(request.source.name), "sha256": sha256(request.source)},
        seed=None,
        date=None,
        software=f"imported by alexnet-infer {__version__}",
    )


def _adopt(request: ImportRequest) -> Path:
    from alexnet_infer.importing.quantized import adopt_quantized, input_side

    graph_classes, order = _classes(request, len(request.classes or ilsvrc_classes()))
    if (order != np.arange(len(order))).any():
        raise UsageError("--classes: a quantized net can't be reordered: expected its outputs in order of WordNet ids")
    with _naming(request.source):
        side = input_side(request.source)
        provenance = request.provenance or _unknown_provenance(request)
    if request.patch not in (None, side):
        raise UsageError(f"--patch {request.patch}: {request.source} is quantized and takes only patches of {side}")
    architecture = _on_patches(request, side)
    chosen = _convention(request, architecture)
    if chosen.std != (1.0, 1.0, 1.0):
        raise UsageError("--preprocessing: std can't be folded into a quantized net: expected one without std")
    manifest = Manifest(
        name=request.name,
        architecture=architecture,
        preprocessing=chosen.preprocessing(architecture.patch),
        classes=graph_classes,
        provenance=provenance,
    )
    with _naming(request.source):
        content = adopt_quantized(request.source, manifest)
    write_atomically(request.out, content)
    return request.out
