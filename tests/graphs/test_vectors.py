"""Parameters as one flat vector and back."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from symng import vectors


@pytest.fixture(params=["float32", "float64"])
def params(request):
    """Return parameters of zero to three axes, one of them in Fortran order."""
    rng = np.random.default_rng(0)
    values = [
        rng.standard_normal(shape).astype(request.param) for shape in ((2, 3), (), (4,), (1, 2, 2))
    ]
    values[0] = np.asfortranarray(values[0])
    return [pytensor.shared(v) for v in values]


def flat(params):
    return np.concatenate([p.get_value().ravel(order="C") for p in params])


def test_shapes_and_count(params):
    assert vectors.param_shapes(params) == [(2, 3), (), (4,), (1, 2, 2)]
    assert vectors.count(params) == 15


def test_ravel_is_c_order_in_the_order_given(params):
    np.testing.assert_array_equal(vectors.ravel(params, params).eval(), flat(params))
    np.testing.assert_array_equal(
        vectors.ravel(params[::-1], params[::-1]).eval(), flat(params[::-1])
    )
    np.testing.assert_array_equal(vectors.ravel(params[:1], params[:1]).eval(), flat(params[:1]))


def test_length_is_known_while_compiling(params):
    tensors = [pt.tensor(dtype=p.dtype, shape=(None,) * p.ndim) for p in params]
    assert vectors.ravel(tensors, params).type.shape == (15,)


def test_split_is_the_inverse_of_ravel(params):
    v = pt.vector("v", dtype=params[0].dtype)
    parts = vectors.split(v, params)
    assert [p.type.shape for p in parts] == vectors.param_shapes(params)
    values = pytensor.function([v], [*parts, vectors.ravel(parts, params)])(flat(params))
    for part, param in zip(values, params, strict=False):
        np.testing.assert_array_equal(part, param.get_value())
    np.testing.assert_array_equal(values[-1], flat(params))


def test_get_and_set(params):
    start = vectors.get_flat(params)
    np.testing.assert_array_equal(start, flat(params))
    assert start.dtype == params[0].dtype
    start[:] = 0  # a copy
    assert flat(params).any()
    wanted = np.arange(15.0)
    vectors.set_flat(params, wanted)
    assert {p.get_value().dtype for p in params} == {np.dtype(params[0].dtype)}
    np.testing.assert_array_equal(vectors.get_flat(params), wanted)
    wanted[:] = 7  # parameters do not share the memory of what was given
    np.testing.assert_array_equal(vectors.get_flat(params), np.arange(15))


@pytest.mark.parametrize("length", [14, 16])
def test_set_refuses_another_length(params, length):
    with pytest.raises(
        ValueError, match=rf"values: expected a vector of 15 numbers, .* shape \({length},"
    ):
        vectors.set_flat(params, np.zeros(length))
