"""A miniature of ImageNet-C: the same names in every set, other pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_infer.evaluation.imagenet_c import GROUPS, SEVERITIES
from tests.datasets.mini import WNIDS, write

IMAGES = 6
"""Images per set, one of each class."""

STANDARD = [
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
]
"""The corruptions that count, as AugMix's program lists them."""

ALEXNET = [
    *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360),
    *(0.866816, 0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
]
"""`ALEXNET_ERR` of AugMix's program, in that order."""

BY_SEVERITY = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""The same net's error on each set, as other programs list them."""


def write_corrupted(root: Path, *, grouped: bool = False, extra: Iterable[str] = (), size: int = 8) -> Path:
    """Write the 15 standard corruptions and those in `extra`, each with five severities.

    With `grouped`, corruptions are in folders named by their archives, as those unpack. All images are of the same
    number of bytes, so only their pixels tell the sets apart.
    """
    rng = np.random.default_rng(0)
    for group, names in GROUPS.items():
        for name in names:
            if name in STANDARD or name in extra:
                folder = root / group / name if grouped else root / name
                for severity in SEVERITIES:
                    for i in range(IMAGES):
                        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
                        buffer = io.BytesIO()
                        Image.fromarray(pixels).save(buffer, "PPM")
                        place = folder / f"{severity}" / WNIDS[i % len(WNIDS)]
                        write(place / f"ILSVRC2012_val_{i + 1:08}.JPEG", buffer.getvalue())
    return root
