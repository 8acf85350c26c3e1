"""Reads a PyTorch file in a process of its own and writes its tensors as safetensors: run by `state_dict.py`, by path.

The only file of this package that imports torch, and nothing imports it. When it refuses, it prints one line on stderr
and exits with 1, or with 5 where torch itself is what is wrong.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NoReturn

ROOM = 2**31
"""Bytes that reading may take beside four times those of the file: a pickle may ask for an array of any length."""


def main(source: str, target: str) -> None:
    """Reads `source` without letting it run anything, and writes `target`."""
    try:
        import torch
        from safetensors.torch import save_file
    except Exception as error:  # a broken installation raises what it likes
        refuse(f"torch can't be imported ({first_line(error)})", code=5)

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 13):
        refuse(
            f'torch {torch.__version__} is too old to read files that others made; pip install "torch>=2.13"', code=5
        )
    limit_memory(4 * Path(source).stat().st_size + ROOM)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # on hostile bytes it raises nearly every exception there is
        # Torch's own advice would be to read it without weights_only.
        if "weights_only" in str(error):
            foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
            found = f"holds a {foreign[1]}" if foreign else "holds more than tensors, or is damaged"
            refuse(f"{found}: expected what torch.save(net.state_dict(), FILE) writes")
        refuse(f"torch can't read it as a file of weights ({first_line(error)})")
    tensors = checked(unwrapped(content), Path(source).stat().st_size)
    try:
        save_file(tensors, target, {"order": json.dumps([*tensors])})  # safetensors sorts what it writes
    except Exception as error:
        refuse(f"its tensors can't be read ({first_line(error)})")


def unwrapped(content: object) -> object:
    """The state dict in a training checkpoint, under its usual names."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def checked(content: object, size: int) -> dict:
    """Plain tensors that take no more room than the file, whatever shapes they claim."""
    import torch

    if not isinstance(content, dict) or not content:
        refuse(f"holds a {type(content).__name__}: expected a state dict, tensors by name")
    claimed = 0
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            refuse(f"{str(name)[:60]!r} is a {type(tensor).__name__}: expected a state dict, tensors by name")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            refuse(f"{name[:60]!r} is no plain tensor: expected dense values")
        claimed += tensor.numel() * tensor.element_size()
    if claimed > size:
        refuse(f"its tensors claim {claimed} bytes, and the file has {size}")
    plain = {}
    for name, tensor in content.items():
        plain[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().clone().contiguous()
    return plain


def limit_memory(room: int) -> None:
    """Lets this process allocate `room` bytes more than it has now, where the system can count them."""
    try:
        import resource

        used = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except (ImportError, OSError):
        return
    if used:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(used[1]) * 1024 + room
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def first_line(error: Exception) -> str:
    """What the error says first, in at most 200 characters; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def refuse(reason: str, code: int = 1) -> NoReturn:
    """Ends the process."""
    print("".join(c if c.isprintable() else "?" for c in reason), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
