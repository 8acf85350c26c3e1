"""Reads a PyTorch file in a process of its own and writes its tensors as safetensors: run by `state_dict.py`, by path.

The only file of this package that imports torch, and nothing imports it. When it refuses, it prints one line on stderr
and exits with 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(source: str, target: str) -> None:
    """Reads `source` without letting it run anything, and writes `target`."""
    import torch
    from safetensors.torch import save_file

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 13):
        refuse(f'torch {torch.__version__} is too old to read files that others made; pip install "torch>=2.13"')
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # on hostile bytes it raises nearly every exception there is
        reason = str(error).strip().splitlines()
        refuse(f"torch can't read it as a file of weights ({reason[0][:200] if reason else type(error).__name__})")
    tensors = checked(unwrapped(content), Path(source).stat().st_size)
    try:
        save_file(tensors, target, {"order": json.dumps([*tensors])})  # safetensors sorts what it writes
    except Exception as error:
        refuse(f"its tensors can't be read ({str(error)[:200]})")


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


def refuse(reason: str) -> None:
    print("".join(c if c.isprintable() else "?" for c in reason), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
