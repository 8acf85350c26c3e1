"""Write the folder: the page, its scripts, the net, and what the page must know about it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import Artifact
from alexnet_infer.decode import MAX_PIXELS
from alexnet_infer.errors import UsageError, printable
from alexnet_infer.export.web.about import about_layers, about_net, about_switches, about_weights
from alexnet_infer.export.web.folder import GENERATOR, PAGE, check_folder, write_files
from alexnet_infer.export.web.runtime import BINARY, CDN, SCRIPT, VERSION, RuntimeFile, integrity_of
from alexnet_infer.files import read_limited
from alexnet_infer.graph.web import build_web_model, has_lrn
from alexnet_infer.layers import columns_of
from alexnet_infer.manifest import Manifest
from alexnet_infer.preprocess import WHOLE_PIXELS, patch_offsets

ALONE, MANIFEST, NET = "disk.html", "net.json", "net.onnx"
STYLE = "style.css"
SCRIPTS = (
    "files.js", "decode.js", "preprocess.js", "net.js", "draw.js", "dom.js", "camera.js", "layers.js", "app.js",
)  # fmt: skip
"""Each imports only earlier ones."""

RUNTIME_FOLDER = "onnxruntime-web"
MAX_PHOTO = 10_000_000
MAX_ALONE = 100_000_000
"""Bytes of files that one page may hold. Browsers keep it in memory several times."""

MAX_WEIGHTS = 1_500_000_000
"""Bytes of weights in float32: a browser gives a WebAssembly program at most 4 GB, which also hold the file."""

_VIEWS = ("upper left", "upper right", "lower left", "lower right", "central")
"""The views in the order of `patch_offsets`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """What to write."""

    artifact: Artifact
    sha256: str
    """Of the model file."""
    half: bool = True
    """Store weights as float16."""
    net: bytes | None = None
    """What `build_web_model` makes of the artifact, if that is known."""
    difference: float | None = None
    """`compare.largest_difference` of it, for the page to state."""
    runtime: Mapping[RuntimeFile, bytes] | None = None
    """The files of onnxruntime-web, to be copied into the folder. None: the page takes them from the CDN."""
    photos: Sequence[Path] = ()
    """JPEGs to try."""


def write_site(site: Site, folder: Path) -> list[Path]:
    """Write the site and return its files. The folder is created if necessary.

    With the runtime's files, there is also `disk.html`, which holds everything and works when opened from disk, unless
    it would have more than MAX_ALONE bytes of files. Those of an earlier net that this one doesn't have are removed.
    Raises UsageError if the folder can't be written, if files in it would be overwritten that are not of such a site,
    or if the net is too large for a browser.
    """
    check_size(site.artifact, folder)
    data = _data(site)
    texts = _texts(site)
    if site.runtime is not None and sum(map(len, data.values())) <= MAX_ALONE:
        texts[ALONE] = _alone(site, data)
    files = {**data, **{name: text.encode() for name, text in texts.items()}}
    own = [ALONE, *(f"{RUNTIME_FOLDER}/{file.name}" for file in (SCRIPT, BINARY))]
    last = (MANIFEST, PAGE)
    write_files(
        folder,
        {**{name: content for name, content in files.items() if name not in last}, **{n: files[n] for n in last}},
        outdated=[name for name in own if name not in files],
    )
    return [folder / name for name in files]


def check_target(folder: Path) -> None:
    """Raise UsageError if `write_site` would refuse the folder, before its files are known."""
    check_folder(folder, (*SCRIPTS, STYLE, MANIFEST, NET, ALONE))


def check_size(artifact: Artifact, folder: Path) -> None:
    """Raise UsageError if the net is too large for a browser."""
    weights = sum(tensor.nbytes for tensor in artifact.tensors.values())
    if weights > MAX_WEIGHTS:
        raise UsageError(
            f"--web {folder}: the net has {weights / 1e9:.1f} GB of weights; expected at most {MAX_WEIGHTS / 1e9:.1f} "
            "GB, which fit into a browser"
        )


