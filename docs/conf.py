"""Settings of the documentation: ``sphinx-build -W --keep-going docs docs/_build/html``."""

from __future__ import annotations

import re
import sys
from configparser import ConfigParser
from pathlib import Path

import symng

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

from elsewhere import write_inventories  # noqa: E402
from numpydoc.xref import DEFAULT_LINKS  # noqa: E402

settings = ConfigParser()
settings.read(HERE.parent / "setup.cfg")
repository = dict(
    line.split(" = ") for line in settings["metadata"]["project_urls"].strip().splitlines()
)["Source"]

project = "symng"
author = "The symng developers"
copyright = "2026, The symng developers"
version = release = symng.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    # Our own, in _extensions.
    "gallery",
    "mathml",
    "names",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "deflist", "substitution"]
myst_substitutions = {"repository": f"[repository]({repository})"}
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # docstrings have types, with shapes and ranges
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the class template lists them
numpydoc_class_members_toctree = False

# Docstrings are checked while the pages are built, but for
numpydoc_validation_checks = {
    "all",
    "ES01",  # a first line may say all there is to say
    "EX01",  # examples, which tests/docs/test_public_names.py asks for, of public names
    "SA01",  # See Also sections: the reference page lists what belongs together
    "GL08",  # docstrings that are inherited
    "PR01",  # parameters of methods and properties that one line describes; the same test asks for
    "RT01",  # them, and for what is returned, where a name is public
    "YD01",
    "PR03",  # arguments of one kind, described together
    "PR04",  # types that stand beside the first of several arguments
    "PR06",  # "integer", which takes NumPy's, too
    "PR08",  # descriptions that start with a formula or with a value
}

# Classes in docstrings lead to the reference or to other projects; everybody knows what an int is.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    **{word: word for word in DEFAULT_LINKS},
    **{name: f"symng.{name}" for name in symng.__all__},
    "TensorVariable": "pytensor.tensor.TensorVariable",
    "ndarray": "numpy.ndarray",
    "numpy.random.Generator": "numpy.random.Generator",
    "matplotlib.figure.Figure": "matplotlib.figure.Figure",
}
intersphinx_mapping = write_inventories(HERE / "generated" / "inventories")

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

default_role = "py:obj"
nitpicky = True
# Bases and parts that a page of the reference names and that have no page of their own.
_BASES = (
    "Config|DampedOptimizer|OutputMetric|BetaRule|BetaFormula|PlaneRule|Descent|Classifier|Examples|"
    "DirectSolver|LossBlock|Summand"
)
nitpick_ignore_regex = [("py:class", rf"symng\..*\.({_BASES})")]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"symng {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
    "footer_icons": [{"name": "Repository", "url": repository, "html": "Repository", "class": ""}],
}


def escape_initials(app, what, name, obj, options, lines):
    """Keep "R. Pascanu" at the start of a reference from becoming item R of a list."""
    lines[:] = [re.sub(r"^(\s*(?:\.\. \[\d+\] )?[A-Z])\. ", r"\1\\. ", line) for line in lines]


def leave_out_source(app, pagename, templatename, context, doctree):
    """Remove the source link from generated pages, whose source is not in the repository."""
    if pagename.startswith("generated/"):
        context["page_source_suffix"] = None


def setup(app):
    """Connect the hook of docstrings before numpydoc's."""
    app.connect("autodoc-process-docstring", escape_initials, priority=100)
    app.connect("html-page-context", leave_out_source)
