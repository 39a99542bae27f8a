"""Every command that the README and the pages print is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from prune_realloc.cli.app import app

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(
    r"^(?: {4}|)(?:\.venv/bin/)?(?:(?:accelerate launch|torchrun) .*?-m prune_realloc|prune-realloc) (.+)$"
)


def commands(page):
    """The arguments of each command in a block of code, in the page's order."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```|((?:^ {4}.*\n)+)", text, re.MULTILINE | re.DOTALL)
    for line in "\n".join(fenced or indented for fenced, indented in blocks).splitlines():
        if found := COMMAND.match(line):
            yield shlex.split(found.group(1).split(" > ")[0], comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_commands_are_those_that_there_are(page):
    group = typer.main.get_command(app)
    for name, *arguments in commands(page):
        verb = group.commands[name]
        verb.make_context(name, [*arguments])  # raises on options and arguments that the verb has not


def test_a_wrong_option_is_found():
    with pytest.raises(Exception, match="--keep-mac"):
        typer.main.get_command(app).commands["plan"].make_context("plan", ["runs/x", "--keep-mac", "0.5"])
