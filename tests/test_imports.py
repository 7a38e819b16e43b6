"""The rooms of the package import each other only as the architecture says, told from the source without importing it.

A room is a module or a subpackage of `symng`; private helper modules belong to the room they were taken out of.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import symng

PACKAGE = Path(symng.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# Private modules, and the room that each is part of.
HELPERS = {
    "_activations": "objective",
    "_chunks": "objective",
    "_convolution": "models",
    "_describe": "objective",
    "_examples": "objective",
    "_failures": "backends",
    "_files": "history",
    "_graph": "objective",
    "_heads": "objective",
    "_hidden": "metrics",
    "_initializers": "models",
    "_jax_scan": "backends",
    "_loss_reading": "objective",
    "_jax_shapes": "backends",
    "_losses": "models",
    "_matching": "objective",
    "_numba": "backends",
    "_objective_checks": "objective",
    "_places": "objective",
    "_output_products": "objective",
    "_plain": "backends",
    "_plane": "search",
    "_rebuild": "_loop",
    "_recognize": "objective",
    "_scans": "objective",
    "_subspace": "search",
    "_keywords": "_checks",
    "_table": "history",
    "_targets": "objective",
    "_trial": "objective",
}

# What a room may import from the package, itself and its helpers aside. `_checks` is the floor of all rooms but the
# records, which are NumPy alone.
BASE = {"_checks", "_derivatives", "_loop", "_repr", "vectors", "backends", "operators"}
MODEL = BASE | {"likelihoods", "objective"}
ROOMS: dict[str, set[str]] = {
    "_checks": set(),
    "_derivatives": {"_checks", "_loop"},
    "_loop": {"_checks"},
    "_repr": set(),
    "vectors": {"_checks"},
    "backends": {"_checks", "_loop"},
    "operators": BASE,
    "likelihoods": BASE,
    "objective": MODEL,
    "energy": MODEL,
    "metrics": MODEL,
    "solvers": {"_checks", "_loop", "_repr", "vectors", "operators"},
    "damping": MODEL | {"metrics", "solvers"},
    "search": MODEL | {"metrics", "solvers"},
    "optimizers": MODEL | {"metrics", "solvers", "damping", "search"},
    # The outer loop keeps the records.
    "training": MODEL | {"metrics", "solvers", "damping", "search", "optimizers", "history", "checkpoint"},
    "history": set(),
    "checkpoint": {"history"},  # for the file format that both use
    "plot": {"history"},
    "models": {"_checks"},
    "datasets": {"_checks", "history"},  # for the file format
}

# Imports inside a function, which run late, that reach further than the table: where, what.
LATE = {
    ("history", "plot"),  # History.plot draws itself
    ("history", "solvers"),  # a table has the names of verdicts
}

# What a room may import from outside beside the standard library.
NUMERIC = {"numpy", "pytensor"}
OUTSIDE: dict[str, set[str]] = {
    "backends": NUMERIC | {"jax"},
    "operators": NUMERIC | {"scipy"},
    "search": NUMERIC | {"scipy"},
    "training": NUMERIC | {"rich", "IPython"},
    "history": {"numpy", "matplotlib", "pandas"},  # the last two for annotations, and when they are asked for
    "checkpoint": {"numpy"},
    "plot": {"numpy", "matplotlib"},
    "datasets": {"numpy", "scipy", "sklearn"},
}


def room_of(path: Path) -> str:
    """Return the room that a file belongs to; "__init__" for the top of the package."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return HELPERS.get(name, name)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Return the full names that a file imports, and whether it does so inside a function."""
    tree = ast.parse(path.read_text())
    late = {
        inner
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively: write symng.{node.module}"
            assert node.module is not None
            if node.module == "symng":
                found += [(f"symng.{alias.name}", node in late) for alias in node.names]
            else:
                found.append((node.module, node in late))
            assert all(alias.name != "*" for alias in node.names), f"{path.name}:{node.lineno} imports *"
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestFile:
    def test_imports_only_what_its_room_may(self, path):
        room = room_of(path)
        if room == "__init__":
            # Importing symng must stay cheap: rooms only, and of them not the one that needs matplotlib.
            names = [name for name, _ in imports_of(path) if name.split(".")[0] not in sys.stdlib_module_names]
            assert all(name.startswith("symng.") and not name.startswith("symng.plot") for name in names), names
            return
        assert room in ROOMS, f"{room} is in no row of the table: add it, or make it a helper of a room"
        for name, late in imports_of(path):
            parts = name.split(".")
            if parts[0] == "symng":
                assert len(parts) > 1, f"{path.name} imports the whole package: import the room"
                other = HELPERS.get(parts[1], parts[1])
                allowed = ROOMS[room] | {room}
                assert other in allowed or (late and (room, other) in LATE), f"{room} imports {other}"
            elif parts[0] not in sys.stdlib_module_names:
                assert parts[0] in OUTSIDE.get(room, NUMERIC), f"{room} imports {parts[0]}"

    def test_is_not_too_long(self, path):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{lines} lines, at most {MAX_LINES}: take a helper out"

    def test_calls_scan_and_function_only_in_their_rooms(self, path):
        owners = {
            ("pytensor", "scan"): "_loop", ("pytensor", "function"): "backends", ("pytensor", "grad"): "_derivatives",
            ("gradient", "pullback"): "_derivatives", ("gradient", "pushforward"): "_derivatives",
        }  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                function = node.func
                if isinstance(function.value, ast.Name):
                    owner = owners.get((function.value.id, function.attr))
                    assert owner in (None, room_of(path)), f"line {node.lineno} calls pytensor.{function.attr}"
            if isinstance(node, ast.ImportFrom) and node.module in ("pytensor", "pytensor.gradient"):
                names = {alias.name for alias in node.names}
                taken = names & {"scan", "function", "grad", "pullback", "pushforward"}
                assert not taken, f"line {node.lineno} hides a call of pytensor.{', '.join(taken)}"


def test_every_room_and_helper_is_there():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert names == set(ROOMS) | set(HELPERS) | {"__init__"}


def test_metrics_and_solvers_are_strangers():
    assert "solvers" not in ROOMS["metrics"]
    assert not ROOMS["solvers"] & {"metrics", "objective", "likelihoods"}


@pytest.mark.parametrize("module", ["jax", "matplotlib", "pandas", "scipy", "sklearn", "torch", "IPython", "rich"])
def test_import_symng_does_not_import(module):
    code = f"import sys, symng; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_datasets_and_models_come_when_they_are_asked_for():
    code = (
        "import sys, symng\n"
        "print([name for name in sys.modules if name.startswith(('symng.datasets', 'symng.models'))])\n"
        "print(symng.datasets.curves.__module__, symng.models.mlp.__module__, hasattr(symng, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "symng.datasets.curves symng.models False"], done
