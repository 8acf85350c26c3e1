"""What the trainer imports, and one line for a user where it is missing or broken."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from alexnet_infer.errors import BackendError, one_line

TORCH = "torch>=2.9,<2.15"
"""The supported releases of PyTorch, as pyproject.toml has them."""

RELEASES = "2.9 to 2.14"
"""The same in words."""


def import_failure(error: Exception) -> BackendError:
    """The error to report where an import raised `error`.

    It may be a missing package, a shared library that can't be loaded, or a name that the installed PyTorch lacks.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and "." not in missing:
        package = f"PyTorch {RELEASES}" if missing == "torch" else missing
        return BackendError(f'the trainer needs {package}, which is not installed: pip install "alexnet-infer[train]"')
    return BackendError(
        f"the trainer can't be imported ({one_line(error)}): found PyTorch {installed_torch() or '(none)'}, expected a "
        f'working one of {RELEASES}; pip install --force-reinstall "{TORCH}"'
    )


def installed_torch() -> str | None:
    """PyTorch's version, also of one that can't be imported; None where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:  # a build that was put on the path by hand
        return getattr(sys.modules.get("torch"), "__version__", None)
