"""How configuration objects print: as the call that makes them, without defaults, over several lines if long."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields
from functools import partial
from typing import Any

_WIDTH = 88  # of a line


def short_repr(self: Any) -> str:
    """Return the call that makes a dataclass, with the settings that are not the defaults: a ``__repr__``."""
    return _text(self, 0, 0)


def noted_repr(self: Any) -> str:
    """Return `short_repr` and, in comments below, what is noted on the object: a ``__repr__`` that is code as well."""
    note = getattr(self, "_note", "")
    lines = [textwrap.fill(line, _WIDTH, initial_indent="# ", subsequent_indent="#   ") for line in note.splitlines()]
    return "\n".join([short_repr(self), *lines])


def full_repr(value: Any) -> str:
    """Return the call that makes ``value`` with every setting, on one line."""
    if not _is_configuration(value):
        return repr(value)
    settings = ", ".join(f"{name}={full_repr(setting)}" for name, setting in _settings(value).items())
    return f"{type(value).__qualname__}({settings})"


def _text(value: Any, indent: int, before: int) -> str:
    """Return ``value`` as code; its first line starts after ``before`` characters, the others after ``indent``."""
    if not _is_configuration(value):
        return _leaf(value)
    name, changed = type(value).__qualname__, _changed(value)
    line = ", ".join(f"{key}={_text(setting, 0, 0)}" for key, setting in changed.items())
    if "\n" not in line and before + len(name) + len(line) + 2 <= _WIDTH:
        return f"{name}({line})"
    inner = indent + 4
    lines = [f"{key}={_text(setting, inner, inner + len(key) + 2)}," for key, setting in changed.items()]
    return "\n".join([f"{name}(", *(" " * inner + line for line in lines), " " * indent + ")"])


def _is_configuration(value: Any) -> bool:
    """Return whether ``value`` prints by `short_repr` or `noted_repr`."""
    return getattr(type(value), "__repr__", None) in (short_repr, noted_repr)


def _settings(value: Any) -> dict[str, Any]:
    """Return the settings that the constructor takes and a repr shows, by name."""
    return {f.name: getattr(value, f.name) for f in fields(value) if f.init and f.repr}


def _changed(value: Any) -> dict[str, Any]:
    """Return the settings without which the constructor makes something else."""
    settings = _settings(value)
    kept = dict(settings)
    for name in settings:
        fewer = {key: setting for key, setting in kept.items() if key != name}
        try:
            # Not a comparison with the field's default: a check may make a step size of a number, or fill in a None.
            if _same(_settings(type(value)(**fewer)), settings):
                kept = fewer
        except Exception:  # needed, or refused without it
            continue
    return kept


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether all settings are equal and of one type."""
    return all(a[name] is b[name] or (type(a[name]) is type(b[name]) and bool(a[name] == b[name])) for name in b)


def _leaf(value: Any) -> str:
    """Return a setting that is no configuration: what its author calls it, where it has a name."""
    if isinstance(value, partial):
        given = [repr(a) for a in value.args] + [f"{name}={a!r}" for name, a in value.keywords.items()]
        return f"partial({', '.join([_leaf(value.func), *given])})"
    name = getattr(value, "__name__", "<")
    if callable(value) and "<" not in name:
        return str(name)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
