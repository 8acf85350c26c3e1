"""One-line messages for packages of the trainer that are missing or broken."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.packages import NAMES, module_of

TORCH = "torch>=2.9,<2.15"
"""The supported releases of PyTorch, as in pyproject.toml."""

RELEASES = "2.9 to 2.14"
"""The same range, for messages."""


def import_failure(error: Exception) -> BackendError:
    """Return the error to report if an import of the trainer raised `error`.

    The cause can be a missing package, a shared library that can't be loaded, or a name that PyTorch does not have.
    """
    missing = module_of(error) if isinstance(error, ModuleNotFoundError) else ""
    if missing and not error.name.startswith("torch."):
        package = f"PyTorch {RELEASES}" if missing == "torch" else NAMES.get(missing, missing)
        return BackendError(f'the trainer needs {package}, which is not installed: pip install "alexnet-infer[train]"')
    return BackendError(
        f"the trainer can't be imported ({one_line(error)}): found PyTorch {installed_torch() or '(none)'}, expected a "
        f'working PyTorch {RELEASES}; pip install --force-reinstall "{TORCH}"'
    )


def installed_torch() -> str | None:
    """Return the version of the installed PyTorch, even if it can't be imported; None without PyTorch."""
    try:
        return version("torch")
    except PackageNotFoundError:  # a build on the path that was not installed as a package
        return getattr(sys.modules.get("torch"), "__version__", None)
