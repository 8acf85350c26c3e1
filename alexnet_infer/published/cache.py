"""The cache of pulled nets, with one model file per net."""

from __future__ import annotations

import hashlib
from pathlib import Path

from alexnet_infer.files import is_file, user_cache
from alexnet_infer.importing.conventions import CONVENTIONS
from alexnet_infer.preprocess import TORCHVISION
from alexnet_infer.published.registry import Published


def cache_folder() -> Path:
    """Return the folder of the pulled nets. Its files can be deleted at any time."""
    return user_cache() / "models"


def cached(net: Published) -> Path | None:
    """Return the model file of a published net, or None if it has not been pulled."""
    path = cache_path(net)
    return path if is_file(path) else None


def cache_path(net: Published) -> Path:
    """Return the path of a published net's model file.

    Its name ends in a hash of everything the file is made from. A net of the same name in another registry, or this
    net after a correction of its preprocessing, has a different path.
    """
    made_from = f"{net.digest} {net.preset} {net.patch} {net.preprocessing}"
    if (fit := CONVENTIONS[net.preprocessing].fit) == TORCHVISION:  # earlier versions rounded otherwise
        made_from += f" {fit}"
    return cache_folder() / f"{net.name}-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}{net.suffix}"
