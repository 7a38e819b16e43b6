"""An endless stream of deformed digits, made like those of NISTP."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, get_args

import numpy as np

from symng._checks import (
    FloatName,
    argument_error,
    check_choice,
    check_float,
    check_instance,
    check_number,
)
from symng.datasets.digits import LabeledImages, check_examples

Module = Literal["slant", "thickness", "affine", "elastic", "pinch"]
MODULES: tuple[Module, ...] = get_args(Module)
_SIDE = 32
# Images made by one task: a fraction of a second of work.
_CHUNK = 256

_Task = tuple[np.ndarray, tuple[int, int, int], range, int, float, tuple[Module, ...], FloatName]
"""The arguments of `_make`."""


def deformed_digits(
    base: LabeledImages | tuple[np.ndarray, np.ndarray],
    start: int,
    stop: int,
    *,
    segment: int = 0,
    replica: int = 0,
    seed: int = 0,
    complexity: float = 0.7,
    modules: Sequence[Module] = MODULES,
    dtype: FloatName | type[np.floating] | np.dtype = "float32",
    jobs: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Make examples ``start`` to ``stop`` - 1 of a stream of deformed digits.

    Each example is an image of ``base`` picked at random, put in the middle of 32 x 32 pixels and
    deformed by all modules, one after the other. Each module draws its own complexity, c ~
    U[0, ``complexity``]. The random numbers of example i follow from seed, segment, replica and i
    alone, so any range of examples can be made by itself.

    Parameters
    ----------
    base : LabeledImages or (ndarray, ndarray)
        What `digits` returns, of which the images to train on are taken; or images of shape
        (images, side, side) with gray values from 0 (background) to 1 (ink) and side at most 32,
        and their labels, whole numbers.
    start, stop : int
        Which examples, from 0; ``stop``, at least ``start``, is not included.
    segment, replica : int, default 0
        Which stream; two segments or replicas have no random numbers in common.
    seed : int, default 0
        Seed of all streams; like ``segment``, ``replica`` and the number of an example from 0 to
        2^32 - 1.
    complexity : float, default 0.7
        Largest complexity of a module, from 0 (no deformation) to 1.
    modules : sequence of {"slant", "thickness", "affine", "elastic", "pinch"}
        The deformations, in the order in which they are applied; all five by default.
    dtype : {"float32", "float64"}, default "float32"
        Of the images.
    jobs : int, default 1
        Worker processes. The images are the same with any number. Each worker first imports the
        package, which takes a few seconds, and the script that starts it, which needs ``if __name__
        == "__main__":``.

    Returns
    -------
    images : ndarray of shape (stop - start, 1024)
        Gray values from 0 to 1, rows of the 32 x 32 image one after the other.
    labels : ndarray of shape (stop - start,), int64
        The labels in ``base``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    RuntimeError
        If a worker process ended before its work was done.

    Notes
    -----
    The recipe is that of NISTP [1]_ without its noise modules; base images and classes are those of
    ``base``. With complexity c, pixels (x, y) and rows i counted from the upper left corner:

    - slant: row i moves by round(i s), s ~ U[-c, c], and the image back by the mean of that;
    - thickness: one of ceil(5 c) erosions, ceil(9 c) dilations or nothing, all with the same
      probability, by the first of the footprints 1 x 2, 2 x 1, 2 x 2, cross of 3 x 3, 2 x 3, 3 x 2,
      3 x 3, 3 x 4, 4 x 3; then scaled to the old maximum; an erosion that would leave nothing is
      skipped;
    - affine: (x, y) takes the pixel at (a x + b y + c', d x + e y + f), a and e ~ U[1 - 0.4 c, 1 +
      0.4 c], b and d ~ U[-0.4 c, 0.4 c], c' and f ~ U[-4.5 c, 4.5 c];
    - elastic: every pixel takes the bilinear value at a random displacement, for each axis 10 q
      times a field of U[-1, 1] smoothed by a Gaussian of standard deviation w / sqrt(2) that is cut
      off at 0.75 w, w = 10 - 7 q and q = c^(1/3);
    - pinch: a pixel at distance d < r = 16 from the center takes the bilinear value at d sin(pi d /
      2r)^(-p) in the same direction, p ~ U[-c, 0.7 c].

    References
    ----------
    .. [1] Y. Bengio et al., "Deep learners benefit more from out-of-distribution examples", AISTATS
       2011.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.datasets import deformed_digits
    >>> bars = np.zeros((2, 28, 28))
    >>> bars[0, 4:24, 12:15] = bars[1, 12:15, 4:24] = 1.0  # upright and lying
    >>> base = bars, np.array([0, 1])
    >>> images, labels = deformed_digits(base, 0, 100, segment=3)
    >>> images.shape, str(images.dtype)
    ((100, 1024), 'float32')
    >>> some, _ = deformed_digits(base, 40, 50, segment=3)
    >>> bool((some == images[40:50]).all())
    True
    """
    base_images, base_labels = _check_base(base)
    for name, value in (
        ("start", start),
        ("stop", stop),
        ("segment", segment),
        ("replica", replica),
        ("seed", seed),
    ):
        # Each is one 32-bit word of the entropy: longer numbers could overlap with their neighbors.
        check_number(name, value, minimum=0, maximum=2**32 - 1, integer=True)
    check_number("stop", stop, minimum=start, integer=True)
    check_number("complexity", complexity, minimum=0, maximum=1)
    check_number("jobs", jobs, minimum=1, integer=True)
    modules = _check_modules(modules)
    dtype_name = check_float("dtype", dtype)

    key, count = (int(seed), int(segment), int(replica)), len(base_images)
    start, stop = int(start), int(stop)
    images = np.empty((stop - start, _SIDE * _SIDE), dtype_name)
    labels = np.empty(stop - start, "int64")
    size = min(_CHUNK, math.ceil((stop - start) / jobs)) or 1
    chunks = [range(first, min(first + size, stop)) for first in range(start, stop, size)]

    def tasks() -> Iterator[_Task]:
        for numbers in chunks:
            picked = [_begin(key, number, count)[1] for number in numbers]
            labels[numbers.start - start : numbers.stop - start] = base_labels[picked]
            # Only these images go to a worker, not all of them.
            yield base_images[picked], key, numbers, count, float(complexity), modules, dtype_name

    jobs = min(int(jobs), len(chunks))
    made = _in_processes(tasks(), jobs) if jobs > 1 else (_make(*task) for task in tasks())
    for numbers, part in zip(chunks, made, strict=True):
        images[numbers.start - start : numbers.stop - start] = part
    return images, labels


