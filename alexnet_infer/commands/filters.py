"""`alexnet-infer filters`: the kernels of a net's first layer as an image."""

from __future__ import annotations

from pathlib import Path

from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.backends.opening import is_exported
from alexnet_infer.errors import UsageError
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.kernels import Kernels
from alexnet_infer.output import say


def run(model: Path | None, out: Path) -> None:
    """Write the PNG and print its path.

    Raises UsageError if `out` does not end in .png or can't be written, or if the net's first layer is not
    a convolution over three colours. Raises ModelFileError if the net can't be read.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: expected a file name ending in .png")
    if model is not None and is_exported(model):
        raise UsageError(f"{model}: an exported file, whose weights can't be read; expected the model file")
    picture = Kernels.of(load_artifact(model or embedded_model())).png()
    with writing(out):
        write_atomically(out, picture)
    say(out)
