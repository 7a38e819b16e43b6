"""The inverse of a matrix, as work that several devices may divide among them."""

from __future__ import annotations

from pytensor.tensor.linalg import MatrixInverse


class DividedInverse(MatrixInverse):
    """Invert a matrix that each device holds, on one of them.

    That device hands the inverse to the others: of several inverses each device computes some. On
    a single device this is PyTensor's own op.
    """


divided_inverse = DividedInverse()
