"""Checks that the GPU code gives correct results, and measures how close it comes to the GPU's limits.

    python -m benchmarks.gpu --out DIR [--data DATA] [--minutes 10] [--stages machine,training] [--device cpu]

Run it in a checkout; the package does not have to be installed. Each stage is a process with a time limit. Its results
are written to DIR/results.json immediately, and a stage that fails, crashes or hangs does not stop the next one.
`--stages` runs only some stages and keeps the existing results of the others. At the end, the report is written to
DIR/report.md: a table of measured values and their limits, and a verdict on each claim that can't be verified without a
GPU. `python -m benchmarks.gpu.report DIR` writes the report again. `--device cpu` runs a miniature for the test suite.

Exit codes: 0 success; 1 a stage or a check failed; 2 wrong usage; 3 unreadable data; 5 no such device.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from alexnet_infer.errors import AlexNetInferError, BackendError, UnreadableInputError, UsageError, meant, one_line
from benchmarks.gpu.report import write_report
from benchmarks.gpu.runner import NETS, STAGES, Request, run

NAMES = (*STAGES, NETS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="labelled image set, in any form that the trainer accepts")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, report.md and the nets")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all stages together (default: %(default)g)")
    parser.add_argument("--stages", help=f"comma-separated list of {','.join(NAMES)} (default: all)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: %(default)s")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stage is ended as well
    try:
        request = Request(
            device=_device(arguments.device),
            data=_data(arguments.data),
            out=_out(arguments.out),
            seconds=_seconds(arguments.minutes),
            stages=_stages(arguments.stages),
        )
        passed = run(request)
        print(f"{write_report(request.out)}", file=sys.stderr)
    except AlexNetInferError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    raise SystemExit(0 if passed else 1)


def _device(choice: str) -> str:
    try:
        from train.device import pick_device
    except (ImportError, OSError) as error:
        raise BackendError(f"PyTorch is missing or broken ({one_line(error)}): pip install torch") from None
    return str(pick_device(choice))


def _data(path: Path | None) -> Path | None:
    if path is not None and not path.exists():
        raise UnreadableInputError(f"--data {path}: no such file or folder")
    return path and path.resolve()


def _out(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror}; expected a folder") from None
    return path.resolve()


def _seconds(minutes: float) -> float:
    if not 0.2 <= minutes <= 1e5:
        raise UsageError(f"--minutes {minutes:g}: expected a number from 0.2 to 100000")
    return minutes * 60


def _stages(names: str | None) -> tuple[str, ...]:
    """Return the named stages in the order in which they run."""
    selected = NAMES if names is None else names.split(",")
    for name in selected:
        if name not in NAMES:
            raise UsageError(f"--stages {name}: expected some of {','.join(NAMES)}{meant(name, NAMES)}")
    return tuple(name for name in NAMES if name in selected)


if __name__ == "__main__":
    main()
