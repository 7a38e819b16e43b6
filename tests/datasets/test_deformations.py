"""The five modules that deform digits, against plain loops and the definitions of SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from symng.datasets import _deformations as modules

SIDE = modules.SIDE


@pytest.fixture
def image():
    """Return random gray values all over the frame."""
    return np.random.default_rng(1).random((SIDE, SIDE))


class Fixed:
    """Random numbers that are told.

    Where between its limits each uniform number lies, or which whole number comes.
    """

    def __init__(self, share: float) -> None:
        self.share, self.asked = share, []

    def uniform(self, low, high, shape=None):
        self.asked.append((low, high))
        value = low + self.share * (high - low)
        return value if shape is None else np.full(shape, value)

    def integers(self, high):
        self.asked.append(high)
        return self.share


def pixel(image, row, column):
    return image[row, column] if 0 <= row < SIDE and 0 <= column < SIDE else 0.0


def between(image, row, column):
    """Return the bilinear value at a point, the slow way."""
    top, left = math.floor(row), math.floor(column)
    below, right = row - top, column - left
    upper = (1 - right) * pixel(image, top, left) + right * pixel(image, top, left + 1)
    lower = (1 - right) * pixel(image, top + 1, left) + right * pixel(image, top + 1, left + 1)
    return (1 - below) * upper + below * lower


def each_pixel(value):
    return np.array([[value(row, column) for column in range(SIDE)] for row in range(SIDE)])


@pytest.mark.parametrize("name", modules.DEFORMATIONS)
def test_complexity_zero_changes_nothing(name, image):
    for seed in range(5):
        made = modules.DEFORMATIONS[name](image, np.random.default_rng(seed), 0.0)
        np.testing.assert_array_equal(made, image)


@pytest.mark.parametrize("name", modules.DEFORMATIONS)
def test_complexity_changes_images_and_more_of_it_changes_more(name):
    image = np.zeros((SIDE, SIDE))
    image[8:24, 14:17] = image[20:23, 10:20] = 1.0
    little, much = (
        np.mean(
            [
                abs(modules.DEFORMATIONS[name](image, np.random.default_rng(s), c) - image).mean()
                for s in range(40)
            ]
        )
        for c in (0.1, 0.9)
    )
    assert 0 < little < much


@pytest.mark.parametrize("name", modules.DEFORMATIONS)
@pytest.mark.parametrize("complexity", [0.01, 0.5, 1.0])
def test_blank_and_full_images(name, complexity):
    blank, full = np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal(modules.DEFORMATIONS[name](blank, rng, complexity), blank)
        made = modules.DEFORMATIONS[name](full, rng, complexity)
        assert made.min() >= 0 and made.max() == pytest.approx(1, abs=1e-12)
        if name == "thickness":
            np.testing.assert_array_equal(made, full)


@pytest.mark.parametrize("slope", [0.7, -0.7, 0.03, -0.4, 1.0])
def test_slant_moves_rows_and_centers(image, slope):
    wanted = np.zeros_like(image)
    for row in range(SIDE):
        shift = round(row * slope) - round(SIDE / 2 * slope)
        for column in range(SIDE):
            if 0 <= column + shift < SIDE:
                wanted[row, column + shift] = image[row, column]
    np.testing.assert_array_equal(modules.shift_rows(image, slope), wanted)
    np.testing.assert_array_equal(modules.shift_rows(image, slope)[16], image[16])


def test_slant_draws_its_slope(image):
    rng = Fixed(0.75)
    made = modules.slant(image, rng, 0.5)
    assert rng.asked == [(-0.5, 0.5)]
    np.testing.assert_array_equal(made, modules.shift_rows(image, 0.25))


def test_footprints_go_from_thin_to_thick():
    shapes = [footprint.shape for footprint in modules.FOOTPRINTS]
    assert shapes == [(1, 2), (2, 1), (2, 2), (3, 3), (2, 3), (3, 2), (3, 3), (3, 4), (4, 3)]
    assert [int(footprint.sum()) for footprint in modules.FOOTPRINTS] == [
        2,
        2,
        4,
        5,
        6,
        6,
        9,
        12,
        12,
    ]


@pytest.mark.parametrize(
    "complexity, erosions, dilations", [(0.7, 4, 7), (1.0, 5, 9), (0.01, 1, 1), (0.2, 1, 2)]
)
def test_thickness_chooses_among_erosions_dilations_and_nothing(
    image, complexity, erosions, dilations
):
    for choice in range(erosions + dilations + 1):
        rng = Fixed(choice)
        made = modules.thickness(image, rng, complexity)
        assert rng.asked == [erosions + dilations + 1]
        if choice < erosions:
            wanted = ndimage.grey_erosion(image, footprint=modules.FOOTPRINTS[choice])
        elif choice < erosions + dilations:
            wanted = ndimage.grey_dilation(image, footprint=modules.FOOTPRINTS[choice - erosions])
        else:
            wanted = image
        np.testing.assert_allclose(made, wanted * (image.max() / wanted.max()), rtol=1e-14)
        assert made.max() == image.max()


def test_erosion_that_would_leave_nothing_is_left_out():
    thin = np.zeros((SIDE, SIDE))
    thin[5:25, 16] = 0.8
    assert not ndimage.grey_erosion(thin, footprint=modules.FOOTPRINTS[0]).any()
    np.testing.assert_array_equal(
        modules.thicken(thin, ndimage.grey_erosion, modules.FOOTPRINTS[0]), thin
    )
    np.testing.assert_array_equal(
        modules.thicken(thin, ndimage.grey_erosion, modules.FOOTPRINTS[1])[6:24], thin[6:24]
    )


def test_affine_takes_the_nearest_pixel(image):
    a, b, c, d, e, f = 1.1, -0.2, 3.4, 0.15, 0.8, -2.6

    def value(row, column):
        x, y = column + 0.5, row + 0.5
        return pixel(image, math.floor(d * x + e * y + f), math.floor(a * x + b * y + c))

    made = modules.map_affinely(image, (a, b, c, d, e, f))
    np.testing.assert_array_equal(made, each_pixel(value))
    assert set(np.unique(made)) <= {0.0, *image.ravel()}
    # A shift brings zeros in, not the other side.
    moved = modules.map_affinely(image, (1, 0, 4, 0, 1, -3))
    np.testing.assert_array_equal(moved[3:, :-4], image[:-3, 4:])
    assert not moved[:3].any() and not moved[:, -4:].any()


def test_affine_draws_its_coefficients(image):
    rng = Fixed(1.0)
    made = modules.affine(image, rng, 0.5)
    assert rng.asked == [(-0.2, 0.2), (-2.25, 2.25)]
    np.testing.assert_array_equal(
        made, modules.map_affinely(image, (1.2, 0.2, 2.25, 0.2, 1.2, 2.25))
    )


def test_displacement_is_bilinear_between_zeros(image):
    fields = np.random.default_rng(2).normal(0.0, 3.0, (2, SIDE, SIDE))
    wanted = each_pixel(
        lambda row, column: between(
            image, row + fields[0, row, column], column + fields[1, row, column]
        )
    )
    np.testing.assert_allclose(modules.displace(image, fields), wanted, atol=1e-12)


def test_elastic_displaces_by_smooth_fields(image):
    complexity = 0.343  # of which the cube root is 0.7
    noise = np.random.default_rng(3).uniform(-1, 1, (2, SIDE, SIDE))
    width = 10 - 7 * 0.7
    reach = round(0.75 * width)
    weights = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2))
    weights /= weights.sum()
    fields = np.zeros_like(noise)
    for down, first in zip(range(-reach, reach + 1), weights, strict=True):
        for right, second in zip(range(-reach, reach + 1), weights, strict=True):
            fields += first * second * np.roll(noise, (-down, -right), axis=(1, 2))
    wanted = modules.displace(image, 7.0 * fields)
    np.testing.assert_allclose(
        modules.elastic(image, np.random.default_rng(3), complexity), wanted, atol=1e-10
    )


def test_elastic_is_as_strong_at_the_border_as_inside():
    rng = np.random.default_rng(4)
    fields = modules.smooth(rng.uniform(-1, 1, (400, SIDE, SIDE)), 4.0)
    assert fields[:, :, 0].std() == pytest.approx(fields[:, :, 16].std(), rel=0.1)
    assert fields[:, 0, 0].std() == pytest.approx(fields.std(), rel=0.15)


@pytest.mark.parametrize("amount", [-0.7, 0.49, 0.1])
def test_pinch_takes_the_value_nearer_or_farther_on_the_ray(image, amount):
    center, radius = (SIDE - 1) / 2, SIDE / 2

    def value(row, column):
        down, right = row - center, column - center
        distance = math.hypot(down, right)
        if distance >= radius:
            return image[row, column]
        factor = math.sin(math.pi * distance / (2 * radius)) ** -amount
        return between(image, center + down * factor, center + right * factor)

    np.testing.assert_allclose(modules.pinch_by(image, amount), each_pixel(value), atol=1e-12)


def test_pinch_of_nothing_and_its_draw(image):
    np.testing.assert_array_equal(modules.pinch_by(image, 0.0), image)
    rng = Fixed(0.0)
    np.testing.assert_array_equal(modules.pinch(image, rng, 0.5), modules.pinch_by(image, -0.5))
    np.testing.assert_allclose(rng.asked, [(-0.5, 0.35)])
    # A positive amount fetches from farther away, which draws the picture together.
    spot = np.zeros((SIDE, SIDE))
    spot[12:20, 12:20] = 1.0
    assert modules.pinch_by(spot, 0.4).sum() < spot.sum() < modules.pinch_by(spot, -0.4).sum()
