"""Configuration objects: what each setting may be is declared once, where the setting is.

A configuration is a frozen, keyword-only dataclass::

    @config
    class FixedDamping(Damping):  # a subclass of Config
        value: float = number(default=0.0, minimum=0)

When it is made, all declared settings are checked. It prints as the call that makes it, and names
the setting that is meant where it is given one that it does not have. What concerns several
settings at once is checked in ``__post_init__``, after ``super().__post_init__()``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from numbers import Real
from typing import Any, TypeVar, dataclass_transform, get_args

from symng._checks import (
    Verbatim,
    argument_error,
    check_choice,
    check_flag,
    check_keywords,
    check_number,
    describe,
)

T = TypeVar("T")

_KEY = "symng"  # of a declaration in the metadata of a field


@dataclass(frozen=True)
class Declaration:
    """What a setting may be.

    Attributes
    ----------
    convert : callable
        From name and value to the value that is kept; raises where the value is refused.
    symbolic : bool
        Whether the value may be a symbolic scalar. A shared variable then takes its place in a
        compiled step, so that it can be changed between steps.
    dtype : str, optional
        The dtype of that variable; by default that of the parameters.
    """

    convert: Callable[[str, Any], Any]
    symbolic: bool = False
    dtype: str | None = None


def setting(
    *,
    convert: Callable[[str, Any], Any],
    default: Any = MISSING,
    default_factory: Any = MISSING,
    kw_only: bool = True,
) -> Any:
    """Declare a setting; ``convert`` takes name and value, and returns the value or raises."""
    metadata = {_KEY: Declaration(convert)}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, kw_only=kw_only, metadata=metadata)
    return field(default=default, kw_only=kw_only, metadata=metadata)


def number(
    *,
    default: Any,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    integer: bool = False,
    finite: bool = True,
    symbolic: bool = False,
) -> Any:
    """Declare a number in a range, as `check_number` takes it; None passes if it is the default."""
    check = partial(
        check_number,
        minimum=minimum,
        above=above,
        maximum=maximum,
        below=below,
        integer=integer,
        finite=finite,
        symbolic=symbolic,
    )
    dtype = "int64" if integer else None
    declaration = Declaration(_checked(check, default is None), symbolic, dtype)
    return field(default=default, metadata={_KEY: declaration})


def flag(*, default: bool) -> Any:
    """Declare a setting that is True or False."""
    return field(default=default, metadata={_KEY: Declaration(_checked(check_flag))})


def choice(words: Any, *, default: str) -> Any:
    """Declare one of the words of a ``Literal``."""
    check = partial(check_choice, choices=get_args(words))
    return field(default=default, metadata={_KEY: Declaration(_checked(check))})


def _checked(
    check: Callable[[str, Any], None], optional: bool = False
) -> Callable[[str, Any], Any]:
    """Return a function that returns a value if it passes a check, or is None and optional."""

    def convert(name: str, value: Any) -> Any:
        if not (optional and value is None):
            check(name, value)
        return value

    return convert


class Config:
    """Check the declared settings of a configuration; the base of all of them."""

    def __post_init__(self) -> None:
        for name, declaration in declarations(self).items():
            value = getattr(self, name)
            converted = declaration.convert(name, value)
            if converted is not value:
                self._fill_in(**{name: converted})

    def _fill_in(self, **settings: Any) -> None:
        """Set settings while the object is made: converted ones, or dependent defaults."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)


def declarations(settings: Any) -> dict[str, Declaration]:
    """Return the declarations of a configuration, or of its class, by the names of the settings."""
    known = fields(settings) if is_dataclass(settings) else ()
    return {f.name: f.metadata[_KEY] for f in known if _KEY in f.metadata}


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(field, setting, number, flag, choice),
)
def config(cls: type[T]) -> type[T]:
    """Make a subclass of `Config` a frozen, keyword-only dataclass that explains its settings."""
    if cls.__repr__ is object.__repr__:
        setattr(cls, "__repr__", short_repr)  # noqa: B010 - an assignment would be typed
    return _explain_settings(dataclass(frozen=True, kw_only=True, repr=False)(cls))


