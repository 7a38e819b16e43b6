"""The inverse of a matrix, as work that several devices can share."""

from __future__ import annotations

from pytensor.tensor.linalg import MatrixInverse


class DividedInverse(MatrixInverse):
    """Invert a matrix that every device holds, on one of them.

    That device sends the inverse to the others, so that several inverses are shared out among the
    devices. On a single device this is PyTensor's own op.
    """


divided_inverse = DividedInverse()
