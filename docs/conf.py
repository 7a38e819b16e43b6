"""Settings of the documentation: ``sphinx-build -W --keep-going docs docs/_build/html``."""

from __future__ import annotations

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
