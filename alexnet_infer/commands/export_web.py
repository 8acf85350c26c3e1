"""`alexnet-infer export --web DIR`: a net as a page that classifies photos in the browser."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import load_artifact, sha256
from alexnet_infer.backends.opening import is_exported
from alexnet_infer.commands.compare import example_photos
from alexnet_infer.errors import UsageError
from alexnet_infer.export.web.runtime import BINARY, SCRIPT, VERSION, read_runtime
from alexnet_infer.export.web.site import ALONE, Site, check_folder, write_site
from alexnet_infer.nets import choose_nets
from alexnet_infer.output import say, say_json

DEFAULTS = {"views": "none", "batch": "1,8,64", "verify": True, "onnx": False, "trt": False}
"""The defaults of the command's other options, where they are not None: these options have no effect on a page."""


def run(
    *,
    model: Sequence[Path] | None,
    web: Path,
    runtime: Path | None,
    precision: str | None,
    as_json: bool,
    **others: Any,
) -> int:
    """Write the page and print its files. Returns 0.

    Raises UsageError if an option doesn't apply to a page, UnreadableInputError if `runtime` is not the npm package,
    and the errors of `load_artifact` and `write_site`.
    """
    _refuse_others(others)
    if precision == "int8":
        raise UsageError(
            "--precision int8: differs from the net by more than the page may (0.001); use fp16, the default with --web"
        )
    if len(model or ()) > 1:
        raise UsageError(f"{model[1]}: --web takes one net")
    (path,) = choose_nets(model or (), None)
    if is_exported(path):
        raise UsageError(f"{path}: is an exported file; expected the trained net that it was made from")
    check_folder(web)
    files = read_runtime(runtime) if runtime is not None else None
    artifact = load_artifact(path)
    site = Site(
        artifact=artifact,
        sha256=sha256(path),
        half=precision != "fp32",
        runtime=files,
        photos=example_photos(),
    )
    written = write_site(site, web)
    if as_json:
        source = "folder" if files is not None else "cdn"
        say_json(
            {
                "net": artifact.manifest.name,
                "folder": str(web),
                "files": [{"path": str(file), "bytes": file.stat().st_size} for file in written],
                "runtime": {"version": VERSION, "from": source},
            },
            indent=1,
        )
        return 0
    total = sum(file.stat().st_size for file in written)
    say(f"{web}  {len(written)} files, {total / 1e6:,.1f} MB")
    if files is None:
        say(f"Visitors also load onnxruntime-web {VERSION} ({(SCRIPT.bytes + BINARY.bytes) / 1e6:.1f} MB) from a CDN.")
    elif web / ALONE in written:
        say(f"{web / ALONE} holds everything, and opens from disk.")
    say(f"To look at it: {shlex.join(['python3', '-m', 'http.server', '-d', str(web)])}")
    return 0


def _refuse_others(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if value != DEFAULTS.get(name):
            raise UsageError(f"--{name.replace('_', '-')}: has no effect on a web page; leave it out, or --web")
