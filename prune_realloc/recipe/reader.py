"""Recipe: what to cut, how far, and, once planned, the width of every site with its reason. YAML in, YAML out.

Reading happens in three steps: the text becomes YAML nodes (with positions, without tags or aliases, so that nothing
in it can run), the nodes become plain values, and pydantic checks the values. Every problem of the three steps is a
`Problem` with the line it stands in. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.fields import Location
from prune_realloc.recipe.messages import Problem, dotted_location, problem_text, untagged_location
from prune_realloc.recipe.shipped import recipe_file
from prune_realloc.recipe.writer import Dumper, represent_text


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file, or one that is shipped, by its name (`deit_small_half`).

    Raises:
        InputError: it cannot be read, or is wrong; the message has the first problem and how many there are.
    """
    return parse_recipe(read_text(recipe_file(path)), where=str(path))


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Check the text of a recipe; `where` names it in the error.

    Raises:
        InputError: it is wrong; the message has the first problem and how many there are.
    """
    recipe, problems = _read(text)
    if recipe is None:
        count = len(problems)
        rest = f" ({count} problems; `prune-realloc validate {where}` lists all)" if count > 1 else ""
        raise InputError(f"{where}:{problems[0]}{rest}")
    return recipe


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from values instead of text, such as flags of the command line.

    Raises:
        InputError: a value is wrong; the message names its field.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(": ".join(filter(None, (dotted_location(first["loc"]), problem_text(first))))) from error


def check_recipe(text: str) -> list[Problem]:
    """Everything that is wrong in the text of a recipe, in the order of its lines; empty: nothing."""
    return _read(text)[1]


def read_text(path: str | Path, what: str = "recipe") -> str:
    """The text of a file; `what` it is, for messages.

    Raises:
        InputError: it is missing, no file, or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        shipped = "; `prune-realloc recipes` lists those that are shipped" if what == "recipe" else ""
        raise InputError(f"{what} {str(path)!r} cannot be read: {error.strerror}{shipped}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {str(path)!r} is not UTF-8 text; is it a {what}?") from error


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them, as editors do: `on` and `4:11` are text, `1e-3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]{0,299})", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def parse_value(text: str, what: str) -> Any:
    """One value, or a document of plain values, read as in recipes: `1e-3` is a number, `on` is text.

    Args:
        what: what the text is, for messages.

    Raises:
        InputError: it is not YAML, or has tags or aliases.
    """
    try:
        if problems := list(_forbidden(text)):
            raise InputError(f"{what}: {problems[0].message}")
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{what} is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply") from error


def _read(text: str) -> tuple[Recipe | None, list[Problem]]:
    try:
        if problems := list(_forbidden(text)):
            return None, problems
        root = yaml.compose(text, _Loader)
        if not isinstance(root, yaml.MappingNode):
            return None, [Problem(1, 1, "", "is empty or no mapping; a recipe is made of `key: value` lines")]
        problems = list(_repeated_keys(root, ()))
        values = _Loader("").construct_document(root)
    except yaml.YAMLError as error:
        return None, [_syntax_problem(error, text)]
    except RecursionError:
        return None, [Problem(1, 1, "", "is nested too deeply to be a recipe")]
    recipe, errors = _validate(values)
    problems += [Problem(*_position(root, e["loc"]), dotted_location(e["loc"]), problem_text(e)) for e in errors]
    return (None if problems else recipe), sorted(problems)


def _forbidden(text: str) -> Iterator[Problem]:
    """Tags, which name types to build, and aliases, which can make a small file huge."""
    for event in yaml.parse(text, _Loader):
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            message = f"alias '*{event.anchor}' is not allowed; write the value out"
        elif (tag := getattr(event, "tag", None)) is not None:
            message = f"tag {tag.replace('tag:yaml.org,2002:', '!!')!r} is not allowed; write a plain value"
        else:
            continue
        yield Problem(mark.line + 1, mark.column + 1, "", message)


def _repeated_keys(node: yaml.Node, loc: Location) -> Iterator[Problem]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, (*loc, index))
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            message = f"is given twice, first in line {lines[name]}; remove one"
            yield Problem(line, key.start_mark.column + 1, dotted_location((*loc, name)), message)
        lines.setdefault(name, line)
        yield from _repeated_keys(value, (*loc, name))


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        what = ", ".join(filter(None, (error.context, error.problem)))
        return Problem(mark.line + 1, mark.column + 1, "", f"is not valid YAML: {what}")
    before = text[: getattr(error, "position", 0)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Problem(line, column, "", f"is not valid YAML: {getattr(error, 'reason', error)}")


def _validate(values: dict[str, Any]) -> tuple[Recipe | None, list[Any]]:
    """The recipe and all errors; takes wrong values out of `values`.

    pydantic compares fields only where each is right. So what is wrong is taken out and the rest checked again, until
    nothing new is found; what then only complains about the gaps does not count.
    """
    errors: dict[tuple[Location, str], Any] = {}
    removed: list[Location] = []
    while True:
        try:
            return Recipe.model_validate(values), list(errors.values())
        except ValidationError as error:
            found = error.errors(include_url=False)
        for e in found:
            if not _follows_from(removed, e):
                errors.setdefault((e["loc"], problem_text(e)), e)
        wrong = [untagged_location(e["loc"]) for e in found]
        # a field that is missing cannot be taken out, so at last what it is missing from
        gaps = [loc for loc in wrong if _remove(values, loc)] or [
            loc[:-1] for loc in wrong if _remove(values, loc[:-1])
        ]
        if not gaps:
            return None, list(errors.values())
        removed += gaps


def _follows_from(removed: list[Location], error: Any) -> bool:
    named = error.get("ctx", {}).get("about", ())
    about: list[Location] = [(name,) for name in named] or [untagged_location(error["loc"])]
    return any(gap[: len(scope)] == scope for gap in removed for scope in about)


def _remove(values: Any, loc: Location) -> bool:
    """Take the innermost named field of `loc` out of `values`, if it is there."""
    path = list(loc)
    while path and isinstance(path[-1], int):
        path.pop()
    for part in path[:-1]:
        if isinstance(values, dict) and part not in values:
            return False
        values = values[part]
    if not path or not isinstance(values, dict) or path[-1] not in values:
        return False
    del values[path[-1]]
    return True


def _position(root: yaml.Node, loc: Location) -> tuple[int, int]:
    """Line and column, from 1, of the key or item; of the nearest thing around it if it is not in the document."""
    node, mark = root, root.start_mark
    for part in untagged_location(loc):
        if isinstance(node, yaml.MappingNode):
            found = [(key.start_mark, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = [(item.start_mark, item) for item in node.value[part : part + 1]]
        else:
            found = []
        if not found:
            break
        mark, node = found[-1]
    return mark.line + 1, mark.column + 1


Dumper.add_representer(str, represent_text)
