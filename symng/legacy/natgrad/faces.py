"""The Toronto Face Dataset in batches, as the authors' own experiment reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.legacy.natgrad._examples import Examples, check_arguments, check_file

_FILE = "TFD_48x48.mat"
_KEYS = ("images", "folds", "labs_ex")
_PIXELS = 48 * 48
# What the column of a fold says of an image.
_UNLABELED, _TRAIN, _VALID, _TEST = 0, 1, 2, 3


class DataTFD_48(Examples):
    """Faces of 48 x 48 pixels with 7 expressions, in contiguous batches from a random start.

    Parameters
    ----------
    path : str or path
        The folder of TFD_48x48.mat, with the arrays images, folds and labs_ex.
    mbs : int
        Examples in a batch of the metric.
    bs : int
        Examples in a batch of the gradient.
    rng : numpy.random.RandomState
        Draws the order and the start of the batches.
    fold : int, default 0
        The column of folds: 0 unlabeled, 1 training, 2 validation, 3 test.
    unlabled : {0, 1, 2}, default 0
        The batch of the metric: the gradient's own and what follows it; another batch of training
        examples; ``bs`` other training and ``mbs - bs`` unlabeled examples.
    normalize : bool, default True
        Give each image mean 0 and standard deviation 1, then all of them the range [0, 1] of the
        training images.
    quirks : bool, default False
        With ``unlabled`` 1 take the first ``mbs`` training examples in each step, as the original.

    Attributes
    ----------
    variables, eval_variables : lists
        Functions from start and end to rows of the current batch; all training examples.
    xdim, ydim : int
        2304, and the number of classes.
    n_batches, n_valid_samples, n_test_samples : int
        Batches in an epoch, validation and test examples.

    Notes
    -----
    The metric of these examples needs no classes; those of unlabeled ones are 0.

    Examples
    --------
    >>> import numpy as np, scipy.io, tempfile
    >>> from symng.legacy.natgrad import DataTFD_48
    >>> rng = np.random.RandomState(0)
    >>> images = rng.randint(0, 256, (12, 48, 48))
    >>> folds = np.array([[0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 0]]).T
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     content = dict(images=images, folds=folds, labs_ex=folds + 1)
    ...     scipy.io.savemat(f"{folder}/TFD_48x48.mat", content)
    ...     data = DataTFD_48(folder, 4, 2, rng)
    >>> data.xdim, data.n_batches, data.n_valid_samples
    (2304, 3, 2)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mbs: int,
        bs: int,
        rng: np.random.RandomState,
        fold: int = 0,
        unlabled: int = 0,
        normalize: bool = True,
        quirks: bool = False,
    ) -> None:
        check_arguments(rng, unlabled, mbs=mbs, bs=bs)
        self.path, self.rng, self.unlabled, self.fixed = path, rng, unlabled, quirks
        self.mbs, self.bs = int(mbs), int(bs)
        self.data = _read(path)
        self.xdim, self.ydim = _PIXELS, int(self.data["labs_ex"].max()) + 1
        folds = self.data["folds"]
        if fold not in range(folds.shape[1]):
            raise argument_error("fold", f"a column of folds, 0 to {folds.shape[1] - 1}", fold)
        codes = folds[:, fold]
        scale = _Scale(self._images(codes == _TRAIN), normalize)
        self.data_x, self.data_y = (
            scale(self._images(codes == _TRAIN)),
            self._classes(codes == _TRAIN),
        )
        for name, code in (("valid", _VALID), ("test", _TEST)):
            setattr(self, f"_{name}_x", self._shared(scale(self._images(codes == code))))
            setattr(self, f"_{name}_y", self._shared(self._classes(codes == code)))
            setattr(self, f"n_{name}_samples", int((codes == code).sum()))
        self.unlabeled_data = scale(self._images(codes == _UNLABELED))
        self._check_sizes()

        self.offset = pytensor.shared(np.array(0, "int32"), name="offset")
        self._train_x, self._train_y = self._shared(self.data_x), self._shared(self.data_y)
        self.eval_variables = [self._train_x, self._train_y]
        self.variables = [self.train_x, self.train_y]
        self._natgrad = self._shared(self.data_x[: self.mbs])
        self._natgrady = self._shared(self.data_y[: self.mbs])
        self.n_batches = len(self.data_x) // self.bs
        self.nat_batches = self._count_metric_batches()
        self.posg = self.posng = -1

    def train_x(self, start: Any, end: Any) -> TensorVariable:
        """Return rows of the inputs of the current gradient batch."""
        return self._train_x[start + self.offset : end + self.offset]

    def train_y(self, start: Any, end: Any) -> TensorVariable:
        """Return classes of the current gradient batch."""
        return self._train_y[start + self.offset : end + self.offset]

    def update_before_computing_gradients(self) -> None:
        """Go to the next gradient batch, and fill that of the metric."""
        self.posg = (self.posg + 1) % self.n_batches
        if self.posg == 0:
            self.grad_perm = self.rng.permutation(self.n_batches)
            self.other_perm = self.rng.permutation(self.n_batches)
            self.grad_off = self.rng.randint(len(self.data_x) - self.bs * self.n_batches + 1)
        offset = int(self.grad_off + self.grad_perm[self.posg] * self.bs)
        self.offset.set_value(np.array(offset, "int32"))
        if self.unlabled == 0:
            begin = min(offset, len(self.data_x) - self.mbs)
            self._fill(slice(begin, begin + self.mbs))
        elif self.unlabled == 1 and not self.fixed:
            begin = self._next_of_metric(len(self.data_x), self.mbs)
            self._fill(slice(begin, begin + self.mbs))
        elif self.unlabled == 2:
            other = int(self.grad_off + self.other_perm[self.posg] * self.bs)
            begin = self._next_of_metric(len(self.unlabeled_data), self.mbs - self.bs)
            unlabeled = self.unlabeled_data[begin : begin + self.mbs - self.bs]
            self._fill(slice(other, other + self.bs), unlabeled)

    def update_before_computing_natural_gradients(self) -> None:
        """Do nothing: the batch of the metric is there already."""

    def update_before_evaluation(self) -> None:
        """Do nothing."""

    def _next_of_metric(self, count: int, size: int) -> int:
        """Return where the next batch of ``size`` out of ``count`` examples begins."""
        self.posng = (self.posng + 1) % self.nat_batches
        if self.posng == 0:
            self.nat_perm = self.rng.permutation(self.nat_batches)
            self.nat_off = self.rng.randint(count - size * self.nat_batches + 1)
        return int(self.nat_off + self.nat_perm[self.posng] * size)

    def _fill(self, rows: slice, unlabeled: np.ndarray | None = None) -> None:
        """Set the batch of the metric to training examples and, after them, unlabeled ones."""
        x, y = self.data_x[rows], self.data_y[rows]
        if unlabeled is not None:
            x = np.concatenate([x, unlabeled])
            y = np.concatenate([y, np.zeros(len(unlabeled), y.dtype)])
        self._natgrad.set_value(x)
        self._natgrady.set_value(y)

    def _images(self, chosen: np.ndarray) -> np.ndarray:
        return self.data["images"][chosen].reshape((-1, _PIXELS)).astype("float32") / 255

    def _classes(self, chosen: np.ndarray) -> np.ndarray:
        classes = self.data["labs_ex"][chosen][:, 0]
        return (classes - classes.min() if len(classes) else classes).astype("int32")

    @staticmethod
    def _shared(array: np.ndarray) -> Any:
        inputs = array.dtype.kind == "f"
        return pytensor.shared(array.astype(pytensor.config.floatX) if inputs else array)

    def _count_metric_batches(self) -> int:
        if self.unlabled == 2:
            return len(self.unlabeled_data) // (self.mbs - self.bs)
        return len(self.data_x) // self.mbs

    def _check_sizes(self) -> None:
        """Refuse batches larger than what they draw from."""
        train, unlabeled = len(self.data_x), len(self.unlabeled_data)
        least, most = 1, train
        if self.unlabled == 2:
            least, most = self.bs + 1, self.bs + unlabeled
        for name, size, low, high in (("bs", self.bs, 1, train), ("mbs", self.mbs, least, most)):
            if not low <= size <= high:
                raise argument_error(name, f"at least {low} and at most {high}", size)


