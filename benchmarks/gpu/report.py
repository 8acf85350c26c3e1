"""Writes report.md from results.json alone. `python -m benchmarks.gpu.report DIR` writes it again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alexnet_infer.errors import UsageError
from alexnet_infer.files import write_atomically
from benchmarks.gpu.runner import RESULTS, failed_checks, read_results

REPORT = "report.md"

Stages = Mapping[str, Mapping[str, Any]]
"""The entries of results.json by stage name."""
Row = tuple[str, str, str, str]
"""A row of the table: what was measured, the value, its limit, and the value divided by the limit."""


def machine_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for key, label, unit in (
        ("copy", "copy on the device, read and written", "B/s"),
        ("upload", "copy from pinned memory", "B/s"),
        ("bf16", "matrix product, bf16", "FLOP/s"),
        ("tf32", "matrix product, TF32", "FLOP/s"),
        ("fp32", "matrix product, float32", "FLOP/s"),
    ):
        yield label, quantity(ceilings.get(key), unit), "", ""


def plugin_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for layer, row in mapping(results.get("kernel")).items():
        label = f"TensorRT plugin's kernel, {layer}, {row['images']} images, split in {row['parts']}"
        limit = f"{quantity(row['floor'], 's')}, a copy of the same bytes"
        yield label, quantity(row["seconds"], "s"), limit, f"{row['over_floor']:.2f}"


def inference_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """Images/s, and their FLOP/s as a share of the matrix rate in the same precision."""
    paths = [(f"torch, {precision}", precision, row) for precision, row in mapping(results.get("torch")).items()]
    paths += [(name, "fp32", results.get(name)) for name in ("onnxruntime", "tensorrt")]
    for name, precision, row in paths:
        for batch, rate in mapping(mapping(row).get("images_per_second")).items():
            ceiling = ceilings.get(precision)
            known = isinstance(ceiling, float)
            limit = f"{quantity(ceiling / results['flop'], 'images/s')} at the matrix rate" if known else ""
            share = f"{rate * results['flop'] / ceiling:.0%}" if known else ""
            label = f"ten views through {name}, batch {batch}; probabilities differ by {mapping(row)['difference']:.1e}"
            yield label, quantity(rate, "images/s"), limit, share


def training_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """A training step, as a share of the matrix rate measured in the same process, and then its parts."""
    for size, figures in results.items():
        if not isinstance(figures, Mapping):
            continue
        for mode in ("compiled", "eager"):
            if row := mapping(figures.get(mode)):
                share = row["share of the matrix rate"]
                limit = f"{quantity(row['images/s'] / share, 'images/s')} at the matrix rate"
                yield (
                    f"training step, {size} images, {mode}",
                    quantity(row["images/s"], "images/s"),
                    limit,
                    f"{share:.0%}",
                )
        waiting = mapping(figures.get("kernels")).get("waiting ms")
        if waiting is not None:
            yield f"waiting in a step, {size} images", quantity(waiting / 1e3, "s"), "", ""
        for part, milliseconds in mapping(figures.get("parts, ms")).items():
            yield f"{part} of a step, measured separately, {size} images", quantity(milliseconds / 1e3, "s"), "", ""


def layers_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for name, figures in results.items():
        row = mapping(figures)
        for direction in ("forward", "backward"):
            if over := row.get(f"{direction} over floor"):
                seconds = row[f"{direction} us"] / 1e6
                limit = f"{quantity(seconds / over, 's')}, a copy of the same bytes"
                yield f"LRN in training, {name}, {direction}", quantity(seconds, "s"), limit, f"{over:.2f}"
        if name.endswith(", ms"):
            for form, milliseconds in row.items():
                label = f"{name.removesuffix(', ms')}, forward and backward, {form}"
                yield label, quantity(milliseconds / 1e3, "s"), "", ""
    if isinstance(squares := results.get("feed, squares/s"), float):
        yield "256 x 256 squares fed to the GPU", quantity(squares, "images/s"), "", ""


def nets_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    speed, errors = mapping(results.get("speed")), mapping(results.get("errors"))
    if speed:
        label = f"nets trained side by side, {speed['epochs']} epochs each"
        yield label, quantity(speed["images/s of all"], "images/s"), "", ""
    for name, wrong in (*mapping(errors.get("alone")).items(), ("mean of all", errors.get("mean"))):
        if wrong := mapping(wrong):
            top1, top5 = (wrong[key] / errors["images"] for key in ("top1", "top5"))
            yield f"{name}, ten views, top-1 and top-5 error", f"{top1:.2%}, {top5:.2%}", "", ""


ROWS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[Row]]] = {
    "machine": machine_rows,
    "plugin": plugin_rows,
    "training": training_rows,
    "layers": layers_rows,
    "inference": inference_rows,
    "nets": nets_rows,
}
"""Functions that return a stage's rows, from its results and the machine stage's ceilings."""


TRAINER_CASES = (
    "dropout_equals_the_cpus",
    "views_equal_the_cpus",
    "ten_steps_equal_the_cpus",
    "a_checkpoint_crosses_devices",
    "a_fed_set_equals_a_resident_one",
    "compiled_equals_eager",
)


def passed(*paths: str) -> Callable[[Stages], str]:
    """Return a verdict function: did all checks under the paths, such as "plugin.kernel", run on a GPU and pass?"""

    def verdict(stages: Stages) -> str:
        return next(filter(None, (_objection(stages, path) for path in paths)), "verified")

    return verdict


def _objection(stages: Stages, path: str) -> str | None:
    stage, *keys = path.split(".")
    entry = stages.get(stage)
    if entry is None or entry["device"] == "cpu":
        return "not run"
    result: Any = entry["results"]
    for key in keys:
        result = mapping(result).get(key)
    failures = failed_checks(result, path)
    is_check = isinstance(result, Mapping) and "passed" in result  # a check counts even if its stage fails later
    if failures or (entry["error"] and not is_check):
        return f"failed: {failures[0] if failures else entry['error']}"
    if isinstance(result, str):
        return f"not run: {result.removeprefix('skipped: ')}"
    return None if result else "not run"


CLAIMS: tuple[tuple[str, Callable[[Stages], str]], ...] = (
    ("`classify --device cuda`, and ONNX Runtime's CUDA provider", passed("inference.onnxruntime")),
    (
        "the trainer on CUDA: the same steps as on the CPU, checkpoints, resident and fed data sets, `torch.compile`",
        passed(*(f"correctness.{case}" for case in TRAINER_CASES)),
    ),
    ("no step of the trainer waits for the host", passed("correctness.no_step_waits_for_the_host")),
    (
        "results of the Triton kernels for LRN and patches",
        passed("correctness.lrn_equals_float64", "correctness.augmentation_equals_the_cpus"),
    ),
    (
        "the Triton kernels for LRN take at most 1.5 times their memory floor",
        passed(*(f"layers.{layer}, {dtype}" for layer in ("norm1", "norm2") for dtype in ("bfloat16", "float32"))),
    ),
    ("speed of a training step", passed("training")),
    ("nets trained on a GPU", passed("nets")),
    ("`train --split-columns` on NCCL", lambda stages: "not run: needs two GPUs"),
    ("the plugin's LRN kernel on a GPU: its results and its speed", passed("plugin.kernel")),
    ("the engine backend's pinned copies, CUDA graphs and threads, without TensorRT", passed("plugin.engine")),
    ("TensorRT engines of `export --trt`, with the plugin", passed("inference.tensorrt")),
)
"""The claims that can't be verified without a GPU (docs/verified.md), with their verdict functions."""


