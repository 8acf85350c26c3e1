"""Feeds damaged files to every importer for a few minutes: each file must give a net or a one-line error.

    python -m benchmarks.fuzz_importers --minutes 10 caffemodel onnx quantized state-dict checkpoint

A file that gives anything else is saved in the current folder, so that it can become a test. Needs the packages that
the tests need. `state-dict` starts a process for each file, so it reads far fewer files than the others.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_infer.errors import SpecError
from alexnet_infer.importing.caffemodel import read_caffemodel
from alexnet_infer.importing.checkpoint import read_checkpoint
from alexnet_infer.importing.onnx_graph import read_onnx
from alexnet_infer.importing.quantized import adopt_quantized
from alexnet_infer.importing.state_dict import read_state_dict
from alexnet_infer.presets import variant
from tests.importing.caffe_files import caffemodel
from tests.importing.zoo import quantized_zoo, zoo_graph
from tests.nets import random_artifact

MEMORY = 2**30
"""Maximum memory in bytes that reading a small file may use."""

INTERESTING = (0, 1, 127, 128, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


def damaged(content: bytes, rng: random.Random, structure: int) -> bytes:
    """Return `content` with a few changes, mostly in the first and last `structure` bytes, which hold few weights."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        if not out:
            break
        near = rng.random() < 0.8
        position = rng.randrange(min(structure, len(out))) if near else rng.randrange(len(out))
        if near and rng.random() < 0.5:
            position = len(out) - 1 - position
        match rng.randrange(7):
            case 0:
                out[position] = rng.randrange(256)
            case 1:
                out[position] ^= 1 << rng.randrange(8)
            case 2:
                del out[position : position + rng.choice((1, 2, 8, 100, 10_000))]
            case 3:
                out[position:position] = rng.randbytes(rng.choice((1, 2, 8, 100)))
            case 4:
                value = rng.choice(INTERESTING).to_bytes(8, "little")
                out[position : position + 8] = value[: rng.choice((1, 4, 8))]
            case 5:
                del out[position:]
            case 6:
                begin, length = rng.randrange(len(out)), rng.choice((4, 32, 300))
                out[position:position] = out[begin : begin + length]
    return bytes(out)


def targets(folder: Path) -> dict[str, tuple[list[bytes], Callable[[Path], object], str]]:
    """For each importer: valid files, a function that imports a file, and the file name to use."""
    small = {"kernels": (2, 2, 2, 2, 2), "hidden": 2, "classes": 2}
    caffe = replace(variant("caffe"), **small)
    net = random_artifact(caffe)
    zoo = replace(variant("caffe"), hidden=1, classes=2)
    graph = zoo_graph(hidden=1, classes=2)
    hollow = zoo_graph(hidden=1, classes=2)
    for tensor in hollow.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")  # only the structure remains
    return {
        "caffemodel": (
            [caffemodel(caffe.build(), net.tensors, v1=v1) for v1 in (False, True)],
            lambda path: read_caffemodel(path, caffe.build()),
            "net.caffemodel",
        ),
        "onnx": (
            [hollow.SerializeToString(), graph.SerializeToString()],
            lambda path: read_onnx(path, zoo.build()),
            "net.onnx",
        ),
        "quantized": ([quantized_zoo(folder, zoo_graph()).read_bytes()], _adopt, "net.onnx"),
        "state-dict": (
            [_state_dict(net.tensors, zipped) for zipped in (True, False)],
            lambda path: read_state_dict(path, caffe.build()),
            "net.pth",
        ),
        "checkpoint": ([_checkpoint(net)], read_checkpoint, "last.safetensors"),
    }


def _adopt(path: Path) -> bytes:
    from tests.importing.test_quantized import manifest

    return adopt_quantized(path, manifest())


def _state_dict(tensors: dict[str, np.ndarray], zipped: bool) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save(weights, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _checkpoint(net) -> bytes:
    import json

    import safetensors.numpy

    manifest = json.loads(net.manifest.to_json())
    config = {"architecture": manifest["architecture"], "recipe": {"unit": 16.0}}
    net_json = {"preprocessing": manifest["preprocessing"], "classes": manifest["classes"]}
    weights = {f"model.{name}": tensor for name, tensor in net.tensors.items()}
    return safetensors.numpy.save(weights, {"config": json.dumps(config), "net": json.dumps(net_json)})


def fuzz(name: str, minutes: float, seed: int, folder: Path) -> int:
    """Return the number of files that gave anything but a net or a one-line error."""
    files, read, file_name = targets(folder)[name]
    rng, path = random.Random(seed), folder / file_name
    problems, outcomes, until = 0, Counter(), time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        content = damaged(rng.choice(files), rng, 4000)
        path.write_bytes(content)
        tracemalloc.start()
        problem = ""
        try:
            read(path)
            outcome = "net"
        except SpecError as error:
            outcome = "refused"
            if not str(error).isprintable() or len(str(error)) > 700:
                problem = f"message {str(error)!r}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if not problem and peak > MEMORY:
            problem = f"used {peak} bytes"
        if problem:
            outcome, problems = "problem", problems + 1
            saved = Path(f"{name}-{seed}-{problems}")
            saved.write_bytes(content)
            print(f"{saved}: {problem}"[:300], flush=True)
        outcomes[outcome] += 1
    print(f"{name}: {outcomes.total()} files in {minutes:g} minutes: {dict(outcomes)}", flush=True)
    return problems


def main() -> None:
    names = ["caffemodel", "onnx", "quantized", "state-dict", "checkpoint"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("importers", nargs="*", default=names, help="any of: " + ", ".join(names))
    parser.add_argument("--minutes", type=float, default=10, help="for each importer (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = sum(fuzz(name, options.minutes, options.seed, Path(folder)) for name in options.importers)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
