"""MNIST: a user's own copy, or that of OpenML, verified by checksums."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from symng._checks import Verbatim, argument_error, check_flag, check_instance
from symng.datasets._fashion import IDX_FILES, existing_file, read_parts
from symng.datasets._folder import FOLDER, own_folder
from symng.datasets._openml import fetch_images
from symng.datasets.digits import FILE, LabeledImages, read_labeled

# CRC-32 of the bytes of each array, by the name that Keras gives it.
_CHECKSUMS = {
    "x_train": 0xF3639B56,
    "y_train": 0xBA07E8EF,
    "x_test": 0xE4CA5F57,
    "y_test": 0xEE8604D9,
}
_TRAIN = 60_000
_HOW_TO_GET = (
    "To get MNIST: symng.datasets.mnist(download=True), by scikit-learn from OpenML; or put "
    f"{FILE} of Keras, or {', '.join(IDX_FILES)}, gzipped or not, into a folder and give it as "
    f"path or in {FOLDER}."
)


def mnist(path: str | os.PathLike[str] | None = None, *, download: bool = False) -> LabeledImages:
    """Return the images of MNIST: 60,000 to train on and 10,000 held out.

    Parameters
    ----------
    path : path-like, optional
        An npz file with the arrays of Keras, ``x_train``, ``y_train``, ``x_test`` and ``y_test``;
        or a folder with such a ``mnist.npz``, or with the four original idx files, gzipped or not.
        By default the folder that the environment variable ``SYMNG_DATA`` names, and then ``data``
        in the working directory, are searched.
    download : bool, default False
        Where no ``path`` is given and no file found, let scikit-learn fetch "mnist_784" from
        OpenML. It keeps a copy in its own folder, and reads that the next time.

    Returns
    -------
    LabeledImages
        ``train_images`` of shape (60000, 28, 28) and ``test_images`` of shape (10000, 28, 28),
        float32, from 0 (background) to 1 (ink); ``train_labels`` and ``test_labels``, int64.

    Raises
    ------
    FileNotFoundError
        If there is no copy; the message says how to get one.
    OSError
        If a file cannot be read, or OpenML not be reached.
    ValueError
        If a file is damaged, is not MNIST, or has its images in another order: checksums are
        compared.
    ImportError
        If ``download`` needs scikit-learn, which is not installed.

    Notes
    -----
    `digits` takes any data set of the form of MNIST, and has one of its own for where there is no
    file.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to
       document recognition", Proceedings of the IEEE 86, 1998.

    Examples
    --------
    >>> import symng
    >>> try:
    ...     symng.datasets.mnist("a folder that is not there")
    ... except FileNotFoundError as error:
    ...     print(str(error)[:66])
    path: expected MNIST in a file or folder, got none in 'a folder th
    """
    check_flag("download", download)
    if path is not None:
        check_instance("path", path, (str, os.PathLike), "the name of a file or folder")
    folders = _search_path() if path is None else [Path(path)]
    for folder in folders:
        found = _read(folder)
        if found is not None:
            return _verified(found)
    if download and path is None:
        return _verified(_fetch())
    searched = ", ".join(repr(str(folder)) for folder in folders)
    got = Verbatim(f"none in {searched}")
    raise argument_error(
        "path", "MNIST in a file or folder", got, _HOW_TO_GET, error=FileNotFoundError
    )


def _search_path() -> list[Path]:
    """Return the folders to search."""
    own = own_folder(ValueError)
    return [Path("data")] if own is None else [own, Path("data")]


def _read(place: Path) -> LabeledImages | None:
    """Return what is in a file or folder; None if there is nothing of MNIST."""
    if place.is_file():
        return read_labeled(place)
    if (place / FILE).is_file():
        return read_labeled(place / FILE)
    files = [existing_file(place, name) for name in IDX_FILES]
    if not any(files):
        return None
    if missing := [name for name, file in zip(IDX_FILES, files, strict=True) if file is None]:
        got = Verbatim(f"the folder {str(place)!r} without {', '.join(missing)}")
        raise argument_error(
            "path", "all four idx files", got, _HOW_TO_GET, error=FileNotFoundError
        )
    images, labels = read_parts([file for file in files if file is not None])
    return _split(images, labels, str(place))


def _split(images: np.ndarray, labels: np.ndarray, source: str) -> LabeledImages:
    """Return images of type uint8, the first of which are to train on."""
    train, test = slice(None, _TRAIN), slice(_TRAIN, None)
    gray = images / np.float32(255)
    return LabeledImages(
        train_images=gray[train],
        train_labels=labels[train],
        test_images=gray[test],
        test_labels=labels[test],
        source=source,
    )


def _verified(found: LabeledImages) -> LabeledImages:
    """Return the images, or refuse those that are not MNIST's, in their order."""
    arrays = {
        "x_train": np.rint(found.train_images * 255),
        "y_train": found.train_labels,
        "x_test": np.rint(found.test_images * 255),
        "y_test": found.test_labels,
    }
    for name, array in arrays.items():
        checksum = zlib.crc32(np.ascontiguousarray(array.astype("uint8")).data)
        if checksum != _CHECKSUMS[name]:
            raise argument_error(
                f"path, {name} in {found.source!r}",
                f"MNIST, whose CRC-32 is {_CHECKSUMS[name]:08x}",
                Verbatim(f"{len(array):,} entries with {checksum:08x}"),
                "Get the file again; for images of your own symng.datasets.digits reads the same "
                "form.",
            )
    return found


def _fetch() -> LabeledImages:
    """Let scikit-learn fetch images and labels."""
    images, labels = fetch_images("mnist_784", "MNIST", _HOW_TO_GET)
    return _split(images, labels, "OpenML's mnist_784")
