"""report.md, from results.json alone: `python -m benchmarks.gpu.report DIR` writes it again."""

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
"""The entries of results.json by their stages' names."""
Row = tuple[str, str, str, str]
"""A line of the table: what, measured, limit, measured over limit."""


def machine_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for key, what, unit in (
        ("copy", "copy on the device, read and written", "B/s"),
        ("upload", "copy from pinned memory", "B/s"),
        ("bf16", "matrix product, bf16", "FLOP/s"),
        ("tf32", "matrix product, TF32", "FLOP/s"),
        ("fp32", "matrix product, float32", "FLOP/s"),
    ):
        yield what, quantity(ceilings.get(key), unit), "", ""


def plugin_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for layer, row in mapping(results.get("kernel")).items():
        what = f"TensorRT plugin's kernel, {layer}, {row['images']} images, cut in {row['parts']}"
        limit = f"{quantity(row['floor'], 's')}, a copy of the same bytes"
        yield what, quantity(row["seconds"], "s"), limit, f"{row['over_floor']:.2f}"


def inference_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """Images/s, and the FLOP/s that they are, as a share of the matrix rate in the same precision."""
    paths = [(f"torch, {precision}", precision, row) for precision, row in mapping(results.get("torch")).items()]
    paths += [(name, "fp32", results.get(name)) for name in ("onnxruntime", "tensorrt")]
    for name, precision, row in paths:
        for batch, rate in mapping(mapping(row).get("images_per_second")).items():
            ceiling = ceilings.get(precision)
            known = isinstance(ceiling, float)
            limit = f"{quantity(ceiling / results['flop'], 'images/s')} at the matrix rate" if known else ""
            share = f"{rate * results['flop'] / ceiling:.0%}" if known else ""
            what = f"ten views through {name}, batch {batch}; probabilities differ by {mapping(row)['difference']:.1e}"
            yield what, quantity(rate, "images/s"), limit, share


def training_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """A whole step, as a share of the matrix rate that its own process measured; then what it is made of."""
    for size, figures in results.items():
        if not isinstance(figures, Mapping):
            continue
        for how in ("compiled", "eager"):
            if row := mapping(figures.get(how)):
                share = row["share of the matrix rate"]
                limit = f"{quantity(row['images/s'] / share, 'images/s')} at the matrix rate"
                yield (
                    f"training step, {size} images, {how}",
                    quantity(row["images/s"], "images/s"),
                    limit,
                    f"{share:.0%}",
                )
        waiting = mapping(figures.get("kernels")).get("waiting ms")
        if waiting is not None:
            yield f"waiting in a step, {size} images", quantity(waiting / 1e3, "s"), "", ""
        for part, milliseconds in mapping(figures.get("parts, ms")).items():
            yield f"{part} of a step, by themselves, {size} images", quantity(milliseconds / 1e3, "s"), "", ""


def layers_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    for name, figures in results.items():
        row = mapping(figures)
        for which in ("forward", "backward"):
            if over := row.get(f"{which} over floor"):
                taken = row[f"{which} us"] / 1e6
                limit = f"{quantity(taken / over, 's')}, a copy of as many bytes"
                yield f"LRN in training, {name}, {which}", quantity(taken, "s"), limit, f"{over:.2f}"
        if name.endswith(", ms"):
            for form, milliseconds in row.items():
                what = f"{name.removesuffix(', ms')}, forward and backward, {form}"
                yield what, quantity(milliseconds / 1e3, "s"), "", ""
    if isinstance(squares := results.get("feed, squares/s"), float):
        yield "squares of 256 pixels fed to the GPU", quantity(squares, "images/s"), "", ""


