"""The matrix products of a compiled step.

As many as the mathematics needs on every backend, and none that copies.
"""

from __future__ import annotations

import pytensor.tensor as pt
import pytest
from helpers.compiled import loops_of, outer_nodes
from helpers.modes import step_modes
from pytensor.tensor.blas import Dot22, Gemm
from pytensor.tensor.math import Dot, Sum

import symng
from symng.backends import _numba_rewrites
from symng.models import binary_cross_entropy_with_logits, mlp
from symng.training.program import Program

LAYERS = 3


def products(nodes):
    """Return the nodes that multiply two matrices; a vector made a matrix of one row is none."""
    kinds = (Dot, Dot22, Gemm, _numba_rewrites.LayoutDot)
    found = [node for node in nodes if isinstance(node.op, kinds)]
    factors = [node.inputs[-3:-1] if isinstance(node.op, Gemm) else node.inputs for node in found]
    return [
        node
        for node, pair in zip(found, factors, strict=True)
        if all(x.type.ndim == 2 and 1 not in x.type.shape for x in pair[-2:])
    ]


def transposed(node):
    """Return whether a product takes a matrix that was copied to be transposed."""
    return any(x.owner is not None and "opy" in str(x.owner.op) for x in node.inputs)


@pytest.mark.parametrize("mode", step_modes())
def test_a_step_makes_no_product_too_many(mode):
    """Each layer: forward, gradient of weights and inputs, in the loop twice both.

    None for the inputs of the first.
    """
    x, t = pt.matrix("x", dtype="float32"), pt.matrix("t", dtype="float32")
    model = mlp(x, [7, 6, 5, 4], activation="tanh", output="sigmoid", seed=0, dtype="float32")
    loss = binary_cross_entropy_with_logits(model.preactivation, t).mean()
    objective = symng.Objective(
        loss, output=model.output, params=model.params, inputs=[x], targets=[t]
    )
    solver = symng.CG(maxiter=10, recompute=False)
    damping = symng.FixedDamping(value=1.0)
    step = symng.compile_step(
        objective, symng.NaturalGradient(solver=solver, damping=damping), mode=mode
    )
    (function,) = Program(step.build(), mode).functions
    outside = outer_nodes(function)
    (loop,) = [node.op for node in loops_of(function)]
    within = outer_nodes(loop.fn if mode == "CVM" else loop.fgraph)
    inside = products(within)
    # Forward of the loss before and after the step, and one backward pass.
    assert len(products(outside)) == LAYERS + LAYERS + 2 * LAYERS - 1
    # Forward and backward of the tangents.
    assert len(inside) == 2 * (2 * LAYERS - 1)
    assert not any(transposed(node) for node in inside)
    # The gradients of the biases, in the loop and before it.
    nodes = [*outside, *within]
    sums = [
        node.op
        for node in nodes
        if isinstance(node.op, Sum) and node.inputs[0].ndim == 2 and node.op.axis == (0,)
    ]
    assert all(op.acc_dtype == "float32" for op in sums)
    # Where a later PyTensor fuses them with what they sum.
    assert len(sums) == 2 * LAYERS or mode == "NUMBA"
