"""Read a PyTorch file in a separate process and write its tensors as safetensors. `state_dict.py` runs it by path.

This is the only file of the package that imports torch, and no other file imports it. If it refuses a file, it prints
one line to stderr and exits with code 1, or with 5 if torch itself is the cause, or 2 if `target` can't be written.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NoReturn

ROOM = 2**31
"""Bytes of memory for reading, on top of 4 times the file's size: a pickle may request an array of any length."""


def main(source: str, target: str) -> None:
    """Read `source` without running any code in it, and write `target`."""
    try:
        import torch
        from safetensors.torch import save_file
    except Exception as error:  # a broken installation can raise anything
        refuse(f"torch can't be imported ({first_line(error)})", code=5)

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 13):
        refuse(f'torch {torch.__version__} is too old to read untrusted files; pip install "torch>=2.13"', code=5)
    limit_memory(4 * Path(source).stat().st_size + ROOM)
    try:
        with Path(source).open("rb") as file:  # of a path, torch would take the suffix for the format
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes can raise almost any exception
        # torch's own message would suggest reading the file without weights_only.
        if "weights_only" in str(error):
            foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
            problem = f"contains a {foreign[1]}" if foreign else "contains more than tensors, or is damaged"
            refuse(f"{problem}: expected a file written by torch.save(net.state_dict(), FILE)")
        refuse(f"torch can't read it as a file of weights ({first_line(error)})")
    tensors = checked(unwrapped(content), Path(source).stat().st_size)
    try:
        save_file(tensors, target, {"order": json.dumps([*tensors])})  # safetensors sorts what it writes
    except Exception as error:
        where = f"{Path(target).parent}: the temporary folder can't be written ({first_line(error)})"
        refuse(f"{where}; free some space there, or set TMPDIR to another folder", code=2)


def unwrapped(content: object) -> object:
    """Return the state dict in a training checkpoint, under one of its usual keys, or `content` itself."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def checked(content: object, size: int) -> dict:
    """Return copies of the tensors. Refuse anything but plain tensors that claim no more bytes than the file has."""
    import torch

    if not isinstance(content, dict) or not content:
        refuse(f"contains a {type(content).__name__}: expected a state dict of named tensors")
    claimed = 0
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            refuse(f"{str(name)[:60]!r} is a {type(tensor).__name__}: expected a state dict of named tensors")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            refuse(f"{name[:60]!r} is not a plain tensor: expected dense, real values")
        claimed += tensor.numel() * tensor.element_size()
    if claimed > size:
        refuse(f"its tensors claim {claimed} bytes, but the file has {size}")
    plain = {}
    for name, tensor in content.items():
        plain[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().clone().contiguous()
    return plain


def limit_memory(room: int) -> None:
    """Let this process allocate only `room` bytes more than now, if the system can limit that."""
    try:
        import resource

        used = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except (ImportError, OSError):
        return
    if used:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = int(used[1]) * 1024 + room
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def first_line(error: Exception) -> str:
    """The first line of the error's message, up to 200 characters, or its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def refuse(reason: str, code: int = 1) -> NoReturn:
    """Print the reason and end the process."""
    print("".join(c if c.isprintable() else "?" for c in reason), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
