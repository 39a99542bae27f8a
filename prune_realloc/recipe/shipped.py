"""The recipes that the package ships, which every verb takes by name. No torch here."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "assets" / "recipes"
SHIPPED = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
"""Name -> file."""


def recipe_file(path: str | Path) -> Path:
    """The file that is meant: what is there counts before a shipped recipe of that name."""
    given = Path(path)
    return given if given.exists() else SHIPPED.get(str(path), given)


def is_recipe(path: str | Path) -> bool:
    """Is a recipe meant, and not a folder or a checkpoint?"""
    return recipe_file(path).suffix in (".yaml", ".yml")


def command(name: str) -> str:
    """The command that runs a shipped recipe."""
    return SHIPPED[name].read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def comment(name: str) -> str:
    """What a shipped recipe is for: its first comment, below the two lines for programs."""
    _, _, _, *lines = SHIPPED[name].read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def beginning(text: str) -> list[str]:
    """The names that begin with `text`, for the shell's completion."""
    return [name for name in SHIPPED if name.startswith(text)]
