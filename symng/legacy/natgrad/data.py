"""Digits in batches: where the gradient and the metric of a step read their examples."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_finite
from symng._files import read_npz
from symng.legacy.natgrad._examples import Examples, check_arguments, check_file

_KEYS = ("train_x", "train_y", "valid_x", "valid_y", "test_x", "test_y")
# What the original takes the numbers of examples for.
_TRAIN, _VALID = 50000, 10000


class DataMNIST(Examples):
    """MNIST, or other data in its npz layout, in contiguous batches permuted each epoch.

    Parameters
    ----------
    path : str or path
        An npz file with train_x, train_y, valid_x, valid_y, test_x and test_y: one row an example,
        and class numbers from 0.
    mbs : int
        Examples in a batch of the metric.
    bs : int
        Examples in a batch of the gradient.
    rng : numpy.random.RandomState
        Draws the order of the batches.
    unlabled : {0, 1, 2}
        The batch of the metric: the gradient's own, and beyond it or less of it where ``mbs`` is
        not ``bs``; another batch of training examples; the first validation examples.
    quirks : bool, default False
        Count batches as the original: 50,000 training and 10,000 validation examples, whatever the
        file holds, and batch k of the metric from example k ``mbs`` on, with as many k as there are
        gradient batches. Where ``mbs`` > ``bs`` that runs past the end and finds no examples.

    Attributes
    ----------
    offset : shared int32
        The number of the current batch.
    variables, eval_variables : lists
        Functions from start and end to rows of the current batch; all training examples.
    xdim, ydim : int
        Inputs and classes.
    n_batches, n_valid_samples, n_test_samples : int
        Batches in an epoch, validation and test examples.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from symng.legacy.natgrad import DataMNIST
    >>> x, y = np.eye(6), np.arange(6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(
    ...         f"{folder}/data.npz", train_x=x, train_y=y, valid_x=x, valid_y=y, test_x=x, test_y=y
    ...     )
    ...     data = DataMNIST(f"{folder}/data.npz", 2, 2, np.random.RandomState(0), 0)
    >>> data.xdim, data.ydim, data.n_batches
    (6, 6, 3)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mbs: int,
        bs: int,
        rng: np.random.RandomState,
        unlabled: int,
        quirks: bool = False,
    ) -> None:
        check_arguments(rng, unlabled, mbs=mbs, bs=bs)
        self.path, self.rng, self.unlabled = path, rng, unlabled
        self.mbs, self.bs = int(mbs), int(bs)
        self.data = _read(path)
        self.xdim = self.data["train_x"].shape[1]
        self.ydim = int(self.data["train_y"].max()) + 1
        self.n_valid_samples = len(self.data["valid_x"])
        self.n_test_samples = len(self.data["test_x"])

        self.offset = pytensor.shared(np.array(0, "int32"), name="offset")
        for key, array in self.data.items():
            setattr(self, f"_{key}", pytensor.shared(array, name=key))
        self.n_batches, self.nat_batches = self._count_batches(quirks)
        self._natgrad, self._natgrady = self._metric_batch(quirks)
        self.variables: list[Callable[[Any, Any], TensorVariable]] = [self.train_x, self.train_y]
        self.eval_variables = [self._train_x, self._train_y]
        # Drawn once more before the first step, as the original does.
        self.grad_perm = rng.permutation(self.n_batches)
        self.nat_perm = rng.permutation(self.nat_batches)
        self.pos = self.nat_pos = -1

    def _count_batches(self, quirks: bool) -> tuple[int, int]:
        """Return how many batches the gradient and the metric draw from."""
        train, valid = len(self.data["train_x"]), self.n_valid_samples
        if quirks:
            return _TRAIN // self.bs, (
                _VALID // self.mbs if self.unlabled == 2 else _TRAIN // self.bs
            )
        source, count = ("validation", valid) if self.unlabled == 2 else ("training", train)
        for name, size, what, most in (
            ("bs", self.bs, "training", train),
            ("mbs", self.mbs, source, count),
        ):
            if not 1 <= size <= most:
                expected = f"at least 1 and at most {most}, the number of {what} examples"
                raise argument_error(name, expected, size)
        return train // self.bs, count // self.mbs

    def _metric_batch(self, quirks: bool) -> tuple[TensorVariable, TensorVariable]:
        """Return the inputs and classes of the metric's batch."""
        if self.unlabled == 2:
            return self._valid_x, self._valid_y
        begin = self.offset * self.mbs
        if self.unlabled == 0 and not quirks:
            last = len(self.data["train_x"]) - self.mbs
            begin = pt.minimum(self.offset * self.bs, last)
        end = begin + self.mbs
        return self._train_x[begin:end], self._train_y[begin:end]

    def train_x(self, start: Any, end: Any) -> TensorVariable:
        """Return rows of the inputs of the current gradient batch."""
        first = self.offset * self.bs
        return self._train_x[first + start : first + end]

    def train_y(self, start: Any, end: Any) -> TensorVariable:
        """Return classes of the current gradient batch."""
        first = self.offset * self.bs
        return self._train_y[first + start : first + end]

    def update_before_computing_gradients(self) -> None:
        """Go to the next gradient batch."""
        self.pos = (self.pos + 1) % self.n_batches
        if self.pos == 0:
            self.grad_perm = self.rng.permutation(self.n_batches)
        self._go_to(self.grad_perm[self.pos])

    def update_before_computing_natural_gradients(self) -> None:
        """Go to the next batch of the metric, where that is another one."""
        if self.unlabled == 1:
            self.nat_pos = (self.nat_pos + 1) % self.nat_batches
            if self.nat_pos == 0:
                self.nat_perm = self.rng.permutation(self.nat_batches)
            self._go_to(self.nat_perm[self.nat_pos])

    def update_before_evaluation(self) -> None:
        """Go back to the gradient batch."""
        if self.unlabled == 1:
            self._go_to(self.grad_perm[self.pos])

    def _go_to(self, batch: Any) -> None:
        self.offset.set_value(np.array(batch, "int32"))


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file: inputs in floatX, classes as int32."""
    expected = f"an npz file with the arrays {', '.join(_KEYS)}"
    hint = "It is the key 'path' of the state."
    check_file(path, expected, hint)
    arrays = read_npz(path, expected, hint, compressed=True)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        got = f"{os.fspath(path)!r}, which has no {missing[0]}"
        raise argument_error("path", expected, Verbatim(got))
    for part in ("train", "valid", "test"):
        _check_part(part, arrays)
    return {
        key: arrays[key].astype("int32" if key.endswith("y") else pytensor.config.floatX)
        for key in _KEYS
    }


def _check_part(part: str, arrays: dict[str, np.ndarray]) -> None:
    """Refuse inputs and classes of a part of the file that do not fit each other, or train_x."""
    x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
    for name, ndim, what in (("x", 2, "a matrix of inputs"), ("y", 1, "a vector of class numbers")):
        array = arrays[f"{part}_{name}"]
        if array.ndim != ndim or array.dtype.kind not in "biuf" or not array.size:
            raise argument_error(f"path, {part}_{name}", what, array)
    width, last = arrays["train_x"].shape[1], arrays["train_y"].max()
    if x.shape[1] != width:
        raise argument_error(f"path, {part}_x", f"{width} columns, as train_x has", x)
    if len(y) != len(x):
        raise argument_error(f"path, {part}_y", f"{len(x)} classes, as {part}_x has rows", y)
    check_finite(f"path, {part}_x", x)
    wrong = y[(y != np.floor(y)) | (y < 0) | (y > last)]
    if wrong.size:
        expected = "class numbers from 0" + (
            "" if part == "train" else f" to {last}, as in train_y"
        )
        raise argument_error(f"path, {part}_y", expected, Verbatim(f"{wrong[0]:g}"))
