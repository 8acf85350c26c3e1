"""Cost of two columns in two processes: bytes exchanged in a training step, and the exchange's share of its time.

    torchrun --nproc-per-node 2 benchmarks/columns_exchange.py [--preset alexnet] [--batch 16] [--json]

The bytes are counted by the loopback interface (Linux only; Gloo uses TCP) and compared with the formula of
`train.columns.exchanged_values`. The time is that of the collective operators in PyTorch's profiler on the first rank,
including waiting for the other column. The same net in one process with all threads runs first, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from alexnet_infer.presets import variant
from train.columns import exchanged_values, split_into_columns
from train.model import AlexNet, initialise
from train.ranks import join

COUNTER = Path("/sys/class/net/lo/statistics/tx_bytes")
COLLECTIVES = ("all_gather", "reduce_scatter", "wait_tensor")


def step(model: AlexNet, patches: torch.Tensor, keys: torch.Tensor, columns: int) -> None:
    for w in model.parameters():
        w.grad = None
    logits = model(patches, keys)
    (torch.nn.functional.cross_entropy(logits, keys % logits.shape[1]) / columns).backward()


def seconds_per_step(steps: int, *arguments) -> float:
    step(*arguments)
    started = time.perf_counter()
    for _ in range(steps):
        step(*arguments)
    return (time.perf_counter() - started) / steps


def loopback_bytes() -> int | None:
    return int(COUNTER.read_text()) if COUNTER.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="alexnet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    threads = max(1, (os.cpu_count() or 2) // 2)
    torch.set_num_threads(threads)
    ranks = join(torch.device("cpu"), columns=2)
    assert ranks.column_group is not None, "start this with torchrun --nproc-per-node 2"
    torch.manual_seed(0)
    architecture = replace(variant(arguments.preset), classes=1000).build()
    model = AlexNet(architecture, unit=16.0)
    initialise(model, "he")
    patch = architecture.patch
    patches = (torch.randn(arguments.batch, 3, patch, patch) * 60).to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last).train()
    keys = torch.arange(arguments.batch)

    dist.barrier()
    alone = 0.0
    if ranks.first:
        torch.set_num_threads(2 * threads)
        alone = seconds_per_step(arguments.steps, model, patches, keys, 1)
        torch.set_num_threads(threads)
    dist.barrier()

    split_into_columns(model, ranks.column_group)
    split = (model, patches, keys, ranks.columns)
    seconds_per_step(1, *split)
    dist.barrier()
    before, started = loopback_bytes(), time.perf_counter()
    for _ in range(arguments.steps):
        step(*split)
    dist.barrier()
    seconds, after = (time.perf_counter() - started) / arguments.steps, loopback_bytes()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        seconds_per_step(arguments.steps, *split)
    exchange = sum(
        event.self_cpu_time_total for event in profiled.key_averages() if any(name in event.key for name in COLLECTIVES)
    )
    total = sum(event.self_cpu_time_total for event in profiled.key_averages())
    formula = 2 * 2 * arguments.batch * 4 * exchanged_values(architecture)  # two ranks, forward and backward, float32
    if ranks.first:
        result = {
            "preset": arguments.preset,
            "batch": arguments.batch,
            "formula_bytes": formula,
            "measured_bytes": None if before is None else (after - before) // arguments.steps,
            "step_ms": seconds * 1e3,
            "one_process_step_ms": alone * 1e3,
            "exchange_share": exchange / total,
        }
        if arguments.json:
            print(json.dumps(result))
        else:
            measured = result["measured_bytes"]
            print(f"{arguments.preset}, {arguments.batch} images per step, two processes over Gloo, float32")
            print(f"bytes per step, both ranks together: {formula / 1e6:.2f} MB by the formula", end="")
            print("" if measured is None else f", {measured / 1e6:.2f} MB on the loopback interface")
            print(f"one step: {seconds * 1e3:.0f} ms, {result['exchange_share']:.1%} of it exchange and waiting")
            print(f"the same net in one process with all threads: {alone * 1e3:.0f} ms")
    ranks.leave()


if __name__ == "__main__":
    main()
