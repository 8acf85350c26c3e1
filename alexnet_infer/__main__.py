"""`python -m alexnet_infer`, and the command `alexnet-infer`."""

import sys


def main() -> None:
    """Start the program. Until Python gets here, Ctrl-C is Python's own: it prints a traceback."""
    try:
        from alexnet_infer.program import start

        start("alexnet-infer", "alexnet_infer.cli")
    except KeyboardInterrupt:  # before `start` handles it
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":  # a process started by multiprocessing imports this module under another name
    main()
