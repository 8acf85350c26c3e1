"""How fast work is done, and the refusal of work that could not be done in time.

Without it, an overloaded queue keeps requests until shortly before their time limit. They are run then, and finished
too late, so that nearly nobody gets an answer.
"""

from __future__ import annotations

import threading

from alexnet_infer.serve.limits import busy

KEPT = 0.8
"""The weight of the earlier calls beside the latest one. The mean follows a change within a few calls."""

SHARE = 0.8
"""The share of the time left that work may be expected to need. What it needs in the end may be more."""


class Pace:
    """The seconds per image (or photo) of a kind of work: a mean over the latest calls. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = self._spent = 0.0
        self.seconds = 0.0
        """Seconds per image; 0 until the first call."""

    def add(self, count: int, seconds: float) -> None:
        """Count a call for `count` images that took `seconds`."""
        with self._lock:
            self._count = KEPT * self._count + count
            self._spent = KEPT * self._spent + seconds
            self.seconds = self._spent / self._count


def check_in_time(count: int, before: int, seconds: float, left: float, *, name: str) -> None:
    """Raise RequestError if `count` images, after `before` others, are too many for the time that is left.

    They need `seconds` per image, and may need SHARE of the seconds that are `left`.

    With no others before them, images are never refused: so a pace that was slow once is measured again. `name` is what
    does the work. The error says when the same images would be accepted if no others came.
    """
    needed, left = (before + count) * seconds, SHARE * left
    if before and needed > left:
        raise busy(
            f"{name} is too busy to answer in time (--timeout): {before} images before these {count} need {needed:.1f} "
            "s; try again later, or with fewer requests at a time",
            min(needed - left, before * seconds),
        )
