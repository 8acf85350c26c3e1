"""`alexnet-infer export --web DIR`: a net as a page that classifies photos in the browser."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.backends.opening import is_exported
from alexnet_infer.commands.compare import example_photos
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.export.web.compare import TOLERANCE, largest_difference
from alexnet_infer.export.web.runtime import BINARY, SCRIPT, VERSION, read_runtime
from alexnet_infer.export.web.site import ALONE, Site, check_size, check_target, write_site
from alexnet_infer.graph.web import build_web_model
from alexnet_infer.nets import choose_nets
from alexnet_infer.output import say, say_json, tell


def run(
    *,
    model: Sequence[Path] | None,
    web: Path,
    runtime: Path | None,
    precision: str | None,
    as_json: bool,
) -> int:
    """Compare the page's net with the net, write the page and print its files.

    Returns 0, or 1 if the nets differ by more than TOLERANCE; then nothing is written.

    Raises UsageError for int8 or several nets, UnreadableInputError if `runtime` is not the npm package,
    and the errors of `load_artifact` and `write_site`.
    """
    if precision == "int8":
        raise UsageError(
            "--precision int8: differs from the net by more than the page may (0.001); use fp16, the default with --web"
        )
    if len(model or ()) > 1:
        raise UsageError(f"{model[1]}: --web takes one net")
    (path,) = choose_nets(model or (), None)
    if is_exported(path):
        raise UsageError(f"{path}: is an exported file; expected the trained net that it was made from")
    check_target(web)
    files = read_runtime(runtime) if runtime is not None else None
    artifact = load_artifact(path)
    check_size(artifact, web)
    half = precision != "fp32"
    net = build_web_model(artifact, half=half).SerializeToString()
    photos = example_photos()
    difference = _compare(artifact, net, photos)
    if difference is not None and not difference <= TOLERANCE:
        tell(
            f"--web {web}: a probability of the page's net differs from that of {artifact.manifest.name} by "
            f"{difference:.1e}; expected at most {TOLERANCE}; nothing was written"
            + ("; use --precision fp32" if half else "")
        )
        return 1
    site = Site(
        artifact=artifact,
        sha256=sha256(path),
        half=half,
        net=net,
        difference=difference,
        runtime=files,
        photos=photos,
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
                "largest_probability_difference": difference,
                "photos": len(photos),
            },
            indent=1,
        )
        return 0
    total = sum(file.stat().st_size for file in written)
    say(f"{web}  {len(written)} files, {total / 1e6:,.1f} MB")
    if difference is not None:
        say(f"largest probability difference  {difference:.1e} on {len(photos)} photos")
    if files is None:
        say(f"Visitors also load onnxruntime-web {VERSION} ({(SCRIPT.bytes + BINARY.bytes) / 1e6:.1f} MB) from a CDN.")
    elif web / ALONE in written:
        say(f"{web / ALONE} holds everything, and opens from disk.")
    say(f"To look at it: {shlex.join(['python3', '-m', 'http.server', '-d', str(web)])}")
    return 0


def _compare(artifact: Artifact, net: bytes, photos: Sequence[Path]) -> float | None:
    """Return the largest difference of a probability. None, after saying so, if ONNX Runtime is missing."""
    try:
        return largest_difference(artifact, net, photos)
    except BackendError as error:
        tell(f"the page's net was not compared with the net ({error})")
        return None
