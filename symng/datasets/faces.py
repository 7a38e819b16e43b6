"""Few labeled and many unlabeled images: the Toronto Face Dataset, or Fashion-MNIST."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from symng._checks import Verbatim, argument_error, check_flag, check_instance, check_number
from symng.datasets._fashion import find_fashion, how_to_get_fashion

FOLDS = 5
# Labeled images of the Toronto Face Dataset: 2,925 for training, 418 for validation and 835 for
# testing in each fold.
LABELED = 4178
_EXPRESSIONS = 7
_UNLABELED, _TRAIN, _VALID, _TEST = range(4)  # codes of the column of a fold


@dataclass(frozen=True, eq=False)
class FacesFold:
    """One fold of `faces`.

    Parameters
    ----------
    train_images, valid_images, test_images, unlabeled_images : ndarray of shape (N, height, width)
        Gray values from 0 to 255, uint8.
    train_labels, valid_labels, test_labels : ndarray of shape (N,)
        Classes from 0 on, int64.
    classes : int
        Number of classes.
    source : str
        What was read, and from where.
    """

    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    valid_images: np.ndarray = field(repr=False)
    valid_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    unlabeled_images: np.ndarray = field(repr=False)
    classes: int
    source: str

    def __repr__(self) -> str:
        height, width = self.train_images.shape[1:]
        counts = [
            len(a)
            for a in (self.train_labels, self.valid_labels, self.test_labels, self.unlabeled_images)
        ]
        sizes = " / ".join(f"{count:,}" for count in counts[:3])
        return (
            f"<FacesFold: {sizes} labeled, {counts[3]:,} unlabeled images of {height} x {width}, "
            f"{self.classes} classes; {self.source}>"
        )


def faces(
    path: str | os.PathLike[str] | None = None,
    *,
    fold: int = 0,
    labeled: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> FacesFold:
    """Return a fold of the Toronto Face Dataset, or of Fashion-MNIST cut the same way.

    The Toronto Face Dataset [1]_ has 4,178 images of faces, labeled with one of seven expressions,
    in five folds of 2,925 to train with, 418 to validate and 835 to test, and some hundred thousand
    unlabeled ones. It is available on request only. The default is Fashion-MNIST [2]_, 70,000
    images of clothes in ten classes, cut the same way: 4,178 are labeled, and the labels of the
    others are left out.

    Parameters
    ----------
    path : path-like, optional
        A file whose name ends in ``.mat``, your TFD_48x48.mat; or a folder with the four idx files
        of Fashion-MNIST (or of MNIST, whose names are the same), gzipped or not. Default:
        Fashion-MNIST, looked for in the folder that the environment variable ``SYMNG_DATA`` names
        and in ``fashion-mnist`` below it, in /usr/share/datasets/fashion-mnist (of the Debian
        package dataset-fashion-mnist), and among what scikit-learn has fetched from OpenML before.
    fold : int, default 0
        From 0 to 4; fold 4 of the paper is 3 here.
    labeled : int, optional
        Labeled images in all, at least 10 and at most as many as there are. Of Fashion-MNIST, a
        tenth of them is for validation and a fifth for testing; of a ``.mat`` file with more, each
        part keeps its share. Default: 4,178, or all that the ``.mat`` file has.
    seed : int, default 0
        Determines which images of Fashion-MNIST are labeled and how they are folded; of a ``.mat``
        file, whose folds are given, which ones stay labeled if ``labeled`` is fewer. At least 0.
    download : bool, default False
        Let scikit-learn fetch Fashion-MNIST from OpenML if it is found nowhere (some 30 MB, kept
        where scikit-learn keeps its data). Without it nothing is downloaded.

    Returns
    -------
    FacesFold
        Images and labels.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``, or Fashion-MNIST is found nowhere; the message says where
        symng looked for it and how to get it.
    ImportError
        If ``download`` needs scikit-learn and it is not installed.
    OSError
        If a file cannot be read, or the download fails.
    TypeError, ValueError
        If an argument is not as described, or a file is damaged or another kind of file.

    Notes
    -----
    The test parts of the five folds have no image in common. Labeled images that ``labeled`` leaves
    out count among the unlabeled ones. Fashion-MNIST is read in about a second and takes 55 MB.

    References
    ----------
    .. [1] J. Susskind, A. Anderson and G. E. Hinton, "The Toronto Face Database", technical report
       UTML TR 2010-001, University of Toronto, 2010.
    .. [2] H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
       machine learning algorithms", 2017, arXiv:1708.07747.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, scipy.io
    >>> from symng.datasets import faces
    >>> # 1: training, 2: validation, 3: test, 0: no label
    >>> folds = np.tile([[1], [1], [2], [3], [0], [0]], (2, 5))
    >>> content = {"images": np.zeros((12, 48, 48), "uint8"), "folds": folds}
    >>> content["labs_ex"] = np.where(folds[:, :1] > 0, 7, -1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scipy.io.savemat(os.path.join(folder, "TFD_48x48.mat"), content)
    ...     data = faces(os.path.join(folder, "TFD_48x48.mat"))
    >>> data.train_images.shape, data.test_labels, len(data.unlabeled_images)
    ((4, 48, 48), array([6, 6]), 4)
    """
    check_number("fold", fold, minimum=0, maximum=FOLDS - 1, integer=True)
    if labeled is not None:
        check_number("labeled", labeled, minimum=10, integer=True)
    check_number("seed", seed, minimum=0, integer=True)
    check_flag("download", download)
    if path is not None:
        check_instance(
            "path", path, (str, os.PathLike), "the name of a file or folder", how_to_get_fashion()
        )
        path = Path(path)
        if not path.exists():
            missing = Verbatim(f"{str(path)!r}, which does not exist")
            raise argument_error(
                "path",
                "a TFD_48x48.mat, or a folder of idx files",
                missing,
                how_to_get_fashion(),
                FileNotFoundError,
            )
    if path is not None and path.suffix.lower() == ".mat" and not path.is_dir():
        images, labels, codes = _read_tfd(path, fold)
        codes = _thin(codes, labeled, seed)
        source, classes = f"{path}, fold {fold}", _EXPRESSIONS
    else:
        images, labels, source = find_fashion(path, download)
        count = LABELED if labeled is None else labeled
        if count > len(images):
            raise argument_error(
                "labeled", f"at most the {len(images):,} images there are", labeled
            )
        codes = _fold(len(images), count, fold, seed)
        source, classes = f"{source}, fold {fold} of seed {seed}", int(labels.max()) + 1
    parts: dict[str, np.ndarray] = {"unlabeled_images": images[codes == _UNLABELED]}
    for name, code in (("train", _TRAIN), ("valid", _VALID), ("test", _TEST)):
        parts |= {f"{name}_images": images[codes == code], f"{name}_labels": labels[codes == code]}
    return FacesFold(**parts, classes=classes, source=source)


def _fold(count: int, labeled: int, fold: int, seed: int) -> np.ndarray:
    """Return the codes of ``count`` images, of which the seed draws those that are labeled."""
    test, valid = labeled // FOLDS, round(labeled / 10)
    chosen = np.roll(
        np.random.default_rng(int(seed)).permutation(count)[:labeled], -test * int(fold)
    )
    codes = np.full(count, _UNLABELED)
    codes[chosen] = _TRAIN
    codes[chosen[:test]] = _TEST
    codes[chosen[test : test + valid]] = _VALID
    return codes


def _thin(codes: np.ndarray, labeled: int | None, seed: int) -> np.ndarray:
    """Return the codes of fewer labeled images, with the share of each part kept."""
    indices = np.flatnonzero(codes)
    if labeled is None:
        return codes
    if labeled > len(indices):
        raise argument_error(
            "labeled", f"at most the {len(indices):,} labeled images of the file", labeled
        )
    order = np.random.default_rng(int(seed)).permutation(indices)
    thinned = np.full_like(codes, _UNLABELED)
    for code in (_TRAIN, _VALID, _TEST):
        part = order[codes[order] == code]
        kept = part[: round(len(part) * labeled / len(indices))]
        thinned[kept] = code
    return thinned


def _read_tfd(path: Path, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, labels from 0 on, and the codes of one fold."""
    images, folds, labels = _load_tfd(path)
    _check_tfd(path, images, folds, labels)
    codes, labels = folds[:, fold].astype("int64"), labels.ravel().astype("int64")
    counts = [(codes == code).sum() for code in (_TRAIN, _VALID, _TEST)]
    if not all(counts):
        got = Verbatim(
            f"{str(path)!r} whose fold {fold} has {' / '.join(map(str, counts))} of them"
        )
        raise argument_error(
            "path", "images to train with, to validate and to test", got, _OTHER_FILE
        )
    known = labels[codes > 0]
    if known.min() < 1 or known.max() > _EXPRESSIONS:
        raise argument_error(
            "path",
            f"labels from 1 to {_EXPRESSIONS} of all labeled images",
            Verbatim(f"{str(path)!r} with labels from {known.min()} to {known.max()}"),
            _OTHER_FILE,
        )
    return images, labels - 1, codes


def _load_tfd(path: Path) -> tuple[np.ndarray, ...]:
    """Return the arrays images, folds and labs_ex of a file."""
    from scipy import io

    expected = "a TFD_48x48.mat with images, folds and labs_ex"
    # Outside of the try: a file that may not be read is not a damaged one.
    with Path(path).open("rb") as file:
        try:
            content = io.loadmat(file, variable_names=["images", "folds", "labs_ex"])
        except NotImplementedError:
            raise argument_error(
                "path",
                expected,
                Verbatim(f"{str(path)!r}, of MATLAB's format 7.3"),
                "Save it again in MATLAB with the option -v7.",
            ) from None
        except Exception as error:  # a damaged file raises zlib.error, TypeError, MemoryError, ...
            raise argument_error(
                "path",
                expected,
                Verbatim(f"{str(path)!r}, which is damaged or another kind of file ({error})"),
                "Get the file again.",
            ) from error
    missing = [name for name in ("images", "folds", "labs_ex") if name not in content]
    if missing:
        raise argument_error(
            "path", expected, Verbatim(f"{str(path)!r} without {', '.join(missing)}"), _OTHER_FILE
        )
    return tuple(np.asarray(content[name]) for name in ("images", "folds", "labs_ex"))


_OTHER_FILE = "Is it the file that comes with the data set?"


def _check_tfd(path: Path, images: np.ndarray, folds: np.ndarray, labels: np.ndarray) -> None:
    """Refuse arrays of other shapes, dtypes or codes than the file has."""
    shapes: Sequence[tuple[str, np.ndarray, tuple[int, ...]]] = (
        ("images", images, (len(images), 48, 48)),
        ("folds", folds, (len(images), FOLDS)),
        ("labs_ex", labels, (len(images), 1)),
    )
    for name, array, shape in shapes:
        if array.shape != shape or array.dtype.kind not in "iuf":
            got = Verbatim(
                f"an array of shape {array.shape} and dtype {array.dtype} in {str(path)!r}"
            )
            raise argument_error("path", f"{name} of shape {shape}", got, _OTHER_FILE)
    if images.dtype != "uint8":
        raise argument_error(
            "path",
            "images of dtype uint8",
            Verbatim(f"{images.dtype} in {str(path)!r}"),
            _OTHER_FILE,
        )
    if not np.isin(folds, range(4)).all():
        raise argument_error(
            "path",
            "codes 0, 1, 2 and 3 in folds",
            Verbatim(f"others in {str(path)!r}"),
            _OTHER_FILE,
        )
