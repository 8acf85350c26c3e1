"""Safetensors files, opened without trusting their headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError
from alexnet_infer.files import MAX_JSON_BYTES, open_regular


@contextmanager
def open_tensors(path: Path, framework: str = "np", *, follow: bool = True) -> Iterator[safe_open]:
    """Open a safetensors file. `framework` is that of `safe_open`, and `follow` that of `open_regular`.

    The safetensors package takes the last of two values with one name. Here a header says everything once: raises
    SpecError if a name occurs twice at any depth, if the header has more than MAX_JSON_BYTES, or if it is not a regular
    file. Raises it also if the memory is not enough for the file, inside the block too. Raises SafetensorError if it is
    not a complete safetensors file, and OSError if it can't be read.
    """
    with open_regular(path, follow=follow) as file:
        length = int.from_bytes(file.read(8), "little")
        if MAX_JSON_BYTES < length <= os.fstat(file.fileno()).st_size:
            raise SpecError(f"has a header of {length:,} bytes: expected at most {MAX_JSON_BYTES:,}")
        header = file.read(min(length, MAX_JSON_BYTES))
    try:
        with safe_open(path, framework) as tensors:  # which checks that the header is JSON and describes the whole file
            strict_json.parse(header, "header")
            yield tensors
    except MemoryError:
        raise SpecError("needs more memory than this machine has") from None
