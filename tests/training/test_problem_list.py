"""Every second-order optimizer lowers the loss on every named problem with default settings."""

from __future__ import annotations

import numpy as np
import pytensor
import pytest
from helpers import problems

import symng
from symng import vectors

OPTIMIZERS = {
    "natural gradient": symng.NaturalGradient(),
    "natural conjugate gradient, search": symng.NaturalConjugateGradient(beta="search"),
    "natural conjugate gradient, formula": symng.NaturalConjugateGradient(beta="polak-ribiere"),
    "Hessian-free": symng.HessianFree(),
    "Krylov subspace descent": symng.KrylovSubspaceDescent(),
    "natural gradient, empirical Fisher": symng.NaturalGradient(metric=symng.EmpiricalFisher()),
    "TONGA, online": symng.TONGA(),
}


# Natural gradient on every problem, and every optimizer on the deep network. The recurrent network
# takes as long as all other problems together.
RUNS = [
    pytest.param(
        problem,
        optimizer,
        id=f"{problem}-{name}",
        marks=()
        if problem == "deep_narrow_network"
        or (name == "natural gradient" and problem != "adding_problem")
        else pytest.mark.slow,
    )
    for problem in problems.PROBLEMS
    for name, optimizer in OPTIMIZERS.items()
]


@pytest.mark.parametrize("problem, optimizer", RUNS)
def test_loss_goes_down(problem, optimizer):
    objective, data = problems.PROBLEMS[problem]()
    assert objective.dtype == "float64" and objective.reduction == "mean"
    loss = pytensor.function([*objective.inputs, *objective.targets], objective.loss)
    before = loss(*data)
    result = symng.minimize(objective, optimizer, data, max_steps=3, progress=False)
    assert result.stopped == "max_steps" and loss(*data) < before
    assert np.isfinite(vectors.get_flat(objective.params)).all()
