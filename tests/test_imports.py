"""Which modules import what, read from the sources. The result does not depend on which packages are installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet_infer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CHILD = PACKAGE / "importing" / "torch_child.py"
"""Runs in a separate process."""

RUNTIMES = {"onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"}


def imports(source: str, package: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (module, whether the import runs when the file is imported) for each import in Python source code.

    An import under `if TYPE_CHECKING:` never runs; one inside a function runs later.
    """

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        match node:
            case ast.Import():
                yield from ((alias.name, at_once) for alias in node.names)
            case ast.ImportFrom():
                parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*parents, *([node.module] if node.module else [])])
                yield from ((f"{module}.{alias.name}", at_once) for alias in node.names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="__import__" | "import_module")):
                names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
                yield from ((name, at_once) for name in names)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not later and not (guarded and child in node.body))

    yield from walk(ast.parse(source), True)


@cache
def imports_of(path: Path) -> list[tuple[str, bool]]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = ".".join(parts[:-1])
    return [(module, at_once) for module, at_once in imports(path.read_text(encoding="utf-8"), package)]


def top(module: str) -> str:
    return module.split(".")[0]


def test_every_form_of_import_is_detected():
    source = """
import a.b as c
from d import e
from . import f
from ..g import h
if TYPE_CHECKING:
    import i
else:
    import j
class K:
    import l
def m():
    import n
    return __import__("o"), importlib.import_module("p")
try:
    import q
except ImportError:
    pass
"""
    expected = {
        ("a.b", True),
        ("d.e", True),
        ("x.y.f", True),
        ("x.g.h", True),
        ("i", False),
        ("j", True),
        ("l", True),
        ("n", False),
        ("o", False),
        ("p", False),
        ("q", True),
    }
    assert set(imports(source, package="x.y")) == expected


def test_there_are_sources_to_read():
    assert PACKAGE / "architecture.py" in SOURCES
    assert len(SOURCES) > 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_imports_neither_the_trainer_nor_torch(path):
    wrong = {top(module) for module, _ in imports_of(path)} & {"train", "torch", "torchvision"}
    assert wrong == ({"torch"} if path == CHILD else set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_program_that_reads_pickles(path):
    assert "torch_child" not in " ".join(module for module, _ in imports_of(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_runtimes_are_imported_only_where_they_belong_and_when_they_are_used(path):
    allowed = path.relative_to(PACKAGE).parts[0] in ("backends", "engines", "export", "graph", "importing")
    for module, at_once in imports_of(path):
        if top(module) in RUNTIMES:
            assert not at_once, f"{module} is imported with the file: import it in the function that needs it"
            assert allowed, f"{module} belongs in graph/, engines/, backends/, export/ or importing/"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pyarrow_is_imported_when_it_is_used(path):
    assert ("pyarrow", True) not in [(top(module), at_once) for module, at_once in imports_of(path)]


TRAINING = sorted([*(ROOT / "train").rglob("*.py"), *(ROOT / "benchmarks" / "gpu").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES + TRAINING, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_that_a_training_machine_may_lack_are_imported_when_they_are_used(path):
    at_once = {top(module) for module, at_once in imports_of(path) if at_once}
    assert not at_once & {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "platformdirs"}


def test_the_architecture_needs_only_the_standard_library_and_msgspec():
    """A spec can be read by a program without NumPy. msgspec, which checks its values, needs no other package."""
    for name in ("architecture", "strict_json", "errors"):
        modules = {top(module) for module, _ in imports_of(PACKAGE / f"{name}.py")}
        assert modules - set(sys.stdlib_module_names) <= {"alexnet_infer", "msgspec"}


FLOORS = (
    "errors output packages files progress program version bilinear machine web help strict_json containers lettering"
    " marks csv_text digests max_drop",
    "tensor_file recognize formats pages",
    "architecture preprocess metrics",
    "presets layers manifest decode seen",
    "artifact",
    "photos kernels",
    "graph",
    "engines",
    "datasets",
    "reading",
    "backends",
    "importing",
    "predict",
    "published",
    "export",
    "nets pipeline answers",
    "annotate benchmark doctor evaluation explain",
    "features passport serve",
    "commands",
    "cli",
)
"""The rooms of the package from the ground up. Rooms on the same floor don't know each other."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
TRAIN_BELOW = "published"
"""The trainer uses the floors below this one."""
TRAIN_ALSO = {"cli.py": {"nets"}}
"""The trainer's command line finds nets by their names, as the package's does. The trainer itself gets their paths."""


def rooms_used_by(path: Path) -> set[str]:
    """The rooms of the package that a module imports, at once or later."""
    names = {module.split(".")[1] for module, _ in imports_of(path) if module.startswith("alexnet_infer.")}
    assert names <= {*FLOOR, "__version__"}, f"no floor is given for {names - {*FLOOR}}"
    return names & {*FLOOR}


INSIDE = [path for path in SOURCES if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_from_a_lower_room_to_a_higher_one(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    wrong = {room for room in rooms_used_by(path) if room != own and FLOOR[room] >= FLOOR[own]}
    on_the_ground = FLOOR[own] == 0  # the ground floor's rooms are single modules
    assert wrong <= ({room for room in FLOOR if FLOOR[room] == 0} if on_the_ground else set())


def test_every_floor_has_its_rooms():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in INSIDE}
    assert rooms == {*FLOOR}


@pytest.mark.parametrize("path", sorted((ROOT / "train").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_trainer_uses_only_the_lower_floors(path):
    higher = {room for room in rooms_used_by(path) if FLOOR[room] >= FLOOR[TRAIN_BELOW]}
    assert higher == TRAIN_ALSO.get(path.name, set())


@pytest.mark.parametrize("name", ["cli", "job", "recipe", "__main__"])
def test_the_trainers_command_line_starts_without_torch(name):
    modules = imports_of(ROOT / "train" / f"{name}.py")
    heavy = {"torch", "train.display", "train.launch", "train.loop", "train.model", "train.data", "train.finish"}
    at_once = {module for module, at_once in modules if at_once}
    assert not [module for module in at_once if module in heavy or module.rsplit(".", 1)[0] in heavy]


IMPORT_ALL = """
import importlib, importlib.metadata, re, sys

def required(name, done):
    if name not in done:
        done.add(name)
        for line in requirements(name) or ():
            needs, _, marker = line.partition(";")
            if "extra" not in marker:
                required(re.match("[A-Za-z0-9._-]+", needs)[0].lower().replace("_", "-"), done)
    return done

def requirements(name):
    try:
        return importlib.metadata.requires(name)
    except importlib.metadata.PackageNotFoundError:  # for another platform
        return None

needed = required("alexnet-infer", set())
owners = importlib.metadata.packages_distributions()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        owned = {owner.lower().replace("_", "-") for owner in owners.get(name.partition(".")[0], ())}
        if owned and not owned & needed:
            raise ImportError(f"{name} is optional")

sys.meta_path.insert(0, Refuse())
for name in ("torch", "onnxruntime", "scipy"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    sys.exit(f"{name} is not refused")
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_can_be_imported_without_optional_packages():
    """The program refuses all packages that alexnet-infer's own dependencies don't need, and imports the modules."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path != CHILD and path.stem != "__main__"
    ]
    child = subprocess.run([sys.executable, "-c", IMPORT_ALL, *modules], capture_output=True, text=True, cwd=ROOT)
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
