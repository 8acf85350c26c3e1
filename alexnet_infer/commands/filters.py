"""`alexnet-infer filters`: a net's first kernels as a picture."""

from __future__ import annotations

from pathlib import Path

from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.backends.opening import EXPORTED_SUFFIXES
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.kernels import Kernels
from alexnet_infer.files import write_atomically


def run(model: Path | None, out: Path) -> None:
    """Writes the PNG and prints its path.

    Raises UsageError when `out` is no name of a PNG or can't be written, or when the net doesn't begin with kernels;
    ModelFileError when it can't be read.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: expected the name of a picture, ending in .png")
    if model is not None and model.suffix in EXPORTED_SUFFIXES:
        raise UsageError(f"{model}: was exported, and its weights no longer lie open; expected the trained net")
    picture = Kernels.of(load_artifact(model or embedded_model())).png()
    try:
        write_atomically(out, picture)
    except OSError as error:
        raise UsageError(f"{out}: can't be written ({error.strerror or error})") from None
    print(out)
