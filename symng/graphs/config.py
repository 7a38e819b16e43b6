"""Configuration objects, whose settings are each declared in one place.

A configuration is a frozen, keyword-only dataclass::

    @config
    class FixedDamping(Damping):  # a subclass of Config
        value: float = number(default=0.0, minimum=0)

All declared settings are checked when an object is made. It prints as the call that makes it, and
an unknown setting is refused with the name of the one that may be meant. Checks that concern
several settings belong in ``__post_init__``, after ``super().__post_init__()``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from numbers import Real
from typing import Any, Protocol, TypeVar, dataclass_transform, get_args

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
Given = TypeVar("Given", contravariant=True)
Kept = TypeVar("Kept", covariant=True)


class Setting(Protocol[Given, Kept]):
    """The type of a setting that is converted: what may be given, and what is kept.

    To type checkers a field of this type looks like a descriptor, whose ``__set__`` is the
    constructor's argument and whose ``__get__`` is the attribute. At run time it is a plain field.
    """

    def __get__(self, instance: Any, owner: Any, /) -> Kept: ...
    def __set__(self, instance: Any, value: Given, /) -> None: ...


Convert = Callable[[str, Any], object]
"""From the name and the given value of a setting to the value kept; raises to refuse it."""

_KEY = "symng"  # of the declaration, in the metadata of a field


@dataclass(frozen=True)
class Declaration:
    """What a setting may be.

    Attributes
    ----------
    convert : callable
        From name and value to the value that is kept; raises to refuse the value.
    symbolic : bool
        Whether the value may be a symbolic scalar. A shared variable then takes its place in a
        compiled step, so that it can be changed between steps.
    dtype : str, optional
        The dtype of that variable; by default that of the parameters.
    """

    convert: Convert
    symbolic: bool = False
    dtype: str | None = None


def setting(
    *,
    convert: Convert,
    default: object = MISSING,
    default_factory: Callable[[], object] | None = None,
    kw_only: bool = True,
) -> Any:
    """Declare a setting of any kind, with ``convert`` as in `Declaration`."""
    metadata = {_KEY: Declaration(convert)}
    if default_factory is not None:
        return field(default_factory=default_factory, kw_only=kw_only, metadata=metadata)
    return field(default=default, kw_only=kw_only, metadata=metadata)


def number(
    *,
    default: float | None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    integer: bool = False,
    finite: bool = True,
    symbolic: bool = False,
) -> Any:
    """Declare a number in a range, as for `check_number`; None passes if it is the default."""
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


def choice(words: object, *, default: str | None) -> Any:
    """Declare one of the words of a ``Literal``; None passes if it is the default."""
    check = partial(check_choice, choices=get_args(words))
    return field(default=default, metadata={_KEY: Declaration(_checked(check, default is None))})


def _checked(check: Callable[[str, object], None], optional: bool = False) -> Convert:
    """Turn a check into a conversion that changes nothing; None passes if ``optional``."""

    def convert(name: str, value: object) -> object:
        if not (optional and value is None):
            check(name, value)
        return value

    return convert


class Config:
    """The base of all configurations, which checks the declared settings."""

    def __post_init__(self) -> None:
        for name, declaration in declarations(self).items():
            value = getattr(self, name)
            converted = declaration.convert(name, value)
            if converted is not value:
                self._fill_in(**{name: converted})

    def _fill_in(self, **settings: object) -> None:
        """Set converted settings, or defaults that depend on others, while the object is made."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)


def declarations(settings: object) -> dict[str, Declaration]:
    """Return the declarations of a configuration, or of its class, by the names of the settings."""
    return {f.name: f.metadata[_KEY] for f in _fields(settings) if _KEY in f.metadata}


def _fields(value: object) -> tuple[Field, ...]:
    """Return the fields of a dataclass or an instance of one; none for anything else."""
    return fields(value) if is_dataclass(value) else ()


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(field, setting, number, flag, choice),
)
def config(cls: type[T]) -> type[T]:
    """Make a subclass of `Config` a frozen, keyword-only dataclass with the repr of this module."""
    if cls.__repr__ is object.__repr__:
        setattr(cls, "__repr__", short_repr)  # noqa: B010 - an assignment would be typed
    return _with_explained_settings(dataclass(frozen=True, kw_only=True, repr=False)(cls))


