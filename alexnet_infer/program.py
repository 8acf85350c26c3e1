"""What `alexnet-infer` and `python -m train` have in common as programs: streams, one-line errors, exit codes, Ctrl-C.

This module imports little, since it is imported before Ctrl-C is handled.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_infer.errors import AlexNetInferError, BackendError, UnreadableInputError, UsageError, one_line
from alexnet_infer.output import tell
from alexnet_infer.packages import failed_import, missing_package

if TYPE_CHECKING:
    import typer

Missing = Callable[[Exception], BackendError]
"""Returns the error to report for a package that can't be imported."""

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV}
"""Causes that no reading of a file has."""

INTERRUPTED = 130, "interrupted"
"""Exit code and message after Ctrl-C."""


def start(name: str, module: str, missing: Missing = missing_package) -> NoReturn:
    """Run the Typer application `app` of a module in this process, as the program `name`, and exit as `run` does.

    Ctrl-C at any moment from here on ends it with the exit code 130 and one line, or with its complete output. An
    import that Ctrl-C interrupts may raise another error, and Ctrl-C in a destructor would be ignored.
    """
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def unraisable(ignored: Any) -> None:
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            tell(INTERRUPTED[1])
            os._exit(INTERRUPTED[0])
        sys.__unraisablehook__(ignored)

    def handle(handler: Any) -> None:
        if own:
            signal.signal(signal.SIGINT, handler)

    # Python takes back a handler at its very end, and would then be killed by Ctrl-C. It does not take back SIG_IGN.
    atexit.register(handle, signal.SIG_IGN)  # the first that is registered is called last
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # otherwise it was started in the background
    sys.unraisablehook = unraisable
    sys.excepthook = _tell_traceback
    try:
        handle(press)
        code, message = _outcome(name, lambda: import_module(module).app, missing)
        handle(signal.SIG_IGN)
    except KeyboardInterrupt:
        handle(signal.SIG_IGN)
        code, message = INTERRUPTED
    if pressed and code != INTERRUPTED[0]:
        code, message = INTERRUPTED
    exec("")  # Python kills itself if the last interrupt came out of an `exec`, as in dataclasses; this one clears that
    _finish(code, message)
    handle(lambda number, frame: os._exit(code))  # the end of Python may take a while
    sys.exit(code)


def run(name: str, app: typer.Typer, missing: Missing = missing_package) -> NoReturn:
    """Run a Typer application with the process's arguments, as the program `name`, and exit with its code.

    An error that a user can cause is one line on stderr and an exit code.
    """
    code, message = _outcome(name, lambda: app, missing)
    _finish(code, message)
    sys.exit(code)


def _outcome(name: str, application: Callable[[], typer.Typer], missing: Missing) -> tuple[int, str]:
    """Run the application. Returns the exit code, and the line to print at the end, or ""."""
    # Imports create a hundred thousand objects and no garbage. Searching them for garbage, during the imports and at
    # exit, takes a sixth of the time to the first label.
    gc.set_threshold(100_000)
    _prepare_streams()
    try:
        code = _call(name, application())
        sys.stdout.flush()
        return INTERRUPTED if code == INTERRUPTED[0] else (code, "")
    except AlexNetInferError as error:
        return error.exit_code, str(error) if error.exit_code == INTERRUPTED[0] else f"error: {error}"
    except MemoryError as error:
        return (
            BackendError.exit_code,
            f"error: not enough memory ({one_line(error) or 'MemoryError'}): use a smaller --batch",
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, for example head, has exited
        return 1, ""
    except Exception as error:
        if failed_import(error):
            failure = missing(error)
            return failure.exit_code, f"error: {failure}"
        if isinstance(error, OSError):
            return _of_a_file(error)
        raise


def _of_a_file(error: OSError) -> tuple[int, str]:
    """Return the exit code and the line for a file that can't be read or written."""
    reason = error.strerror or error
    if error.filename is None:  # for example, stdout is a file on a full disk
        return UsageError.exit_code, f"error: {reason}"
    writing = error.errno in _OF_WRITING or error.filename2 is not None  # two names: it was renamed or linked
    kind = UsageError if writing else UnreadableInputError
    return kind.exit_code, f"error: {error.filename}: {reason}"


def _call(name: str, app: typer.Typer) -> int:
    import typer

    try:
        # Not app(): it replaces the function that prints tracebacks.
        return typer.main.get_command(app)(prog_name=name, standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        advice = f"; see {context.command_path} --help" if context else ""
        raise UsageError(error.format_message().rstrip(".") + advice) from None
    except typer.Abort as abort:  # typer takes an EOFError for the end of what the user typed, and nothing here asks
        raise abort.__cause__ or KeyboardInterrupt() from None


def _prepare_streams() -> None:
    """Replace closed streams with the null device, and escape characters that a stream cannot encode."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, errors="backslashreplace"))  # noqa: PTH123, SIM115 (stays open)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _finish(code: int, message: str) -> None:
    """Print the message and flush the streams. If that fails, discard the rest.

    Otherwise, Python would report an error when it flushes again at exit.
    """
    if message:
        tell(message)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "torch" not in sys.modules:  # libraries that it loads report every object that is left at the end
        gc.freeze()


def _tell_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback of a bug in printable lines: the error may repeat text from a file."""
    from traceback import format_exception

    for line in "".join(format_exception(kind, error, trace)).splitlines():
        tell(line)
