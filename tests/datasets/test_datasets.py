"""The Curves-like images: published statistics, determinism, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from symng.datasets import curves


@pytest.fixture(scope="module")
def images():
    return curves(10_000, seed=3)


def test_shape_dtype_and_range(images):
    assert images.shape == (10_000, 784)
    assert images.dtype == "float32"
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("seed", [3, 4])
def test_statistics_of_the_published_data(images, seed):
    values = (images if seed == 3 else curves(10_000, seed)).astype("float64")
    assert values.mean() == pytest.approx(0.0532, abs=0.002)
    assert (values > 0.5).mean() == pytest.approx(0.032, abs=0.002)
    spectrum = np.linalg.eigvalsh(np.cov(values, rowvar=False))
    assert spectrum.sum() == pytest.approx(17.0, abs=0.5)
    assert spectrum[:-18].sum() == pytest.approx(5.96, abs=0.3)
    ink = values.sum(axis=1)
    assert ink.mean() == pytest.approx(41.7, abs=0.2)
    assert ink.std() == pytest.approx(1.7, abs=0.2)


def test_each_image_is_one_stroke(images):
    """One connected piece, dark along its middle."""
    for image in images[:50].reshape(-1, 28, 28):
        _, pieces = ndimage.label(image > 0.1, structure=np.ones((3, 3)))
        assert pieces == 1
        assert image.max() > 0.5


def test_same_seed_same_images_and_other_seed_other_images(images):
    np.testing.assert_array_equal(curves(300, seed=3), images[:300])
    assert not (curves(300, seed=4) == images[:300]).all(axis=1).any()
    np.testing.assert_array_equal(curves(2), curves(2, seed=0))


@pytest.mark.parametrize("n", [1, 100, 249, 250, 251, 777])
def test_fewer_images_are_the_first_of_more(images, n):
    np.testing.assert_array_equal(curves(n, seed=3), images[:n])


def test_no_image_is_repeated(images):
    assert len(np.unique(images, axis=0)) == len(images)


def test_float64_holds_the_same_images():
    double = curves(20, dtype=np.float64)
    assert double.dtype == "float64"
    np.testing.assert_array_equal(double.astype("float32"), curves(20))


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"n": 0}, ValueError, "n: expected a whole number, at least 1, got 0"),
        ({"n": -3}, ValueError, "n: expected"),
        ({"n": 2.0}, TypeError, "n: expected"),
        ({"n": True}, TypeError, "n: expected"),
        ({"n": "10"}, TypeError, "n: expected"),
        ({"n": 2, "seed": -1}, ValueError, "seed: expected a whole number, at least 0"),
        ({"n": 2, "seed": 0.5}, TypeError, "seed: expected"),
        ({"n": 2, "seed": None}, TypeError, "seed: expected"),
        ({"n": 2, "dtype": "int8"}, ValueError, "dtype: expected one of 'float32', 'float64'"),
        ({"n": 2, "dtype": "gray"}, ValueError, "dtype: expected one of 'float32', 'float64'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match="^" + words):
        curves(**arguments)
