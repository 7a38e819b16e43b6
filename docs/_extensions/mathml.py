"""Mathematics as MathML, made while the pages are built.

Browsers draw it without scripts and without a network.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# "log p" needs a thin space, "log(p)" none.
FUNCTION = re.compile(r"<mi>(log|exp|min|max|diag)</mi>(?!<mrow>|<mo[^>]*>(?:\(|&#x0*28;))")


def mathml(latex: str, display: str) -> str:
    """Return a formula as an element of HTML."""
    return FUNCTION.sub(
        r'<mi>\1</mi><mspace width="0.17em"/>', convert(latex.strip(), display=display)
    )


def visit_inline(writer: Any, node: nodes.math) -> None:
    """Write a formula that stands in a sentence."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula that stands alone."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
