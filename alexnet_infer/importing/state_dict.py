"""PyTorch state dicts: tensors by name, in the order in which the module lists its layers.

A `.pth` or `.pt` file is a pickle, and unpickling can run arbitrary code. torch reads it with `weights_only=True` in a
separate process, never in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from alexnet_infer.architecture import MAX_PARAMETERS, Architecture
from alexnet_infer.containers import ZIP_STORED, BadZipFile, is_zipfile, open_zip
from alexnet_infer.errors import BackendError, SpecError, UsageError, one_line, printable
from alexnet_infer.files import open_regular
from alexnet_infer.importing.roles import Layer, by_role
from alexnet_infer.packages import installed
from alexnet_infer.tensor_file import open_tensors

TIMEOUT = 600
"""Time limit for reading, in seconds: enough for the largest file on a slow disk."""


def read_state_dict(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """Return the tensors of `architecture`, as float32, from a PyTorch state dict or a checkpoint that contains one.

    Raises SpecError if the file isn't one of these or doesn't fit. Raises BackendError if torch is missing or too old.
    Raises UsageError if the temporary folder can't be written, and OSError if the file can't be read.
    """
    if not installed("torch"):
        raise BackendError(f'{path}: is a PyTorch file, which only torch can read: pip install "alexnet-infer[train]"')
    _check_size(path)
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:  # not about `path`
        reason = error.strerror or error
        raise UsageError(
            f"the temporary folder can't be written ({reason}); free some space there, or set TMPDIR to another folder"
        ) from None
    with temporary as folder:
        plain = Path(folder) / "tensors.safetensors"
        _convert(path, plain)
        return by_role(_layers(plain), architecture)


def _check_size(path: Path) -> None:
    """Raise SpecError if the file is too large, or if it is compressed and so could expand. torch doesn't compress."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > 4 * MAX_PARAMETERS:
            raise SpecError(f"has {size:,} bytes: expected at most {4 * MAX_PARAMETERS:,}")
        begins_as_zip = file.read(4) == b"PK\x03\x04"
        records = []
        try:
            if whole := is_zipfile(file):
                with open_zip(file) as archive:
                    records = archive.infolist()
        except (BadZipFile, ValueError, NotImplementedError) as error:
            raise SpecError(f"damaged, or not a PyTorch file ({one_line(error)})") from None
    if begins_as_zip and not whole:
        raise SpecError("damaged: its end is missing, as after a broken download; get the file again")
    if any(record.compress_type != ZIP_STORED for record in records):
        raise SpecError("has compressed records: expected a file written by torch.save")


def _convert(path: Path, plain: Path) -> None:
    child = Path(__file__).with_name("torch_child.py")
    # -P: don't import from the folder of torch_child.py, whose modules could shadow others of the same name.
    command = [sys.executable, "-P", str(child), str(path.resolve()), str(plain)]
    try:
        process = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, env=_environment())
    except subprocess.TimeoutExpired:
        raise SpecError(f"torch did not read it within {TIMEOUT} seconds") from None
    if process.returncode or not plain.exists():
        lines = process.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = printable(lines[-1])[:300] if lines else f"the process that reads it exited with {process.returncode}"
        if process.returncode == BackendError.exit_code:
            raise BackendError(f"{path}: {reason}")
        if process.returncode == UsageError.exit_code:
            raise UsageError(reason)  # about the temporary folder
        raise SpecError(reason)


def _environment() -> dict[str, str]:
    """The environment, with one thread: torch would start one per core only to read a file."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _layers(plain: Path) -> list[Layer]:
    """The layers, with their tensors. The name of a layer is the part of a tensor's name before the last dot."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    try:
        with open_tensors(plain) as file:
            for name in json.loads(file.metadata()["order"]):
                layer, _, part = name.rpartition(".")
                if part != "num_batches_tracked":  # batch norm's counter, which inference doesn't use
                    layers.setdefault(layer, {})[part] = file.get_tensor(name)
    except SafetensorError as error:
        raise SpecError(f"its tensors can't be read ({one_line(error)})") from None
    return [Layer(name=name, tensors=tensors) for name, tensors in layers.items()]