def _explain_settings(cls: type[T]) -> type[T]:
    """Make a dataclass explain an unknown setting, or one given by position."""
    make: Any = cls.__init__
    settings = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]
    known = [f.name for f in settings]
    by_position = [f.name for f in settings if not f.kw_only]

    @wraps(make)
    def __init__(self: T, *args: Any, **kwargs: Any) -> None:
        check_keywords(cls.__name__, kwargs, known)
        if known and len(args) > len(by_position):
            raise _without_name(cls.__name__, args[len(by_position)], known, by_position)
        make(self, *args, **kwargs)

    setattr(cls, "__init__", __init__)  # noqa: B010 - an assignment would be typed
    return cls


def _without_name(owner: str, value: Any, known: list[str], by_position: list[str]) -> Exception:
    """Return the exception for a setting given by position, with a setting that it may be."""
    likely = ("step_size", "size", "initial", "value", "maxiter") if isinstance(value, Real) else ()
    left = [n for n in (*likely, *known) if n in known and n not in by_position]
    return argument_error(
        owner,
        "settings by name",
        Verbatim(f"{describe(value)} without one"),
        f"Write {owner}({left[0]}=...).",
        TypeError,
    )


_WIDTH = 88  # of a line


def short_repr(self: Any) -> str:
    """Return the call that makes a dataclass, without default settings: a ``__repr__``."""
    return _text(self, 0, 0)


def noted_repr(self: Any) -> str:
    """Return `short_repr` and, as comments below, the notes of the object: a ``__repr__``."""
    note = getattr(self, "_note", "")
    lines = [
        textwrap.fill(line, _WIDTH, initial_indent="# ", subsequent_indent="#   ")
        for line in note.splitlines()
    ]
    return "\n".join([short_repr(self), *lines])


def full_repr(value: Any) -> str:
    """Return the call that makes a configuration, with every setting, on one line.

    The repr leaves out the settings that are the defaults, which another version may change: keep
    this text beside results.

    Parameters
    ----------
    value : object
        An optimizer, a metric, a solver or the like.

    Returns
    -------
    str
        Code that makes an equal object. A function, such as a schedule, goes by its name, any other
        object by its repr without addresses in memory, so the text is the same in every process.

    Examples
    --------
    >>> import symng
    >>> symng.FixedDamping(), symng.full_repr(symng.FixedDamping())
    (FixedDamping(), 'FixedDamping(value=0.0)')
    """
    if not _is_configuration(value):
        return leaf_repr(value)
    settings = ", ".join(
        f"{name}={full_repr(setting)}" for name, setting in _settings(value).items()
    )
    return f"{type(value).__qualname__}({settings})"


def stable_settings(owner: Any) -> dict[str, str]:
    """Return all settings of a dataclass by name, as `full_repr` writes them."""
    known = fields(owner) if is_dataclass(owner) else ()
    return {f.name: full_repr(getattr(owner, f.name)) for f in known}


def _text(value: Any, indent: int, before: int) -> str:
    """Return ``value`` as code.

    Its first line starts after ``before`` characters, the others after ``indent``.
    """
    if not _is_configuration(value):
        return leaf_repr(value)
    name, changed = type(value).__qualname__, _changed(value)
    line = ", ".join(f"{key}={_text(setting, 0, 0)}" for key, setting in changed.items())
    if "\n" not in line and before + len(name) + len(line) + 2 <= _WIDTH:
        return f"{name}({line})"
    inner = indent + 4
    lines = [
        f"{key}={_text(setting, inner, inner + len(key) + 2)}," for key, setting in changed.items()
    ]
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
            # Not a comparison with the field's default: a check may make a step size of a number,
            # or fill in a None.
            if _same(_settings(type(value)(**fewer)), settings):
                kept = fewer
        except Exception:  # needed, or refused without it
            continue
    return kept


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether all settings are equal and of one type."""
    return all(
        a[name] is b[name] or (type(a[name]) is type(b[name]) and bool(a[name] == b[name]))
        for name in b
    )


def leaf_repr(value: Any) -> str:
    """Return a setting that is no configuration: what its author calls it, where it has a name."""
    if isinstance(value, partial):
        given = [repr(a) for a in value.args] + [
            f"{name}={a!r}" for name, a in value.keywords.items()
        ]
        return f"partial({', '.join([leaf_repr(value.func), *given])})"
    name = getattr(value, "__name__", "<")
    if callable(value) and "<" not in name:
        return str(name)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
