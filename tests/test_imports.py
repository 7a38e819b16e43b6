"""The rooms of the package import each other only as the architecture says.

Read from the source, not by importing it.

A room is a folder or a module at the top of `symng`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import symng

PACKAGE = Path(symng.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}
MAX_LINES = 400

# What a room may import of the package, itself aside.
TOOLS = {"_checks", "graphs", "backends"}
MODEL = TOOLS | {"likelihoods", "objective"}
CURVATURE = MODEL | {"operators", "metrics"}
ROOMS: dict[str, set[str]] = {
    "_checks": set(),
    "_files": set(),
    "graphs": {"_checks"},
    "models": {"_checks", "graphs"},
    "backends": {"_checks", "graphs"},
    "likelihoods": {"_checks", "graphs"},
    "operators": TOOLS,
    "solvers": {"_checks", "graphs", "operators"},
    "objective": MODEL,
    "metrics": CURVATURE,
    "optimizers": CURVATURE | {"solvers"},
    "training": CURVATURE | {"solvers", "optimizers", "_files"},
    "datasets": {"_checks", "_files"},
    "plot": {"training"},
    "bridges": CURVATURE | {"solvers", "optimizers", "training"},
    # All public rooms. None imports it.
    "legacy": CURVATURE | {"solvers", "optimizers", "training", "models", "datasets", "_files"},
}

# What a room may import from outside, the standard library aside.
NUMERIC = {"numpy", "pytensor"}
OUTSIDE: dict[str, set[str]] = {
    "bridges": NUMERIC | {"scipy", "pymc", "pytensor_ml", "xarray"},
    "backends": NUMERIC | {"jax"},
    "operators": NUMERIC | {"scipy"},
    "optimizers": NUMERIC | {"scipy"},
    "training": NUMERIC | {"rich", "IPython", "matplotlib", "pandas"},
    "plot": {"numpy", "matplotlib"},
    "datasets": {"numpy", "scipy", "sklearn"},
    "legacy": NUMERIC | {"scipy"},
}

# The rooms, or modules, that call a function of PyTensor.
CALLERS = {
    # theano.scan is PyTensor's, whatever the script loops over.
    ("pytensor", "scan"): ("symng.graphs.loops.", "symng.legacy.theano."),
    ("pytensor", "function"): ("symng.backends.",),
    ("pytensor", "grad"): ("symng.graphs.derivatives.",),
    ("gradient", "pullback"): ("symng.graphs.derivatives.",),
    ("gradient", "pushforward"): ("symng.graphs.derivatives.",),
}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    return next(name for name, other in MODULES.items() if other == path)


def room_of(name: str) -> str:
    """Return the room of a module, given by its dotted name; "" for the top of the package."""
    return name.split(".")[1] if "." in name else ""


def imports_of(path: Path) -> set[str]:
    """Return the dotted names of the modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            line = f"{path.name}:{node.lineno}"
            assert node.level == 0 and node.module, (
                f"{line} imports relatively: write symng.{node.module}"
            )
            assert all(alias.name != "*" for alias in node.names), f"{line} imports *"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestFile:
    def test_imports_only_what_its_room_may(self, path):
        name = name_of(path)
        room = room_of(name)
        for other in imports_of(path):
            top = other.split(".")[0]
            if top != "symng":
                allowed = OUTSIDE.get(room, NUMERIC) if room else set()
                assert top in sys.stdlib_module_names or top in allowed, f"{name} imports {other}"
                continue
            assert other != "symng", f"{name} imports the whole package: import the room"
            if not room:  # importing symng must stay cheap
                assert room_of(other) not in ("plot", "legacy")
            elif room_of(other) != room:
                assert room_of(other) in ROOMS[room], f"{name} imports {other}"
                private = [part for part in other.split(".")[2:] if part.startswith("_")]
                assert not private, f"{name} imports {other}, which is private to its room"

    def test_is_not_too_long(self, path):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{lines} lines, at most {MAX_LINES}: take a helper out"

    def test_calls_scan_function_and_gradients_only_in_their_rooms(self, path):
        name = name_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                function = node.func
                if isinstance(function.value, ast.Name):
                    owners = CALLERS.get((function.value.id, function.attr))
                    assert owners is None or f"{name}.".startswith(owners), (
                        f"line {node.lineno} calls it"
                    )
            if isinstance(node, ast.ImportFrom) and node.module in (
                "pytensor",
                "pytensor.gradient",
            ):
                taken = {alias.name for alias in node.names} & {function for _, function in CALLERS}
                assert not taken, f"line {node.lineno} hides a call of pytensor.{', '.join(taken)}"


def test_every_room_is_there_and_in_the_table():
    assert {room_of(name) for name in MODULES} - {""} == set(ROOMS)


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {
        name: {other for other in imports_of(path) if other in MODULES}
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.fixture(scope="module")
def imported():
    """The modules after ``import symng`` in a fresh interpreter, and what lazy attributes bring."""
    code = (
        "import sys, symng\n"
        "print(*sys.modules)\n"
        "print(symng.datasets.curves.__module__, symng.models.mlp.__module__, symng.vectors.ravel"
        ".__module__, hasattr(symng, 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules, lazy = done.stdout.splitlines()
    return set(modules.split()), lazy


@pytest.mark.parametrize(
    "module", ["jax", "matplotlib", "pandas", "scipy", "sklearn", "torch", "IPython", "rich"]
)
def test_import_symng_does_not_import(module, imported):
    assert module not in imported[0]


def test_datasets_and_models_are_imported_on_first_use(imported):
    modules, lazy = imported
    late = ("symng.datasets", "symng.models", "symng.legacy", "symng.bridges")
    assert not [name for name in modules if name.startswith(late)]
    assert lazy == "symng.datasets.curves symng.models.networks symng.graphs.vectors False"
