"""Pulling a published net: fetch it once, convert it to a model file, and use it offline from then on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import msgspec

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.files import is_file
from alexnet_infer.importing.convert import ImportRequest, import_net
from alexnet_infer.manifest import Provenance
from alexnet_infer.published.cache import cache_folder, cache_path
from alexnet_infer.published.download import Wanted, download, verify
from alexnet_infer.published.registry import Published
from alexnet_infer.version import __version__


def pull(
    net: Published,
    source: str | None = None,
    *,
    force: bool = False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Path:
    """Make the net's model file in the cache, unless it exists, and return its path.

    `source`: a copy to use instead of the registry's URLs, either a file, which is not modified, or a URL. With
    `source` or `force`, an existing model file is replaced. `on_bytes` is passed to `download`.

    Raises the errors of `download` and `import_net`, and UsageError if the cache can't be written.
    """
    target = cache_path(net)
    if source is None and not force and is_file(target):
        return target
    wanted = Wanted(
        name=net.name,
        size=net.size,
        digest=net.digest,
        command=f"alexnet-infer pull {net.name}",
        room=net.size,
        elsewhere="set XDG_CACHE_HOME to a folder on another disk",
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is not None and "://" not in source:
            _verify_copy(wanted, Path(source))
            return import_net(_request(net, Path(source), target))
        urls = net.urls if source is None else (source,)
        with download(wanted, urls, cache_folder() / "downloads", on_bytes) as path:
            return import_net(_request(net, path, target))
    except OSError as error:
        raise UsageError(
            f"{error.filename or target}: {error.strerror or error}; set XDG_CACHE_HOME to a writable folder"
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
                "published_error": msgspec.structs.asdict(net.error),
            },
            seed=None,
            date=net.date,
            software=f"{net.software}; imported by alexnet-infer {__version__}",
        ),
    )
