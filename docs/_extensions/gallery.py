"""The gallery: a card for every program in ``examples/`` that draws a picture, and pages of source.

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

# `{path}`

```{{literalinclude}} /../{path}
```
"""


def programs(root: Path) -> dict[str, Path]:
    """Return the files in ``examples/`` and its folders that have a command line, by name."""
    paths = sorted((root / "examples").rglob("*.py"))
    return {path.stem: path for path in paths if '__name__ == "__main__"' in path.read_text()}


def first_line(path: Path) -> str:
    """Return the first line of the docstring of a file."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def page_of(root: Path, path: Path) -> str:
    """Return the page that shows the source of a file."""
    return f"generated/{path.relative_to(root).with_suffix('').as_posix()}"


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
    root = docs.parent
    thumbnails = docs / "generated" / "thumbnails"
    thumbnails.mkdir(parents=True, exist_ok=True)
    for name in programs(root):
        thumbnail(docs / f"{name}.png", thumbnails / f"{name}.png")
    for path in (root / "examples").rglob("*.py"):
        page = docs / f"{page_of(root, path)}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        text = SOURCE.format(path=path.relative_to(root).as_posix())
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


class Gallery(SphinxDirective):
    """Cards of the programs that its lines name."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the cards."""
        root = Path(self.env.srcdir).parent
        known = programs(root)
        pages = {line.split()[0]: line.split()[-1] for line in self.content if line.strip()}
        if pages.keys() != known.keys():
            raise self.error(f"gallery: expected {', '.join(known)}, got {', '.join(pages)}.")
        gallery = nodes.container(classes=["gallery"])
        for name, page in pages.items():
            self.env.note_dependency(str(known[name]))
            if page not in self.env.found_docs:
                raise self.error(f"gallery: there is no page {page}.")
            picture = nodes.image(
                uri=f"/generated/thumbnails/{name}.png", alt=f"Picture made by {name}.py"
            )
            result = self.link(page, nodes.Text("Result"))
            source = self.link(page_of(root, known[name]), nodes.Text("Source"))
            gallery += nodes.container(
                "",
                nodes.paragraph("", "", self.link(page, picture)),
                nodes.paragraph("", first_line(known[name])),
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
