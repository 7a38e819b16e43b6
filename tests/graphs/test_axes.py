"""Lengths that follow from the graph."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from symng.graphs.axes import infer_length

ROWS = pytensor.shared(np.ones((4, 2)), name="rows")


@pytest.mark.parametrize(
    "v, length",
    [
        (pt.zeros((3, 2)), 3),
        (ROWS[1:], 3),
        (pt.concatenate([ROWS, ROWS]), 8),
        (pt.matrix("x"), None),
        (pt.arange(pt.lscalar("n")), None),
    ],
    ids=["static", "shared", "computed", "input", "depends on a value"],
)
def test_length_of_the_first_axis(v, length):
    assert infer_length(v, 0) == length


def test_the_steps_of_a_scan_are_a_length():
    """PyTensor infers a constant, which no node computes."""
    trace = pytensor.scan(
        lambda s: s + 1, outputs_info=[pt.constant(0.0)], n_steps=5, return_updates=False
    )
    assert trace.type.shape == (None,)
    assert infer_length(trace, 0) == 5
