"""Checks and measurements that need a GPU, in one command of a few minutes: `python -m benchmarks.gpu --help`."""
