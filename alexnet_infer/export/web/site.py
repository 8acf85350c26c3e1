"""Write the folder: the page, its scripts, the net, and what the page must know about it."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool, Operation
from alexnet_infer.artifact import Artifact
from alexnet_infer.decode import MAX_PIXELS
from alexnet_infer.errors import UsageError, printable
from alexnet_infer.export.web.runtime import BINARY, CDN, SCRIPT, VERSION, RuntimeFile, integrity_of
from alexnet_infer.files import read_limited, write_atomically, writing
from alexnet_infer.graph.web import build_web_model, has_lrn, web_layers
from alexnet_infer.layers import PRE, columns_of
from alexnet_infer.manifest import Manifest
from alexnet_infer.pages import check_page
from alexnet_infer.preprocess import WHOLE_PIXELS, patch_offsets
from alexnet_infer.version import __version__

PAGE, ALONE, MANIFEST, NET = "index.html", "disk.html", "net.json", "net.onnx"
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
    runtime: Mapping[RuntimeFile, bytes] | None = None
    """The files of onnxruntime-web, to be copied into the folder. None: the page takes them from the CDN."""
    photos: Sequence[Path] = ()
    """JPEGs to try."""


def write_site(site: Site, folder: Path) -> list[Path]:
    """Write the site and return its files. The folder is created if necessary.

    With the runtime's files, there is also `disk.html`, which holds everything and works when opened from disk, unless
    it would have more than MAX_ALONE bytes of files. Raises UsageError if the folder can't be written, if files in it
    would be overwritten that are not of such a site, or if the net is too large for a browser.
    """
    weights = sum(tensor.nbytes for tensor in site.artifact.tensors.values())
    if weights > MAX_WEIGHTS:
        raise UsageError(
            f"--web {folder}: the net has {weights / 1e9:.1f} GB of weights; expected at most {MAX_WEIGHTS / 1e9:.1f} "
            "GB, which fit into a browser"
        )
    data = _data(site)
    texts = _texts(site)
    if site.runtime is not None and sum(map(len, data.values())) <= MAX_ALONE:
        texts[ALONE] = _alone(data)
    with writing(f"--web {folder}"):
        check_folder(folder, [*texts, *data])
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**{name: text.encode() for name, text in texts.items()}, **data}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomically(folder / name, content)
    return [folder / name for name in (*texts, *data)]


def check_folder(folder: Path, names: Sequence[str] = (*SCRIPTS, STYLE, MANIFEST, NET, ALONE)) -> None:
    """Raise UsageError if the folder has a page of something else, or files of these names and no page."""
    check_page(folder / PAGE, f"--web {folder}")
    if not os.path.lexists(folder / PAGE):
        for name in names:
            if os.path.lexists(folder / name):
                raise UsageError(
                    f"--web {folder}: has {name} and no {PAGE} of alexnet-infer; expected an empty or new folder"
                )


def _texts(site: Site) -> dict[str, str]:
    """Return the page and its scripts. The page is first: with it, the folder counts as a site."""
    source = "'self'" if site.runtime is not None else f"'self' {CDN}"
    page = _page(
        script='<script type="module" src="app.js"></script>',
        style=f'<link rel="stylesheet" href="{STYLE}">',
        policy=_policy(script="'self' blob:", style="'self'", connect=source),
    )
    return {PAGE: page, STYLE: _part(STYLE), **{name: _part(name) for name in SCRIPTS}}


def _alone(data: Mapping[str, bytes]) -> str:
    """Return the page that holds all files: browsers load no files for a page from disk.

    The scripts become one, without imports and exports, which a page can hold.
    """
    lines = "\n".join(_part(name) for name in SCRIPTS).splitlines()
    script = "\n".join(line.removeprefix("export ") for line in lines if not line.startswith("import ")) + "\n"
    style = _part(STYLE)
    held = "".join(
        f'<script type="text/plain" id="file:{name}">{base64.b64encode(content).decode()}</script>\n'
        for name, content in data.items()
    )
    hashes = [f"'{integrity_of(text.encode())}'" for text in (script, style)]
    return _page(
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


def _page(**parts: str) -> str:
    values = {"version": html.escape(__version__), **parts}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _part(PAGE))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text("utf-8")


def _data(site: Site) -> dict[str, bytes]:
    """Return the other files by their names: what the page must know, the net, the photos and the runtime."""
    net = build_web_model(site.artifact, half=site.half).SerializeToString()
    photos = {f"examples/{path.name}": read_limited(path, MAX_PHOTO) for path in site.photos}
    runtime = {f"{RUNTIME_FOLDER}/{file.name}": content for file, content in (site.runtime or {}).items()}
    manifest = site.artifact.manifest
    base = CDN if site.runtime is None else f"{RUNTIME_FOLDER}/"
    described = {
        "name": printable(manifest.name),
        "about": _about(manifest),
        "sha256": site.sha256,
        "net": {"file": NET, "bytes": len(net), "integrity": integrity_of(net)},
        "classes": [printable(entry.short) for entry in manifest.classes],
        "preprocessing": {**manifest.preprocessing.to_json(), "whole_pixels": WHOLE_PIXELS},
        **_views(manifest),
        "max_pixels": MAX_PIXELS,
        "layers": list(_layers(manifest.architecture)),
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


def _about(manifest: Manifest) -> str:
    architecture = manifest.architecture
    columns = max(columns_of(architecture).values())
    parts = [
        f"{len(manifest.classes):,} classes",
        f"{architecture.parameters:,} weights",
        "one column" if columns == 1 else f"{columns} columns",
        "LRN" if has_lrn(architecture) else "no LRN",
        f"trained on {manifest.provenance.data}",
    ]
    return printable(f"{manifest.name}: {', '.join(parts)}.")


def _layers(architecture: Architecture) -> Iterator[dict[str, Any]]:
    columns = columns_of(architecture)
    operations = {operation.name: operation for operation in architecture.operations}
    for layer in web_layers(architecture):
        names = dict.fromkeys((layer.name.removesuffix(PRE), layer.operation))  # of conv1: conv1, act1
        texts = [_gloss(operations[name]) for name in names if name in operations]
        yield {
            "name": layer.name,
            "shape": list(layer.shape),
            "columns": columns.get(layer.operation, 1) > 1,
            "about": " ".join(texts) or f"The softmax of {architecture.operations[-1].name}: they add up to 1.",
        }


def _gloss(operation: Operation) -> str:
    """Return a sentence on what an operation does. Sections are the paper's."""
    match operation:
        case Conv():
            seen = "the maps of their own column (section 3.5)" if operation.groups > 1 else "everything before them"
            return f"Kernels of {operation.size} x {operation.size} slide over {seen}."
        case Dense():
            return "Every unit sees all values before it."
        case Activation(kind="relu"):
            return "ReLU then replaces negative values with 0 (section 3.1)."
        case Activation():
            return "tanh then limits values to -1 ... 1 (section 3.1 compares it with ReLU)."
        case LRN():
            return (
                f"Local response normalisation: the larger the {operation.size} maps around a value are at its place, "
                "the more it is divided by (section 3.3)."
            )
        case MaxPool():
            return (
                f"Max pooling: the largest value in each window of {operation.size} x {operation.size}, every "
                f"{operation.stride} pixels (section 3.4)."
            )
        case BatchNorm():
            return "Batch normalisation shifts and scales each map as training found (not in the paper)."
        case _:
            return ""
