"""Fixtures that tests of examples share."""

from __future__ import annotations

from helpers.figure2_example import fast_data

__all__ = ["fast_data"]
