"""Protobuf messages as bytes: bounded before they are parsed, because parsing can take 50 times their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_infer.errors import BackendError, SpecError, one_line

if TYPE_CHECKING:
    from types import ModuleType

    from google.protobuf.descriptor import Descriptor

MAX_FIELDS = 200_000
"""Fields in a message and the messages in it. The largest file that `export` writes has half as many."""

MAX_DEPTH = 16
MAX_PACKED = 2**27
"""Bytes of packed whole numbers, each of which takes up to eight times its size in memory."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}


def import_protobuf() -> None:
    """Raise BackendError if protobuf, which reads and writes ONNX files and caffemodels, is missing."""
    try:
        import google.protobuf.message  # noqa: F401
    except ImportError as error:
        raise _missing("protobuf", error) from None


def import_onnx() -> ModuleType:
    """Return the package onnx, which contains the schema of ONNX files. Raises BackendError if it is missing."""
    import_protobuf()
    try:
        import onnx
    except ImportError as error:
        raise _missing("onnx", error) from None
    return onnx


def _missing(package: str, error: ImportError) -> BackendError:
    return BackendError(f"{package} is missing ({one_line(error)}): pip install {package}")


def check_wire(content: bytes, descriptor: Descriptor) -> None:
    """Raise SpecError unless `content` is a message whose parts are few enough to be parsed.

    The parts are found with `descriptor`, the message's type. Fields that it doesn't have are skipped.
    """
    _Walk(content).message(0, len(content), descriptor, 0)


class _Walk:
    def __init__(self, content: bytes) -> None:
        self.content, self.fields, self.packed = content, 0, 0

    def message(self, at: int, end: int, descriptor: Descriptor, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SpecError(f"its messages are nested more than {MAX_DEPTH} deep")
        known = descriptor.fields_by_number
        while at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise SpecError(f"has more than {MAX_FIELDS:,} fields: expected a net of a few thousand")
            tag, at = self._number(at, end)
            kind = tag & 7
            if kind == _VARINT:
                _, at = self._number(at, end)
            elif kind == _BYTES:
                length, at = self._number(at, end)
                if at + length > end:
                    raise SpecError("a field ends after its message")
                field = known.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    self.message(at, at + length, field.message_type, depth + 1)
                elif field is not None and field.cpp_type <= field.CPPTYPE_UINT64:
                    self.packed += length
                    if self.packed > MAX_PACKED:
                        raise SpecError(f"has more than {MAX_PACKED:,} bytes of packed whole numbers")
                at += length
            elif kind in _WIDTH:
                at += _WIDTH[kind]
            else:
                raise SpecError("a field has no type")
        if at > end:
            raise SpecError("a field ends after its message")

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """Return (the variable-length number at `at`, the place after it)."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise SpecError("a number has no end")
