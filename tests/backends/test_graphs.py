"""A sample of the table of backends.

Kinds of graph that people write give the numbers of plain Python.
"""

from __future__ import annotations

import pytest
from helpers import graphs

# Kind of graph, way to use it, mode. All of them: python tests/benchmarks/graphs.py
CELLS = [
    ("parameters cut from one vector", "Hessian", "JAX"),
    ("batched matmul", "Hessian", "JAX"),
    ("repeat", "Fisher", "JAX"),
    ("activation split", "updates", "JAX"),
    ("ops inside an OpFromGraph", "Gauss-Newton", "JAX"),
    ("labels by arange", "Fisher", "JAX"),
    ("embedding", "to_scipy", "JAX"),
    ("attention with several heads", "empirical Fisher", "JAX"),
    ("LSTM with an embedding", "Fisher", "JAX"),
    ("one time step", "Fisher", "JAX"),
    ("last chunk of one example in attention", "Gauss-Newton", "JAX"),
    ("convolution and pooling", "Hessian", "JAX"),
    ("group norm", "to_scipy", "NUMBA"),
    ("one example", "Hessian", "JAX"),
    ("dropout", "HessianFree", "JAX"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("kind, use, mode", CELLS, ids=lambda value: value.replace(" ", "-"))
def test_a_backend_gives_the_numbers_of_python(kind, use, mode):
    if mode == "JAX":
        pytest.importorskip("jax")
    found, wanted = (graphs.run(kind, use, m) for m in (mode, "FAST_COMPILE"))
    assert graphs.difference(found, wanted) < graphs.TOLERANCE


def test_the_table_has_thirty_kinds_whose_numbers_depend_on_the_model():
    assert len(graphs.KINDS) >= 30
    start, *_ = graphs.run("tied weights", "Fisher", "FAST_COMPILE")
    assert graphs.difference([start], [start + 1.0]) > graphs.TOLERANCE
    assert graphs.difference([start], [float("nan")]) == float("inf")
