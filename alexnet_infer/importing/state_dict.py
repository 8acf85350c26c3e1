"""PyTorch's state dicts: tensors by name, in the order in which the module lists its layers.

A `.pth` or `.pt` file is a pickle, and a pickle can run anything. It is read by torch with `weights_only=True`, in a
process of its own; never here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_infer.architecture import MAX_PARAMETERS, Architecture
from alexnet_infer.errors import BackendError, SpecError, one_line, visible
from alexnet_infer.importing.roles import Layer, by_role

TIMEOUT = 600
"""Seconds that reading may take: the largest file on a slow disk, not more."""


def read_state_dict(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """The tensors of `architecture` from a PyTorch file, as float32: a state dict, or a checkpoint that has one.

    Raises SpecError on whatever isn't such a file or doesn't fit, BackendError when torch is missing or too old,
    OSError when it can't be read.
    """
    if not find_spec("torch"):
        raise BackendError(f'{path}: is a PyTorch file, which torch must read: pip install "alexnet-infer[train]"')
    _check_size(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "tensors.safetensors"
        _convert(path, plain)
        return by_role(_layers(plain), architecture)


def _check_size(path: Path) -> None:
    """A zip could swell: torch writes its records as they are."""
    if path.stat().st_size > 4 * MAX_PARAMETERS:
        raise SpecError(f"has {path.stat().st_size} bytes: expected at most {4 * MAX_PARAMETERS}")
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SpecError(f"damaged, or not a PyTorch file ({one_line(error)})") from None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise SpecError("has compressed records: expected a file that torch.save wrote")


def _convert(path: Path, plain: Path) -> None:
    child = Path(__file__).with_name("torch_child.py")
    # -P: nothing is imported from the folder that the file may lie in, where something could be called torch.
    command = [sys.executable, "-P", str(child), str(path.resolve()), str(plain)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, env=_environment())
    except subprocess.TimeoutExpired:
        raise SpecError(f"torch did not read it in {TIMEOUT} seconds") from None
    if done.returncode or not plain.exists():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = visible(lines[-1])[:300] if lines else f"the process that read it died ({done.returncode})"
        if done.returncode == BackendError.exit_code:
            raise BackendError(f"{path}: {said}")
        raise SpecError(said)


def _environment() -> dict[str, str]:
    """Torch would start a thread for each core to read a file."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _layers(plain: Path) -> list[Layer]:
    """The tensors by layer: the part of the name before the last dot, without what wrappers put before it."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safe_open(plain, "np") as file:
            for name in json.loads(file.metadata()["order"]):
                layer, _, part = name.rpartition(".")
                if part != "num_batches_tracked":  # batch norm counts; nothing depends on it
                    layers.setdefault(layer, {})[part] = file.get_tensor(name)
    except SafetensorError as error:
        raise SpecError(f"its tensors can't be read ({one_line(error)})") from None
    return [Layer(name=name, tensors=tensors) for name, tensors in layers.items()]
