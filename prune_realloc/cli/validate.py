"""The verb `validate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prune_realloc.core.errors import InputError


def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Recipes.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check recipes, and list everything that is wrong in them with its line."""
    from prune_realloc.recipe.reader import check_recipe, read_text
    from prune_realloc.recipe.shipped import recipe_file
    from prune_realloc.recipe.writer import recipe_schema

    if schema:
        print(json.dumps(recipe_schema(), indent=1))
        return
    if not files:
        raise InputError("validate needs a FILE, such as half.yaml")
    found = {str(file): check_recipe(read_text(recipe_file(file))) for file in files}
    if as_json:
        print(json.dumps([{"file": file, "problems": [vars(p) for p in ps]} for file, ps in found.items()], indent=1))
    else:
        for file, problems in found.items():
            print("\n".join(f"{file}:{problem}" for problem in problems) or f"{file}: ok")
    if any(found.values()):
        raise typer.Exit(2)
