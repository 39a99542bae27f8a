"""Every command that the documents show is one that the program takes: its verb is there, and its flags are read."""

import shlex

import pytest
import typer
from support.documents import PAGES, ROOT, commands_of

from prune_realloc.cli.app import app

COMMANDS = [line for page in PAGES for line in commands_of(page)]


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
