"""Packages that may be missing: whether one is installed, and the one-line error for one that can't be imported."""

from __future__ import annotations

import sys

from alexnet_infer.errors import BackendError, one_line

EXTRAS = {
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt": "trt",
    "tensorrt_rtx": "rtx",
    "torch": "train",
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "jinja2": "report",
    "scipy": "ilsvrc",
    "ray": "ray",
}
"""Module of an optional package -> the extra of alexnet-infer that installs it."""

NAMES = {"PIL": "pillow", "google": "protobuf"}
"""Module -> its package, where the two names differ."""


def installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # something refuses it, or `sys.modules` has an entry without a spec
        return False


def module_of(error: ImportError) -> str:
    """Return the first part of the name of the module that could not be imported, or "" if it is not known."""
    return (error.name or "").partition(".")[0]


def missing_package(error: ImportError, user: str = "") -> BackendError:
    """Return the error to report if an import raised `error`. It names the package and how to install it.

    `user` is what needs the package, such as an option.
    """
    module = module_of(error)
    package = NAMES.get(module, module)
    if module in ("", "alexnet_infer", "train") or module in sys.stdlib_module_names:
        return BackendError(f"the installation is damaged ({one_line(error)}): install alexnet-infer or Python again")
    needs = f"{user} needs {package}" if user else f"the package {package}"
    if not isinstance(error, ModuleNotFoundError):  # a shared library is missing, or a release lacks a name
        return BackendError(f"{needs}: can't be imported ({one_line(error)}); pip install --force-reinstall {package}")
    source = f'"alexnet-infer[{EXTRAS[module]}]"' if module in EXTRAS else package
    return BackendError(f"{needs}{'' if user else ' is missing'}: pip install {source}")
