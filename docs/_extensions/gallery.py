"""The gallery: a card for every program in ``examples/``, with a thumbnail of its picture and a page of its source.

.. code-block:: text

    ```{gallery}
    chessboard index
    curves
    ```

names program and page; the page has the name of the program unless it is given. A program that is
left out is an error.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image, ImageOps
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

SIZE = (640, 340)

SOURCE = """---
orphan: true
---

# `examples/{name}.py`

```{{literalinclude}} /../examples/{name}.py
```
"""


def programs(root: Path) -> dict[str, str]:
    """Return the first line of the docstring of every file in ``examples/`` that can be run, by name."""
    found = {}
    for path in sorted((root / "examples").glob("*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def thumbnail(picture: Path, path: Path) -> None:
    """Write a picture on white, scaled to fit a card."""
    with Image.open(picture) as opened:
        image = opened.convert("RGBA")
    image = ImageOps.contain(image, SIZE, Image.Resampling.LANCZOS)
    card = Image.new("RGBA", SIZE, "white")
    card.alpha_composite(image, ((SIZE[0] - image.width) // 2, (SIZE[1] - image.height) // 2))
    card.convert("RGB").save(path)


def write_files(app: Sphinx) -> None:
    """Write the thumbnails and the pages of source, before pages are looked for."""
    docs = Path(app.srcdir)
    for folder in ("thumbnails", "examples"):
        (docs / "generated" / folder).mkdir(parents=True, exist_ok=True)
    for name in programs(docs.parent):
        thumbnail(docs / f"{name}.png", docs / "generated" / "thumbnails" / f"{name}.png")
        page = docs / "generated" / "examples" / f"{name}.md"
        text = SOURCE.format(name=name)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


class Gallery(SphinxDirective):
    """Cards of the programs that its lines name."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the cards."""
        known = programs(Path(self.env.srcdir).parent)
        pages = {line.split()[0]: line.split()[-1] for line in self.content if line.strip()}
        if pages.keys() != known.keys():
            raise self.error(f"gallery: expected {', '.join(known)}, got {', '.join(pages)}.")
        gallery = nodes.container(classes=["gallery"])
        for name, page in pages.items():
            self.env.note_dependency(str(Path(self.env.srcdir).parent / "examples" / f"{name}.py"))
            if page not in self.env.found_docs:
                raise self.error(f"gallery: there is no page {page}.")
            picture = nodes.image(
                uri=f"/generated/thumbnails/{name}.png", alt=f"Picture made by {name}.py"
            )
            result = self.link(page, nodes.Text("Result"))
            source = self.link(f"generated/examples/{name}", nodes.Text("Source"))
            gallery += nodes.container(
                "",
                nodes.paragraph("", "", self.link(page, picture)),
                nodes.paragraph("", known[name]),
                nodes.paragraph("", "", result, nodes.Text(" · "), source),
                classes=["card"],
            )
        return [gallery]

    def link(self, page: str, content: nodes.Node) -> nodes.reference:
        """Return a link to a page around an image or words."""
        address = relative_uri(f"{self.env.docname}.html", f"{page}.html")
        return nodes.reference("", "", content, internal=True, refuri=address)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and what it shows."""
    app.connect("builder-inited", write_files)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
