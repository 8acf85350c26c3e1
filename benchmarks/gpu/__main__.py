"""Checks and measures on a GPU: that what was written for it is right there, and how near it comes to its limits.

    python -m benchmarks.gpu --out DIR [--data DATA] [--minutes 10] [--stages machine,training] [--device cpu]

Run it in a checkout; the package need not be installed. Each stage is a process of its own with a time limit; what it
reports goes into DIR/results.json at once, and a stage that fails, crashes or hangs does not stop the next. `--stages`
runs some of them and keeps the results of the others that are there. The last to run is the report, DIR/report.md: a
table of measured values over their limits, and a verdict for each thing that was not verified without a GPU
(`python -m benchmarks.gpu.report DIR` writes it again). `--device cpu` is a miniature of all of it for the test-suite.

Exit codes: 0; 1 when a stage or a check in it failed; 2 usage; 3 unreadable data; 5 no such device.
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
    parser.add_argument("--data", type=Path, help="a labelled image set, in any form that the trainer takes")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, report.md and the nets")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all stages together (default: %(default)g)")
    parser.add_argument("--stages", help=f"some of {','.join(NAMES)} (default: all)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stage is ended, too
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
        raise UsageError(f"--minutes {minutes:g}: expected at least 0.2")
    return minutes * 60


def _stages(names: str | None) -> tuple[str, ...]:
    """The named stages in the order in which they run."""
    wanted = NAMES if names is None else names.split(",")
    for name in wanted:
        if name not in NAMES:
            raise UsageError(f"--stages {name}: expected some of {','.join(NAMES)}{meant(name, NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


if __name__ == "__main__":
    main()
