"""`alexnet-infer import`: convert another tool's file to an alexnet-infer model file."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_infer.backends.opening import describe
from alexnet_infer.datasets.classes import TABLES, class_name, read_table
from alexnet_infer.errors import UnreadableInputError, UsageError, printable, shown
from alexnet_infer.files import is_file, writing
from alexnet_infer.importing.convert import ImportRequest, import_net
from alexnet_infer.importing.formats import Format
from alexnet_infer.manifest import ClassName
from alexnet_infer.output import say, say_json
from alexnet_infer.recognize import SUFFIXES


def run(
    source: Path,
    *,
    preset: str | None,
    format: Format | None,
    out: Path | None,
    name: str | None,
    preprocessing: str | None,
    patch: int | None,
    classes: Path | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Write the model file and print its path.

    Raises what `import_net` raises. Raises UsageError if the model file can't be written, is the source itself, or
    already exists and isn't named by `out`.
    """
    for option, text in (("--name", name), ("--data", data)):
        if text is not None and not (text.strip() and text.isprintable()):
            raise UsageError(f"{option} {shown(text)}: expected printable text")
    net_name = name or printable(out.stem if out else _stem(source))
    target = out or Path(f"{Path(net_name).name}.safetensors")
    _check_target(target, source, named=out is not None)
    request = ImportRequest(
        source=source,
        out=target,
        name=net_name,
        format=format,
        preset=preset,
        patch=patch,
        convention=preprocessing,
        classes=_classes(classes) if classes else None,
        data=data,
    )
    with writing(target):
        path = import_net(request)
    manifest, _ = describe(path)
    if as_json:
        say_json({"path": str(path), "bytes": path.stat().st_size, "manifest": json.loads(manifest.to_json())})
    else:
        say(path)


def _stem(source: Path) -> str:
    """The file's name without its suffix, or without both of "net.pth.tar"."""
    suffixes = "".join(source.suffixes[-2:])
    return source.name.removesuffix(suffixes) if suffixes.lower() in SUFFIXES else source.stem


def _check_target(target: Path, source: Path, *, named: bool) -> None:
    if not is_file(target):
        return
    if is_file(source) and target.samefile(source):
        raise UsageError(f"{target}: is the file to import; write to another file, with -o")
    if not named:
        raise UsageError(f"{target}: already exists; to replace it, name it with -o")


def _classes(path: Path) -> tuple[ClassName, ...]:
    if path.name not in TABLES:
        raise UsageError(f"--classes {path}: expected a file called {', '.join(TABLES)}; each has its own format")
    names = read_table(path)
    if not names:
        raise UnreadableInputError(f"--classes {path}: no such file")
    return tuple(class_name(path, wnid, words) for wnid, words in names.items())
