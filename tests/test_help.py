"""The help pages of `alexnet-infer` and `python -m train`, for every command that the Typer apps have."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from alexnet_infer import cli, errors
from alexnet_infer.engines.files import RTX_CAPABILITIES
from alexnet_infer.evaluation.agreement import TOLERANCES
from alexnet_infer.export.calibration import Calibration
from alexnet_infer.presets import PRESETS, Variant
from train import cli as trainer
from train.recipe import RECIPES

APPS = {"alexnet-infer": cli.app, "python -m train": trainer.app}
PROGRAMS = ("alexnet-infer", "python -m train", "torchrun --nproc-per-node 2 -m train")

ACT_ONLY_IF_GIVEN = {
    "alexnet-infer classify": {"--annotate"},
    "alexnet-infer eval": {"--report", "--save-predictions", "--per-class", "--confusion", "--fail-if"},
    "alexnet-infer eval merge": {
        *("--data", "--report", "--save-predictions", "--per-class", "--confusion", "--fail-if"),
    },
    "alexnet-infer export": {"--calibrate", "--keep-float", "--max-drop", "--photo", "--passport", "--triton", "--web"},
    "alexnet-infer similar": {"--report"},
    "alexnet-infer compare": {"--data", "--max-drop"},
    "alexnet-infer benchmark": {"--plot"},
    "alexnet-infer explain": {"--compare"},
    "alexnet-infer import": {"--data"},
    "alexnet-infer data check": {"--model"},
    "python -m train": {"--data", "--init-from"},
    "python -m train reproduce": {"--data"},
}
"""Options with a value and no default."""


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from walk(subcommand, (*path, name))


COMMANDS = {" ".join(path): command for name, app in APPS.items() for path, command in walk(get_command(app), (name,))}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def page(monkeypatch, capsys) -> Callable[..., str]:
    """page("alexnet-infer export") -> the help page of a command, as the program prints it in a terminal."""

    def page(name: str, columns: int = 80) -> str:
        program = next(program for program in APPS if name.startswith(program))
        arguments = [*name.removeprefix(program).split(), "--help"]
        monkeypatch.setenv("COLUMNS", str(columns))
        get_command(APPS[program]).main(arguments, prog_name=program, standalone_mode=False)
        return capsys.readouterr().out

    return page


def row(text: str, name: str) -> str:
    """The lines of the row of an option or argument, whose name must be in the column of names as a whole word."""
    blocks = re.findall(r"^  \S.*\n(?: {6,}\S.*\n)*", text.partition("Examples:")[0], re.MULTILINE)
    matches = [
        block
        for block in blocks
        for names in [re.split(r"\s{2,}", block.strip())[0]]
        if name == names or name in [word.split()[0] for word in names.split(", ")]
    ]
    assert len(matches) == 1, f"{name}: {matches}"
    return matches[0]


def examples(text: str) -> list[str]:
    block = text.partition("Examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines()]


def parsed(example: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The full name of the command that an example calls. All its values are parsed, and nothing runs."""
    for module in ("nets", "cli.options"):
        monkeypatch.setattr(f"alexnet_infer.{module}.find_net", Path)
    program = next(program for program in PROGRAMS if example.startswith(program + " "))
    app = "alexnet-infer" if program == "alexnet-infer" else "python -m train"
    calls: list[str] = []
    command = get_command(APPS[app])
    for path, subcommand in walk(command, (app,)):
        subcommand.callback = lambda path=path, **values: calls.append(" ".join(path))
    command.main(shlex.split(example.removeprefix(program)), prog_name=app, standalone_mode=False)
    return calls[-1]


@every_command
def test_a_page_fits_a_screen_of_60_lines_and_80_columns(name, page):
    lines = page(name).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


@every_command
def test_every_option_choice_and_word_is_whole(name, page):
    text = page(name)
    for param in COMMANDS[name].params:
        options = [*param.opts, *param.secondary_opts] if param.param_type_name == "option" else [param.metavar]
        for option in options:
            words = re.split(r"[\s|,.;:\[\]]+", row(text, option))
            assert set(getattr(param.type, "choices", ())) <= set(words), option
            assert set(param.help.split()) <= set(row(text, option).split()), option


@every_command
def test_options_are_in_panels_by_purpose(name, page):
    command, text = COMMANDS[name], page(name)
    if name not in ("alexnet-infer", "alexnet-infer data"):  # only --version and --help
        assert "\nOptions:\n" not in text
        assert all(param.rich_help_panel for param in command.params)