def _check_base(base: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the images to pick from and their labels, or refuse ``base``."""
    if isinstance(base, LabeledImages):  # checked when it was made
        images, labels = base.train_images, base.train_labels
    elif isinstance(base, tuple | list) and len(base) == 2:
        images, labels = base
        check_examples("base, images", "base, labels", images, labels)
    else:
        raise argument_error(
            "base", "what digits() returns, or a pair of images and labels", base, error=TypeError
        )
    if images.shape[1] > _SIDE:
        raise argument_error(
            "base, images",
            f"a side of at most {_SIDE}",
            images,
            "Cut off their margins or shrink them.",
        )
    return images, labels


def _check_modules(modules: Sequence[Module]) -> tuple[Module, ...]:
    """Return the names of modules as a tuple, or refuse them."""
    check_instance(
        "modules",
        modules,
        (tuple, list),
        "a tuple of names",
        'A one-element tuple needs a comma: ("slant",).',
    )
    for name in modules:
        check_choice("modules", name, MODULES)
    return tuple(modules)


def _begin(key: tuple[int, int, int], number: int, count: int) -> tuple[np.random.Generator, int]:
    """Return the generator of an example, and its first draw: the index of the base image."""
    rng = np.random.default_rng([*key, number])
    return rng, int(rng.integers(count))


def _make(
    base_images: np.ndarray,
    key: tuple[int, int, int],
    numbers: range,
    count: int,
    complexity: float,
    modules: tuple[str, ...],
    dtype: str,
) -> np.ndarray:
    """Return deformed images, one for each number, from the base images picked for them."""
    from symng.datasets._deformations import DEFORMATIONS  # here: SciPy takes long to import

    side = base_images.shape[1]
    margin = (_SIDE - side) // 2
    images = np.zeros((len(numbers), _SIDE, _SIDE))
    images[:, margin : margin + side, margin : margin + side] = base_images
    made = np.empty((len(numbers), _SIDE * _SIDE), dtype)
    for i, number in enumerate(numbers):
        rng, _ = _begin(key, number, count)
        image = images[i]
        for name in modules:
            image = DEFORMATIONS[name](image, rng, rng.uniform(0.0, complexity))
        made[i] = image.ravel()
    return np.clip(made, 0.0, 1.0, out=made)  # bilinear weights may sum to a little over 1


def _in_processes(tasks: Iterable[_Task], jobs: int) -> Iterator[np.ndarray]:
    """Yield the results of `_make` for all tasks, in their order."""
    # Not by forking, which would copy locks that threads of this process hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_leave_interrupts)
    waiting: deque[Future[np.ndarray]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_make, *task))
            # Enough to keep all workers busy, and few enough to fit into memory.
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"jobs: expected {jobs} worker processes, got one that ended before its work was done. "
            'A script that starts workers needs if __name__ == "__main__": around its code; if it '
            "has that, memory may be short. With jobs=1 no worker is started."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the process that started this worker, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
