"""The site that Sphinx builds.

Names lead to the reference, mathematics needs no network, the gallery is complete.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted(
    p for p in (ROOT / "examples").rglob("*.py") if '__name__ == "__main__"' in p.read_text()
)
NEEDED = ("sphinx", "furo", "myst_parser", "numpydoc", "sphinx_copybutton", "latex2mathml", "PIL")
needs_sphinx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason='needs pip install ".[docs]"',
)

# A site of few pages, with the settings and extensions of the real one.
INDEX = """# Small

Take `Fisher`, `symng.History.load`, `symng.minimize(objective, optimizer)`,
`solver=symng.CG(maxiter=3)` or `objective.check(x, t)`, and `pytensor.function`.
Not a name: {code}`Adam(model)`, `--steps Adam`, `curves` or
`history.npz`.
Source: `examples/little.py`. In a sentence $p = F^{-1} g$, and alone

$$
\\log p(t \\mid x) + \\log p
$$

```python
from symng.plot import training_curves
objective = symng.Objective(loss)
```

```{gallery}
little index
```

```{toctree}
names
```
"""
NAMES = """# Names

```{eval-rst}
.. currentmodule:: symng

.. autosummary::
   :toctree: generated
   :nosignatures:

   CG
   Fisher
   History
   Objective
   minimize
```

## Pictures

```{eval-rst}
.. py:module:: symng.plot
```

```{eval-rst}
.. currentmodule:: symng.plot

.. autosummary::
   :toctree: generated
   :nosignatures:

   training_curves
```
"""
LITTLE = '"""Do very little."""\n\nif __name__ == "__main__":\n    print("done")\n'


def build(folder: Path, index: str) -> str:
    """Build the small site, and return the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    docs = folder / "docs"
    shutil.copytree(
        DOCS,
        docs,
        ignore=shutil.ignore_patterns("*.md", "*.png", "generated", "_build", "__pycache__"),
    )
    shutil.copy(ROOT / "setup.cfg", folder)
    (folder / "examples").mkdir()
    (folder / "examples" / "little.py").write_text(LITTLE)
    shutil.copy(DOCS / "chessboard.png", docs / "little.png")
    (docs / "index.md").write_text(index)
    (docs / "names.md").write_text(NAMES)
    said = io.StringIO()
    path = list(sys.path)
    try:
        with docutils_namespace():
            Sphinx(
                docs,
                docs,
                folder / "html",
                folder / "trees",
                "html",
                # Most of what the docstrings name has no page in so small a site.
                confoverrides={"nitpicky": False},
                status=None,
                warning=said,
            ).build()
    finally:
        sys.path[:] = path
    return said.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the small site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    assert build(folder, INDEX) == ""
    return folder / "html"


@pytest.mark.slow
@needs_sphinx
def test_names_lead_to_the_reference(site):
    text = (site / "index.html").read_text()
    links = re.findall(r'<a class="reference[^"]*" href="([^"]+)"[^>]*>(.*?)</a>', text)
    shown = {re.sub("<.*?>", "", name): target for target, name in links}
    assert shown["Fisher"] == "generated/symng.Fisher.html#symng.Fisher"
    assert shown["symng.History.load"] == "generated/symng.History.html#symng.History.load"
    assert shown["symng.minimize"] == "generated/symng.minimize.html#symng.minimize"
    assert shown["symng.CG"] == "generated/symng.CG.html#symng.CG"
    assert shown["objective.check"] == "generated/symng.Objective.html#symng.Objective.check"
    # in the block of code.
    assert shown["symng.Objective"] == "generated/symng.Objective.html#symng.Objective"
    assert 'href="generated/symng.plot.training_curves.html#symng.plot.training_curves"' in text
    assert shown["pytensor.function"].startswith("https://pytensor.readthedocs.io/")
    assert shown["examples/little.py"] == "generated/examples/little.html"
    assert not {"Adam", "curves", "history", "history.npz"} & set(shown)
    for target in shown.values():
        page, _, anchor = target.partition("#")
        if "://" not in page:
            assert anchor == "" or f'id="{anchor}"' in (site / page).read_text()


@pytest.mark.slow
@needs_sphinx
def test_mathematics_is_in_the_page_and_nothing_is_loaded_from_elsewhere(site):
    text = (site / "index.html").read_text()
    assert text.count("<math") == 2
    assert "mathjax.js" not in text.lower()
    assert re.search(r"<mi>log</mi><mspace[^>]*/?>(</mspace>)?<mi>p</mi>", text)
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="([^"]+)"', page.read_text()
        )
        assert loaded and not [address for address in loaded if "//" in address], page.name


@pytest.mark.slow
@needs_sphinx
def test_source_copy_buttons_and_repository(site):
    page = (site / "generated" / "symng.CG.html").read_text()
    assert "_modules/symng/solvers/cg.html#CG" in page
    assert "copybutton.js" in page
    address = re.search(r"Source = (\S+)", (ROOT / "setup.cfg").read_text())
    assert address is not None
    text = (site / "index.html").read_text()
    assert f'href="{address[1]}"' in text and f"{address[1]}/blob/main/docs/index.md" in text
    assert f"{address[1]}/blob" not in page  # its source is written while it is built


@pytest.mark.slow
@needs_sphinx
def test_a_card_has_thumbnail_page_and_source(site):
    text = (site / "index.html").read_text()
    assert "Do very little." in text
    assert (site / "_images" / "little.png").read_bytes().startswith(b"\x89PNG")
    assert "print" in (site / "generated" / "examples" / "little.html").read_text()


@pytest.mark.slow
@needs_sphinx
def test_wrong_names_and_programs_left_out_are_warnings(tmp_path):
    said = build(
        tmp_path, "# Small\n\n`symng.Fischer`\n\n```{gallery}\n```\n\n```{toctree}\nnames\n```\n"
    )
    assert "symng.Fischer is not in the reference" in said
    assert "gallery: expected little, got" in said
    assert len(said.splitlines()) == 2, said


def test_the_gallery_shows_every_example():
    listed = re.search(r"```\{gallery\}\n(.*?)```", (DOCS / "gallery.md").read_text(), re.S)
    assert listed is not None
    names = [line.split()[0] for line in listed[1].splitlines()]
    assert sorted(names) == [path.stem for path in EXAMPLES]
    for name in names:
        assert (DOCS / f"{name}.png").exists()


def test_the_picture_of_the_landing_page(tmp_path, capsys):
    chessboard = importlib.import_module("chessboard")
    assert (
        chessboard.main(
            ["--steps", "3", "--examples", "60", "--mode", "FAST_COMPILE", "--out", str(tmp_path)]
        )
        == 0
    )
    assert (tmp_path / "chessboard.png").read_bytes().startswith(b"\x89PNG")
    losses = [
        float(line.split()[-1])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("step")
    ]
    assert losses[-1] < losses[0]
