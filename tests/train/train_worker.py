"""Run by `torchrun` in tests: `python -m train`, which says at exit whether its connections are closed."""

import atexit
import runpy

import torch.distributed as dist

if __name__ == "__main__":
    atexit.register(lambda: print("connections open" if dist.is_initialized() else "connections closed"))
    runpy.run_module("train", run_name="__main__")
