"""A stream that an image can't be read from in millions of steps, nor at once if it is large."""

from __future__ import annotations

import io
import os

from alexnet_infer.formats import RefusedError

MOST_READS = 2**21
"""Pillow reads chunks, blocks, comments and run lengths one at a time, in Python: 2 to 4 s for these."""

MOST_AT_ONCE = 60_000_000
"""The most bytes that are read at once. Pillow copies a complete WebP or AVIF, and a compressed TIFF that isn't a file
on disk, and decodes the copy."""


class Metered(io.BufferedReader):
    """A stream that raises RefusedError after MOST_READS reads, or if more than MOST_AT_ONCE is read at once."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MOST_READS:
            raise RefusedError(f"damaged, or in more than {MOST_READS:,} parts; save it again")
        if size is None or size < 0:
            place = self.tell()
            if self.seek(0, os.SEEK_END) - place > MOST_AT_ONCE:
                raise RefusedError(
                    f"too large for its format: expected at most {MOST_AT_ONCE:,} bytes; save it as JPEG"
                )
            self.seek(place)
        return super().read(size)
