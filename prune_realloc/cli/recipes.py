"""The verb `recipes`."""

from __future__ import annotations

from prune_realloc.cli.console import show_json, show_lines
from prune_realloc.cli.options import Json


def recipes(as_json: Json = False) -> None:
    """The shipped recipes, which the other verbs take by name: what each is for, and the command that runs it."""
    from prune_realloc.recipe.shipped import SHIPPED, command, comment

    if as_json:
        show_json(
            {name: {"comment": comment(name), "command": command(name), "file": str(SHIPPED[name])} for name in SHIPPED}
        )
        return
    for name in SHIPPED:
        show_lines(name, f"    {comment(name)}", f"    {command(name)}")
