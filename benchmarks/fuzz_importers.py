"""Throws damaged files at every importer for some minutes: each must end in a net or in one line.

    python -m benchmarks.fuzz_importers --minutes 10 caffemodel onnx quantized state-dict checkpoint

What found something is written to the current folder, to become a test. Needs what the tests need; state-dict starts a
process for each file, so it sees some hundred in ten minutes, and the others some ten thousand.
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
"""Bytes that reading a small file may take at most."""

INTERESTING = (0, 1, 127, 128, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


def damaged(content: bytes, rng: random.Random, structure: int) -> bytes:
    """`content` with a few changes, most of them in the first and last `structure` bytes, where little is weights."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        if not out:
            break
        near = rng.random() < 0.8
        place = rng.randrange(min(structure, len(out))) if near else rng.randrange(len(out))
        if near and rng.random() < 0.5:
            place = len(out) - 1 - place
        match rng.randrange(7):
            case 0:
                out[place] = rng.randrange(256)
            case 1:
                out[place] ^= 1 << rng.randrange(8)
            case 2:
                del out[place : place + rng.choice((1, 2, 8, 100, 10_000))]
            case 3:
                out[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))
            case 4:
                value = rng.choice(INTERESTING).to_bytes(8, "little")
                out[place : place + 8] = value[: rng.choice((1, 4, 8))]
            case 5:
                del out[place:]
            case 6:
                begin, length = rng.randrange(len(out)), rng.choice((4, 32, 300))
                out[place:place] = out[begin : begin + length]
    return bytes(out)


def targets(folder: Path) -> dict[str, tuple[list[bytes], Callable[[Path], object], str]]:
    """For each importer: whole files, how it is called, and what its files are called."""
    small = {"kernels": (2, 2, 2, 2, 2), "hidden": 2, "classes": 2}
    caffe = replace(variant("caffe"), **small)
    net = random_artifact(caffe)
    zoo = replace(variant("caffe"), hidden=1, classes=2)
    graph = zoo_graph(hidden=1, classes=2)
    hollow = zoo_graph(hidden=1, classes=2)
    for tensor in hollow.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")  # all that is left is structure
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
    said = {"preprocessing": manifest["preprocessing"], "classes": manifest["classes"]}
    weights = {f"model.{name}": tensor for name, tensor in net.tensors.items()}
    return safetensors.numpy.save(weights, {"config": json.dumps(config), "net": json.dumps(said)})


def fuzz(name: str, minutes: float, seed: int, folder: Path) -> int:
    """The number of files that ended in anything but a net or one line."""
    files, call, called = targets(folder)[name]
    rng, path = random.Random(seed), folder / called
    found, ends, until = 0, Counter(), time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        content = damaged(rng.choice(files), rng, 4000)
        path.write_bytes(content)
        tracemalloc.start()
        problem = ""
        try:
            call(path)
            end = "a net"
        except SpecError as error:
            end = "refused"
            if not str(error).isprintable() or len(str(error)) > 700:
                problem = f"message {str(error)!r}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if not problem and taken > MEMORY:
            problem = f"took {taken} bytes"
        if problem:
            end, found = "found", found + 1
            kept = Path(f"{name}-{seed}-{found}")
            kept.write_bytes(content)
            print(f"{kept}: {problem}"[:300], flush=True)
        ends[end] += 1
    print(f"{name}: {ends.total()} files in {minutes:g} minutes: {dict(ends)}", flush=True)
    return found


def main() -> None:
    names = ["caffemodel", "onnx", "quantized", "state-dict", "checkpoint"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("importers", nargs="*", default=names, help="any of: " + ", ".join(names))
    parser.add_argument("--minutes", type=float, default=10, help="for each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = sum(fuzz(name, options.minutes, options.seed, Path(folder)) for name in options.importers)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