def nets_rows(results: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Iterator[Row]:
    speed, errors = mapping(results.get("speed")), mapping(results.get("errors"))
    if speed:
        what = f"nets trained side by side, {speed['epochs']} epochs each"
        yield what, quantity(speed["images/s of all"], "images/s"), "", ""
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
"""The lines that a stage's results give; the second argument are the ceilings of the machine stage."""


TRAINER_CASES = (
    "dropout_equals_the_cpus",
    "views_equal_the_cpus",
    "ten_steps_equal_the_cpus",
    "a_checkpoint_crosses_devices",
    "a_fed_set_equals_a_resident_one",
    "compiled_equals_eager",
)


def passed(*paths: str) -> Callable[[Stages], str]:
    """A verdict: whether all checks under the paths, as in "plugin.kernel", ran on a GPU and passed."""

    def verdict(stages: Stages) -> str:
        return next(filter(None, (_objection(stages, path) for path in paths)), "verified")

    return verdict


def _objection(stages: Stages, path: str) -> str | None:
    stage, *keys = path.split(".")
    entry = stages.get(stage)
    if entry is None or entry["device"] == "cpu":
        return "not run"
    found: Any = entry["results"]
    for key in keys:
        found = mapping(found).get(key)
    failures = failed_checks(found, path)
    is_check = isinstance(found, Mapping) and "passed" in found  # which counts, whatever became of its stage later
    if failures or (entry["error"] and not is_check):
        return f"failed: {failures[0] if failures else entry['error']}"
    if isinstance(found, str):
        return f"not run: {found.removeprefix('skipped: ')}"
    return None if found else "not run"


CLAIMS: tuple[tuple[str, Callable[[Stages], str]], ...] = (
    ("`classify --device cuda`, and ONNX Runtime's CUDA provider", passed("inference.onnxruntime")),
    (
        "the trainer on CUDA: the CPU's steps, checkpoints, a set kept there or fed, `torch.compile`",
        passed(*(f"correctness.{case}" for case in TRAINER_CASES)),
    ),
    ("no step of the trainer waits for the host", passed("correctness.no_step_waits_for_the_host")),
    (
        "results of the Triton kernels of LRN and of the patches",
        passed("correctness.lrn_equals_float64", "correctness.augmentation_equals_the_cpus"),
    ),
    (
        "the Triton kernels of LRN take at most 1.5 times their memory floor",
        passed(*(f"layers.{layer}, {dtype}" for layer in ("norm1", "norm2") for dtype in ("bfloat16", "float32"))),
    ),
    ("speed of a training step", passed("training")),
    ("nets trained on a GPU", passed("nets")),
    ("`train --columns` on NCCL", lambda stages: "not run: needs two GPUs"),
    ("the plugin's LRN kernel on a GPU: its results and its speed", passed("plugin.kernel")),
    ("the engine backend's pinned copies, CUDA graphs and threads, without TensorRT", passed("plugin.engine")),
    ("TensorRT engines of `export --trt`, with the plugin", passed("inference.tensorrt")),
)
"""What the README says was not verified, as far as it concerns a GPU."""


def report(stages: Stages) -> str:
    """The whole report, in Markdown."""
    return "\n".join(
        [
            "# On a GPU",
            "",
            *_where(stages),
            "",
            "| what | measured | limit | measured over limit |",
            "|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows(stages)),
            "",
            "| not verified without a GPU | verdict |",
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
    """The lines of the table, of all stages that have reported something."""
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
        yield "A miniature on a CPU, whose figures say nothing of a GPU."


def _outcome(entry: Mapping[str, Any]) -> str:
    return entry["error"] or "; ".join(failed_checks(entry["results"])) or entry["status"]


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is an object; else, as of what was skipped, an empty one."""
    return value if isinstance(value, Mapping) else {}


def quantity(value: Any, unit: str) -> str:
    """As in "4.31 TB/s", "212 us" and "57,000 images/s"; what is no number stays as it is."""
    if not isinstance(value, float | int):
        return cell(str(value or "not run"))
    if unit.startswith("images"):
        return f"{value:,.0f} {unit}"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1, ""), (1e-3, "m")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value * 1e6:.3g} u{unit}"


def cell(text: str) -> str:
    """`text` as it may stand in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def write_report(out: Path) -> Path:
    """Writes report.md beside the results in the folder `out`. Raises UsageError when they can't be read."""
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
