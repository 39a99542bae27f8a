"""What the site has beside the pages of this folder: the README as its first page, and references made from the code."""

import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import prune_realloc
from prune_realloc.cli.app import app

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"index.md": (ROOT / "README.md").read_text(), "reference/verbs.md": verbs(), "reference/python.md": python()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of this folder become the name of what lies in the repository."""
    of_readme = page.file.src_uri == "index.md"
    here = ROOT if of_readme else (ROOT / "docs" / page.file.src_uri).parent
    return LINK.sub(lambda found: _link(found, here, of_readme), markdown)


def _link(found: re.Match[str], here: Path, of_readme: bool) -> str:
    image, text, target, anchor = found.group(1), found.group(2), found.group(3), found.group(4) or ""
    if ":" in target:
        return found.group(0)
    place = (here / target).resolve()
    if place.is_relative_to(ROOT / "docs"):
        return f"{image}[{text}]({place.relative_to(ROOT / 'docs')}{anchor})" if of_readme else found.group(0)
    if not place.exists():
        return found.group(0)  # mkdocs says that it leads nowhere
    name = f"`{place.relative_to(ROOT)}` in the repository"
    return f"({name})" if image else f"{text} ({name})"


def verbs() -> str:
    """Every verb with its arguments and options, as `--help` has them."""
    group: Any = typer.main.get_command(app)
    parts = ["# All options", "Written from the command line itself; `prune-realloc VERB --help` says the same."]
    for name, verb in group.commands.items():
        parts.append(f"## {name}\n\n{_plain(verb.help or '')}")
        parts.append("\n".join(["| option | default | meaning |", "| --- | --- | --- |", *_rows(verb)]))
    return "\n\n".join(parts) + "\n"


def _rows(verb: Any) -> list[str]:
    context = verb.context_class(verb)
    rows = []
    for param in verb.params:
        argument = param.param_type_name == "argument"
        flags = f"`{param.metavar or param.name.upper()}`" if argument else ", ".join(f"`{flag}`" for flag in param.opts)
        given = param.get_default(context)
        default = "" if argument or given is None or given is False or given == [] else f"`{given}`"
        rows.append(f"| {flags} | {default} | {_plain(getattr(param, 'help', None) or '')} |")
    return rows


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").strip() if "\n" not in text else text.strip()


def python() -> str:
    """The public names, each with its docstring."""
    homes: dict[str, Any] = prune_realloc._HOMES
    blocks = [f"::: prune_realloc.{homes[name]}.{name}" for name in prune_realloc.__all__]
    return "\n\n".join(["# Python", "What `import prune_realloc` offers.", *blocks]) + "\n"
