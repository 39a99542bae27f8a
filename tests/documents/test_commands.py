"""Every command that the documents show is one that the program takes: its verb is there, and its flags are read."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from prune_realloc.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
SHOWN = re.compile(r"^(?:    )?(?:\.venv/bin/)?prune-realloc ((?:.*\\\n)*[^\n]*?)(?:\s+#.*)?$", re.MULTILINE)
IN_A_TABLE = re.compile(r"^\|[^|]*\| `prune-realloc ([^`]+)`", re.MULTILINE)
COMMANDS = [
    found[1].replace("\\\n", " ")
    for page in PAGES
    for shown in (SHOWN, IN_A_TABLE)
    for found in shown.finditer(page.read_text())
]


def test_commands_are_found():
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_a_command_is_read(line):
    root = typer.main.get_command(app)
    verb, *args = shlex.split(line)
    context = typer.Context(root, info_name="prune-realloc")
    command = root.get_command(context, verb)
    assert command is not None, f"no verb {verb}"
    if args != ["--help"]:
        command.make_context(verb, args, parent=context)


def test_every_page_of_the_docs_is_in_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {page.relative_to(ROOT)}\n" in navigation, page
