"""Functions, loops, graphs and derivatives by Theano's names, in the form that they had."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from symng.legacy import install_theano, uninstall_theano


@pytest.fixture(autouse=True)
def installed():
    install_theano()
    yield
    uninstall_theano()


@pytest.fixture
def theano():
    import theano

    return theano


@pytest.fixture
def T():
    import theano.tensor

    return theano.tensor


def draw(*shape):
    return np.random.default_rng([*shape]).standard_normal(shape)


class TestFunction:
    def test_inputs_have_defaults_and_names(self, theano, T):
        x, rate, power = T.dscalar("x"), T.dscalar("rate"), T.dscalar()
        inputs = [x, theano.In(rate, value=0.5), theano.Param(power, default=2.0, name="p")]
        f = theano.function(inputs, rate * x**power)
        assert f(3.0) == 4.5 and f(3.0, 1.0) == 9.0
        assert f(x=3.0, p=1.0) == 1.5 and f(3.0, rate=2.0, p=0.0) == 2.0
        assert f.maker.fgraph is not None
        with pytest.raises(TypeError, match="no value for the input 'x'"):
            f(rate=1.0)
        with pytest.raises(TypeError, match="not known, or given twice: q"):
            f(3.0, q=1.0)
        with pytest.raises(TypeError, match="4 inputs given, where 3"):
            f(1.0, 2.0, 3.0, 4.0)

    def test_a_state_within_a_function_is_refused(self, theano, T):
        state = T.dscalar()
        with pytest.raises(TypeError, match="theano.shared"):
            theano.In(state, value=0.0, update=state + 1)

    @pytest.mark.parametrize("form", [list, dict, OrderedDict, iter])
    def test_updates_and_givens_in_every_form(self, theano, T, form):
        x, w, data = T.dscalar("x"), theano.shared(1.0), theano.shared(np.arange(4.0))
        i = T.lscalar()
        f = theano.function(
            [i], x + w, updates=form([(w, w + x)]), givens=form([(x, data[i])]), profile=0
        )
        assert f(3) == 4.0 and w.get_value() == 4.0

    def test_an_update_may_be_known_to_have_an_axis_of_length_one(self, theano, T):
        w = theano.shared(np.zeros((3, 1)))
        theano.function([], [], updates=[(w, T.addbroadcast(T.constant(np.ones((3, 1))), 1))])()
        np.testing.assert_array_equal(w.get_value(), np.ones((3, 1)))

    def test_input_is_cast_down_where_allowed(self, theano, T):
        x = T.fvector()
        f = theano.function([x], x.sum(), allow_input_downcast=True)
        assert f(np.array([1.0, 2.0])) == 3.0
        with pytest.raises(TypeError):
            theano.function([x], x.sum())(np.array([1.1, 2.0]))

    @pytest.mark.parametrize("mode", ["FAST_RUN", "FAST_COMPILE", "DebugMode", None])
    def test_modes_by_their_names(self, theano, T, mode):
        from theano.compile.mode import get_mode

        assert isinstance(get_mode(mode), theano.Mode)

    def test_c_is_the_default_where_there_is_a_compiler(self, theano):
        with pytensor.config.change_flags(mode="Mode", linker="auto", cxx="g++"):
            assert type(theano.get_mode().linker).__name__ == "VMLinker"

    def test_shared_takes_axes_of_length_one_and_a_random_state(self, theano):
        row = theano.shared(np.ones((1, 3)), broadcastable=(True, False))
        assert row.type.shape == (1, None)
        rng = theano.shared(np.random.RandomState(3))
        assert rng.get_value().random() == np.random.RandomState(3).random_sample()

    def test_memory_of_a_shared_variable_can_be_written(self, theano):
        w = theano.shared(np.ones(3))
        w.container.storage[0][:] = 0
        assert not w.get_value().any()


class TestScan:
    def test_returns_outputs_and_updates_of_draws(self, theano, T):
        from theano.tensor.shared_randomstreams import RandomStreams

        streams = RandomStreams(3)
        total, updates = theano.scan(
            lambda s: s + streams.uniform((2,)), outputs_info=[T.zeros((2,))], n_steps=3
        )
        count = theano.shared(0)
        updates[count] = count + 1
        f = theano.function([], total[-1], updates=updates)
        first, second = f(), f()
        assert count.get_value() == 2 and not np.allclose(first, second)
        state = np.random.RandomState(np.random.RandomState(3).randint(2**30))
        np.testing.assert_allclose(first, state.uniform(size=(3, 2)).sum(0))
        np.testing.assert_allclose(second, state.uniform(size=(3, 2)).sum(0))

    def test_stops_early(self, theano, T):
        values, updates = theano.scan(
            lambda s: (2 * s, theano.scan_module.until(s > 10)),
            outputs_info=[np.array(1.0)],
            n_steps=100,
        )
        assert updates == {}
        np.testing.assert_array_equal(theano.function([], values)(), [2, 4, 8, 16, 32])

    def test_old_dictionaries_and_none(self, theano, T):
        x = T.dvector()
        (sums, squares), _ = theano.scan(
            lambda v, s: [s + v, v**2],
            sequences=x,
            outputs_info=[dict(initial=np.array(0.0), taps=[-1]), None],
        )
        got = theano.function([x], [sums, squares])(np.arange(4.0))
        np.testing.assert_array_equal(got, [[0, 1, 3, 6], [0, 1, 4, 9]])

    def test_relatives(self, theano, T):
        x = T.dvector()
        results = [
            theano.map(lambda v: v**2, x)[0],
            theano.reduce(lambda v, s: s - v, x, np.array(0.0))[0],
            theano.foldl(lambda v, s: v - s, x, np.array(0.0))[0],
            theano.foldr(lambda v, s: v - s, x, np.array(0.0))[0],
        ]
        squares, *folds = theano.function([x], results)(np.array([1.0, 2.0, 4.0]))
        np.testing.assert_array_equal(squares, [1, 4, 16])
        assert folds == [-7, 4 - (2 - 1), 1 - (2 - 4)]

    @pytest.mark.parametrize("rows", [1, 3])
    def test_sandbox_scan_keeps_as_many_values_as_the_buffer_has_rows(self, theano, T, rows):
        from theano.sandbox.scan import scan

        start = T.unbroadcast(T.shape_padleft(T.constant([1.0, 2.0])), 0)
        buffer = start if rows == 1 else T.concatenate([start, T.zeros((rows - 1, 2))])
        (kept,), updates = scan(lambda s: [2 * s], states=[buffer], n_steps=4, mode=None)
        wanted = np.array([1.0, 2.0]) * 2.0 ** np.arange(5)[:, None]
        np.testing.assert_array_equal(theano.function([], kept)(), wanted[-rows:])
        assert updates == {}

    def test_sandbox_scan_stops_and_takes_sequences_and_parameters(self, theano, T):
        from theano.sandbox.scan import scan

        x, a = T.dvector(), T.dscalar()
        kept, _ = scan(
            lambda v, s, a: ([s + a * v], theano.scan_module.until(s > 3)),
            sequences=[x],
            states=[T.shape_padleft(np.array(0.0))],
            params=[a],
            n_steps=None,
        )
        f = theano.function([x, a], kept[0][0])
        assert f(np.arange(6.0), 2.0) == 2 * (0 + 1 + 2 + 3)


class TestGraphs:
    def test_clone_replaces_in_either_form(self, theano, T):
        x, y = T.dscalar(), T.dscalar()
        z = x**2
        for replace in ([(x, y + 1)], {x: y + 1}):
            assert theano.clone(z, replace=replace).eval({y: 2.0}) == 9.0
        assert [v.eval({y: 2.0}) for v in theano.clone([z, x], {x: y}, strict=False)] == [4.0, 2.0]

    def test_ifelse(self, theano, T):
        from theano.ifelse import ifelse

        x = T.dscalar()
        f = theano.function([x], ifelse(T.gt(x, 0), x, -x))
        assert f(-2.0) == 2.0 and f(3.0) == 3.0

    def test_types_from_what_is_broadcast(self, theano, T):
        kind = T.TensorType("float32", (True, False))
        assert kind.shape == (1, None) and isinstance(kind, T.TensorType)
        assert isinstance(T.dvector("x").type, T.TensorType)
        assert T.TensorType("int64", [False] * 3)("n").ndim == 3
        assert T.tensor("float32", (False, True)).broadcastable == (False, True)

    def test_broadcasting_is_forgotten_and_said(self, theano, T):
        x = T.drow()
        free = T.unbroadcast(x, 0)
        assert free.type.shape == (None, None) and T.unbroadcast(T.dmatrix(), 0).type.ndim == 2
        assert T.addbroadcast(free, 0).type.shape == (1, None)
        assert T.patternbroadcast(T.dmatrix(), (False, True)).type.shape == (None, 1)
        value = draw(1, 3)
        np.testing.assert_array_equal(theano.function([x], free)(value), value)
        np.testing.assert_allclose(
            theano.function([x], theano.grad((free**2).sum(), x))(value), 2 * value
        )

    def test_stack_takes_tensors_or_a_list(self, T):
        a, b = T.constant([1.0, 2.0]), T.constant([3.0, 4.0])
        np.testing.assert_array_equal(T.stack(a, b).eval(), [[1, 2], [3, 4]])
        np.testing.assert_array_equal(T.stack([a, b], axis=1).eval(), [[1, 3], [2, 4]])
        np.testing.assert_array_equal(T.stack([a, b], 1).eval(), [[1, 3], [2, 4]])

    def test_small_functions(self, theano, T):
        from theano.tensor.nlinalg import alloc_diag, extract_diag, matrix_inverse, trace

        A = draw(3, 3)
        np.testing.assert_allclose(matrix_inverse(A).eval(), np.linalg.inv(A))
        np.testing.assert_allclose(trace(A).eval(), np.trace(A))
        np.testing.assert_array_equal(extract_diag(A).eval(), np.diag(A))
        np.testing.assert_array_equal(alloc_diag(A[0]).eval(), np.diag(A[0]))
        np.testing.assert_allclose(T.norm(A, 3).eval(), (abs(A) ** 3).sum() ** (1 / 3))
        np.testing.assert_allclose(T.norm(A, np.inf).eval(), abs(A).max())
        np.testing.assert_allclose(T.inv(A).eval(), 1 / A)
        x = np.array([0.0, 2.0])
        np.testing.assert_allclose(T.xlogx.xlogy0(x, x).eval(), [0, 2 * np.log(2)])
        np.testing.assert_allclose(T.xlogx.xlogx(x).eval(), [0, 2 * np.log(2)])

    def test_updates_are_joined(self, theano):
        from theano.updates import OrderedUpdates

        joined = OrderedUpdates({"a": 1}) + {"b": 2}
        assert joined == {"a": 1, "b": 2} and isinstance(joined, OrderedUpdates)
        assert {"b": 2} + OrderedUpdates({"a": 1}) == {"b": 2, "a": 1}


class TestDerivatives:
    def test_products_with_the_jacobian(self, theano, T):
        W, x = theano.shared(draw(3, 4)), T.dvector()
        y = T.tanh(T.dot(W, x))
        value, v, u = draw(4), draw(3, 4), draw(3)
        slopes = 1 - np.tanh(W.get_value() @ value) ** 2
        forward = T.Rop(y, [W], [T.constant(v)])
        backward = T.Lop(y, [W], T.constant(u))
        assert not isinstance(forward, list) and isinstance(backward, list)
        assert isinstance(T.Rop([y], W, T.constant(v)), list)
        assert not isinstance(T.Lop([y], W, [T.constant(u)]), list)
        unused = theano.shared(draw(2))
        with_unused = T.Rop(y, [W, unused], [T.constant(v), T.constant(draw(2))])
        got = theano.function([x], [forward, *backward, with_unused])(value)
        np.testing.assert_array_equal(got[2], got[0])
        np.testing.assert_allclose(got[0], slopes * (v @ value))
        np.testing.assert_allclose(got[1], np.outer(slopes * u, value))

    def test_gradients_in_the_form_of_wrt(self, theano, T):
        x, y = T.dscalar(), T.dscalar()
        assert theano.grad is T.grad is theano.gradient.grad
        assert isinstance(T.grad(x * y, [x]), list) and not isinstance(T.grad(x * y, x), list)
        (dx,) = T.grad(x * y, iter([x]))
        assert dx.eval({x: 2.0, y: 3.0}) == 3.0
        square = x**2
        held = T.grad(square * x, x, consider_constant=[square])
        assert held.eval({x: 3.0}) == 9.0
        z = T.dscalar()
        assert T.grad(x**2, [x, z], disconnected_inputs="ignore")[1].eval({z: 1.0}) == 0.0


def op_of_2013(theano):
    """An op with the methods of its time: a thunk of its own, and shapes from the node alone."""

    class Twice(theano.gof.Op):
        def __eq__(self, other):
            return type(self) is type(other)

        def __hash__(self):
            return hash(type(self))

        def make_node(self, x):
            return theano.gof.Apply(self, [x], [x.type()])

        def make_thunk(self, node, storage_map, compute_map, no_recycling):
            inputs = [storage_map[v] for v in node.inputs]
            outputs = [storage_map[v] for v in node.outputs]

            def thunk():
                outputs[0][0] = 2 * inputs[0][0]
                compute_map[node.outputs[0]][0] = True

            thunk.inputs, thunk.outputs, thunk.lazy = inputs, outputs, False
            return thunk

        def infer_shape(self, node, shapes):
            return shapes

        def grad(self, inputs, gradients):
            return [2 * gradients[0]]

        def R_op(self, inputs, eval_points):
            return [None if eval_points[0] is None else 2 * eval_points[0]]

    return Twice()


class TestOps:
    def test_shapes_of_an_op_of_2013_are_inferred(self, theano, T, rewrites):
        x = T.dvector()
        length = theano.function([x], op_of_2013(theano)(x).shape[0])
        assert length(np.ones(3)) == 3
        assert "Twice" not in str(length.maker.fgraph.toposort())

    def test_an_op_of_2013_runs(self, theano, T):
        twice = op_of_2013(theano)
        x = T.dvector()
        y = twice(x)
        outputs = [y, y.shape[0], T.grad(y.sum(), x), T.Rop(y, x, x + 1)]
        got, length, slopes, along = theano.function([x], outputs)(np.arange(3.0))
        np.testing.assert_array_equal(along, [2, 4, 6])
        np.testing.assert_array_equal(got, [0, 2, 4])
        np.testing.assert_array_equal(slopes, [2, 2, 2])
        assert length == 3

    def test_an_op_of_today_runs(self, theano, T):
        class Thrice(theano.Op):
            __props__ = ()
            itypes, otypes = [pt.dvector], [pt.dvector]

            def perform(self, node, inputs, outputs):
                outputs[0][0] = 3 * inputs[0]

            def infer_shape(self, *arguments):  # with the graph before PyTensor 3.3
                return arguments[-1]

        x = T.dvector()
        y = Thrice()(x)
        got, shape = theano.function([x], [y, y.shape])(np.ones(2))
        np.testing.assert_array_equal(got, [3, 3])
        np.testing.assert_array_equal(shape, [2])

    def test_a_rewrite_takes_a_node(self, theano, T):
        from theano.gof import local_optimizer

        seen = []

        @local_optimizer([pt.math.Dot])
        def see(node):
            seen.append(node)
            return False

        x = T.dmatrix()
        assert see.transform(None, T.dot(x, x).owner) is False
        assert len(seen) == 1

    def test_parts_of_a_graph(self, theano, T):
        x, y = T.dscalar(), T.dscalar()
        assert set(theano.gof.graph.inputs([x + y])) == {x, y}
        assert x in theano.gof.graph.ancestors([x * 2])


class TestRandomStreams:
    """The rule by which Theano seeded the generator of each draw, one after the other."""

    def state(self, seed, number):
        seeds = np.random.RandomState(seed)
        return np.random.RandomState([seeds.randint(2**30) for _ in range(number + 1)][-1])

    def test_uniform_and_binomial_numbers_are_those_of_theano(self, theano, T):
        from theano.tensor.shared_randomstreams import RandomStreams

        streams = RandomStreams(seed=234)
        u = streams.uniform((2, 2), low=-1.0, high=3.0)
        b = streams.binomial((5,), n=1, p=0.3, dtype="float32")
        f = theano.function([], [u, b])
        assert b.dtype == "float32" and u.dtype == pytensor.config.floatX
        uniform, binomial = self.state(234, 0), self.state(234, 1)
        for _ in range(2):
            got = f()
            np.testing.assert_array_equal(got[0], uniform.uniform(-1.0, 3.0, size=(2, 2)))
            np.testing.assert_array_equal(got[1], binomial.binomial(1, 0.3, size=5))
        streams.seed(234)
        np.testing.assert_array_equal(f()[0], self.state(234, 0).uniform(-1.0, 3.0, size=(2, 2)))

    def test_no_default_updates_repeats_the_draw(self, theano):
        from theano.tensor.shared_randomstreams import RandomStreams

        streams = RandomStreams(1)
        f = theano.function([], streams.normal((3,)), no_default_updates=True)
        np.testing.assert_array_equal(f(), f())
        assert len(streams.updates()) == 1

    @pytest.mark.parametrize("module", ["tensor.shared_randomstreams", "sandbox.rng_mrg"])
    def test_distributions(self, theano, T, module):
        import importlib

        streams_of = importlib.import_module(f"theano.{module}")
        kind = getattr(streams_of, "RandomStreams", None) or streams_of.MRG_RandomStreams
        streams = kind(7)
        pvals = np.tile([0.2, 0.3, 0.5], (4000, 1))
        draws = [
            streams.normal(size=(4000,), avg=2.0, std=0.5),
            streams.uniform(size=(4000,)),
            streams.binomial(size=(4000,), p=0.3),
            streams.multinomial(pvals=pvals),
        ]
        normal, uniform, binomial, multinomial = theano.function([], draws)()
        assert abs(normal.mean() - 2) < 0.05 and abs(normal.std() - 0.5) < 0.05
        assert abs(uniform.mean() - 0.5) < 0.05 and uniform.min() >= 0
        assert abs(binomial.mean() - 0.3) < 0.05 and set(binomial) == {0, 1}
        assert (multinomial.sum(axis=1) == 1).all()
        assert abs(multinomial.mean(axis=0) - pvals[0]).max() < 0.05

    def test_whole_numbers_and_orders(self, theano, T):
        from theano.tensor.shared_randomstreams import RandomStreams

        streams = RandomStreams(np.random.RandomState(5))
        integers = streams.random_integers((500,), low=2, high=4)
        rows = streams.shuffle_row_elements(np.tile(np.arange(20.0), (2, 1)))
        outputs = [integers, streams.permutation(n=9), rows, streams.choice((50,), a=3)]
        numbers, order, shuffled, chosen = theano.function([], outputs)()
        assert set(numbers) == {2, 3, 4} and sorted(order) == list(range(9))
        assert (np.sort(shuffled) == np.arange(20)).all()
        assert not np.array_equal(shuffled[0], shuffled[1]) and set(chosen) == {0, 1, 2}