@every_command
def test_every_default_is_shown(name, page):
    text = page(name)
    for param in COMMANDS[name].params:
        if param.param_type_name == "argument" or (param.is_flag and not param.secondary_opts) or param.required:
            continue
        option = param.opts[-1]
        if option in ACT_ONLY_IF_GIVEN.get(name, ()):
            assert "[default:" not in row(text, option)
        elif option.removeprefix("--").replace("-", "_") not in (field.name for field in fields(RECIPES["paper"])):
            shown = re.search(r"\[default: (.*?)\]", " ".join(row(text, option).split()))
            assert shown, option
            if param.default is not None and not param.is_flag:
                assert shown[1] == str(param.default)


def test_the_trainer_shows_the_values_of_both_recipes(page):
    text = page("python -m train")
    heading = next(line for line in text.splitlines() if line.startswith("Recipe:"))
    assert heading.split() == ["Recipe:", "paper", "fast"]
    for field in fields(RECIPES["paper"]):
        if field.name != "name":
            values = [getattr(RECIPES[name], field.name) for name in ("paper", "fast")]
            line = row(text, f"--{field.name.replace('_', '-')}").splitlines()[0]
            for i, value in enumerate(values):
                shown = line[heading.index(("paper", "fast")[i]) :].split()[0]
                assert shown == ("all" if value is None else str(value) if isinstance(value, str) else f"{value:g}")


def test_the_trainer_lists_the_presets_and_shows_the_values_of_the_papers(page):
    text = page("python -m train")
    assert f"{', '.join(PRESETS)} [default: alexnet]" in " ".join(row(text, "--preset").split())
    assert f"[default: {','.join(map(str, Variant().kernels))}]" in row(text, "--kernels")
    for option, field in (("--hidden", "hidden"), ("--net-columns", "columns"), ("--normalization", "normalization")):
        assert f"[default: {getattr(Variant(), field)}]" in row(text, option)


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--compute-capability", ",".join(RTX_CAPABILITIES)),
        ("--calibration-images", str(Calibration(source=Path()).images)),
        ("--calibration-method", Calibration(source=Path()).method),
        ("--tolerance", f"{TOLERANCES['fp32']:.0e}".replace("e-0", "e-") + "; fp16: 0.01; int8: 0.15"),
    ],
)
def test_defaults_that_other_modules_define_are_the_ones_shown(option, default, page):
    assert f"[default: {default}]" in " ".join(row(page("alexnet-infer export"), option).split())


@every_command
def test_a_page_has_two_examples_that_parse(name, monkeypatch, page):
    lines = examples(page(name))
    assert len(lines) >= 2
    for example in lines:
        assert parsed(example, monkeypatch).startswith(name)


@pytest.mark.parametrize(
    "example", ["alexnet-infer export --presicion fp16", "alexnet-infer export --precision fp8", "alexnet-infer exprot"]
)
def test_an_example_with_a_wrong_word_does_not_parse(example, monkeypatch):
    with pytest.raises(typer.TyperException):
        parsed(example, monkeypatch)


def test_every_exit_code_is_documented(page):
    text = page("alexnet-infer").partition("Exit codes:")[2]
    subclasses = errors.AlexNetInferError.__subclasses__()
    codes = {0, 130, errors.AlexNetInferError.exit_code, *(error.exit_code for error in subclasses)}
    assert {int(code) for code in re.findall(r"(?:^|;)\s*(\d+) ", text)} == codes


def test_a_narrow_terminal_cuts_nothing_either(page):
    text = page("alexnet-infer export", columns=60)
    assert "…" not in text
    assert "--compute-capability X,Y" in text
    assert max(map(len, text.splitlines())) <= 75  # the examples, which are not wrapped


@pytest.mark.parametrize(
    ("name", "given", "present"),
    [
        ("alexnet-infer eval", ["--engine", "ray"], ["--on", "ray"]),
        ("alexnet-infer eval", ["--engine=ray"], ["--on=ray"]),
        ("python -m train", ["--columns"], ["--split-columns"]),
    ],
)
def test_an_earlier_name_of_an_option_still_works_and_names_the_present_one(name, given, present, capsys):
    values = [COMMANDS[name].make_context(name, list(arguments)).params for arguments in (present, given)]
    old, new = given[0].partition("=")[0], present[0].partition("=")[0]
    assert capsys.readouterr().err == f"{old} is now called {new}\n"
    assert values[0] == values[1] != COMMANDS[name].make_context(name, []).params


def test_an_earlier_name_is_not_replaced_after_a_command_or_two_hyphens(capsys):
    COMMANDS["alexnet-infer eval"].make_context("eval", ["merge", "--engine", "ray"])
    COMMANDS["alexnet-infer eval"].make_context("eval", ["--", "--engine", "ray"])
    assert capsys.readouterr().err == ""


def test_an_earlier_name_is_not_replaced_where_the_option_is_unknown(capsys):
    with pytest.raises(Exception, match="No such option: --engine"):
        COMMANDS["alexnet-infer compare"].make_context("compare", ["a", "b", "--engine", "ray"])
    assert capsys.readouterr().err == ""
