"""examples/pinn_poisson.py: its equation, its methods and its picture."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import symng

poisson = importlib.import_module("pinn_poisson")
SMALL = "--hidden 6 --points 40 --boundary 20 --seeds 1 --mode FAST_COMPILE"


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_right_hand_side_belongs_to_the_solution(dimensions):
    """The Laplacian of the solution by differences is -f."""
    options = poisson.parse([*SMALL.split(), "--dimensions", str(dimensions)])
    (X, F), (Z,) = poisson.make_problem(options, 0).data
    h = 1e-4
    laplacian = sum(
        (poisson.exact(X + h * e) - 2 * poisson.exact(X) + poisson.exact(X - h * e)) / h**2
        for e in np.eye(dimensions)
    )
    np.testing.assert_allclose(laplacian, -F, atol=1e-5)
    np.testing.assert_allclose(poisson.exact(Z), 0, atol=1e-14)
    assert ((Z == 0) | (Z == 1)).any(axis=1).all()


def test_the_output_of_the_first_term_is_the_laplacian():
    problem = poisson.make_problem(poisson.parse(SMALL.split()), 0)
    (x,) = problem.objective.terms[0].inputs
    found = problem.objective.terms[0].outputs[0].eval({x: problem.data[0][0]})
    X, h = problem.data[0][0], 1e-4
    wanted = sum(
        (problem.predict(X + h * e) - 2 * problem.predict(X) + problem.predict(X - h * e)) / h**2
        for e in np.eye(2)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_every_method_runs(tmp_path, capsys):
    arguments = [*SMALL.split(), "--compare", "--seconds", "1", "--out", str(tmp_path)]
    assert poisson.main(arguments) == 0
    errors = re.findall(r"^(.*): median error (.*)$", capsys.readouterr().out, flags=re.M)
    assert [method for method, _ in errors] == [*poisson.COLORS]
    assert np.isfinite([float(error) for _, error in errors]).all()
    assert (tmp_path / "pinn_poisson.png").read_bytes().startswith(b"\x89PNG")


def test_gauss_newton_solves_the_equation():
    options = poisson.parse([*SMALL.split(), "--dimensions", "1", "--damping", "1e-3"])
    problem = poisson.make_problem(options, 0)
    optimizer = poisson.make_optimizer("QR", options)
    symng.minimize(
        problem.objective, optimizer, problem.data, max_steps=60, progress=False, mode=options.mode
    )
    assert problem.error() < 0.02


def test_the_page_lists_the_options_of_the_command(capsys):
    with pytest.raises(SystemExit):
        poisson.parse(["--help"])
    known = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, flags=re.M))
    page = (Path(__file__).parents[2] / "docs" / "pinn_poisson.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, flags=re.M)) == known
