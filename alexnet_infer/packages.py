"""Packages that may be missing or broken: whether one is installed, and the one-line error if it can't be imported."""

from __future__ import annotations

import re
import sys
from types import ModuleType

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
    "h5py": "h5",
    "tritonclient": "client",
    "geventhttpclient": "client",
    "grpc": "client",
    "starlette": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
}
"""Module of an optional package -> the extra of alexnet-infer that installs it."""

NAMES = {"PIL": "pillow", "google": "protobuf", "prometheus_client": "prometheus-client", "grpc": "grpcio"}
"""Module -> its package, where the two names differ."""

_NO_PACKAGES = {"", "alexnet_infer", "train", "__main__", *sys.stdlib_module_names}
"""Modules that pip can't install again by their names."""


def installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # something refuses it, or `sys.modules` has an entry without a spec
        return False


def failed_import(error: Exception) -> bool:
    """Return whether an import raised `error`. A broken package may raise any error."""
    return isinstance(error, ImportError | SyntaxError) or bool(_importing(error))


def module_of(error: Exception) -> str:
    """Return the first part of the name of the module whose import raised `error`, or "" if it is not known."""
    names = _importing(error)
    if isinstance(error, ImportError):
        names.append(error.name or "")
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        names.append(error.obj.__name__)
    elif isinstance(error, SyntaxError) and (place := _PLACE.search(error.filename or "")):
        names.append(place[1])
    modules = [name.partition(".")[0] for name in reversed(names) if name] or [""]
    if isinstance(error, ModuleNotFoundError):
        return modules[0]
    return next((module for module in modules if module not in _NO_PACKAGES), modules[0])


_PLACE = re.compile(r"(?:site|dist)-packages[/\\](\w+)")
"""The module of a file of an installed package."""


def _importing(error: Exception) -> list[str]:
    """Return the modules whose import `error` passed through, the last of which raised it.

    A module's body runs when it is imported. Python's own importer is among them if it failed.
    """
    modules, trace = [], error.__traceback__
    while trace:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code.co_name == "<module>" or frame.f_code.co_filename.startswith("<frozen importlib"):
            modules.append(frame.f_globals.get("__name__", ""))
    return modules


def _is_absent(error: Exception) -> bool:
    """Return whether the whole package is missing. `google`, of which many packages are parts, may be there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return False
    module, _, part = error.name.partition(".")
    return not part or module == "google" or not installed(module)


def missing_package(error: Exception, user: str = "", extra: str | None = None) -> BackendError:
    """Return the error to report if an import raised `error`. It names the package and how to install it.

    `user` is what needs the package, such as an option. `extra` is the extra that installs it for this user, by default
    that of EXTRAS.
    """
    module = module_of(error)
    package, cause = NAMES.get(module, module), one_line(error) or type(error).__name__
    if module in _NO_PACKAGES:
        return BackendError(
            f"the installation is damaged ({cause}): install alexnet-infer, its packages or Python again"
        )
    needs = f"{user} needs {package}" if user else f"the package {package}"
    if not _is_absent(error):  # a shared library or a part is missing, or a release lacks a name
        return BackendError(f"{needs}: can't be imported ({cause}); pip install --force-reinstall {package}")
    extra = extra or EXTRAS.get(module)
    source = f'"alexnet-infer[{extra}]"' if extra else package
    return BackendError(f"{needs}{'' if user else ' is missing'}: pip install {source}")
