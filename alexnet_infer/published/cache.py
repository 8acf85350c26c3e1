"""Published nets on this machine: fetched once, turned into our model files, used offline from then on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from alexnet_infer import __version__
from alexnet_infer.artifact import Provenance
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.files import is_file, user_cache
from alexnet_infer.importing.run import ImportRequest, import_net
from alexnet_infer.published.download import Wanted, download, verify
from alexnet_infer.published.registry import Published


def cache_folder() -> Path:
    """Where pulled nets lie: each is one file there, and can be removed."""
    return user_cache() / "models"


def cached(net: Published) -> Path | None:
    """The model file of a net that was pulled; None when it wasn't."""
    path = _place(net)
    return path if is_file(path) else None


def _place(net: Published) -> Path:
    """The name ends in a hash of what the model file is made of: another registry's net of this name, or this one with
    its preprocessing set right, is another file."""
    made_of = f"{net.digest} {net.preset} {net.patch} {net.preprocessing}"
    return cache_folder() / f"{net.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}{net.suffix}"


def pull(
    net: Published,
    source: str | None = None,
    *,
    force: bool = False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Path:
    """Makes the net's model file in the cache, unless it is there already, and returns its path.

    `source` is a copy to be used instead of the registry's addresses: a file, which is left as it is, or an address.
    With it, or with `force`, the model file is made anew. `on_bytes` is that of `download`.

    Raises what `download` and `import_net` raise, and UsageError when the cache can't be written.
    """
    target = _place(net)
    if source is None and not force and is_file(target):
        return target
    wanted = Wanted(what=net.name, size=net.size, digest=net.digest)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is not None and "://" not in source:
            _verify_copy(wanted, Path(source))
            return import_net(_request(net, Path(source), target))
        urls = net.urls if source is None else (source,)
        with download(wanted, urls, cache_folder() / "downloads", on_bytes) as fetched:
            return import_net(_request(net, fetched, target))
    except OSError as error:
        raise UsageError(
            f"{error.filename or target}: {error.strerror or error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None


def _verify_copy(wanted: Wanted, path: Path) -> None:
    try:
        verify(wanted, path)
    except OSError as error:
        raise UnreadableInputError(f"--from {path}: {error.strerror or error}") from None


def _request(net: Published, source: Path, target: Path) -> ImportRequest:
    return ImportRequest(
        source=source,
        out=target,
        name=net.name,
        format=net.format,
        preset=net.preset,
        patch=net.patch,
        convention=net.preprocessing,
        provenance=Provenance(
            data=net.data,
            recipe={
                "name": "published",
                "file": PurePosixPath(urlsplit(net.urls[0]).path).name,
                "digest": net.digest,
                "licence": net.licence,
                "published_error": dataclasses.asdict(net.error),
            },
            seed=None,
            date=net.date,
            software=f"{net.software}; imported by alexnet-infer {__version__}",
        ),
    )
