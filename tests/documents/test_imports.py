"""What the documents, examples and benchmarks import from the package is there."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = [*sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def imported(code):
    """(module, name) of each name that the code takes from the package, at its top or inside functions."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prune_realloc"):
            yield from ((node.module, alias.name) for alias in node.names)


def assert_there(names):
    for module, name in names:
        if not hasattr(import_module(module), name):
            import_module(f"{module}.{name}")  # a module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts(path):
    assert_there(imported(path.read_text()))


def test_documents():
    lines = [line.strip() for path in PAGES for line in path.read_text().splitlines()]
    code = [line for line in lines if re.match(r"from prune_realloc\S* import ", line)]
    assert code
    assert_there(imported("\n".join(code)))
    named = {line for path in PAGES for line in re.findall(r"`prune_realloc/([\w/]+\.?\w*)/?`", path.read_text())}
    assert named
    assert not [place for place in named if not (ROOT / "prune_realloc" / place).exists()]


def test_the_floors_that_are_documented_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", (ROOT / "docs" / "support.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    assert not [row for row in rows if f'"{row[0]}>={row[1]}"' not in project and row[0] != "Python"]
