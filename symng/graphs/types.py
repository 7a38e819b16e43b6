"""Types for signatures in several folders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

Scalar = float | np.number | TensorVariable
"""A number, or a symbolic scalar."""

Integer = int | np.integer | TensorVariable
"""A whole number, or a symbolic integer scalar."""

Params = Sequence[SharedVariable]
"""The shared variables to train, in the order of the flat vector."""

ModeLike = str | Mode | None
"""What `symng.resolve_mode` takes: the name of a mode, a mode, or None for the default."""
