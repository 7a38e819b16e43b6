"""What Theano's own documentation showed: flags, seeds, monitors, patches of images."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import signal, special

from symng.legacy import install_theano, uninstall_theano
from symng.legacy.theano import _linalg, _nnet
from symng.legacy.theano._config import read_flags
from symng.legacy.theano._neighbors import images2neibs, neibs2images
from symng.legacy.theano._signal_conv import conv2d


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


class TestFlags:
    @pytest.fixture(autouse=True)
    def default_mode(self):
        with pytensor.config.change_flags(mode="Mode", linker="py"):
            yield

    def operations(self, theano, T):
        x = T.dvector()
        graph = theano.function([x], T.exp(T.log(x + 0.0)) * 1.0).maker.fgraph
        return len(graph.apply_nodes)

    def test_the_rewrites_can_be_chosen_at_any_time(self, theano, T):
        assert theano.config.optimizer == pytensor.config.optimizer
        few = self.operations(theano, T)
        theano.config.optimizer = "None"
        assert theano.config.optimizer == "None"
        assert self.operations(theano, T) > few

    @pytest.mark.parametrize(
        "flags", ["optimizer=None", "optimizer_excluding=canonicalize:stabilize:specialize:fusion"]
    )
    def test_so_they_can_by_flags_until_uninstalled(self, theano, T, flags):
        few = self.operations(theano, T)
        read_flags(flags)
        assert self.operations(theano, T) > few
        uninstall_theano()
        install_theano()
        assert self.operations(theano, T) == few

    @pytest.mark.parametrize("flag", ["base_compiledir=/tmp/x", "compile.timeout=600"])
    def test_flags_read_at_the_start_name_where_to_set_them(self, flag):
        key = flag.replace(".", "__")
        with pytest.warns(UserWarning, match=f"has no effect. Set PYTENSOR_FLAGS={key}"):
            read_flags(flag)

    def test_a_flag_against_old_errors_says_nothing(self, theano):
        read_flags("warn.ignore_bug_before=all,tensor.cmp_sloppy=1")


class TestFunction:
    def test_an_input_that_a_derivative_does_not_need_is_a_warning(self, theano, T):
        W, V, x = T.dmatrix("W"), T.dmatrix("V"), T.dvector("x")
        along = T.Rop(theano.dot(x, W), W, V)
        with pytest.warns(UserWarning, match="index 0 is not part"):
            f = theano.function([W, V, x], along)
        np.testing.assert_array_equal(f(np.ones((2, 2)), np.eye(2) * 2, [0.0, 1.0]), [0, 2])
        with pytest.raises(theano.compile.UnusedInputError, match="index 0 is not part"):
            theano.function([W, V, x], along, on_unused_input="raise")

    def test_monitors_take_a_number_a_node_and_its_thunk(self, theano, T):
        seen = []

        def before(i, node, thunk):
            seen.append((i, [value[0] for value in thunk.inputs]))

        def after(fgraph, i, node, thunk):
            seen.append((i, thunk.outputs[0][0]))

        mode = theano.compile.MonitorMode(pre_func=before, post_func=after)
        x = T.dscalar()
        with pytensor.config.change_flags(cxx=""):
            theano.function([x], 5 * x, mode=mode.excluding("fusion"))(3.0)
        assert seen[0][0] == 0 and 3.0 in seen[0][1] and seen[-1][1] == 15.0


class TestSeeds:
    def test_the_generator_of_a_draw_can_be_seeded_and_read(self, theano):
        from theano.tensor.shared_randomstreams import RandomStreams

        draws = RandomStreams(seed=234).uniform((2,))
        f = theano.function([], draws)
        generator = draws.rng.get_value(borrow=True)
        generator.seed(89234)
        draws.rng.set_value(generator, borrow=True)
        expected = np.random.RandomState(89234)
        np.testing.assert_array_equal(f(), expected.uniform(size=2))
        state = draws.rng.get_value().get_state()
        first, second = f(), f()
        np.testing.assert_array_equal(first, expected.uniform(size=2))
        generator = draws.rng.get_value()
        generator.set_state(state)
        draws.rng.set_value(generator)
        np.testing.assert_array_equal([f(), f()], [first, second])
        assert draws.update[0] is draws.rng.variable

    def test_a_copy_of_the_generator_leaves_the_draw_alone(self, theano):
        from theano.tensor.shared_randomstreams import RandomStreams

        draws = RandomStreams(seed=1).normal((2,), dtype="float32")
        draws.rng.get_value().seed(5)
        again = RandomStreams(seed=1).normal((2,), dtype="float32")
        np.testing.assert_array_equal(*theano.function([], [draws, again])())


class TestImages:
    @pytest.mark.parametrize("step", [None, (1, 2)])
    def test_patches_are_rows(self, step):
        images = draw(2, 3, 4, 6)
        down, across = step or (2, 3)
        expected = [
            image[i : i + 2, j : j + 3].ravel()
            for image in images.reshape(6, 4, 6)
            for i in range(0, 3, down)
            for j in range(0, 4, across)
        ]
        np.testing.assert_array_equal(images2neibs(images, (2, 3), step).eval(), expected)
        with pytest.raises(NotImplementedError, match="Pad the images"):
            images2neibs(images, (2, 3), mode="wrap_centered")

    def test_patches_make_images_again(self):
        images = draw(2, 3, 4, 6)
        rows = images2neibs(images, (2, 3))
        np.testing.assert_array_equal(neibs2images(rows, (2, 3), images.shape).eval(), images)

    @pytest.mark.parametrize("count", [None, 2])
    @pytest.mark.parametrize("number", [None, 3])
    @pytest.mark.parametrize("border", ["valid", "full"])
    def test_images_without_channels_are_convolved(self, count, number, border):
        images = draw(5, 6) if count is None else draw(count, 5, 6)
        filters = draw(2, 3) if number is None else draw(number, 2, 3)
        expected = np.array(
            [
                [signal.convolve2d(image, f, border) for f in filters.reshape(-1, 2, 3)]
                for image in images.reshape(-1, 5, 6)
            ]
        )
        got = conv2d(images, filters, images.shape, filters.shape, border).eval()
        assert got.ndim == 2 + (count is not None) + (number is not None)
        np.testing.assert_allclose(got.reshape(expected.shape), expected)

    def test_images_with_channels_are_refused(self):
        with pytest.raises(ValueError, match="input: expected a tensor of two or three axes"):
            conv2d(draw(1, 1, 2, 2), draw(2, 2))


class TestFunctionsOfTensors:
    def test_parts_in_the_old_order_of_arguments(self, theano, T):
        x = np.arange(6.0)
        first, second = T.split(x, [2, 4], 2)
        np.testing.assert_array_equal(first.eval(), x[:2])
        np.testing.assert_array_equal(second.eval(), x[2:])
        (whole,) = T.split(x, [6], 1, axis=0)
        np.testing.assert_array_equal(whole.eval(), x)

    def test_variables_of_a_name_and_a_dtype(self, T):
        for ndim, make in enumerate([T.scalar, T.vector, T.matrix, T.tensor3, T.tensor4]):
            x = make("x", "int64")
            assert (x.name, x.dtype, x.ndim) == ("x", "int64", ndim)
        assert T.row("r", dtype="float32").type.shape == (1, None) and T.col().dtype == "float64"

    def test_a_shape_with_its_number_of_axes(self, T):
        x, shape = draw(2, 6), T.lvector()
        y = T.reshape(x, shape, 3, name="y")
        assert y.ndim == 3 and y.name == "y"
        np.testing.assert_array_equal(y.eval({shape: [2, 3, 2]}), x.reshape(2, 3, 2))

    def test_flat_in_all_but_some_axes(self, T):
        x = draw(2, 3, 4)
        assert T.flatten(x).eval().shape == (24,)
        np.testing.assert_array_equal(T.flatten(x, outdim=2).eval(), x.reshape(2, 12))
        np.testing.assert_array_equal(T.flatten(x, ndim=2).eval(), x.reshape(2, 12))

    def test_triangular_systems(self):
        A, b = np.tril(draw(3, 3)) + 3 * np.eye(3), draw(3)
        lower = _linalg.solve_lower_triangular(pt.constant(A), pt.constant(b))
        upper = _linalg.solve_upper_triangular(pt.constant(A.T), pt.constant(b))
        np.testing.assert_allclose(lower.eval(), np.linalg.solve(A, b))
        np.testing.assert_allclose(upper.eval(), np.linalg.solve(A.T, b))

    def test_softmax_with_losses_and_classes(self):
        x, b, classes = draw(4, 3), draw(3), np.array([0, 2, 1, 1])
        got = _nnet.crossentropy_softmax_argmax_1hot_with_bias(
            pt.constant(x), pt.constant(b), pt.constant(classes)
        )
        p = special.softmax(x + b, axis=1)
        np.testing.assert_allclose(got[0].eval(), -np.log(p[range(4), classes]))
        np.testing.assert_allclose(got[1].eval(), p)
        np.testing.assert_array_equal(got[2].eval(), p.argmax(axis=1))

    def test_normalized_batches(self):
        x, gamma, beta = draw(5, 2), draw(2), draw(2) + 1
        got = _nnet.batch_normalization(pt.constant(x), gamma, beta, x.mean(0), x.std(0))
        np.testing.assert_allclose(got.eval(), (x - x.mean(0)) / x.std(0) * gamma + beta)


def test_imports_around_python_2(theano):
    from theano.compat.python2x import OrderedDict
    from theano.sandbox.cuda import dnn
    from theano.updates import Updates

    assert OrderedDict([("a", 1)]) == {"a": 1} and issubclass(Updates, OrderedDict)
    assert not dnn.dnn_available()
    assert theano.gof.op.get_debug_values(theano.shared(1.0)) == []
    theano.gof.op.debug_assert(False, "not checked")
    assert theano.tensor.Join and theano.tensor.Alloc and "float32" in theano.tensor.all_dtypes
