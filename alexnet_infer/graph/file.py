"""Exported ONNX files on disk: written atomically, and read without trusting them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from alexnet_infer.errors import ModelFileError, SpecError, UsageError, cause_of, listed, one_line, shown
from alexnet_infer.files import read_limited, size_of, write_atomically
from alexnet_infer.graph.check import check_graph, tensor_bytes
from alexnet_infer.graph.info import EXPORT_KEY, ExportInfo
from alexnet_infer.graph.wire import check_wire, import_onnx
from alexnet_infer.layers import find_layers
from alexnet_infer.manifest import METADATA_KEY, Manifest

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

MAX_BYTES = 2**31 - 1
"""The largest protobuf message, and so the largest ONNX file."""

MAX_WEIGHTS = 2**31 - 2**26
"""Bytes of weights that fit into one message beside the rest of a model."""

MAX_METADATA = 10**8
"""Characters of a manifest. safetensors files may have as many."""

ALIGNMENT = 4096
"""Tensors in that file begin at multiples of this many bytes, so that runtimes can memory-map them."""


def save_model(path: Path, model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> list[Path]:
    """Write a model with the weights that were kept `outside` of it, and return the files that were written.

    If the model including its weights is smaller than MAX_WEIGHTS, the weights go into the model. Otherwise they go
    into one file beside it, named after a hash of its content, so that a reader finds either the old model with the old
    weights or the new model with the new weights. `model` is changed. Raises OSError if a file can't be written.
    """
    external = [tensor for tensor in model.graph.initializer if tensor.name in outside and tensor.external_data]
    if sum(outside[tensor.name].nbytes for tensor in external) + model.ByteSize() < MAX_WEIGHTS:
        embed(model, outside)
        write_atomically(path, model.SerializeToString())
        return [path]
    digest = hashlib.sha256()
    for part in _parts(external, outside):
        digest.update(part)
    data = path.with_name(f"{path.stem}-{digest.hexdigest()[:12]}.data")
    write_atomically(data, _parts(external, outside))
    begin = 0
    for tensor in external:
        size = outside[tensor.name].nbytes
        del tensor.external_data[:]
        for key, value in (("location", data.name), ("offset", begin), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        begin += size + -size % ALIGNMENT
    write_atomically(path, model.SerializeToString())
    return [path, data]


def embed(model: onnx.ModelProto, outside: dict[str, np.ndarray]) -> None:
    """Put the weights that were kept `outside` into the model."""
    for tensor in model.graph.initializer:
        if tensor.name in outside and tensor.external_data:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = _little_endian(outside[tensor.name]).tobytes()


def _parts(external: list[onnx.TensorProto], outside: dict[str, np.ndarray]) -> Iterator[bytes]:
    for tensor in external:
        part = _little_endian(outside[tensor.name]).tobytes()
        yield part
        yield bytes(-len(part) % ALIGNMENT)


def _little_endian(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An exported file that was read and checked against its metadata. Weights beside it have not been read."""

    path: Path
    manifest: Manifest
    info: ExportInfo
    content: bytes
    data: tuple[Path, ...]
    """Files beside the model that hold weights."""


def read_model(path: Path) -> OnnxFile:
    """Read an ONNX file that `alexnet-infer export` wrote.

    Raises ModelFileError if the file is damaged, has no alexnet-infer manifest, contradicts its manifest, has a graph
    that `check_graph` refuses, or refers to weights outside of a regular file in its own directory. Raises BackendError
    if onnx is missing.
    """
    try:
        content = read_message(path, "an ONNX file")
        model = parsed(content)
        properties = _properties(model)
        if METADATA_KEY not in properties or EXPORT_KEY not in properties:
            raise SpecError(
                "has no alexnet-infer manifest: expected a file that `alexnet-infer export` wrote; `alexnet-infer "
                "import` converts files of other programs"
            )
        manifest = Manifest.from_json(properties[METADATA_KEY])
        info = ExportInfo.from_json(properties[EXPORT_KEY])
        _check_ends(model, manifest, info)
        data = _check_external(model, path.parent)
        check_graph(model, info)
    except OSError as error:
        raise ModelFileError(f"{path}: {cause_of(error)}") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return OnnxFile(path=path, manifest=manifest, info=info, content=content, data=data)


def read_message(path: Path, kind: str) -> bytes:
    """Return the content of a file that holds one protobuf message. `kind` names the file in the error.

    Raises SpecError if it is too large or not a regular file, OSError if it can't be read.
    """
    if (size := size_of(path)) > MAX_BYTES:
        raise SpecError(f"has {size} bytes: expected {kind} of less than 2 GB")
    return read_limited(path, MAX_BYTES)