def _texts(site: Site) -> dict[str, str]:
    """Return the page and its scripts."""
    source = "'self'" if site.runtime is not None else f"'self' {CDN}"
    page = _page(
        site,
        script='<script type="module" src="app.js"></script>',
        style=f'<link rel="stylesheet" href="{STYLE}">',
        policy=_policy(script="'self' blob:", style="'self'", connect=source),
    )
    return {PAGE: page, STYLE: _part(STYLE), **{name: _part(name) for name in SCRIPTS}}


def _alone(site: Site, data: Mapping[str, bytes]) -> str:
    """Return the page that holds all files: browsers load no files for a page from disk.

    The scripts become one, without imports and exports, which a page can hold.
    """
    lines = "\n".join(_part(name) for name in SCRIPTS).splitlines()
    script = "\n".join(line.removeprefix("export ") for line in lines if not line.startswith("import ")) + "\n"
    style = _part(STYLE)
    held = "".join(
        f'<script type="text/plain" id="file:{html.escape(name)}">{base64.b64encode(content).decode()}</script>\n'
        for name, content in data.items()
    )
    hashes = [f"'{integrity_of(text.encode())}'" for text in (script, style)]
    return _page(
        site,
        script=f'{held}<script type="module">{script}</script>',
        style=f"<style>{style}</style>",
        policy=_policy(script=f"{hashes[0]} blob:", style=hashes[1], connect="'none'"),
    )


def _policy(*, script: str, style: str, connect: str) -> str:
    """Return the Content-Security-Policy: nothing is loaded from, or sent to, other places than these."""
    return (
        f"default-src 'none'; script-src {script} 'wasm-unsafe-eval'; worker-src blob:; style-src {style}; "
        f"connect-src {connect}; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'"
    )


def _page(site: Site, **parts: str) -> str:
    values = {
        "generator": html.escape(GENERATOR),
        "weights": about_weights(site.artifact, site.half, site.difference),
        "switches": about_switches(site.artifact.manifest.architecture),
        **parts,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _part(PAGE))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text("utf-8")


def _data(site: Site) -> dict[str, bytes]:
    """Return the other files by their names: what the page must know, the net, the photos and the runtime."""
    net = site.net or build_web_model(site.artifact, half=site.half).SerializeToString()
    photos = {f"examples/{path.name}": read_limited(path, MAX_PHOTO) for path in site.photos}
    runtime = {f"{RUNTIME_FOLDER}/{file.name}": content for file, content in (site.runtime or {}).items()}
    manifest = site.artifact.manifest
    base = CDN if site.runtime is None else f"{RUNTIME_FOLDER}/"
    described = {
        "name": printable(manifest.name),
        "about": about_net(manifest),
        "sha256": site.sha256,
        "net": {"file": NET, "bytes": len(net), "integrity": integrity_of(net)},
        "classes": [printable(entry.short) for entry in manifest.classes],
        "preprocessing": {**manifest.preprocessing.to_json(), "whole_pixels": WHOLE_PIXELS},
        **_views(manifest),
        "max_pixels": MAX_PIXELS,
        "layers": list(about_layers(manifest.architecture)),
        "lrn": has_lrn(manifest.architecture),
        "columns": max(columns_of(manifest.architecture).values()),
        "examples": [{"file": name, "name": Path(name).name} for name in photos],
        "runtime": {
            "version": VERSION,
            "script": {"url": base + SCRIPT.name, "integrity": SCRIPT.integrity, "bytes": SCRIPT.bytes},
            "binary": {"url": base + BINARY.name, "integrity": BINARY.integrity, "bytes": BINARY.bytes},
        },
    }
    return {MANIFEST: json.dumps(described, indent=1).encode(), NET: net, **photos, **runtime}


def _views(manifest: Manifest) -> dict[str, Any]:
    """Return the ten views in the order of `preprocess.patches`, and which of them is the centre."""
    offsets = patch_offsets(manifest.preprocessing.size, manifest.preprocessing.patch, "ten")
    views = [
        {"name": f"{name}, mirrored" if mirrored else name, "row": row, "column": column, "mirrored": mirrored}
        for mirrored in (False, True)
        for name, (row, column) in zip(_VIEWS, offsets, strict=True)
    ]
    return {"views": views, "center": _VIEWS.index("central")}
