"""AlexNet (Krizhevsky, Sutskever, Hinton 2012): classify photos, and measure trained nets as the paper does.

>>> from alexnet_infer import load
>>> net = load()
>>> net.classify("photo.jpg")[0].name
"""

from __future__ import annotations

from alexnet_infer.version import __version__

TYPE_CHECKING = False  # as in typing, whose import takes longer than all that comes before Ctrl-C is handled
if TYPE_CHECKING:
    from typing import Any

    from alexnet_infer.nets import load
    from alexnet_infer.predict import Ensemble, Label, Net, Result

__all__ = ["Ensemble", "Label", "Net", "Result", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python API on first use (PEP 562), so that modules without NumPy and Pillow load neither."""
    if name in __all__:
        from alexnet_infer import nets, predict

        return getattr(nets if name == "load" else predict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
