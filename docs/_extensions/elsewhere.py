"""Names of other projects in pages and docstrings, so that pages build without a network.

Intersphinx reads inventories. Those of the projects would have to be fetched, and hold thousands of
names; these are written from the table below while the pages are built.
"""

from __future__ import annotations

import zlib
from pathlib import Path

# Project: its address, and for each name its kind and place.
PROJECTS = {
    "python": (
        "https://docs.python.org/3/",
        {
            "abc.ABC": ("class", "library/abc.html#abc.ABC"),
            "enum.IntEnum": ("class", "library/enum.html#enum.IntEnum"),
        },
    ),
    "pytensor": (
        "https://pytensor.readthedocs.io/en/latest/",
        {
            "pytensor.function": (
                "function",
                "library/compile/function.html#pytensor.compile.function.function",
            ),
            "pytensor.scan": ("function", "library/scan.html#module-pytensor.scan"),
            "pytensor.shared": (
                "function",
                "library/compile/shared.html#pytensor.compile.sharedvalue.shared",
            ),
            "pytensor.tensor.TensorVariable": (
                "class",
                "library/tensor/basic.html#pytensor.tensor.TensorVariable",
            ),
            "pytensor.tensor.matrix": (
                "function",
                "library/tensor/basic.html#pytensor.tensor.matrix",
            ),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.dot": ("function", "reference/generated/numpy.dot.html#numpy.dot"),
            "numpy.load": ("function", "reference/generated/numpy.load.html#numpy.load"),
            "numpy.ndarray": ("class", "reference/generated/numpy.ndarray.html#numpy.ndarray"),
            "numpy.random.Generator": (
                "class",
                "reference/random/generator.html#numpy.random.Generator",
            ),
        },
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        {
            "scipy.optimize": ("module", "reference/optimize.html#module-scipy.optimize"),
            **{
                f"scipy.optimize.{name}": (
                    "function",
                    f"reference/generated/scipy.optimize.{name}.html#scipy.optimize.{name}",
                )
                for name in ("least_squares", "minimize")
            },
            "scipy.sparse.linalg": (
                "module",
                "reference/sparse.linalg.html#module-scipy.sparse.linalg",
            ),
            "scipy.sparse.linalg.LinearOperator": (
                "class",
                "reference/generated/scipy.sparse.linalg.LinearOperator.html#scipy.sparse.linalg.LinearOperator",
            ),
        },
    ),
    "jax": (
        "https://docs.jax.dev/en/latest/",
        {
            "jax.distributed": ("module", "jax.distributed.html#module-jax.distributed"),
            "jax.jit": ("function", "_autosummary/jax.jit.html#jax.jit"),
            "jax.vjp": ("function", "_autosummary/jax.vjp.html#jax.vjp"),
            "jax.lax.while_loop": (
                "function",
                "_autosummary/jax.lax.while_loop.html#jax.lax.while_loop",
            ),
        },
    ),
    "matplotlib": (
        "https://matplotlib.org/stable/",
        {"matplotlib.figure.Figure": ("class", "api/figure_api.html#matplotlib.figure.Figure")},
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        {"pandas.DataFrame": ("class", "reference/api/pandas.DataFrame.html#pandas.DataFrame")},
    ),
}


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory of each project, and return the mapping for intersphinx."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, (address, names) in PROJECTS.items():
        lines = "".join(f"{name} py:{kind} 1 {place} -\n" for name, (kind, place) in names.items())
        head = f"# Sphinx inventory version 2\n# Project: {project}\n"
        head += "# Version: \n# Compressed using zlib\n"
        path = folder / f"{project}.inv"
        path.write_bytes(head.encode() + zlib.compress(lines.encode()))
        mapping[project] = (address, str(path))
    return mapping
