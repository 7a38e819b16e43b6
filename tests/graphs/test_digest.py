"""Digests of models: the same in every process, others for other models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import graphs

import symng
from symng.graphs.digest import graph_digest
from symng.training.identity import describe_model

PROGRAM = """
import json, sys
from helpers import graphs
from symng.training.identity import describe_model
names = sorted(graphs.KINDS, reverse=sys.argv[1] == "1")
found = {name: describe_model(graphs.KINDS[name]().objective)["digest"] for name in names}
print(json.dumps(found))
"""
# Kinds that differ in the data alone, not in the model.
SAME_MODEL = 6


def test_a_digest_is_the_same_in_every_process():
    """In whichever order models are built and strings are hashed."""
    found = []
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, seed],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1] and len(found[0]) == len(graphs.KINDS)
    assert len(set(found[0].values())) == len(found[0]) - SAME_MODEL


def digest_of(y, *roots):
    return graph_digest([y], {v: str(i) for i, v in enumerate(roots)})


def test_names_and_values_of_variables_do_not_count():
    x, z = pt.matrix("x"), pt.matrix("z")
    v, w = (pytensor.shared(np.full(2, i + 1.0), name=name) for i, name in enumerate("vw"))
    assert digest_of(pt.tanh(x @ v), x, v) == digest_of(pt.tanh(z @ w), z, w)
    shared = digest_of(x @ v, x)
    v.set_value(np.zeros(2))
    assert digest_of(x @ v, x) == shared != digest_of(x @ w, x)  # known by its name


@pytest.mark.parametrize(
    "other",
    [
        lambda x, w: pt.sin(x @ w),
        lambda x, w: pt.tanh(w @ x),
        lambda x, w: pt.tanh(x @ w) + 0.0,
        lambda x, w: pt.tanh(x @ (2.0 * w)),
        lambda x, w: pt.tanh(x @ w).sum(axis=1),
        lambda x, w: pt.tanh(x @ w)[1:],
        lambda x, w: pt.tanh((x @ w).astype("float32")),
        lambda x, w: pytensor.scan(lambda r: pt.tanh(r @ w), sequences=[x], return_updates=False),
    ],
    ids=["op", "order", "constant added", "constant", "axis", "slice", "dtype", "loop"],
)
def test_other_graphs_have_other_digests(other):
    x, w = pt.matrix("x"), pt.matrix("w")
    assert digest_of(pt.tanh(x @ w), x, w) != digest_of(other(x, w), x, w)


def test_constants_static_shapes_and_inner_graphs_count():
    x, fixed = pt.matrix("x"), pt.matrix("x", shape=(None, 3))
    assert digest_of(x + 1, x) != digest_of(fixed + 1, fixed)
    values = [np.arange(1000.0), np.arange(1000.0)]
    values[1][500] += 1e-12
    assert len({digest_of(pt.dot(x, pt.constant(v)), x) for v in values}) == 2
    loops = [
        pytensor.scan(lambda r, f=f: f(r), sequences=[x], return_updates=False)
        for f in (pt.tanh, pt.sin, pt.tanh)
    ]
    one, two, three = (digest_of(y, x) for y in loops)
    assert one == three != two


def test_likelihoods_and_weights_of_a_model_count():
    def model(std=1.0, weight=1.0):
        x, t, w = pt.matrix("x"), pt.vector("t"), pytensor.shared(np.ones(2), name="w")
        likelihood = symng.Gaussian(std=std)
        return weight * symng.Objective(
            pt.sqr(x @ w - t).mean(), x @ w, [w], inputs=[x], targets=[t], likelihood=likelihood
        )

    digests = [describe_model(m)["digest"] for m in (model(), model(2.0), model(weight=2.0))]
    assert len(set(digests)) == 3 and describe_model(model())["digest"] == digests[0]
