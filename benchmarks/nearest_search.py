"""Time and memory of an exact search in a large file of features, as `alexnet-infer similar` does it.

    python benchmarks/nearest_search.py FOLDER [--images N] [--queries Q] [--json]

A file of random float16 features of a layer of 4,096 units is written to FOLDER, searched twice by a new process, and
removed. The second search finds the file in the page cache if the memory is enough.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from alexnet_infer.features import npy
from alexnet_infer.features.about import About, AboutImages, AboutLayer, hash_of
from alexnet_infer.features.arrays import header
from alexnet_infer.preprocess import Preprocessing

UNITS, ROWS = 4096, 2400

SEARCH = """
import json, resource, sys, time
import numpy as np
from alexnet_infer.features import open_features
from alexnet_infer.features.search import search

features = open_features(sys.argv[1])
queries = np.random.default_rng(1).normal(0, 3, (int(sys.argv[2]), *features.layers["fc7"])).clip(0)
for _ in range(2):
    wall, cpu = time.perf_counter(), time.process_time()
    search(features, "fc7", queries, 6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak}))
"""


def description(images: int, names: list[str]) -> About:
    """Describe features of this many photos by a net that doesn't exist."""
    empty = dict.fromkeys(("path", "layout", "split"))
    listing = hash_of((name, None) for name in names)
    return About(
        net="none",
        sha256="0" * 64,
        layers=(AboutLayer(name="fc7", shape=(UNITS,)),),
        views="center",
        dtype="float16",
        preprocessing=Preprocessing(size=256, patch=227, mean=np.array([104, 117, 123])),
        batch=16,
        backend="none",
        software="none",
        images=AboutImages(data="photos", sample=False, count=images, unreadable=0, listing=listing, **empty),
    )


def text(about: About, names: list[str]) -> Iterator[bytes]:
    yield about.to_json().encode() + b"\n"
    for name in names:
        yield msgspec.json.encode({"name": name, "label": None, "error": None}) + b"\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_200_000)
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path, names = Path(folder) / "features.npy", [f"train/{i:08}.JPEG" for i in range(arguments.images)]
        block = np.random.default_rng(0).normal(0, 3, (ROWS, UNITS)).clip(0).astype("<f2")
        with path.open("wb") as file:
            file.write(header(block.dtype, (arguments.images, UNITS)))
            for begin in range(0, arguments.images, ROWS):
                file.write(np.roll(block, begin // ROWS, axis=1)[: arguments.images - begin].tobytes())
        with npy.text_file(path).open("wb") as file:
            file.writelines(text(description(arguments.images, names), names))
        command = [sys.executable, "-c", SEARCH, str(path), str(arguments.queries)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for name, line in zip(("first", "second"), lines, strict=True):
        figures = json.loads(line)
        if arguments.json:
            print(json.dumps({"search": name} | figures))
        else:
            print(f"{name:6} search  {figures['seconds']:6.1f} s  {figures['cpu_s']:6.1f} s of CPU time", end="")
            print(f"  {figures['peak_mb']:6.0f} MB at most")


if __name__ == "__main__":
    main()
