"""Run a script that imports Theano, and explain what in it is Python 2."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from symng._checks import argument_error
from symng.legacy._install import install_theano

CONVERT = (
    "Convert it with 2to3 -w, which Python has up to 3.12; for later ones,"
    " pip install fissix, then python -m fissix -w."
)

# What Python 3 cannot parse, by what the line looks like.
_SYNTAX = {
    r"^\s*print\b(?!\s*\()": "a print statement",
    r"^\s*except\b[^:]*,": "except with a comma",
    r"^\s*raise\b[^(]*,": "raise with a comma",
    r"^\s*exec\b(?!\s*\()": "an exec statement",
    r"<>": "the operator <>",
    r"`": "backticks",
    r"\b0\d+\b": "an octal number with a leading zero",
    r"\b\d+[lL]\b": "a long number",
    r"\bur['\"]": "a literal with ur",
    r"^\s*def\b.*\(.*\(.*\).*\)\s*:": "a tuple as a parameter",
    r"\blambda\s*\(": "a tuple as a parameter",
    r"\bprint\b.*>>": "a print statement",
}
# Names of Python 2: the script parses, and stops where it meets one.
_NAMES = {
    *("basestring", "cmp", "execfile", "file", "long", "raw_input"),
    *("reduce", "unichr", "unicode", "xrange"),
}
_MODULES = {"cPickle", "ConfigParser", "Queue", "StringIO", "cStringIO", "copy_reg", "urllib2"}
_METHODS = {"has_key", "iteritems", "iterkeys", "itervalues", "next"}


def run_script(path: str | Path, arguments: Sequence[str] = ()) -> dict[str, object]:
    r"""Run a script of Theano's time, as ``python -m symng.legacy`` does.

    It runs as ``__main__``, with its folder first on the path of imports, after `install_theano`.

    Parameters
    ----------
    path : path of a file
        The script, converted to Python 3.
    arguments : sequence of str, default ()
        What the script finds in ``sys.argv[1:]``.

    Returns
    -------
    dict
        The names that the script left.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SyntaxError
        If the script, or a module that it imports, is Python 2: the message has the line, what in
        it is Python 2, and how to convert it.

    Notes
    -----
    Other errors are the script's own. If one is about a name that only Python 2 has, such as
    ``xrange``, a note on it says so.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from symng.legacy import run_script, uninstall_theano
    >>> script = pathlib.Path(tempfile.mkdtemp()) / "script.py"
    >>> _ = script.write_text("import theano.tensor as T\nkind = T.fmatrix('x').dtype\n")
    >>> run_script(script)["kind"]
    'float32'
    >>> uninstall_theano()
    """
    script = Path(path)
    if not script.is_file():
        raise FileNotFoundError(f"script: expected a file of Python, got {str(path)!r}")
    if isinstance(arguments, str):
        raise argument_error("arguments", "a sequence of strings", arguments, error=TypeError)
    install_theano()
    before, folder = sys.argv, str(script.resolve().parent)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(script), run_name="__main__")
    except Exception as error:
        explain(error)
        raise
    finally:
        sys.argv = before
        sys.path.remove(folder)


def explain(error: Exception) -> None:
    """Add to an error what in the script is Python 2, if that is its cause."""
    if isinstance(error, SyntaxError):
        line = (error.text or "").rstrip()
        cause = next((what for sign, what in _SYNTAX.items() if re.search(sign, line)), None)
        if cause:
            error.msg = f"{cause}: this is Python 2. {CONVERT}"
        elif isinstance(error, TabError):
            error.msg = f"{error.msg}: Python 2 took this. {CONVERT}"
        return
    name = getattr(error, "name", None)
    known = {NameError: _NAMES, ImportError: _MODULES, AttributeError: _METHODS}
    if any(isinstance(error, kind) and name in names for kind, names in known.items()):
        error.add_note(f"{name} is Python 2. {CONVERT}")
    elif isinstance(error, TypeError) and _ITERATOR.search(str(error)):
        error.add_note(
            "map, filter, zip and range were lists in Python 2. Write list(map(...)), or convert"
            f" the script: {CONVERT[0].lower()}{CONVERT[1:]}"
        )
    elif isinstance(error, TypeError) and ">>: 'builtin_function_or_method'" in str(error):
        error.add_note(f"print >> is Python 2. {CONVERT}")
    elif isinstance(error, TypeError) and "'float' object cannot be interpreted" in str(error):
        error.add_note(
            "The quotient of two whole numbers was a whole number in Python 2. Write // for /."
        )


# As errors name what was a list: 'map' object is not subscriptable.
_ITERATOR = re.compile(r"""['"](map|filter|zip|range|dict_keys|dict_values|dict_items)['"]""")
