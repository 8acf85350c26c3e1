"""The trainer: `python -m train` in a checkout.

A run: `cli` makes a `Job`, and `launch` runs it. `source` opens the images, mapped from a set that `prepare` packed or
packed into memory; `feed` brings them to the device and `augment` cuts patches there. `model` is the torch module,
`loop` the loop, `step` one update, `saved` the checkpoints, `log` one JSON record per line. `finish` converts the
weights to grey levels (docs/lrn.md, unit), rounds them to float16, measures that net and writes the model file.

All random draws depend only on (seed, epoch, image), so a resumed run repeats them on any number of processes. Under
torchrun, `ranks` assigns each process its column and its share of the images, and `columns` splits the net in two;
`model` knows neither. GPU kernels are in `*_triton.py`.

`reproduction` tests the paper's claims with it.
"""

import os

# If a process of a run can't be reached, PyTorch's C++ code logs its stack, before it raises the error that is shown.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