def _with_explained_settings(cls: type[T]) -> type[T]:
    """Make a dataclass explain unknown settings, and settings given by position."""
    make: Callable[..., None] = cls.__init__
    settings = [f for f in _fields(cls) if f.init]
    known = [f.name for f in settings]
    by_position = [f.name for f in settings if not f.kw_only]

    @wraps(make)
    def __init__(self: T, *args: object, **kwargs: object) -> None:
        check_keywords(cls.__name__, kwargs, known)
        if known and len(args) > len(by_position):
            raise _unnamed_error(cls.__name__, args[len(by_position)], known, by_position)
        make(self, *args, **kwargs)

    setattr(cls, "__init__", __init__)  # noqa: B010 - an assignment would be typed
    return cls


def _unnamed_error(
    owner: str, value: object, known: list[str], by_position: list[str]
) -> Exception:
    """Return the exception for a setting given by position, which suggests a name for it."""
    likely = ("step_size", "size", "initial", "value", "maxiter") if isinstance(value, Real) else ()
    left = [n for n in (*likely, *known) if n in known and n not in by_position]
    return argument_error(
        owner,
        "settings by name",
        Verbatim(f"{describe(value)} without one"),
        f"Write {owner}({left[0]}=...).",
        TypeError,
    )


_WIDTH = 88  # longest line of a repr


def short_repr(self: object) -> str:
    """Return the call that makes a configuration, without default settings: a ``__repr__``."""
    return _text(self, 0, 0)


def full_repr(value: object) -> str:
    """Return the call that makes a configuration, with every setting, on one line.

    The repr leaves out settings that have their defaults, which another version may change: keep
    this text with your results.

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


def stable_settings(owner: object) -> dict[str, str]:
    """Return all settings of a dataclass by name, as `full_repr` writes them."""
    return {f.name: full_repr(getattr(owner, f.name)) for f in _fields(owner)}


def _text(value: object, indent: int, before: int) -> str:
    """Return ``value`` as code, on one line if it fits.

    The first line starts after ``before`` characters, later ones after ``indent``.
    """
    if not _is_configuration(value):
        return leaf_repr(value)
    name, settings = type(value).__qualname__, _needed_settings(value)
    line = ", ".join(f"{key}={_text(setting, 0, 0)}" for key, setting in settings.items())
    if "\n" not in line and before + len(name) + len(line) + 2 <= _WIDTH:
        return f"{name}({line})"
    inner = indent + 4
    lines = [
        f"{key}={_text(setting, inner, inner + len(key) + 2)}," for key, setting in settings.items()
    ]
    return "\n".join([f"{name}(", *(" " * inner + line for line in lines), " " * indent + ")"])


def _is_configuration(value: object) -> bool:
    """Return whether ``value`` prints by `short_repr`."""
    return getattr(type(value), "__repr__", None) is short_repr


def _settings(value: object) -> dict[str, object]:
    """Return the settings that the constructor takes and a repr shows, by name."""
    return {f.name: getattr(value, f.name) for f in _fields(value) if f.init and f.repr}


def _needed_settings(value: object) -> dict[str, object]:
    """Return the settings that the constructor needs to make an equal object."""
    make: Callable[..., object] = type(value)
    settings = _settings(value)
    needed = dict(settings)
    for name in settings:
        fewer = {key: setting for key, setting in needed.items() if key != name}
        try:
            # Not a comparison with the field's default, since settings are converted: a number may
            # have become a step size, or a None been filled in.
            if _are_equal(_settings(make(**fewer)), settings):
                needed = fewer
        except Exception:  # refused without this setting
            continue
    return needed


def _are_equal(a: dict[str, object], b: dict[str, object]) -> bool:
    """Return whether all settings are equal and have the same types."""
    return all(
        a[name] is b[name] or (type(a[name]) is type(b[name]) and bool(a[name] == b[name]))
        for name in b
    )


def leaf_repr(value: object) -> str:
    """Return the name or the repr of a setting that is not a configuration."""
    if isinstance(value, partial):
        given = [*map(repr, value.args), *(f"{k}={a!r}" for k, a in value.keywords.items())]
        return f"partial({', '.join([leaf_repr(value.func), *given])})"
    name = str(getattr(value, "__name__", "<"))
    if callable(value) and "<" not in name:  # a lambda is called <lambda>
        return name
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
