"""Base images of digits.

Where they are looked for, what a file has to hold, and how scikit-learn's are enlarged.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from symng.datasets import LabeledImages, digits
from symng.datasets.digits import check_examples


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Be in a folder without data, and without the environment variable; return the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMNG_DATA", raising=False)
    return tmp_path


def write(path, count=6, **changes):
    """Write a file like MNIST, with gray values that tell ``count``."""
    images = np.full((count, 28, 28), count, "uint8")
    images[0, 0, 0] = 255
    labels = (np.arange(count) % 10).astype("uint8")
    arrays = {
        "x_train": images,
        "y_train": labels,
        "x_test": images[:2],
        "y_test": labels[:2],
        **changes,
    }
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_file(nowhere):
    found = digits(write(nowhere / "own.npz"))
    assert found.source == "own.npz"
    assert (
        repr(found) == "LabeledImages(6 images to train on and 2 held out, 28 x 28, from own.npz)"
    )
    assert found.train_images.shape == (6, 28, 28) and found.test_images.shape == (2, 28, 28)
    assert found.train_images.dtype == found.test_images.dtype == "float32"
    assert found.train_labels.dtype == found.test_labels.dtype == "int64"
    assert found.train_images[0, 0, 0] == 1 and found.train_images[1, 1, 1] == np.float32(6 / 255)
    np.testing.assert_array_equal(found.train_labels, np.arange(6))
    np.testing.assert_array_equal(found.test_labels, np.arange(2))
    assert digits(str(nowhere / "own.npz")).source == "own.npz"


def test_where_a_file_is_looked_for(nowhere, monkeypatch):
    assert digits().source == "scikit-learn's digits"
    write(nowhere / "data" / "mnist.npz", 3)
    assert len(digits().train_images) == 3
    monkeypatch.setenv("SYMNG_DATA", str(nowhere / "elsewhere"))
    with pytest.raises(
        ValueError, match="^SYMNG_DATA: expected the name of a folder .* got '.*elsewhere', which"
    ):
        digits()
    (nowhere / "elsewhere").mkdir()
    assert len(digits().train_images) == 3  # there is none in that folder
    write(nowhere / "elsewhere" / "mnist.npz", 4)
    found = digits()
    assert len(found.train_images) == 4 and found.source == "mnist.npz"
    assert len(digits(write(nowhere / "own.npz", 5)).train_images) == 5  # what is named comes first


def test_the_folder_of_the_environment_may_begin_at_home(nowhere, monkeypatch):
    monkeypatch.setenv("HOME", str(nowhere))
    monkeypatch.setenv("SYMNG_DATA", "~/mine")  # as for faces
    write(nowhere / "mine" / "mnist.npz", 4)
    assert len(digits().train_images) == 4


def test_digits_of_scikit_learn(nowhere):
    sklearn = pytest.importorskip("sklearn.datasets")
    found = digits()
    small, labels = sklearn.load_digits(return_X_y=True)
    assert found.train_images.shape == (1500, 28, 28) and found.test_images.shape == (297, 28, 28)
    assert found.train_images.dtype == "float32" and found.train_labels.dtype == "int64"
    np.testing.assert_array_equal(np.concatenate([found.train_labels, found.test_labels]), labels)
    images = np.concatenate([found.train_images, found.test_images])
    assert images.min() == 0 and images.max() == 1
    assert (
        not images[:, :4].any()
        and not images[:, :, -4:].any()
        and images[:, 4].any()
        and images[:, 23].any()
    )
    # Enlarged 2.5 times on both axes, each keeps its ink and where it is. Splines go a little over
    # what clipping cuts.
    small = small.reshape(-1, 8, 8) / 16
    assert abs(images.sum(axis=(1, 2)) / (6.25 * small.sum(axis=(1, 2))) - 1).max() < 0.06
    for axis in (1, 2):
        weights = images.sum(axis=axis), small.sum(axis=axis)
        middles = [(w * np.arange(w.shape[1])).sum(axis=1) / w.sum(axis=1) for w in weights]
        assert abs(middles[0] - (4 + 2.5 * (middles[1] + 0.5) - 0.5)).max() < 0.5


def test_neither_file_nor_scikit_learn(nowhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError,
        match="^digits: expected scikit-learn .* or a file mnist.npz .* got neither. Run:",
    ):
        digits()


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"y_test": None},
            "path: expected the arrays 'x_train', 'y_train', 'x_test', 'y_test', got .*'x_test' in "
            "'",
        ),
        (
            {"x_train": np.zeros((6, 28, 27), "uint8")},
            r"path, x_train in '.*own.npz': expected uint8 images .*28, 27",
        ),
        (
            {"x_train": np.zeros((6, 784), "uint8")},
            "path, x_train in '.*own.npz': expected uint8 images of shape",
        ),
        (
            {"x_train": np.zeros((0, 28, 28), "uint8")},
            "path, x_train in '.*own.npz': expected uint8 images of shape",
        ),
        (
            {"x_test": np.zeros((2, 28, 28))},
            "path, x_test in '.*own.npz': expected uint8 images .* dtype float64",
        ),
        ({"y_train": np.arange(5)}, "path, y_train in '.*own.npz': expected 6 labels, .* 0 to 9"),
        (
            {"y_train": np.zeros(6)},
            "path, y_train in '.*own.npz': expected 6 labels, .* dtype float64",
        ),
        (
            {"y_train": np.zeros((6, 1), int)},
            r"path, y_train in '.*own.npz': expected 6 labels, .* shape \(6, 1\)",
        ),
        (
            {"y_test": np.array([3, 10])},
            "path, y_test in '.*own.npz': expected 2 labels, .* got labels from 3 to 10",
        ),
        (
            {"y_test": np.array([-1, 0])},
            "path, y_test in '.*own.npz': expected 2 labels, .* got labels from -1 to 0",
        ),
        (
            {"x_train": np.array([None])},
            "path: expected an npz file .*own.npz', which is damaged or another kind of file",
        ),
    ],
)
def test_files_that_hold_something_else(nowhere, changes, words):
    way_out = "Give another file, or none for scikit-learn's digits.$"
    with pytest.raises(ValueError, match=f"^{words}.*{way_out}"):
        digits(write(nowhere / "own.npz", **changes))


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "text"])
def test_damaged_files(nowhere, damage):
    path = write(nowhere / "own.npz")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[500] ^= 1  # in the middle of the first images
    left = {"truncated": content[:-100], "empty": b"", "flipped": content, "text": b"images"}[
        damage
    ]
    path.write_bytes(left)
    with pytest.raises(
        ValueError,
        match="^path: expected an npz file with the arrays of MNIST, got '.*own.npz', which is",
    ):
        digits(path)


def test_files_that_cannot_be_read(nowhere):
    with pytest.raises(
        FileNotFoundError, match="path: expected a file .* be read, got '.*none.npz': No such file"
    ):
        digits(nowhere / "none.npz")
    with pytest.raises(
        IsADirectoryError, match="path: expected a file .* be read, got '.*': Is a directory"
    ):
        digits(nowhere)
    with pytest.raises(TypeError, match="^path: expected the name of an npz file, got 5"):
        digits(5)


def test_labeled_images_look_at_their_arrays():
    x, t = np.zeros((3, 28, 28)), np.arange(3)
    good = dict(train_images=x, train_labels=t, test_images=x, test_labels=t, source="nothing")
    LabeledImages(**good)
    for name, value, error in (
        ("train_images", x + 2, ValueError),
        ("train_labels", t[:2], ValueError),
        ("test_images", x.astype(int), TypeError),
        ("test_labels", t.astype(float), TypeError),
        ("source", None, TypeError),
    ):
        with pytest.raises(error, match=f"^{name}: expected"):
            LabeledImages(**{**good, name: value})


def test_one_pixel_out_of_range_is_refused():
    for wrong in (-1e-6, 1 + 1e-6, np.nan, np.inf):
        images = np.zeros((4, 28, 28))
        images[2, 3, 4] = wrong
        with pytest.raises(ValueError, match="^images: expected gray values from 0 to 1"):
            check_examples("images", "labels", images, np.arange(4))
