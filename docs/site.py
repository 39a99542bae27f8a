"""What the docs site is made of: the repository's own pages at their places, so that their links hold, and pages that
are written from the code. mkdocs calls `on_files` (`make docs`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "docs/*.png",
    "examples/**/*.md",
    "examples/**/*.png",
)
LINKED = ("examples/*.py",)
"""Code that pages link to, served as it is."""


def on_files(files: Any, config: Any) -> Any:
    """In place of what lies in `docs/` alone: everything that is shown, by its path in the repository."""
    from mkdocs.structure.files import File, Files

    kept = [file for file in files if file.src_uri.startswith("assets/")]
    own = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for pattern in (*SHOWN, *LINKED)
        for path in sorted(ROOT.glob(pattern))
    ]
    pages = {"verbs": "".join(verbs()), "recipe": "".join(fields()), "api": "".join(names())}
    own += [File.generated(config, f"reference/{name}.md", content=content) for name, content in pages.items()]
    return Files([*kept, *own])


def verbs() -> Iterator[str]:
    """Every verb's help."""
    import typer
    from typer.cli import get_docs_for_click

    from prune_realloc.cli.app import app

    command = typer.main.get_command(app)
    yield get_docs_for_click(obj=command, ctx=typer.Context(command), name="prune-realloc", title="Verbs")


def fields() -> Iterator[str]:
    """Every field of a recipe, part by part."""
    from prune_realloc.recipe.writer import recipe_schema

    schema = recipe_schema()
    yield "# Fields of a recipe\n\nFrom the schema that editors read (`prune-realloc validate --schema`).\n"
    for title, part in {"Recipe": schema, **schema["$defs"]}.items():
        if "properties" not in part:
            continue
        yield f"\n## {title}\n\n{part.get('description', '')}\n\n| field | meaning |\n| --- | --- |\n"
        for name, field in part["properties"].items():
            meaning = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
            yield f"| `{name}` | {meaning} |\n"


def names() -> Iterator[str]:
    """Every public name, from its docstring."""
    import prune_realloc

    yield "# Python\n\nWhat `import prune_realloc` gives; examples are in [your own network](../docs/python.md).\n"
    for name, home in prune_realloc._HOMES.items():
        yield f"\n::: prune_realloc.{home}.{name}\n"
