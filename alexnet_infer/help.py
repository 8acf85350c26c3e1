"""Help pages of `alexnet-infer` and `python -m train`. They list options in panels by purpose, and never cut a word."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from alexnet_infer.output import tell

NAMES = 24
"""Largest width of the column of names. A longer name gets its own line."""

LINES = 60
"""A longer page is printed without blank lines between its panels."""

RENAMED = {"--engine": "--on", "--columns": "--split-columns"}
"""Earlier names of options, which still work. A line on stderr names the present one."""

WHAT = "What"
"""Title of the panel with the arguments."""


def option(panel: str, help: str, *names: str, default: str | bool = True, **settings: Any) -> Any:
    """Return a Typer option that the help page lists in `panel`.

    `default` is the text that is shown as the default, or True to show the parameter's value, or False to show none.
    If the title of the panel has columns, as in "Recipe\\tpaper\\tfast", `default` is one value per column, separated
    by tabs.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=default, **settings)


def argument(metavar: str, help: str, *, default: str | bool = True, **settings: Any) -> Any:
    """Return a Typer argument that the help page lists in the panel WHAT. `default` is as in `option`."""
    return typer.Argument(metavar=metavar, help=help, rich_help_panel=WHAT, show_default=default, **settings)


class Command(TyperCommand):
    """A command with a compact help page. Its epilog is printed unchanged."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_present_names(self, ctx, args))

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class Group(TyperGroup):
    """A group of commands with a compact help page. Its epilog is printed unchanged."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, _with_present_names(self, ctx, args))

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        _write(self, ctx, formatter)


def _with_present_names(command: Command | Group, ctx: typer.Context, args: list[str]) -> list[str]:
    """Return `args` with the present names of options. Prints one line on stderr for each earlier name."""
    known = {name for param in command.get_params(ctx) for name in param.opts}
    commands = getattr(command, "commands", {})
    present: list[str] = []
    for i, arg in enumerate(args):
        if arg == "--" or arg in commands:
            return present + args[i:]
        name, equals, value = arg.partition("=")
        new = RENAMED.get(name)
        if new in known and name not in known:
            tell(f"{name} is now called {new}")
            arg = f"{new}{equals}{value}"
        present.append(arg)
    return present


def _write(command: Command | Group, ctx: typer.Context, formatter: Any) -> None:
    command.format_usage(ctx, formatter)
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    top = "".join(f"\n{_wrapped(paragraph, formatter.width)}\n" for paragraph in paragraphs)
    rows = _rows(command, ctx)
    names = max(len(name) for panel in rows.values() for name, *_ in panel if len(name) <= NAMES)
    panels = [_panel(title, panel, names, formatter.width) for title, panel in rows.items()]
    end = f"\n{command.epilog.strip()}\n" if command.epilog else ""
    page = top + "".join(f"\n{panel}" for panel in panels) + end
    if page.count("\n") >= LINES:
        page = top + "\n" + "".join(panels) + end
    formatter.write(page)


_Row = tuple[str, str, str]
"""Name, text and default."""


def _rows(command: Command | Group, ctx: typer.Context) -> dict[str, list[_Row]]:
    """Return the rows of each panel. --help, the last option, is in the panel of the option before it."""
    panels: dict[str, list[_Row]] = {}
    title = "Options"
    for param in command.get_params(ctx):
        title = getattr(param, "rich_help_panel", None) or title
        panels.setdefault(title, []).append((_name(param), param.help, _default(param, ctx)))
    for name, subcommand in getattr(command, "commands", {}).items():
        title = subcommand.rich_help_panel or "Commands"
        panels.setdefault(title, []).append((name, (subcommand.help or "").split("\n\n")[0], ""))
    return panels


def _panel(title: str, rows: list[_Row], names: int, width: int) -> str:
    name, *headings = title.split("\t")
    cells = [(default.split("\t") + [""] * len(headings))[: len(headings)] for *_, default in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]

    def start(name: str, values: list[str]) -> str:
        return "  ".join([name.ljust(names + 2), *(v.ljust(w) for v, w in zip(values, widths, strict=True))]).rstrip()

    lines = [typer.style(start(f"{name}:", headings), bold=True)]
    indent = " " * (names + 4 + sum(widths) + 2 * len(widths))
    for (name, text, default), values in zip(rows, cells, strict=True):
        if default and not headings:
            text = f"{text} [default: {default}]"
        first = start(f"  {name}", values)
        text = _wrapped(text, width, indent)
        if len(name) <= names:
            lines.append(first.ljust(len(indent)) + text.lstrip())
        else:
            lines += [first, text]
    return "".join(f"{line}\n" for line in lines)


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return param.metavar or param.name.upper()
    names = ", ".join(sorted([*param.opts, *param.secondary_opts], key=lambda name: name.startswith("--")))
    return names if param.is_flag else f"{names} {_metavar(param)}"


def _metavar(param: Any) -> str:
    choices = getattr(param.type, "choices", None)
    return param.metavar or ("|".join(choices) if choices else param.type.name.upper())


def _default(param: Any, ctx: typer.Context) -> str:
    """Return `show_default` if it is text, or else the value; "" for a flag that is off by default."""
    if isinstance(param.show_default, str):
        return param.show_default
    if not param.show_default or param.required:
        return ""
    value = param.get_default(ctx, call=False)
    if value is True and param.secondary_opts:
        return param.opts[0].lstrip("-")
    return "" if value is None or value is False else str(value)
