"""What kind of file a model file is, told by its content. A suffix may be missing, wrong, or that of several formats.

Only the first bytes and the outline of the file are read. No code in it runs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from alexnet_infer.files import open_regular

START = 4096
"""Bytes at the beginning that are looked at."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""The largest header that the safetensors package reads, in bytes."""

MAX_FIELDS = 10_000
"""Fields of a protobuf message that are looked at. Models of this kind have hundreds."""


@dataclass(frozen=True)
class Kind:
    """A kind of file. It is compared by identity with the constants below."""

    text: str
    """For messages, with its article: "a PyTorch file"."""
    importable: bool = False
    """Whether `alexnet-infer import` reads it."""
    advice: str = ""
    """What to do with a file that can't be read, if something helps."""


SAFETENSORS = Kind("a safetensors file", importable=True)
ONNX = Kind("an ONNX file", importable=True)
CAFFEMODEL = Kind("a Caffe net", importable=True)
TORCH = Kind("a PyTorch file", importable=True)
ENGINE = Kind("a TensorRT engine", advice="give an engine a name that ends in .engine, .plan or .trt")
OLD_TORCH = Kind(
    "a PyTorch file in the tar format of before 2017", advice="load it with PyTorch and save its state dict again"
)
PROTOTXT = Kind("the description of a Caffe net, without its weights", advice="name its .caffemodel file")
KERAS = Kind("a Keras file")
TFLITE = Kind("a TensorFlow Lite file")
TENSORFLOW = Kind("a TensorFlow graph")
COREML = Kind("a Core ML file")
NUMPY = Kind("a NumPy file")
IMAGE = Kind("an image")
POINTER = Kind("a Git LFS pointer, not the file itself", advice="`git lfs pull` fetches the file")
PAGE = Kind("a web page", advice="download the file itself")
ARCHIVE = Kind("an archive", advice="unpack it, and name the model file in it")

SUFFIXES = {
    ".onnx": ONNX,
    ".caffemodel": CAFFEMODEL,
    **dict.fromkeys((".pth", ".pt", ".pth.tar", ".pt.tar"), TORCH),
    ".safetensors": SAFETENSORS,
    **dict.fromkeys((".h5", ".hdf5", ".keras"), KERAS),
    ".tflite": TFLITE,
    ".pb": TENSORFLOW,
    ".mlmodel": COREML,
    ".prototxt": PROTOTXT,
}
"""What a suffix says, for content that says nothing, such as that of a damaged file."""


def recognize(path: Path) -> Kind | None:
    """Return the kind of a file: by its content or, if that says nothing, by its suffix; None if neither does.

    Raises SpecError if it is not a regular file, and OSError if it can't be read.
    """
    return by_content(path) or by_suffix(path)


def by_suffix(path: Path) -> Kind | None:
    """Return the kind that the file's name suggests, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return SUFFIXES.get("".join(suffixes)) or SUFFIXES.get(path.suffix.lower())


def by_content(path: Path) -> Kind | None:
    """Return the kind of a file's content, or None if it is not known. Raises as `recognize` does."""
    with open_regular(path) as file:
        start = file.read(START)
        for test in (_magic, _safetensors, _text):
            if kind := test(start):
                return kind
        if start.startswith(b"PK\x03\x04"):
            return _zip(file, start)
        if start[257:262] == b"ustar":
            return _tar(file)
        file.seek(0)
        return _protobuf(file)


_MAGIC = (
    (0, b"\x89HDF\r\n\x1a\n", KERAS),
    (4, b"TFL3", TFLITE),
    (1, b"trt\x00\x00\x00\x00", ENGINE),  # "ftrt", in TensorRT-RTX "vtrt"
    (0, b"\x93NUMPY", NUMPY),
    (0, b"\xff\xd8\xff", IMAGE),
    (0, b"\x89PNG\r\n\x1a\n", IMAGE),
    (0, b"\x1f\x8b", ARCHIVE),  # gzip
    *((0, bytes((0x80, protocol)), TORCH) for protocol in (2, 3, 4, 5)),  # a pickle; before 2020 torch wrote only these
)
"""Offset, bytes there, and kind."""


