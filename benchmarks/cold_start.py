"""Time of `alexnet-infer classify` for one photo from a cold start, relative to importing the packages it needs.

    python benchmarks/cold_start.py [PHOTO] [--json]

Both run in new processes, alternately; the figures are medians. "Cold" means a new interpreter; the files are in the
page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "cat.jpg"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", default=str(EXAMPLE))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    imports = [sys.executable, "-c", "import onnxruntime, numpy, PIL.Image"]
    classify = [str(Path(sys.executable).with_name("alexnet-infer")), "classify", arguments.photo]
    times: dict[str, list[float]] = {"imports": [], "classify": []}
    for _ in range(arguments.rounds):
        times["imports"].append(seconds(imports))
        times["classify"].append(seconds(classify))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["classify"] / medians["imports"]
    if arguments.json:
        print(json.dumps({f"{name}_s": value for name, value in medians.items()} | {"ratio": ratio}))
    else:
        print(f'python -c "import onnxruntime, numpy, PIL.Image"  {medians["imports"] * 1e3:6.0f} ms')
        print(
            f"alexnet-infer classify PHOTO                      {medians['classify'] * 1e3:6.0f} ms   ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
