"""`python -m train`."""

import sys


def main() -> None:
    """Start the program. Until Python gets here, Ctrl-C is Python's own: it prints a traceback."""
    try:
        from alexnet_infer.program import start
        from train.requirements import import_failure

        start("python -m train", "train.cli", import_failure)
    except KeyboardInterrupt:  # before `start` handles it
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