class _Scale:
    """Scale images by their own mean and deviation, and by the range of the training images."""

    def __init__(self, train: np.ndarray, normalize: bool) -> None:
        self.normalize = normalize
        self.lowest, self.range = np.float32(0), np.float32(1)
        if normalize:
            scaled = self._standardize(train)
            self.lowest = scaled.min()
            self.range = (scaled - self.lowest).max()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if not self.normalize or not len(images):
            return images
        return (self._standardize(images) - self.lowest) / self.range

    @staticmethod
    def _standardize(images: np.ndarray) -> np.ndarray:
        centered = images - images.mean(axis=1, keepdims=True)
        deviation = centered.std(axis=1, keepdims=True)
        return centered / np.where(deviation > 0, deviation, 1)


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of the file in a folder."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    expected = f"a folder whose {_FILE} has the arrays {', '.join(_KEYS)}"
    file = Path(path) / _FILE
    check_file(file, expected, "The key 'path' of the state is the folder.")
    try:
        content = loadmat(str(file))
    except (ValueError, TypeError, NotImplementedError, OSError, MatReadError) as error:
        got = Verbatim(f"{str(file)!r}, which is damaged or another kind of file ({error})")
        raise argument_error("path", expected, got) from error
    missing = [key for key in _KEYS if key not in content]
    if missing:
        got = Verbatim(f"{str(file)!r}, which has no {missing[0]}")
        raise argument_error("path", expected, got)
    images = content["images"]
    if images.ndim != 3 or images.shape[1:] != (48, 48):
        raise argument_error("path, images", "images of 48 x 48", images)
    return {key: content[key] for key in _KEYS}
