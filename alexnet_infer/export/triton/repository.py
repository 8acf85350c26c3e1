"""Write models to a repository.

Triton reads only folders whose names are numbers, so it does not see a version while it is being written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.export.triton.config import CONFIG, LABELS, interface_in
from alexnet_infer.export.triton.entries import README, Entry, Input, check_input, jpeg_entries, net_entry
from alexnet_infer.export.triton.served_model import ServedModel
from alexnet_infer.files import copy_atomically, read_limited, temporary_folder, write_atomically, writing
from alexnet_infer.layers import PROBABILITIES

_DEFAULTS: dict[str, Any] = {"outputs": [PROBABILITIES]}
"""What an interface leaves out if it is this, like those of configs before there was another value."""

_ADDED = {"views", "resample", "fit", "size", "mean", "channel_order", "value_range"}
"""What the configs of earlier versions don't say. They also have no parameters, so no client relies on these."""


def write_repository(folder: Path, model: ServedModel, input: Input = "squares") -> Path:
    """Add `model` to the repository `folder`, and return the folder of its version. `folder` is created if needed.

    Its name for clients is derived from the net's. If the repository already has a model of this name, `model` becomes
    its next version, and the config is kept, since its owner may have changed it. With the input "jpeg", the models
    that decode images for it are added, unless the repository has them.

    Raises UsageError if an existing model has a different interface or different class names or was not written by
    alexnet-infer, if the folder can't be written, and for the input "jpeg" if the file takes patches.
    """
    check_input(input, model.info.views)
    net = net_entry(model)
    around = jpeg_entries(model) if model.info.takes_squares else ()
    with writing(f"--triton {folder}"):
        _check_same(folder / net.name, net)
        for entry in around:  # also if they are not to be written: the new version must not break them
            if input == "jpeg" or _is_written(folder / entry.name, entry):
                _check_same(folder / entry.name, entry)
        if input == "jpeg":
            decoder, ensemble = around
            _add_once(folder, decoder)
            version = _add_version(folder, net)
            _add_once(folder, ensemble)  # Triton needs the other two for it
        else:
            version = _add_version(folder, net)
    return version


def _add_once(folder: Path, entry: Entry) -> None:
    """Add a model whose files don't depend on the weights. One that exists is kept, except for its README."""
    if versions(folder / entry.name):
        _write_texts(folder / entry.name, entry)
    else:
        _add_version(folder, entry)


def _add_version(folder: Path, entry: Entry) -> Path:
    """Add the next version of a model, and return its folder."""
    target = folder / entry.name
    with temporary_folder(target / "version") as temporary:  # Triton ignores it
        for name, source in entry.version.items():
            if isinstance(source, bytes):
                write_atomically(temporary / name, source)
            else:
                copy_atomically(source, temporary / name)
        if not (target / CONFIG).exists():
            if entry.labels is not None:
                write_atomically(target / LABELS, entry.labels.encode())
            write_atomically(target / CONFIG, entry.config.encode())
        _check_same(target, entry)  # another process may have written the config meanwhile
        version = _publish(temporary, target)
    _write_texts(target, entry)
    return version


def _write_texts(target: Path, entry: Entry) -> None:
    for name, text in entry.texts.items():
        if name == README or not (target / name).exists():  # the others may have been changed by their owner
            write_atomically(target / name, text.encode())


def _is_written(target: Path, entry: Entry) -> bool:
    """Whether `target` is such a model that alexnet-infer wrote, rather than another one of the same name."""
    interface = interface_in(target / CONFIG) if (target / CONFIG).exists() else None
    return interface is not None and interface.get("backend") == entry.interface["backend"]


def _check_same(target: Path, entry: Entry) -> None:
    """Raise UsageError unless `target` has no model yet, or versions with the same interface and class names."""
    labels = entry.labels
    same_labels = labels is None or _contains(target / LABELS, labels.encode())
    if not (target / CONFIG).exists():
        others = {"versions": versions(target), README: os.path.lexists(target / README)}
        others[LABELS] = os.path.lexists(target / LABELS) and not same_labels  # a killed export leaves the same
        for what, found in others.items():
            if found:
                raise UsageError(
                    f"{target}: has {what} but no {CONFIG}; expected a model that alexnet-infer wrote, or another "
                    "folder"
                )
        return
    existing = interface_in(target / CONFIG)
    if existing is None:
        raise UsageError(f"{target / CONFIG}: was not written by alexnet-infer; give --triton another folder")
    before, after = _DEFAULTS | existing, _DEFAULTS | dict(entry.interface)
    if not before.keys() & _ADDED:
        after = {key: value for key, value in after.items() if key not in _ADDED}
    for key, value in after.items():
        if before.get(key) != value:
            raise UsageError(
                f"{target}: its versions have {key}={shown(before.get(key))}, this model has {shown(value)}; "
                "expected the same, or another folder"
            )
    if not same_labels:
        raise UsageError(f"{target / LABELS}: this model has different class names; give --triton another folder")


def _contains(path: Path, content: bytes) -> bool:
    """Whether the file at `path` has exactly this content."""
    try:
        return read_limited(path, len(content)) == content
    except (OSError, SpecError):
        return False


def versions(folder: Path) -> list[int]:
    """Return the versions in a model's folder in ascending order."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name))


def _publish(temporary: Path, target: Path) -> Path:
    """Rename a complete version to the next free number, and return its folder."""
    while True:
        version = target / str(max(versions(target), default=0) + 1)
        try:
            return temporary.rename(version)
        except OSError:
            if not version.exists():  # the number is still free, so this is another error
                raise