def report(stages: Stages) -> str:
    """Return the report in Markdown."""
    return "\n".join(
        [
            "# GPU report",
            "",
            *_where(stages),
            "",
            "| what | measured | limit | measured / limit |",
            "|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows(stages)),
            "",
            "| claim that needs a GPU | verdict |",
            "|---|---|",
            *(f"| {claim} | {cell(verdict(stages))} |" for claim, verdict in CLAIMS),
            "",
            "| stage | seconds | outcome |",
            "|---|---|---|",
            *(f"| {name} | {entry['seconds']:.1f} | {cell(_outcome(entry))} |" for name, entry in stages.items()),
            "",
        ]
    )


def rows(stages: Stages) -> Iterator[Row]:
    """Yield the rows of the table for all stages with results."""
    ceilings = mapping(stages.get("machine", {}).get("results", {}).get("ceilings"))
    for name, rows_of in ROWS.items():
        if results := stages.get(name, {}).get("results"):
            yield from rows_of(results, ceilings)


def _where(stages: Stages) -> Iterator[str]:
    machine = mapping(stages.get("machine", {}).get("results"))
    device, versions = mapping(machine.get("device")), mapping(machine.get("versions"))
    names = ("python", "torch", "cuda", "cudnn", "triton", "driver", "onnxruntime", "tensorrt")
    yield f"{device.get('name', 'an unknown device')}: " + ", ".join(
        f"{name} {cell(str(versions[name]))}" for name in names if versions.get(name) is not None
    )
    if any(entry["device"] == "cpu" for entry in stages.values()):
        yield ""
        yield "This is a miniature on a CPU. Its figures say nothing about a GPU."


def _outcome(entry: Mapping[str, Any]) -> str:
    return entry["error"] or "; ".join(failed_checks(entry["results"])) or entry["status"]


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is an object, else an empty one, such as for skipped results."""
    return value if isinstance(value, Mapping) else {}


def quantity(value: Any, unit: str) -> str:
    """Format a number as in "4.31 TB/s", "212 us" or "57,000 images/s". Text is unchanged; None gives "not run"."""
    if not isinstance(value, float | int):
        return cell(str(value or "not run"))
    if unit.startswith("images"):
        return f"{value:,.0f} {unit}"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1, ""), (1e-3, "m")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value * 1e6:.3g} u{unit}"


def cell(text: str) -> str:
    """Escape `text` for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def write_report(out: Path) -> Path:
    """Write report.md to the folder `out`, which contains results.json. Raises UsageError if that can't be read."""
    path = out / REPORT
    write_atomically(path, report(read_results(out / RESULTS)["stages"]).encode())
    return path


def main() -> None:
    try:
        print(write_report(Path(sys.argv[1])))
    except (IndexError, UsageError) as error:
        raise SystemExit(str(error) if sys.argv[1:] else "usage: python -m benchmarks.gpu.report DIR") from None


if __name__ == "__main__":
    main()
