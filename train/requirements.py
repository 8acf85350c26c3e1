"""One-line messages for packages of the trainer that are missing or broken."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.packages import missing_package, module_of

TORCH = "torch>=2.9,<2.15"
"""The supported releases of PyTorch, as in pyproject.toml."""

RELEASES = "2.9 to 2.14"
"""The same range, for messages."""


def import_failure(error: Exception) -> BackendError:
    """Return the error to report if an import of the trainer raised `error`.

    The cause can be a missing package, a shared library that can't be loaded, or a name that a package does not have.
    It is PyTorch if it is not known.
    """
    absent = isinstance(error, ModuleNotFoundError) and error.name == "torch"
    if absent or module_of(error) not in ("", "torch"):
        return missing_package(error, "the trainer")
    cause = one_line(error) or type(error).__name__
    return BackendError(
        f"the trainer can't be imported ({cause}): found PyTorch {installed_torch() or '(none)'}, expected a "
        f'working PyTorch {RELEASES}; pip install --force-reinstall "{TORCH}"'
    )


def installed_torch() -> str | None:
    """Return the version of the installed PyTorch, even if it can't be imported; None without PyTorch."""
    try:
        return version("torch")
    except PackageNotFoundError:  # a build on the path that was not installed as a package
        return getattr(sys.modules.get("torch"), "__version__", None)
