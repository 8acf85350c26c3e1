"""Speed of a training step on a CPU if the process keeps freed memory, and if the C library returns it to the system.

    python benchmarks/training_step.py [--precision float32] [--width 0.5] [--json]

`alexnet-64` for 200 classes: forward, backward and update, without loading data. The two modes run alternately, each
time in a new process. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from alexnet_infer.presets import variant
from train.device import keep_memory, working_precision
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD

CPU = torch.device("cpu")


def images_per_second(width: float, batch: int, steps: int, precision: torch.dtype) -> float:
    torch.manual_seed(0)
    architecture = replace(variant("alexnet-64"), width=width, hidden=int(2048 * width), classes=200).build()
    model = AlexNet(architecture, unit=16.0)
    initialise(model, "he")
    model.to(memory_format=torch.channels_last).train()
    optimizer = PaperSGD(list(model.parameters()), 0.9, 0.0005)
    patches = (torch.randn(batch, 57, 57, 3) * 60).permute(0, 3, 1, 2)
    keys = torch.arange(batch)

    def step() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = model(patches, keys)
        loss = torch.nn.functional.cross_entropy(logits.float(), keys % 200)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(0.001)

    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * batch / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    default = str(working_precision(CPU)).removeprefix("torch.")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default=default, help="default: %(default)s, as in training"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("kept", "returned"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        if arguments.only == "kept":
            keep_memory()
        precision = getattr(torch, arguments.precision)
        print(images_per_second(arguments.width, arguments.batch, arguments.steps, precision))
        return
    rates: dict[str, list[float]] = {"kept": [], "returned": []}
    for _ in range(arguments.rounds):
        for mode, measured in rates.items():
            command = [sys.executable, *sys.argv, "--only", mode]
            measured.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    kept, returned = (statistics.median(measured) for measured in rates.values())
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": arguments.precision,
        "kept_images_per_second": kept,
        "returned_images_per_second": returned,
        "ratio": kept / returned,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"alexnet-64 x {arguments.width}, {arguments.batch} images per step, {result['precision']}, CPU")
    print(f"memory kept by the process        {kept:6.0f} images/s")
    print(f"returned by the C library         {returned:6.0f} images/s")
    print(f"{result['ratio']:.2f} times faster")


if __name__ == "__main__":
    main()
