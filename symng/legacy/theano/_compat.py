"""``theano.compat``: what Python 2.6 lacked, and Python has."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict, defaultdict
from functools import partial

__all__ = ["Counter", "OrderedDict", "defaultdict", "partial", "pickle"]
