"""Keep the memory of large arrays in the process."""

from __future__ import annotations

import ctypes

from symng._checks import check_number

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_EARLY_LIMIT = 2**25  # of M_MMAP_THRESHOLD in early glibc, on 64 bits


def keep_memory(size: int = 2**31 - 1) -> bool:
    """Let the process reuse the memory of arrays that are freed.

    The C library returns a large array's memory to the system when the array is freed, and the
    system clears it page by page for the next array. With models of a million parameters or batches
    of thousands of examples that takes a tenth to a fifth of the time of a step on the CPU. The
    setting is global to the process, so symng leaves it to you.

    Parameters
    ----------
    size : int, default 2147483647
        The most bytes to keep, and the largest array whose memory is kept, in bytes; from 1 to
        2147483647.

    Returns
    -------
    bool
        Whether the C library has the setting. Only glibc, that of most Linux systems, does.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is not as described.

    Notes
    -----
    This sets M_MMAP_THRESHOLD and M_TRIM_THRESHOLD by ``mallopt``. Setting the environment
    variables ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` to ``size`` has the same
    effect on any program. Early versions of glibc allow at most 32 MiB for the first: they get
    that. Peak memory stays about the same; memory that is freed later is not available to other
    processes.

    Examples
    --------
    >>> import symng
    >>> symng.keep_memory() in (True, False)
    True
    """
    check_number("size", size, minimum=1, maximum=2**31 - 1, integer=True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # The second size is for a library that refuses the first.
    has_mmap = any(mallopt(_MMAP, n) == 1 for n in (int(size), min(int(size), _EARLY_LIMIT)))
    return mallopt(_TRIM, int(size)) == 1 and has_mmap