def parsed(content: bytes) -> onnx.ModelProto:
    """Return the message in an ONNX file, without weights in other files.

    Raises SpecError if it is damaged or has too many parts, and BackendError if onnx is missing.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        check_wire(content, onnx.ModelProto.DESCRIPTOR)
        return onnx.load_model_from_string(content)
    except (DecodeError, SpecError) as error:
        raise SpecError(f"damaged, or not an ONNX file ({one_line(error)})") from None


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata. Raises SpecError if a key occurs twice, or a value is larger than any manifest."""
    properties: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key in properties:
            raise SpecError(f"its metadata has the key {shown(entry.key)} twice: expected one manifest")
        if len(entry.value) > MAX_METADATA:
            raise SpecError(f"its metadata has {len(entry.value)} characters: expected at most {MAX_METADATA}")
        properties[entry.key] = entry.value
    return properties


def _check_ends(model: onnx.ModelProto, manifest: Manifest, info: ExportInfo) -> None:
    """Raise SpecError unless the graph's input and output match the metadata."""
    from onnx import TensorProto

    kind, last = (TensorProto.UINT8, 3) if info.takes_squares else (TensorProto.FLOAT, manifest.preprocessing.patch)
    side = manifest.preprocessing.size if info.takes_squares else manifest.preprocessing.patch
    image = [side, side, 3] if info.takes_squares else [3, side, last]
    try:
        layers = find_layers(manifest.architecture, info.outputs)
    except UsageError as error:
        raise SpecError(f"outputs: {error}") from None
    names = [value.name for value in model.graph.output]
    if len(model.graph.input) != 1 or names != [layer.name for layer in layers]:
        raise SpecError(
            f"has {len(model.graph.input)} inputs and the outputs {listed(names)}: expected one input and "
            f"{listed(info.outputs)}, as in its manifest"
        )
    batch = info.batch.max if info.batch.fixed else 0
    for end, value, element, shape in (
        ("input", model.graph.input[0], kind, image),
        *(
            (f"output {value.name}", value, TensorProto.FLOAT, layer.shape)
            for value, layer in zip(model.graph.output, layers, strict=True)
        ),
    ):
        tensor = value.type.tensor_type
        dimensions = [dimension.dim_value for dimension in tensor.shape.dim]
        if tensor.elem_type != element or dimensions != [batch, *shape]:
            raise SpecError(
                f"its {end} has type {tensor.elem_type} and shape {shown(dimensions)}: "
                f"expected {TensorProto.DataType.Name(element)} {[batch or 'N', *shape]}, as in its manifest"
            )


def _check_external(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """Return the files that hold weights.

    Raises SpecError for a link or a path outside `folder`, which could point to any of the user's files.
    """
    from onnx import TensorProto

    files: dict[str, Path] = {}
    total = 0
    for tensor in tensors_in(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            path, _, length = external_place(tensor, folder)
            if length != (expected := tensor_bytes(tensor)):
                raise SpecError(f"{shown(tensor.name)} has {length} bytes in {path.name}: expected {expected}")
            files[path.name], total = path, total + length
    if total > sum(path.stat().st_size for path in files.values()):  # a small file could be read many times
        raise SpecError(f"several weights are in the same place of {listed(files)}: expected each in its own")
    return tuple(files.values())


def external_place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """Return (file in `folder`, offset, number of bytes) of a tensor whose values are stored beside the model.

    Raises SpecError unless that is a part of a regular file directly in `folder`.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data) or not entries.keys() <= {"location", "offset", "length", "checksum"}:
        keys = [entry.key for entry in tensor.external_data]
        raise SpecError(f"{shown(tensor.name)} is stored at {shown(keys)}: expected location, offset and length")
    location = entries.get("location", "")
    if not location or PurePosixPath(location).name != location or "\\" in location or not location.isprintable():
        raise SpecError(f"{shown(tensor.name)} is stored in {shown(location)}: expected a file beside the model")
    path = folder / location
    status = os.lstat(path) if os.path.lexists(path) else None
    if status is None:
        raise SpecError(f"its weights are missing: expected {location} beside it")
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise SpecError(f"{location} is a link or not a regular file: expected the weights themselves")
    numbers = entries.get("offset", "0"), entries.get("length", "")
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise SpecError(f"{shown(tensor.name)}: expected an offset and a length in {location}")
    begin, length = map(int, numbers)
    if begin + length > status.st_size:
        raise SpecError(f"{location} has {status.st_size} bytes: {shown(tensor.name)} is outside of it")
    return path, begin, length


def tensors_in(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a message, at any depth.

    A list of fields to search could miss one, such as a sparse constant or a function's default.
    """
    from google.protobuf.message import Message
    from onnx import TensorProto

    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from [part] if isinstance(part, TensorProto) else tensors_in(part)
