"""Layers, the convolutional network, faces and small functions of `natgrad`, against NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import predefined_modes
from scipy.io import savemat
from scipy.ndimage import correlate
from scipy.signal import convolve2d

from symng.backends import UNOPTIMIZED
from symng.legacy.natgrad import (
    DataTFD_48,
    HiddenLayerLW,
    HiddenLayerStandard,
    LeNetConvPoolLayerLW,
    LeNetConvPoolLayerStandard,
    SoftmaxLayerStandard,
    convMat,
    lcn,
    print_time,
    safe_clone,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compile without rewrites, in both tiers: the networks are tiny."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", UNOPTIMIZED)


class TestLayers:
    @pytest.mark.parametrize("activation, gain", [(pt.sigmoid, 4), (pt.tanh, 1), (pt.softplus, 1)])
    def test_first_weights_are_uniform(self, activation, gain):
        layer = HiddenLayerStandard(np.random.RandomState(3), pt.dmatrix(), 5, 4, activation)
        drawn = np.random.RandomState(3).uniform(-np.sqrt(6 / 9), np.sqrt(6 / 9), (5, 4))
        np.testing.assert_array_equal(layer.W.get_value(), gain * drawn)
        assert not layer.b.get_value().any()

    @pytest.mark.parametrize("activation, gain, bias", [(pt.tanh, 1, 0), (pt.sigmoid, 4, -2)])
    def test_orthogonal_weights(self, activation, gain, bias):
        layer = HiddenLayerLW(np.random.RandomState(3), pt.dmatrix(), 5, 4, activation)
        W = layer.W.get_value()
        np.testing.assert_allclose(W.T @ W, gain**2 * np.eye(4), atol=1e-12)
        np.testing.assert_array_equal(layer.b.get_value(), np.full(4, bias))

    def test_layers_share_weights(self):
        rng = np.random.RandomState(0)
        layer = SoftmaxLayerStandard(rng, pt.dmatrix(), 5, 4, name="top")
        other = SoftmaxLayerStandard(rng, pt.dmatrix(), 5, 4, W=layer.W, b=layer.b)
        assert other.params == layer.params
        assert [p.name for p in layer.params] == ["top_W", "top_b"]

    def test_convolution_flips_and_pools(self):
        rng = np.random.RandomState(0)
        x = pt.dtensor4("x")
        layer = LeNetConvPoolLayerStandard(rng, x, (2, 3, 3, 3), (4, 3, 9, 8))
        layer.b.set_value(np.array([0.3, -0.2]))
        images, W = rng.normal(size=(4, 3, 9, 8)), layer.W.get_value()
        response = np.zeros((4, 2, 7, 6))
        for n in range(4):
            for k in range(2):
                response[n, k] = sum(
                    convolve2d(images[n, c], W[k, c], mode="valid") for c in range(3)
                )
        # The last row fills no pool.
        pooled = response[:, :, :6].reshape(4, 2, 3, 2, 3, 2).max(axis=(3, 5))
        pooled += layer.b.get_value()[:, None, None]
        found = layer.output.eval({x: images})
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-pooled)), rtol=1e-12)

    def test_orthogonal_filters(self):
        layer = LeNetConvPoolLayerLW(
            np.random.RandomState(0), pt.dtensor4(), (2, 3, 3, 3), (4, 3, 9, 8)
        )
        for W in layer.W.get_value().reshape(-1, 3, 3):
            np.testing.assert_allclose(W.T @ W, 16 * np.eye(3), atol=1e-12)

    def test_other_channels_are_refused(self):
        with pytest.raises(ValueError, match="image_shape: expected as many channels"):
            LeNetConvPoolLayerStandard(
                np.random.RandomState(0), pt.dtensor4(), (2, 3, 3, 3), (4, 1, 9, 8)
            )


class TestConvMat:
    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        data = SimpleNamespace(xdim=784, ydim=3)
        return convMat(dict(seed=200, nkerns="[2,3]", nhid="5", cbs=4, mbs=4), data)

    def test_metric_is_that_of_the_softmax(self, model):
        rng = np.random.default_rng(0)
        X, y = rng.random((4, 784)), np.array([0, 2, 1, 1], "int32")
        v = [rng.normal(size=shape) for shape in model.params_shape]
        product = model.Gvs(*(pt.constant(part) for part in v))
        found = pytensor.function([model.x], product)(X)
        logits = pytensor.function([model.x], model.logits)
        first, eps, around = [p.get_value() for p in model.params], 1e-6, []
        for sign in (1, -1):
            for p, value, part in zip(model.params, first, v, strict=True):
                p.set_value(value + sign * eps * part)
            around.append(logits(X))
        for p, value in zip(model.params, first, strict=True):
            p.set_value(value)
        Jv = (around[0] - around[1]) / (2 * eps)
        p = np.exp(logits(X))
        p /= p.sum(axis=1, keepdims=True)
        expected = ((p * Jv**2).sum(axis=1) - (p * Jv).sum(axis=1) ** 2).mean()
        vGv = sum((a * b).sum() for a, b in zip(v, found, strict=True))
        np.testing.assert_allclose(vGv, expected, rtol=1e-6)
        cost, error = pytensor.function(model.inputs, [model.train_cost, model.error])(X, y)
        np.testing.assert_allclose(cost, -np.log(p[np.arange(4), y]).mean(), rtol=1e-10)
        np.testing.assert_allclose(error, 100 * np.mean(p.argmax(axis=1) != y))

    def test_file_has_every_layer(self, model, tmp_path):
        model.save(f"{tmp_path}/model.npz")
        with np.load(tmp_path / "model.npz") as arrays:
            assert len(arrays.files) == 16
        model.load(f"{tmp_path}/model.npz")

    def test_images_of_another_size_are_refused(self):
        data = SimpleNamespace(xdim=100, ydim=3)
        with pytest.raises(ValueError, match="data.xdim: expected 784"):
            convMat(dict(seed=200, nkerns=[2, 3], nhid=5, cbs=4, mbs=4), data)


class TestFaces:
    @pytest.fixture
    def folder(self, tmp_path):
        """Thirty images: 10 unlabeled, then 12 for training, 4 and 4."""
        rng = np.random.RandomState(0)
        folds = np.repeat([0, 1, 2, 3], [10, 12, 4, 4])
        labels = np.where(folds == 0, -1, np.arange(30) % 7 + 1)
        images = rng.randint(0, 256, (30, 48, 48)).astype("uint8")
        content = dict(images=images, folds=np.array([folds] * 2).T, labs_ex=labels[:, None])
        savemat(tmp_path / "TFD_48x48.mat", content)
        return tmp_path

    @pytest.mark.parametrize("unlabled", [0, 1, 2])
    def test_batches(self, unlabled, folder):
        data = DataTFD_48(folder, 6, 4, np.random.RandomState(1), 0, unlabled)
        train, seen = data.data_x, []
        for _ in range(3):
            data.update_before_computing_gradients()
            begin = int(data.offset.get_value())
            seen.append(begin)
            np.testing.assert_array_equal(data.train_x(1, 3).eval(), train[begin + 1 : begin + 3])
            batch = data._natgrad.get_value()
            assert batch.shape == (6, 48 * 48) and data._natgrady.get_value().shape == (6,)
            source = [*train, *data.unlabeled_data]
            rows = [int(np.argmin([abs(x - row).max() for x in source])) for row in batch]
            if unlabled == 0:
                assert set(range(begin, begin + 4)) <= set(rows) <= set(range(12))
            elif unlabled == 1:
                assert rows == list(range(rows[0], rows[0] + 6)) and rows[-1] < 12
            else:
                assert max(rows[:4]) < 12 <= min(rows[4:])
        assert sorted(seen) == [0, 4, 8]

    def test_quirks_keep_the_first_examples(self, folder):
        data = DataTFD_48(folder, 6, 4, np.random.RandomState(1), 0, 1, quirks=True)
        for _ in range(2):
            data.update_before_computing_gradients()
            np.testing.assert_array_equal(data._natgrad.get_value(), data.data_x[:6])

    def test_images_are_normalized(self, folder):
        data = DataTFD_48(folder, 6, 4, np.random.RandomState(1))
        assert data.data_x.min() == 0 and data.data_x.max() == 1
        means, deviations = data.data_x.mean(axis=1), data.data_x.std(axis=1)
        np.testing.assert_allclose(means, means[0], rtol=1e-4)
        np.testing.assert_allclose(deviations, deviations[0], rtol=1e-4)
        plain = DataTFD_48(folder, 6, 4, np.random.RandomState(1), normalize=False)
        np.testing.assert_allclose(
            plain.data_x[0] * 255, plain.data["images"][10].ravel(), rtol=1e-6
        )

    def test_bad_input(self, folder, tmp_path):
        with pytest.raises(ValueError, match="mbs: expected at least 5 and at most 14"):
            DataTFD_48(folder, 4, 4, np.random.RandomState(1), 0, 2)
        savemat(tmp_path / "TFD_48x48.mat", dict(images=np.zeros((2, 48, 48))))
        with pytest.raises(ValueError, match="has no folds"):
            DataTFD_48(tmp_path, 1, 1, np.random.RandomState(1))


def test_local_contrast():
    images = np.random.default_rng(0).random((2, 12, 10))
    offsets = np.arange(9) - 4
    g = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.591**2))
    g /= g.sum()
    for image, found in zip(images, lcn(pt.constant(images), (12, 10)).eval(), strict=True):
        v = image - correlate(image, g, mode="constant")
        s = np.sqrt(correlate(v**2, g, mode="constant"))
        np.testing.assert_allclose(found[0], (v / np.maximum(s, s.mean()) + 2.5) / 5, rtol=1e-10)


def test_clone_replaces_all_at_once():
    x, y = pt.dscalar("x"), pt.dscalar("y")
    swapped = safe_clone([x - y, 2 * x], [x, y], [y, x])
    assert [float(v.eval({x: 1.0, y: 3.0}, on_unused_input="ignore")) for v in swapped] == [2, 6]


@pytest.mark.parametrize(
    "seconds, text", [(1.5, " 1.500 sec"), (180, " 3.000 min"), (7200, " 2.000 h  ")]
)
def test_times(seconds, text):
    assert print_time(seconds) == text
