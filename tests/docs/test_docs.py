"""README and documentation pages are true.

Their code runs, their names, links and options exist.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import re
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytensor
import pytest

import symng

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
LOADABLE = {"pymc", "pytensor_ml", "scipy"} - {
    name for name in ("pymc", "pytensor_ml") if importlib.util.find_spec(name) is None
}
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# Blocks marked ```python are run and ```pycon are sessions whose output is compared. A block
# ```text is what the block ```python before it prints. Others are only shown.
BLOCK = re.compile(r"^```(python|pycon|text)\n(.*?)^```$", re.M | re.S)
COMMANDS = (
    'pip install ".[examples]" && python examples/curves.py',
    'pip install ".[test]" && pytest',
)


def blocks_of(page: Path) -> list[tuple[str, str, int]]:
    """Return kind, text and first line of the code blocks of a page that run."""
    text = page.read_text()
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def run_page(page: Path) -> dict[str, object]:
    """Run the blocks of a page one after the other in one namespace, and return it."""
    namespace: dict[str, object] = {"__name__": "__page__"}
    printed = ""
    for kind, code, line in blocks_of(page):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), namespace)
            printed = out.getvalue()
            continue
        if kind == "text":
            assert printed == code, f"{page.name} shows another output"
            continue
        session = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), line)
        told: list[str] = []
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        failed, _ = doctest.DocTestRunner(verbose=False, optionflags=flags).run(
            session, out=told.append, clear_globs=False
        )
        assert not failed, "".join(told)
        namespace |= session.globs
    return namespace


WITH_CODE = [page for page in PAGES if blocks_of(page)]
# What is read first is in the fast tier.
FIRST = ("README.md", "index.md", "getting_started.md", "extending.md")


def test_the_pages_that_show_code_are_found():
    assert {"README.md", "index.md", "getting_started.md", "extending.md"} <= {
        page.name for page in WITH_CODE
    }


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=() if page.name in FIRST else pytest.mark.slow)
        for page in WITH_CODE
    ],
)
def test_code_runs(page, tmp_path, monkeypatch):
    if 'mode="JAX"' in page.read_text():
        pytest.importorskip("jax")
    monkeypatch.chdir(tmp_path)
    with pytensor.config.change_flags(mode="FAST_COMPILE"), np.printoptions(legacy=False):
        namespace = run_page(page)
    if page == README:
        losses = namespace["result"].history["loss"]
        assert len(losses) <= 100
        assert losses[-1] < 0.2 * losses[0]


def test_readme_names_the_two_commands():
    lines = [line.strip() for line in README.read_text().splitlines()]
    assert all(command in lines for command in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_exist(page):
    for name in sorted(set(re.findall(r"`{1,2}(symng(?:\.[A-Za-z_]\w*)+)", page.read_text()))):
        parts = name.split(".")
        if symng._BRIDGES.get(parts[1], "scipy") not in LOADABLE:
            continue  # a bridge to a package that is not installed
        found: object = None
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[cut:]:
                # A field of a dataclass without a default is no attribute of its class.
                fields = getattr(found, "__dataclass_fields__", {})
                assert hasattr(found, attribute) or attribute in fields, (
                    f"{page.name}: there is no {name}"
                )
                found = getattr(found, attribute, None)
            break
        else:
            pytest.fail(f"{page.name}: there is no {name}")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in link:
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}#{anchor}"


def test_every_page_is_in_the_table_of_contents():
    groups = re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.S)
    lines = [line.strip() for group in groups for line in group.splitlines()]
    names = [line for line in lines if line and not line.startswith(":")]
    assert sorted(names) == sorted({page.stem for page in PAGES if page != README} - {"index"})
    captions = [line.removeprefix(":caption: ") for line in lines if line.startswith(":caption:")]
    assert captions == ["Learn", "Guides", "Examples", "The paper", "Reference"]


def test_the_landing_page_has_install_line_code_output_and_picture():
    text = (ROOT / "docs" / "index.md").read_text()
    kinds = [kind for kind, _, _ in blocks_of(ROOT / "docs" / "index.md")]
    assert kinds == ["python", "text"]
    assert 'pip install ".[jax]"' in text
    (picture,) = re.findall(r"!\[.+\]\((.+\.png)\)", text)
    assert (ROOT / "docs" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def curves_example():
    """Return examples/curves.py as a module."""
    spec = importlib.util.spec_from_file_location("curves_example", ROOT / "examples" / "curves.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curves_page() -> str:
    return (ROOT / "docs" / "curves.md").read_text()


def test_curves_page_lists_every_option(curves_example, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        curves_example.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    assert len(options) > 10
    assert set(re.findall(r"^\| `(--[a-z-]+)", curves_page(), re.M)) == options


def settings_tables() -> list[dict[str, dict[str, str]]]:
    """Return the tables of the Curves page with rows named in code, cells by row and column."""
    tables = []
    for text in re.findall(r"^\| \|.*\n\|[-|]+\n(?:\|.*\n)+", curves_page(), re.M):
        head, _, *rows = [
            [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines()
        ]
        tables.append({row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows})
    return tables


def test_curves_page_lists_the_settings():
    presets, *settings = settings_tables()
    told = {"sizes": lambda sizes: "-".join(map(str, sizes))}
    known_settings = importlib.import_module("curves_settings")
    wanted = [getattr(known_settings, n) for n in ("DEFAULTS", "PAPER", "ALGORITHM_2", "SMALL")]
    for table, known in zip([presets, *settings], [known_settings.PRESETS, *wanted], strict=True):
        assert set(table) == set(known)
        for name, row in table.items():
            given = known[name]
            assert {column for column, cell in row.items() if cell} == set(given), name
            for column, value in given.items():
                missing = "all" if column == "batch" else "-"
                shown = missing if value is None else told.get(column, str)(value)
                assert row[column] == shown, f"{column} of {name}"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preconditioner", "martens"], "--preconditioner martens: only Hessian-free has it"),
        (["--optimizer", "adam", "--solver", "cg"], "--solver: Adam has none"),
        (["--optimizer", "hf", "--ratio", "linear"], "--ratio: Hessian-free has none"),
        (["--optimizer", "adam", "--start", "3"], "--start: Adam has none"),
        (["--preset", "algorithm-2", "--optimizer", "sgd"], "it is natural gradient"),
        (
            ["--optimizer", "sgd", "--preconditioner", "kronecker"],
            "--preconditioner: gradient descent has none",
        ),
    ],
)
def test_curves_refuses_what_an_optimizer_has_not(curves_example, capsys, arguments, message):
    with pytest.raises(SystemExit):
        curves_example.parse(arguments)
    assert message in capsys.readouterr().err


def test_presets_of_natural_gradient(curves_example):
    default, paper = (
        curves_example.make_optimizer(curves_example.parse(["--preset", p]))
        for p in ("default", "paper")
    )
    assert default.preconditioner == symng.KroneckerPreconditioner() and default.solver.maxiter == 3
    assert paper == symng.NaturalGradient(
        solver=symng.MinresQLP(rtol=1e-4, maxiter=250, recompute=False),
        damping=symng.LevenbergMarquardt(initial=3.0),
    )
    assert default.damping.initial == 0.01
    cold = curves_example.make_optimizer(curves_example.parse(["--start", "0"]))
    given = curves_example.make_optimizer(curves_example.parse("--start 0 --damping 2".split()))
    assert (cold.damping.initial, given.damping.initial) == (10.0, 2.0)
    undamped = ["--preset", "algorithm-2", "--damping", "0", "--ratio", "fixed"]
    printed = curves_example.make_optimizer(curves_example.parse(undamped))
    assert printed == symng.NaturalGradient(
        solver=symng.CG(rtol=0.0, atol=0.01, maxiter=20, recompute=False),
        damping=symng.FixedDamping(value=0.0),
    )


def test_changelog_has_this_version():
    assert f"\n## {symng.__version__}\n" in (ROOT / "docs" / "changelog.md").read_text()


def test_extras_that_the_pages_name_exist():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"])
    for page in PAGES:
        for named in re.findall(r"\"\.\[([a-z,]+)\]\"", page.read_text()):
            assert set(named.split(",")) <= extras, f"{page.name} names the extra {named}"
