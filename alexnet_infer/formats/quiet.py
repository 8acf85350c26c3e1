"""Keep Pillow and the libraries below it from printing while an image is decoded."""

from __future__ import annotations

import functools
import logging
import threading
import warnings
from contextlib import suppress

from PIL import Image

# Without a handler, Python prints Pillow's log records to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _QuietPillow:
    """While any thread is inside, Pillow's warnings (odd metadata, large images) are neither shown nor raised.

    `warnings.catch_warnings` alone is not enough: it saves and restores one list of filters for the process, and
    threads that leave in a different order than they entered would restore the wrong list.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


quiet_pillow = _QuietPillow()


@functools.cache
def silence_libtiff() -> None:
    """Stop libtiff from printing errors to stderr, if its library can be reached. Pillow raises them as well."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
