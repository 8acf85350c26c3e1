"""A missing, broken, too old or too new PyTorch is one line with the versions; the range is that of pyproject.toml."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

from tests.train.program import ROOT, assert_one_line, program, train_small
from train import launch
from train.requirements import RELEASES, TORCH, import_failure, installed_torch


def run_with_torch(folder: Path, source: str) -> tuple[int, str, str]:
    """Run the program with an installed PyTorch 2.8.0 that consists of `source`."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(source)
    (folder / "torch-2.8.0.dist-info").mkdir()
    (folder / "torch-2.8.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\n")
    result = program("--data", str(folder), before=f"import sys; sys.path.insert(0, {str(folder)!r})")
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open"),
        ("raise OSError('libtorch_cpu.so: cannot open shared object file')", "libtorch_cpu.so: cannot open"),
        ("import ctypes; ctypes.CDLL('libmissing.so.0')", "libmissing.so.0: cannot open"),
        ("", "cannot import name 'Tensor'"),
        ("from torch import missing", "cannot import name 'missing'"),
        ("raise RuntimeError('two\\n  lines')", "(two lines)"),
    ],
    ids=["shared library", "OSError", "ctypes", "attribute", "name", "RuntimeError"],
)
def test_a_broken_pytorch_is_a_one_line_error_with_its_version_and_the_supported_ones(tmp_path, source, cause):
    result = run_with_torch(tmp_path, source)
    assert_one_line(result, 5, "the trainer can't be imported", "found PyTorch 2.8.0", "2.9 to 2.14", f'"{TORCH}"')
    assert cause in result[2]
    assert result[2].count("\n") == 1


def test_a_name_that_the_installed_pytorch_lacks_is_a_one_line_error():
    result = program("--data", "x", before="import torch.library; del torch.library.custom_op")
    installed = importlib.metadata.version("torch")
    assert result.returncode == 5
    assert result.stderr.count("\n") == 1
    assert f"'custom_op'): found PyTorch {installed}, expected a working PyTorch 2.9 to 2.14" in result.stderr


def test_an_import_that_fails_during_the_run_is_a_one_line_error(run, data, tmp_path, monkeypatch):
    def late(*arguments):
        from torch.distributed import no_such_name  # noqa: F401

    monkeypatch.setattr(launch, "launch", late)
    assert_one_line(train_small(run, data, tmp_path / "out"), 5, "no_such_name", "found PyTorch 2.")


@pytest.mark.parametrize("name", ["typer", "rich", "safetensors"])
def test_a_missing_package_is_a_one_line_error_with_its_name(data, name):
    before = f"""
import sys
class Missing:
    def find_spec(name, path, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing)
"""
    result = program("--data", str(data), before=before)
    assert (result.returncode, result.stderr) == (5, f"error: the trainer needs {name}: pip install {name}\n")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libblas.so.3: cannot open shared object file')", "(libblas.so.3: cannot open"),
        ("import ctypes; ctypes.CDLL('libmissing.so.0')", "(libmissing.so.0: cannot open"),
        ("", "'numpy'"),
        ("1 +", "invalid syntax"),
    ],
    ids=["shared library", "ctypes", "empty", "syntax"],
)
def test_a_broken_numpy_is_not_blamed_on_pytorch(tmp_path, source, words):
    package = tmp_path / "site-packages" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    result = program("prepare", "x", "--out", "y", before=f"import sys; sys.path.insert(0, {str(package.parent)!r})")
    assert_one_line((result.returncode, result.stdout, result.stderr), 5, "the trainer needs numpy: can't be", words)
    assert result.stderr.endswith("; pip install --force-reinstall numpy\n")
    assert result.stderr.count("\n") == 1


def test_the_version_is_known_without_metadata(monkeypatch):
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("train.requirements.version", nothing)
    import torch

    assert installed_torch() == torch.__version__
    monkeypatch.setitem(sys.modules, "torch", None)
    assert installed_torch() is None
    assert "found PyTorch (none)" in str(import_failure(ImportError("x")))


def test_the_supported_releases_are_those_of_pyproject():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert TORCH in extras["train"]
    oldest, _, newest = RELEASES.partition(" to ")
    major, minor = newest.split(".")
    assert f"torch>={oldest},<{major}.{int(minor) + 1}" == TORCH


def test_the_tested_versions_are_within_what_pyproject_allows():
    """Each line of constraints.txt pins a package that pyproject.toml names, within its range."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(text for texts in project["optional-dependencies"].values() for text in texts)]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in lines
    for line in lines:
        name, version = line.split("==")
        ranges = [r.specifier for r in map(Requirement, named) if r.name.lower() == name.lower()]
        assert ranges, f"{name} is in no extra"
        assert all(version in specifier for specifier in ranges), line
