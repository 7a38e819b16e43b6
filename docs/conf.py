"""Settings of the documentation: ``sphinx-build -W --keep-going docs docs/_build/html``."""

from __future__ import annotations

import re

from symng import __version__

project = "symng"
author = "The symng developers"
copyright = "2026, The symng developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_parser"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings tell types, with shapes and ranges
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the class template lists them
numpydoc_class_members_toctree = False

default_role = "py:obj"
html_theme = "furo"
html_title = f"symng {version}"


def escape_initials(app, what, name, obj, options, lines):
    """Keep "R. Pascanu" at the start of a reference from being read as item R of an ordered list."""
    lines[:] = [re.sub(r"^(\s*(?:\.\. \[\d+\] )?[A-Z])\. ", r"\1\\. ", line) for line in lines]


def setup(app):
    """Connect the hook before numpydoc's."""
    app.connect("autodoc-process-docstring", escape_initials, priority=100)
