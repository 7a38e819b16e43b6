"""What is said when a compiled function fails: the arrays, or the backend."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import Unit
from numpy.linalg import LinAlgError
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.raise_op import Assert

import symng
from symng.backends import backend_of
from symng.backends.failures import backend_failure, compiling, evaluate
from symng.graphs.axes import infer_length
from symng.training.program import Program

X, T = np.ones((4, 3)), np.zeros((4, 2))


class Failing(Op):
    """The identity; its gradient cannot be computed, and raises what it is given."""

    def __init__(self, error, forward=True):
        self.error, self.forward = error, forward

    def make_node(self, x):
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        if not self.forward:
            raise self.error
        outputs[0][0] = inputs[0].copy()

    def pullback(self, inputs, outputs, slopes):
        return [Failing(self.error, forward=False)(slopes[0])]

    L_op = pullback


def model(function=lambda y: y, columns=2):
    """Return an objective of squares with ``function`` at its end."""
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.ones((3, columns)), name="w")
    y = function(x @ w)
    return symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], inputs=[x], targets=[t])


@pytest.mark.parametrize(
    "error, kind",
    [
        (ValueError("no kernel for this\nmore"), RuntimeError),
        (TypeError("no kernel for this"), RuntimeError),
        (KeyError("no kernel for this"), RuntimeError),
        (NotImplementedError("no kernel for this"), NotImplementedError),
        (LinAlgError("no kernel for this"), LinAlgError),
        (MemoryError("no kernel for this"), MemoryError),
    ],
)
def test_a_backend_that_fails_on_right_arrays_is_named(error, kind):
    objective = model(Failing(error))
    before = objective.params[0].get_value()
    with pytest.raises(
        kind,
        match=r"^mode: expected one that runs this model, got FAST_COMPILE, which fails in "
        r"<?.*Failing.*: '?no kernel for this'?\. Plain Python evaluates",
    ) as caught:
        symng.compile_step(objective, symng.SGD(), mode="FAST_COMPILE")((X, T))
    assert type(caught.value) is kind and "shapes of the parameters" not in str(caught.value)
    assert "(4, 3), (4, 2)" in str(caught.value) and str(caught.value.__cause__).strip(
        "'"
    ).startswith("no kernel")
    assert np.array_equal(objective.params[0].get_value(), before)


def test_way_out_of_a_failure():
    assert "Try another mode: 'CVM', 'FAST_COMPILE' or 'JAX'." in str(
        backend_failure(ValueError("x"), backend_of("NUMBA"))
    )
    assert "chunk_size" in str(
        backend_failure(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), backend_of("JAX"))
    )
    assert "which fails: KeyError." in str(backend_failure(KeyError(), backend_of("CVM")))


def test_only_backends_that_run_op_by_op_name_one():
    f = pytensor.function(
        [], Failing(ValueError("no kernel"), forward=False)(pt.constant(1.0)), mode="FAST_COMPILE"
    )
    with pytest.raises(ValueError, match="no kernel") as caught:
        f()
    assert "fails in" in str(backend_failure(caught.value, backend_of("FAST_COMPILE")))
    assert "which fails: no kernel." in str(backend_failure(caught.value, backend_of("NUMBA")))


def test_a_backend_without_an_op_is_named_when_it_compiles():
    pytest.importorskip("jax")
    with pytest.raises(
        NotImplementedError,
        match=r"got JAX, which fails: No JAX conversion .*Failing.* Try another",
    ):
        symng.compile_step(model(Failing(ValueError())), symng.SGD(), mode="JAX")((X, T))
    # of ours, not of the backend.
    with (
        pytest.raises(ZeroDivisionError),
        compiling(backend_of("JAX")),
    ):
        raise ZeroDivisionError


def test_errors_of_a_search_on_the_host_stay_what_they_are(monkeypatch):
    def search(self, arrays):
        raise KeyError("typo")

    step = symng.compile_step(model(), symng.SGD())
    step.compile((X, T))
    monkeypatch.setattr(Program, "__call__", search)
    with pytest.raises(KeyError, match="typo"):
        step((X, T))


def test_values_and_assertions_are_not_taken_for_shapes():
    def fail(error):
        return lambda arrays: (_ for _ in ()).throw(error)

    with pytest.raises(
        LinAlgError, match=r"^data: .*shapes \(4, 3\): Singular matrix. The shapes are right"
    ):
        evaluate(fail(LinAlgError("Singular matrix")), [X], "data")
    w = pt.dscalar("w")
    positive = pytensor.function([w], Assert("w is negative")(w, w > 0))
    with pytest.raises(ValueError, match=r"w is negative\.$"):
        evaluate(lambda arrays: positive(-1.0), [X], "data")
    with pytest.raises(
        ValueError, match=r"bad\. Check them against the shapes of the parameters\. Turn it\.$"
    ):
        evaluate(fail(IndexError("bad.")), [X], "data", lambda: "Turn it.")


def test_a_hint_that_fails_does_not_hide_the_message():
    x, t = pt.matrix("x"), pt.matrix("t")
    w, s = pytensor.shared(np.ones((3, 4)), name="w"), pytensor.shared(np.ones(1), name="s")
    y = (x @ w) * s  # which PyTensor does not take for a scale that broadcasts
    objective = symng.Objective(
        pt.sqr(y - t).sum(axis=1).mean(), y, [w, s], inputs=[x], targets=[t]
    )
    with pytest.raises(
        ValueError,
        match=r"^data: the model cannot be evaluated on arrays of shapes \(6, 3\), \(6, 4\)",
    ):
        symng.minimize(objective, symng.SGD(), (np.ones((6, 3)), np.ones((6, 4))), progress=False)

    def hint():
        raise AssertionError("of a hint")

    with pytest.raises(ValueError, match="^data: .* its own words. Check them"):
        evaluate(lambda a: (_ for _ in ()).throw(ValueError("its own words")), [X], "data", hint)


def test_lengths_that_cannot_be_inferred_are_not_known():
    class Shapeless(Failing):
        def infer_shape(self, *arguments):
            raise ZeroDivisionError

    y = Shapeless(ValueError())(pt.matrix("x") @ pytensor.shared(np.ones((3, 2))))
    assert infer_length(y, -1) is None
    assert infer_length(pt.matrix("x") @ pytensor.shared(np.ones((3, 2))), -1) == 2


def test_to_scipy_names_arrays_or_backend():
    with pytest.raises(
        ValueError, match=r"^batch: the model cannot .* Check them against the shapes"
    ):
        symng.Fisher()(model()).to_scipy(X[:, :2], mode="FAST_COMPILE")
    called = []

    class Odd(Failing):
        def perform(self, node, inputs, outputs):
            called.append(node)
            if len(called) == 1:  # in the mode; plain Python comes second
                raise self.error
            super().perform(node, inputs, outputs)

    def odd(y):
        return y + 2 * Odd(ValueError("no kernel"))(y)

    operator = symng.LinearOperator(lambda v: odd(v), size=2, dtype="float64")
    with pytest.raises(RuntimeError, match="got FAST_COMPILE, which fails in .*: no kernel"):
        operator.to_scipy(mode="FAST_COMPILE")
    pytest.importorskip("jax")
    with pytest.raises(
        Exception, match="^mode: expected one that runs this model, got JAX"
    ) as caught:
        operator.to_scipy(mode="JAX")
    assert str(caught.value).count("expected") == 1  # JAX has no such op: said once


def test_other_batches_are_named_beside_a_backend():
    step = symng.compile_step(model(), symng.NaturalGradient(solver=Unit()), mode="FAST_COMPILE")
    assert step((X, T), metric_batch=(X,)).accepted
    with pytest.raises(ValueError, match="^gradient_batch: the model cannot"):
        step((X[:, :2], T), metric_batch=(X,))
