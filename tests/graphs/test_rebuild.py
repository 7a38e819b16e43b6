"""Replacing variables copies only what depends on them.

A loop that does not is the same loop afterwards.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import problems
from helpers.compiled import outer_nodes
from pytensor.compile.maker import FunctionMaker
from pytensor.compile.sharedvalue import shared
from pytensor.scan.op import Scan

import symng
from symng.graphs.loops import while_loop
from symng.graphs.rebuild import rebuild
from symng.training.program import Program

KRONECKER = symng.KroneckerPreconditioner()
SEARCH = symng.BacktrackingLineSearch()

# While loops of a step: the solver's, and those of a search and of what keeps inverses.
LOOPS = {
    "SGD": (symng.SGD(step_size=0.1), 0),
    "Adam": (symng.Adam(step_size=0.1), 0),
    "CG": (symng.NaturalGradient(solver=symng.CG(maxiter=5)), 1),
    "MINRES-QLP": (symng.NaturalGradient(damping=0.1), 1),
    "line search": (symng.NaturalGradient(solver=symng.CG(), step_size=SEARCH), 2),
    "Kronecker": (
        symng.NaturalGradient(solver=symng.CG(), step_size=SEARCH, preconditioner=KRONECKER),
        3,
    ),
    "formula": (symng.NaturalConjugateGradient(solver=symng.CG(), beta="polak-ribiere"), 2),
    "quadratic": (symng.NaturalConjugateGradient(solver=symng.CG(), beta="quadratic"), 1),
    "plane search": (symng.NaturalConjugateGradient(solver=symng.CG()), 1),
    "HessianFree": (symng.HessianFree(), 3),
    "Krylov": (symng.KrylovSubspaceDescent(), 1),
    "TONGA": (symng.TONGA(), 0),
}


def count_loops(nodes):
    return sum(isinstance(node.op, Scan) and node.op.info.as_while for node in nodes)


@pytest.mark.parametrize("name", LOOPS)
def test_a_step_on_a_recurrent_model_solves_once(name, monkeypatch):
    optimizer, loops = LOOPS[name]
    objective, _ = problems.adding_problem()
    # The graph as PyTensor compiles it; linking it takes longest, and changes no graph.
    monkeypatch.setattr(
        FunctionMaker,
        "create",
        lambda self, *args, **kwargs: SimpleNamespace(maker=self, get_shared=list),
    )
    program = Program(symng.compile_step(objective, optimizer).build(), "FAST_COMPILE")
    found = [count_loops(outer_nodes(f)) for f in program.functions]
    # With a search on the host the solve is in the first stage alone.
    assert found in ([loops], [loops, 0, 0])


def halvings(x):
    """Return the result of a loop that halves ``x`` until it is below 1."""
    return while_loop(lambda s: {"x": s["x"] / 2}, lambda s: s["x"] >= 1, {"x": x}, 50)["x"]


def test_what_does_not_depend_on_the_replaced_stays_the_same():
    x, y, z = pt.dscalars("x", "y", "z")
    loop = halvings(x)
    middle = pt.exp(y) + loop
    output = middle * pt.sqrt(loop) + y
    (changed,) = rebuild([output], {y: z})
    assert changed is not output
    nodes = set(pytensor.graph.traversal.toposort([output, changed]))
    assert count_loops(nodes) == 1
    found = changed.eval({x: 12.0, z: 2.0})
    assert found == pytest.approx((np.exp(2.0) + 0.75) * np.sqrt(0.75) + 2.0)
    # A variable in the middle that itself depends on the loop, beside one before it.
    (changed,) = rebuild([output], {middle: z, y: 2 * z})
    assert count_loops(pytensor.graph.traversal.toposort([output, changed])) == 1
    assert changed.eval({x: 12.0, z: 3.0}) == pytest.approx(3.0 * np.sqrt(0.75) + 6.0)


def test_replaced_outputs_and_graphs_without_the_replaced():
    x, y = pt.dvectors("x", "y")
    parts = pt.split(x, [1, 2], n_splits=2)
    total = parts[0].sum() + parts[1].sum()
    # One output of a node is replaced, and the input of that node too: the output stays what it was
    # replaced by.
    (changed,) = rebuild([total], {x: 2 * x, parts[0]: y})
    assert changed.eval({x: np.array([1.0, 2.0, 3.0]), y: np.array([7.0])}) == 7.0 + 10.0
    assert rebuild([total, x, y], {pt.dvector(): x}) == [total, x, y]
    # A replacement is not searched: x -> x + y once.
    (moved,) = rebuild([x.sum()], {x: x + y})
    assert moved.eval({x: np.ones(2), y: np.ones(2)}) == 4.0


def step_of_recurrent_model(optimizer, mode, **known):
    """Return what a step gives on sequences of one number: a weight has an axis of length 1."""
    rng = np.random.default_rng(0)
    W = shared(rng.standard_normal((1, 3)), name="W", **known)
    U = shared(rng.standard_normal((3, 3)) / 2, name="U")
    x, t = pt.tensor3("x"), pt.matrix("t")
    states = pytensor.scan(
        lambda x_t, h: pt.tanh(x_t @ W + h @ U),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 3))],
        return_updates=False,
    )
    loss = pt.sqr(states[-1] - t).sum(axis=1).mean() / 2
    objective = symng.Objective(loss, states[-1], [W, U], [x], [t], data_axes=[1, 0])
    step = symng.compile_step(objective, optimizer, mode=mode)
    info = step((rng.standard_normal((4, 5, 1)), rng.standard_normal((5, 3))))
    return [info.loss, info.new_loss, *W.get_value()[0]]


@pytest.mark.parametrize("name", ["CG", "plane search", "Krylov"])
def test_scans_take_parameters_with_an_axis_of_length_one(name):
    """The graph need not know of it: the step is that of the model where it does."""
    optimizer = LOOPS[name][0]
    found = step_of_recurrent_model(optimizer, "FAST_COMPILE")
    known = step_of_recurrent_model(optimizer, "FAST_COMPILE", shape=(1, 3))
    np.testing.assert_allclose(found, known, rtol=1e-12)
    assert found[1] < found[0]


@pytest.mark.slow
def test_jax_takes_them_too():
    pytest.importorskip("jax")
    optimizer = LOOPS["CG"][0]
    found = step_of_recurrent_model(optimizer, "JAX")
    np.testing.assert_allclose(
        found, step_of_recurrent_model(optimizer, "FAST_COMPILE"), rtol=1e-10
    )
