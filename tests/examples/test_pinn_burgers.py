"""examples/pinn_burgers.py: its exact solution, its residual, and a small run of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.modes import needs_jax
from scipy.special import ive

burgers = importlib.import_module("pinn_burgers")
SMALL = (
    "--hidden 8 --layers 2 --points 60 --initial 20 --boundary 10 --viscosity 0.1 --steps 20 "
    "--seeds 1 --mode FAST_COMPILE"
)


@pytest.mark.parametrize("viscosity", [0.01 / np.pi, 0.1])
def test_the_exact_solution_starts_from_a_sine_and_is_zero_on_the_sides(viscosity):
    x = np.linspace(-1, 1, 21)
    start = burgers.exact(np.column_stack([np.zeros(21), x]), viscosity)
    np.testing.assert_allclose(start, -np.sin(np.pi * x), atol=1e-12)
    t = np.linspace(0, 1, 11)
    for side in (-1.0, 1.0):
        np.testing.assert_allclose(
            burgers.exact(np.column_stack([t, np.full(11, side)]), viscosity), 0, atol=1e-12
        )


def test_the_exact_solution_is_the_fourier_series():
    # phi = sum a_n exp(-n^2 pi^2 nu t) cos(n pi x), u = -2 nu phi_x / phi, with Bessel's a_n.
    viscosity, n = 0.05, np.arange(60)[:, None]
    t, x = np.array([[0.1, 0.4, 0.9], [-0.7, 0.05, 0.3]])
    a = (-1.0) ** n * np.where(n == 0, 1, 2) * ive(n, 1 / (2 * np.pi * viscosity))
    a = a * np.exp(-((n * np.pi) ** 2) * viscosity * t)
    phi = np.sum(a * np.cos(n * np.pi * x), axis=0)
    slope = np.sum(-n * np.pi * a * np.sin(n * np.pi * x), axis=0)
    expected = -2 * viscosity * slope / phi
    found = burgers.exact(np.column_stack([t, x]), viscosity)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_loss_is_that_of_finite_differences():
    options = burgers.parse([*SMALL.split(), "--weight", "3"])
    problem = burgers.make_problem(options, 0)
    (inside,), (start, u_start), (side,) = problem.data
    u, h = problem.predict, 1e-4
    t, x = np.array([h, 0]), np.array([0, h])
    slope_t = (u(inside + t) - u(inside - t)) / (2 * h)
    slope_x = (u(inside + x) - u(inside - x)) / (2 * h)
    curvature = (u(inside + x) - 2 * u(inside) + u(inside - x)) / h**2
    residual = slope_t + u(inside) * slope_x - 0.1 * curvature
    losses = [np.mean(r**2) / 2 for r in (residual, u(start) - u_start, u(side))]
    step = burgers.symng.compile_step(
        problem.objective, burgers.symng.SGD(1e-3), mode="FAST_COMPILE"
    )
    loss = float(step(problem.data).loss)
    np.testing.assert_allclose(loss, losses[0] + 3 * (losses[1] + losses[2]), rtol=1e-5)


def test_a_small_network_finds_a_smooth_solution(tmp_path, capsys):
    assert burgers.main([*SMALL.split(), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "pinn_burgers.png").read_bytes().startswith(b"\x89PNG")
    assert float(re.search(r"median error (\S+)", capsys.readouterr().out)[1]) < 0.5


def test_the_viscosity_falls_to_its_final_value():
    options = burgers.parse([*SMALL.split(), "--fall", "0.5"])
    problem = burgers.make_problem(options, 0)
    problem.viscosity.set_value(0.3)
    seen = []
    for loss in (0.5, 0.02, 0.02, 0.02):
        problem.lower_viscosity(loss, options)
        seen.append(float(problem.viscosity.get_value()))
    assert seen == [0.3, 0.15, 0.1, 0.1]


@pytest.mark.slow
@needs_jax
def test_a_falling_viscosity_finds_the_front_where_the_final_one_does_not():
    network = "--hidden 12 --points 1000 --initial 100 --boundary 50 --steps 90 --mode JAX"
    errors = []
    for start in ("0.1", "1e-9"):
        options = burgers.parse([*network.split(), "--start-viscosity", start])
        errors.append(burgers.train(options, 0)[0].error())
    assert errors[0] < 0.02 and errors[1] > 0.2


def test_page_lists_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        burgers.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (Path(__file__).parents[2] / "docs" / "pinn_burgers.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
