"""Settings of the whole test session."""

from __future__ import annotations

import pytensor

# Python thunks and few rewrites: starts in a fraction of the time of the default. A test of a backend names its mode.
pytensor.config.mode = "FAST_COMPILE"
