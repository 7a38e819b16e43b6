"""Images of digits: a user's own copy of MNIST, or the digits of scikit-learn."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symng._checks import Verbatim, argument_error, check_instance
from symng._files import read_npz
from symng.datasets._folder import FOLDER, own_folder

FILE = "mnist.npz"
_HELD_OUT = 297  # of the 1,797 images of scikit-learn


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LabeledImages:
    """Images and labels to train on, and others that are held out.

    Parameters
    ----------
    train_images, test_images : ndarray of shape (images, side, side)
        Gray values from 0 (background) to 1 (ink).
    train_labels, test_labels : ndarray of shape (images,)
        Whole numbers.
    source : str
        Where the images come from, for reports of results.

    Raises
    ------
    TypeError, ValueError
        If an array is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.datasets import LabeledImages
    >>> x, t = np.zeros((3, 28, 28)), np.ones(3, int)
    >>> test = {"test_images": x[:1], "test_labels": t[:1]}
    >>> LabeledImages(train_images=x, train_labels=t, **test, source="nothing")
    LabeledImages(3 images to train on and 1 held out, 28 x 28, from nothing)
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str

    def __post_init__(self) -> None:
        check_instance("source", self.source, str, "text")
        for part in ("train", "test"):
            images, labels = f"{part}_images", f"{part}_labels"
            check_examples(images, labels, getattr(self, images), getattr(self, labels))

    def __repr__(self) -> str:
        _, rows, columns = self.train_images.shape
        return (
            f"LabeledImages({len(self.train_images)} images to train on and "
            f"{len(self.test_images)} held out, {rows} x {columns}, from {self.source})"
        )


def digits(path: str | os.PathLike[str] | None = None) -> LabeledImages:
    """Return images of digits: MNIST if a copy is found, else the digits of scikit-learn.

    Parameters
    ----------
    path : path-like, optional
        An npz file with the arrays of MNIST as Keras keeps it: images ``x_train`` and ``x_test`` of
        28 x 28 pixels, uint8, and labels ``y_train`` and ``y_test`` from 0 to 9. By default
        ``mnist.npz`` in the folder that the environment variable ``SYMNG_DATA`` names, or else
        ``data/mnist.npz`` in the working directory. If there is neither, scikit-learn's 1,797
        digits are taken.

    Returns
    -------
    LabeledImages
        ``train_images`` and ``test_images`` of shape (images, 28, 28), float32, from 0 (background)
        to 1 (ink); ``train_labels`` and ``test_labels``, int64; ``source``, the name of the file or
        "scikit-learn's digits".

    Raises
    ------
    OSError
        If a file cannot be read, such as FileNotFoundError for a ``path`` that is not there.
    ValueError
        If a file is damaged or another kind of file, or if ``SYMNG_DATA`` is not a folder.
    ImportError
        If there is neither a file nor scikit-learn.

    Notes
    -----
    The digits of scikit-learn have 8 x 8 pixels. They are enlarged by cubic splines to 20 x 20 and
    framed by 4 pixels of background, as those of MNIST are; the last 297 are held out.

    Examples
    --------
    >>> from symng.datasets import digits
    >>> found = digits()
    >>> found.train_images.shape[1:], str(found.train_images.dtype), int(found.train_labels.max())
    ((28, 28), 'float32', 9)
    """
    if path is None:
        path = _find()
    return _bundled() if path is None else read_labeled(path)


def check_examples(images_name: str, labels_name: str, images: object, labels: object) -> None:
    """Refuse images that are not squares of values in [0, 1], and labels that do not match them."""
    expected = "an array of floats of shape (images, side, side)"
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
        hint = "Bring gray values to the range from 0 to 1: images / 255 for those of type uint8."
        raise argument_error(images_name, expected, images, hint, TypeError)
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.size == 0:
        raise argument_error(images_name, expected, images, "Reshape rows of pixels to squares.")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # nor NaN
        raise argument_error(
            images_name,
            "gray values from 0 to 1",
            Verbatim(f"{low:g} to {high:g}"),
            "Rescale or clip them.",
        )
    expected = f"an array of {len(images)} whole numbers, one for each image"
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise argument_error(labels_name, expected, labels, error=TypeError)
    if labels.shape != (len(images),):
        raise argument_error(labels_name, expected, labels)


def _find() -> Path | None:
    """Return the first file found in the usual folders; None if there is none."""
    own = own_folder(ValueError)
    folders = [Path("data")] if own is None else [own, Path("data")]
    return next((folder / FILE for folder in folders if (folder / FILE).exists()), None)


def read_labeled(path: str | os.PathLike[str]) -> LabeledImages:
    """Return the images in a file of MNIST, or of a data set in its form."""
    check_instance("path", path, (str, os.PathLike), "the name of an npz file")
    name = repr(os.fspath(path))
    hint = "Give another file, or none for scikit-learn's digits."
    try:
        arrays = read_npz(path, "an npz file with the arrays of MNIST", hint, compressed=True)
    except OSError as error:
        # With the same errno, OSError makes an error of the same class, such as FileNotFoundError.
        reason = os.strerror(error.errno) if error.errno else error
        text = f"path: expected a file that can be read, got {name}: {reason}. {hint}"
        raise OSError(error.errno or 0, text) from error
    names = ["x_train", "y_train", "x_test", "y_test"]
    if not set(names) <= set(arrays):
        found = Verbatim(f"{', '.join(map(repr, arrays)) or 'none'} in {name}")
        raise argument_error("path", f"the arrays {', '.join(map(repr, names))}", found, hint)
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != "uint8" or images.shape[1:] != (28, 28) or len(images) == 0:
            raise argument_error(
                f"path, x_{part} in {name}",
                "uint8 images of shape (images, 28, 28)",
                images,
                hint,
            )
        expected = f"{len(images)} labels, whole numbers from 0 to 9"
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise argument_error(f"path, y_{part} in {name}", expected, labels, hint)
        if labels.min() < 0 or labels.max() > 9:
            wrong = Verbatim(f"labels from {labels.min()} to {labels.max()}")
            raise argument_error(f"path, y_{part} in {name}", expected, wrong, hint)
    return LabeledImages(
        train_images=arrays["x_train"] / np.float32(255),
        train_labels=arrays["y_train"].astype("int64"),
        test_images=arrays["x_test"] / np.float32(255),
        test_labels=arrays["y_test"].astype("int64"),
        source=Path(path).name,
    )


def _bundled() -> LabeledImages:
    """Return the digits of scikit-learn, enlarged to the form of MNIST."""
    from scipy import ndimage  # here, as is scikit-learn: both take long to import

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"digits: expected scikit-learn to be installed or a file {FILE} in the folder that "
            f"{FOLDER} names or in 'data', got neither. Run: pip install \"symng[examples]\", or "
            "give digits the path of such a file."
        ) from error
    small, labels = load_digits(return_X_y=True)
    images = np.zeros((len(small), 28, 28), "float32")
    large = ndimage.zoom(
        small.reshape(-1, 8, 8) / 16, (1, 2.5, 2.5), mode="grid-constant", grid_mode=True
    )
    images[:, 4:-4, 4:-4] = large.clip(0.0, 1.0)
    train, test = slice(None, -_HELD_OUT), slice(-_HELD_OUT, None)
    labels = labels.astype("int64")
    return LabeledImages(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        source="scikit-learn's digits",
    )
