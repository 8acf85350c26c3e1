"""`alexnet-infer data get`: fetch free labelled image sets, and list them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from alexnet_infer.errors import UsageError
from alexnet_infer.output import console, say, say_json, tell
from alexnet_infer.published.data_sets import DataSet, data_set, data_sets
from alexnet_infer.published.get import get, is_there, sets_folder


def run(
    name: str,
    *,
    part: Sequence[str] | None,
    source: str | None,
    to: Path | None,
    force: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Get the set `name` and print its folder, or list all sets if `name` is empty.

    The licence goes to stderr before anything is fetched, the next command after it. Raises the errors of `get`, and
    UsageError for an unknown name or part.
    """
    if not name:
        _check_lists_only(part=part, source=source, force=force, to=to, keep=keep)
        return _list(as_json=as_json)
    data = data_set(name)
    archives = data.choose(part or ())
    tell(f"{data.name}: licence: {data.licence} ({data.terms})")
    path, fetched = get(data, archives, to or sets_folder(), source, force=force, keep=keep)
    model = f" --model {data.model}" if data.model else ""
    command = f"alexnet-infer eval --data {shlex.quote(str(path))}{model}"
    if as_json:
        chosen = [archive.part for archive in archives if archive.part]
        say_json({"name": data.name, "parts": chosen, "path": str(path), "fetched": fetched, "command": command})
        return None
    say(path)
    state = "is ready" if fetched else "is already there (--force gets it again)"
    tell(f"{data.name} {state}; next: {command}")
    return None


def _check_lists_only(**options: Any) -> None:
    names = {"source": "from"}
    for option, value in options.items():
        if value:
            raise UsageError(
                f"--{names.get(option, option)}: has no effect without the name of a set; `alexnet-infer data get` "
                "lists the names"
            )


def _list(*, as_json: bool) -> None:
    folder = sets_folder()
    sets = list(data_sets().values())
    if as_json:
        say_json({"folder": str(folder), "sets": [_json(data, folder) for data in sets]})
    else:
        _print(sets, folder)


def _json(data: DataSet, folder: Path) -> dict[str, Any]:
    there = [a.part for a in data.archives if a.part and is_there(data, folder, [a])]
    complete = is_there(data, folder)
    path = str(folder / data.name) if complete or there else None
    return {**msgspec.to_builtins(data), "size": data.size, "path": path, "parts_there": there}


def _print(sets: Sequence[DataSet], folder: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("set", "left"), ("images", "right"), ("classes", "right"), ("MB", "right"), ("digest", "left"),
        ("licence", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    licences = list(dict.fromkeys((data.licence, data.terms) for data in sets))
    for data in sets:
        there = any(is_there(data, folder, [archive]) for archive in data.archives)
        digests = ", ".join(dict.fromkeys(archive.check for archive in data.archives))
        number = licences.index((data.licence, data.terms)) + 1
        counts = [f"{data.validation:,}", f"{data.classes:,}", f"{data.size / 1e6:,.0f}", digests, str(number)]
        parts = f"; --part {', '.join(map(str, data.parts))}" if any(data.parts) else ""
        table.add_row(data.name, *counts, data.summary + parts, style="bold" if there else "")
    console().print(table)
    say()
    say("Licences and terms of use:")
    for number, (licence, terms) in enumerate(licences, start=1):
        say(f"{number}  {licence}")
        say(f"   {terms}")
    say()
    say("SHA-256 and MD5 find damage; MD5 is not safe against a forger (docs/data-sets.md).")
    say("`alexnet-infer data get --json` adds URLs, digests and their sources.")
    say(f"`alexnet-infer data get NAME` puts a set into {folder}")
    say("or, with --to, into another folder.")
