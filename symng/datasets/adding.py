"""The adding problem: sequences of numbers, two of which are marked and to be added at the end."""

from __future__ import annotations

import numpy as np

from symng._checks import FloatName, check_float, check_number


def adding(
    n: int,
    length: int = 30,
    seed: int = 0,
    dtype: FloatName | type[np.floating] | np.dtype = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Make sequences of the adding problem, all of one length.

    Each step has a number, uniform on [-1, 1], and a marker. Two steps are drawn: one of the first
    ten, and one of the first length / 2 - 1 of the others. Their marker is 1, that of the first and
    the last step is always -1, and that of all others 0. The target is 0.5 + (X1 + X2) / 4 with the
    numbers X1 and X2 of the steps marked 1; if the first step was drawn, its number counts as 0.
    The target is predicted at the end of the sequence.

    Parameters
    ----------
    n : int
        Number of sequences, at least 1.
    length : int, default 30
        Steps of a sequence, at least 6.
    seed : int, default 0
        At least 0.
    dtype : {"float32", "float64"}, default "float32"
        Of the results.

    Returns
    -------
    inputs : ndarray of shape (length, n, 2)
        Numbers and markers, the axis of time first.
    targets : ndarray of shape (n, 1)
        From 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    In [1]_ lengths differ by up to a tenth. A sequence counts as solved when the error is below
    0.04; predicting 0.5 for all gives a mean squared error of about 1/24.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9(8),
       1997, experiment 4.

    Examples
    --------
    >>> from symng.datasets import adding
    >>> inputs, targets = adding(3, length=20)
    >>> numbers, marked = inputs[..., 0], inputs[..., 1] == 1
    >>> bool(abs(targets[:, 0] - 0.5 - (numbers * marked).sum(axis=0) / 4).max() < 1e-6)
    True
    """
    check_number("n", n, minimum=1, integer=True)
    check_number("length", length, minimum=6, integer=True)
    check_number("seed", seed, minimum=0, integer=True)
    name = check_float("dtype", dtype)
    rng = np.random.default_rng(int(seed))
    numbers = rng.uniform(-1.0, 1.0, (length, n))
    first = rng.integers(min(10, length - 1), size=n)
    second = rng.integers(length // 2 - 1, size=n)
    second += second >= first  # skip the step that is marked already
    markers, sequences = np.zeros((length, n)), np.arange(n)
    markers[first, sequences] = markers[second, sequences] = 1.0
    markers[[0, -1]] = -1.0
    targets = 0.5 + (numbers * (markers == 1)).sum(axis=0) / 4
    return np.stack([numbers, markers], axis=2).astype(name), targets[:, None].astype(name)
