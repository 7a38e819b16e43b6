"""Names in the guides lead to the reference, names of examples to their source.

A guide says `` `Fisher` ``, `` `symng.models.mlp` ``, `` `Objective.check` ``, ``
`objective.check(X, T)` `` or `` `examples/curves.py` ``, without any role. A name that begins with
``symng.`` and is not in the reference is a warning. What is not to be linked is written ``
{code}`SGD(model)` ``.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

import symng

logger = logging.getLogger(__name__)

# What instances are called in the guides.
INSTANCES = {
    "objective": "Objective",
    "history": "History",
    "result": "TrainingResult",
    "solution": "Solution",
}
MODULES = ("models", "datasets", "plot")
MODULE_NAMES = {f"symng.{module}" for module in MODULES}
SHORT = {"np": "numpy", "pt": "pytensor.tensor"}
# A dotted name, or the path of an example; not a part of a longer path, an option or a string.
NAME = re.compile(
    r"(?<![\w./\"'-])(?:examples/(?:\w+/)?\w+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?![\w/\"'-])"
)
# The same in a block of code, as Pygments marks it up.
CODE = re.compile(
    r'<span class="n">symng</span>(?:<span class="o">\.</span><span class="n">\w+</span>)+'
    r'|<span class="nn">(?P<module>symng\.[\w.]+)</span>(?P<imported>.*)'
)


def target_of(
    name: str, literal: str, known: Container[str], elsewhere: Container[str]
) -> str | None:
    """Return the full name of the documented object that a literal names, or None.

    Parameters
    ----------
    name : str
        As it is written, with or without its module.
    literal : str
        All of the literal. The name of a function without ``symng.`` counts only where the literal
        is that name or a call of it, and that of a function in a module of symng only where it is a
        call.
    known, elsewhere : container of str
        Full names in the reference, and in those of other projects.
    """
    first, *rest = name.split(".")
    full = ".".join([SHORT.get(first, first), *rest])
    if full in elsewhere:
        return full
    called = literal.startswith(f"{name}(")
    if first == "symng":
        tries = [full]
    elif first in INSTANCES and rest:
        tries = [f"symng.{INSTANCES[first]}.{'.'.join(rest)}"]
    elif first[0].isupper() or literal == name or called:
        tries = [
            f"symng.{name}",
            f"symng.Status.{name}",
            *(f"symng.{module}.{name}" for module in MODULES if called),
        ]
        tries = [full for full in tries if full not in MODULE_NAMES]
    else:
        tries = []
    for full in tries:
        if full in known:
            return full
        # A field may have no entry of its own: its class has.
        owner, _, field = full.rpartition(".")
        if owner in known and owner.rpartition(".")[2][:1].isupper() and has_field(owner, field):
            return owner
    return None


def has_field(owner: str, field: str) -> bool:
    """Return whether a class of symng has an attribute, or a dataclass field without default."""
    kind: Any = symng
    for part in owner.split(".")[1:]:
        kind = getattr(kind, part, None)
    return hasattr(kind, field) or field in getattr(kind, "__dataclass_fields__", {})


class LinkNames(SphinxPostTransform):
    """Turn names in literals of Markdown pages into references, before these are resolved."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Visit each literal outside of links, headings and options of commands."""
        if not str(self.env.doc2path(self.env.docname)).endswith(".md"):
            return
        known = self.env.get_domain("py").objects
        elsewhere = self.elsewhere()
        for literal in list(self.document.findall(nodes.literal)):
            above = literal.parent
            while above is not None and not isinstance(
                above, nodes.reference | nodes.title | addnodes.pending_xref
            ):
                above = above.parent
            if above is None and not literal["classes"] and not literal.astext().startswith("-"):
                self.link(literal, known, elsewhere)

    def elsewhere(self) -> Mapping[str, Any]:
        """Return the names of other projects."""
        inventory = InventoryAdapter(self.env).main_inventory
        return {
            name: item
            for kind in inventory
            if kind.startswith("py:")
            for name, item in inventory[kind].items()
        }

    def link(
        self, literal: nodes.literal, known: Container[str], elsewhere: Container[str]
    ) -> None:
        """Put references around the names in a literal."""
        text = literal.astext()
        children: list[nodes.Node] = []
        end = 0
        for found in NAME.finditer(text):
            name = found[0]
            if name.startswith("examples/"):
                reference = self.reference(
                    "std", "doc", f"/generated/{name.removesuffix('.py')}", name
                )
            elif full := target_of(name, text, known, elsewhere):
                reference = self.reference("py", "obj", full, name)
            else:
                if name.startswith("symng."):
                    logger.warning("%s is not in the reference", name, location=literal)
                continue
            children += [nodes.Text(text[end : found.start()]), reference]
            end = found.end()
        if children:
            literal.children = []
            literal += [*children, nodes.Text(text[end:])]

    def reference(self, domain: str, kind: str, target: str, text: str) -> addnodes.pending_xref:
        """Return a reference that is a warning where its target is missing."""
        return addnodes.pending_xref(
            "",
            nodes.inline("", text),
            refdomain=domain,
            reftype=kind,
            reftarget=target,
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )


def link_code(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.Node | None,
) -> None:
    """Put links on what a block of code takes from symng: ``symng.Fisher``, ``from symng.plot``."""
    if doctree is None or not str(app.env.doc2path(pagename)).endswith(".md"):
        return
    known = app.env.get_domain("py").objects

    def link(name: str, marked: str) -> str:
        # A method of an instance that is made in the block is not among the names.
        parts = name.split(".")
        target = next(
            (known[full] for cut in (3, 2) if (full := ".".join(parts[:cut])) in known), None
        )
        if target is None:
            return marked
        address = f"{app.builder.get_relative_uri(pagename, target.docname)}#{target.node_id}"
        return f'<a class="reference internal" href="{address}">{marked}</a>'

    def replace(found: re.Match[str]) -> str:
        module = found["module"]
        if module is None:
            return link(re.sub("<.*?>", "", found[0]), found[0])
        names = re.sub(
            r'<span class="n">(\w+)</span>',
            lambda n: link(f"{module}.{n[1]}", n[0]),
            found["imported"],
        )
        return link(module, f'<span class="nn">{module}</span>') + names

    context["body"] = CODE.sub(replace, context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the transform and the links in code."""
    app.add_post_transform(LinkNames)
    app.connect("html-page-context", link_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
