"""Keep the memory of large arrays in the process."""

from __future__ import annotations

import ctypes

from symng._checks import check_number


def keep_memory(size: int = 2**31 - 1) -> bool:
    """Let the process keep the memory of arrays that are done with for the arrays that come next.

    The C library hands a large array's memory back to the system as soon as the array is gone, and
    the system clears it page by page for the next array. With models of a million parameters or
    batches of thousands of examples that is a tenth to a fifth of the time of a step on the CPU.
    This setting is the whole process's, so it is left to you.

    Parameters
    ----------
    size : int, default 2147483647
        How many bytes may be kept, and how large an array may be whose memory is; from 1 to
        2147483647.

    Returns
    -------
    bool
        Whether the C library took it. Only glibc, the C library of most Linux systems, does.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is not as described.

    Notes
    -----
    It is ``mallopt`` of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD. The same without a call, for any
    program: start it with the environment variables ``MALLOC_MMAP_THRESHOLD_`` and
    ``MALLOC_TRIM_THRESHOLD_`` set to ``size``. The largest amount of memory in use at a time stays
    about what it was; what is freed later is not seen by other processes.

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
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return all([mallopt(option, int(size)) == 1 for option in (mmap, trim)])
