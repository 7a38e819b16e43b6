"""Settings of the whole test session."""

from __future__ import annotations

import os

# Threads of OpenBLAS wait for each other: half the speed where each worker has a core. Set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytensor

# Python thunks and few rewrites: starts in a fraction of the time of the default. A test of a backend names its mode.
pytensor.config.mode = "FAST_COMPILE"
