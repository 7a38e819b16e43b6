"""What is public is documented, shown by an example, and behaves as the reference says."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

import symng
from symng import *  # noqa: F403 - what eval(repr(...)) of a configuration object needs

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
MODULES = (
    "symng",
    "symng.models",
    "symng.datasets",
    "symng.plot",
    "symng.legacy",
    "symng.bridges.scipy",
)

# Bases that cannot be made without a subclass (docs/extending.md has the examples), and results
# that only the package makes: the examples of what returns them show them.
BASES = {"Damping", "Likelihood", "Metric", "Optimizer", "Preconditioner", "Solver", "StepSize"}
RESULTS = {"Batch", "CompiledStep", "Match", "Step", "StepInfo", "StepBatches"}
# Dataclasses that are no configuration: they hold graphs or numbers.
HOLDERS = {
    "Batch",
    "LinearOperator",
    "Match",
    "Solution",
    "State",
    "Step",
    "StepBatches",
    "StepInfo",
    "TrainingResult",
}

PUBLIC = {name: getattr(symng, name) for name in symng.__all__}
CONFIGURATIONS = {
    name: kind
    for name, kind in PUBLIC.items()
    if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and name not in HOLDERS
}

# Settings that are not the defaults, by the name of the class. Every configuration that has
# settings is here.
CHANGED = {
    "Adam": dict(step_size=0.1, beta1=0.8, beta2=0.99, epsilon=1e-6),
    "BacktrackingLineSearch": dict(
        size=0.5, shrink=0.25, sufficient_decrease=0.01, max_evaluations=7
    ),
    "Bernoulli": dict(logits=True),
    "CG": dict(rtol=1e-3, atol=1e-8, maxiter=7, recompute=False, check=True),
    "Categorical": dict(logits=True),
    "EarlyStopping": dict(
        monitor="accuracy", patience=3, min_delta=0.1, higher_is_better=True, restore_best=True
    ),
    "EmpiricalFisher": dict(centered=True),
    "Fisher": dict(form="output"),
    "FixedDamping": dict(value=0.5),
    "FixedStep": dict(size=0.5),
    "Gaussian": dict(std=2.0),
    "HessianFree": dict(
        metric=symng.Fisher(),
        solver=symng.CG(maxiter=7),
        damping=symng.FixedDamping(value=1.0),
        step_size=0.5,
        warm_start=0.0,
        preconditioner=None,
    ),
    "KrylovSubspaceDescent": dict(
        metric=symng.Fisher(),
        basis_size=7,
        damping=1.0,
        previous_direction=False,
        max_iterations=9,
        preconditioner=symng.JacobiPreconditioner(),
    ),
    "JacobiPreconditioner": dict(draws=2, decay=0.9),
    "KroneckerPreconditioner": dict(decay=0.9, refresh=3, sharing="reduce"),
    "LevenbergMarquardt": dict(
        initial=5.0, ratio="quadratic", lower=0.2, upper=0.8, reject_below=0.0
    ),
    "MinresQLP": dict(
        rtol=1e-3, maxiter=7, max_norm=1e4, condition_limit=1e5, transition_condition=1.0
    ),
    "NaturalConjugateGradient": dict(
        beta="polak-ribiere",
        solver=symng.CG(maxiter=7),
        step_size=symng.BacktrackingLineSearch(size=2.0),
        warm_start=0.5,
    ),
    "NaturalGradient": dict(
        metric=symng.GaussNewton(),
        solver=symng.CG(maxiter=7),
        damping=symng.FixedDamping(value=1.0),
        step_size=symng.BacktrackingLineSearch(),
        warm_start=0.5,
        solve_damping=2.0,
    ),
    "NystromPreconditioner": dict(rank=7, refresh=3),
    "PlaneSearch": dict(max_evaluations=9, radius=1.0, tolerance=0.1),
    "QuadraticModelStep": dict(size=0.5),
    "KLTrustRegion": dict(delta=0.01, size=1.0),
    "Poisson": dict(log_rate=True),
    "SGD": dict(step_size=0.1, momentum=0.9, nesterov=True),
    "TONGA": dict(rank=3, decay=0.9, damping=0.5, centered=True, step_size=0.1),
    "QR": dict(rtol=1e-3, solve_dtype="float64"),
    "Woodbury": dict(rtol=1e-3, proximal=True),
    "StructuralDamping": dict(metric=symng.GaussNewton(), coefficient=0.5, relative=True),
}


def names_on_reference_page() -> dict[str, list[str]]:
    """Return the names that the autosummary tables of the reference page list, by module."""
    names: dict[str, list[str]] = {}
    module = None
    inside = False
    for line in REFERENCE.read_text().splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        if line.startswith(".. autosummary::"):
            inside = True
        elif inside and (found := re.match(r" {3}(\w+)$", line)):
            assert module is not None, f"{line.strip()} stands before any currentmodule"
            names.setdefault(module, []).append(found[1])
        elif line and not line.startswith(" "):
            inside = False
    return names


@pytest.mark.parametrize("module", MODULES)
def test_reference_page_lists_the_public_names(module):
    listed = names_on_reference_page()[module]
    public = importlib.import_module(module).__all__
    assert sorted(listed) == sorted(public)


def test_reference_page_lists_nothing_else():
    assert set(names_on_reference_page()) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_names_are_sorted_and_there(module):
    imported = importlib.import_module(module)
    assert list(imported.__all__) == sorted(imported.__all__)
    assert all(hasattr(imported, name) for name in imported.__all__)


def test_nothing_public_is_left_out_of_all():
    taken = {
        name
        for name, value in vars(symng).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert taken == set(symng.__all__)


@pytest.mark.parametrize("name", symng.__all__)
def test_docstring_has_a_first_line_and_an_example(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc, f"symng.{name} has no docstring"
    first = doc.splitlines()[0]
    assert first.endswith("."), (
        f"the first line of symng.{name} is no sentence on one line: {first!r}"
    )
    assert (">>>" in doc) != (name in BASES | RESULTS), (
        f"symng.{name}: an example, or a place in the lists above"
    )


@pytest.mark.parametrize("name", [name for name in symng.__all__ if inspect.isclass(PUBLIC[name])])
def test_every_public_method_has_a_docstring_of_its_own_or_of_its_base(name):
    kind = PUBLIC[name]
    for method, value in inspect.getmembers(kind, inspect.isroutine):
        if not method.startswith("_") and str(getattr(value, "__module__", "")).startswith("symng"):
            assert inspect.getdoc(value), f"symng.{name}.{method}"


@pytest.mark.parametrize("module", MODULES)
def test_every_argument_is_described(module):
    imported = importlib.import_module(module)
    for name in imported.__all__:
        thing = getattr(imported, name)
        if module == "symng" and name in BASES | RESULTS | {"Status"}:
            continue
        described = {
            word.strip(" *")
            for line in re.findall(
                r"^(\S[^:\n]*?) :|^(\S[^:\n]*)$\n {4}", inspect.getdoc(thing) or "", re.M
            )
            for part in line
            for word in part.split(",")
        }
        arguments = [
            p.name
            for p in inspect.signature(thing).parameters.values()
            if p.name not in ("self", "row")
        ]
        missing = [a for a in arguments if a not in described]
        assert not missing, f"{module}.{name} does not describe {', '.join(missing)}"


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_configuration_is_frozen_keyword_only_and_rebuilt_by_its_repr(name):
    kind = CONFIGURATIONS[name]
    fields = dataclasses.fields(kind)
    assert kind.__dataclass_params__.frozen
    by_position = ["step_size"] if name in ("Adam", "SGD") else []
    assert [field.name for field in fields if not field.kw_only] == by_position
    assert bool(fields) == (name in CHANGED), f"{name}: settings and the table above do not agree"
    for settings in ({}, CHANGED.get(name, {})):
        made = kind(**settings)
        rebuilt = eval(repr(made))
        assert rebuilt == made
        assert repr(rebuilt) == repr(made)
    assert repr(kind()) == f"{name}()"
    if fields:
        assert kind() != kind(**CHANGED[name])
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kind(), fields[0].name, None)
        with pytest.raises(TypeError):
            kind(*list(CHANGED[name].values())[: len(by_position) + 1])


def test_the_table_of_changed_settings_names_configurations_only():
    assert set(CHANGED) <= set(CONFIGURATIONS)