def _magic(start: bytes) -> Kind | None:
    return next((kind for offset, magic, kind in _MAGIC if start.startswith(magic, offset)), None)


def _safetensors(start: bytes) -> Kind | None:
    header = int.from_bytes(start[:8], "little")
    return SAFETENSORS if start[8:9] == b"{" and 2 <= header <= MAX_SAFETENSORS_HEADER else None


_PROTOTXT = re.compile(rb"(?:\s|#.*\n)*(?:name|layers?|input|input_dim|input_shape)\s*[:{][\s\w\"':{.#-]")


def _text(start: bytes) -> Kind | None:
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return POINTER
    if re.match(rb"\s*<(?:!doctype html|html)", start, re.IGNORECASE):
        return PAGE
    return PROTOTXT if _PROTOTXT.match(start) and b"\x00" not in start else None


def _zip(file: IO[bytes], start: bytes) -> Kind:
    """A zip file by the names in it, or by the first name if the end is missing, as in a broken download."""
    from alexnet_infer.containers import BadZipFile, open_zip  # only here: `classify` starts faster without zipfile

    length = int.from_bytes(start[26:28], "little")
    names = [start[30 : 30 + length].decode("utf-8", "replace")]
    try:
        with open_zip(file) as archive:
            names += archive.namelist()
    except (BadZipFile, ValueError, NotImplementedError, EOFError, struct.error):
        pass
    ends = {name.rpartition("/")[2] for name in names}
    if ends & {"data.pkl", "constants.pkl"}:
        return TORCH
    if "model.weights.h5" in ends:
        return KERAS
    return NUMPY if names[0].endswith(".npy") else ARCHIVE


def _tar(file: IO[bytes]) -> Kind:
    import tarfile

    from alexnet_infer.containers import Header

    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as archive:
            names = {member.name for member in islice(archive, 10)}
    except (tarfile.TarError, ValueError, EOFError):
        return ARCHIVE
    return OLD_TORCH if names >= {"storages", "tensors", "pickle"} else ARCHIVE


_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""The fields of ONNX's ModelProto, with their wire types."""


def _protobuf(file: IO[bytes]) -> Kind | None:
    """A protobuf message by the numbers and wire types of its fields.

    ONNX has its graph in field 7. Caffe's net has layers in 100 or, before 2015, in 2, after one name in 1.
    TensorFlow's graph has nodes in 1. Core ML has a number in 1 and its model in one of the fields from 200 on.
    """
    fields = _fields(file)
    if fields is None:
        return None
    wire = dict(fields)
    if wire.get(7) == 2 and wire.items() <= _ONNX_FIELDS.items():
        return ONNX
    named = wire.get(1, 2) == 2 and fields.count((1, 2)) <= 1
    if named and (wire.get(100) == 2 or wire.get(2) == 2) and wire.get(7, 0) == 0:
        return CAFFEMODEL
    if (wire.get(1), wire.get(4)) == (2, 2):
        return TENSORFLOW
    if wire.get(1) == 0 and wire.get(2) == 2 and any(number >= 200 for number in wire):
        return COREML
    return None


def _fields(file: IO[bytes]) -> list[tuple[int, int]] | None:
    """The number and the wire type of each field, up to the end or to a field that ends after it.

    None if the file can't be a message.
    """
    fields: list[tuple[int, int]] = []
    while len(fields) < MAX_FIELDS and (key := _varint(file)) is not None:
        number, kind = key >> 3, key & 7
        if number == 0 or kind not in (0, 1, 2, 5):
            return None
        fields.append((number, kind))
        length = _varint(file) if kind in (0, 2) else {1: 8, 5: 4}[kind]
        if length is None:
            break
        if kind != 0:
            file.seek(min(length, 2**40), 1)
    return fields


def _varint(file: IO[bytes]) -> int | None:
    """The next number; None at the end of the file, or if it is longer than a number may be."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return None
