"""A recipe -> YAML that reads well, and the JSON Schema for editors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import yaml

from prune_realloc.core.cost import KINDS
from prune_realloc.recipe.document import Recipe, RecipeAxis
from prune_realloc.recipe.fields import size_text
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Target

SCHEMA_FILE = "recipe.schema.json"
"""Ships beside this module; a dumped recipe names it for editors."""


class Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else; never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


def dump_recipe(recipe: Recipe, command: str, *, schema: str = SCHEMA_FILE) -> str:
    """The recipe as YAML, without what is left at its default; `parse_recipe` gives an equal recipe back.

    Args:
        command: what runs the recipe; the first line of the file.
        schema: where editors find `recipe_schema()`, relative to the file.
    """
    comment = "".join(letter if letter.isprintable() else " " for letter in command)
    lines = [f"# {comment}", f"# yaml-language-server: $schema={schema}", "format_version: 1"]
    lines += _section("source", recipe.source.model_dump(exclude_defaults=True))
    lines += _section("data", recipe.data.model_dump(exclude_defaults=True))
    if recipe.scorer != "fisher":
        lines.append(f"scorer: {recipe.scorer}")
    if recipe.budget is not None:
        budget = recipe.budget.model_dump(exclude_none=True)
        budget |= {key: size_text(budget[key]) for key in KINDS if key in budget}
        lines.append(f"budget: {_flow(budget)}")
    lines += [f"allocation: {recipe.allocation}", f"axes: {_flow(list(recipe.axes))}"]
    lines += _rule_lines(recipe)
    steps = () if recipe.compensate.tune else ("tune",)
    lines.append(f"compensate: {_flow(recipe.compensate.model_dump(exclude={*steps}))}")
    if recipe.plan is not None:
        lines += _section("plan", recipe.plan.model_dump(exclude_defaults=True, exclude={"sites"}))
        lines += _site_lines(recipe.plan.sites)
    if recipe.target is not None:
        lines += _target_lines(recipe.target)
    return "\n".join(lines) + "\n"


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, with a description of every field; the package holds it as `recipe.schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


def _flow(value: Any) -> str:
    """One line of YAML; in a list while it is written, so that a scalar does not become a document."""
    text = yaml.dump(
        [value], Dumper=Dumper, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.strip()[1:-1]


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{name}:", *(f"  {key}: {_flow(value)}" for key, value in values.items())] if values else []


def _rule_lines(recipe: Recipe) -> list[str]:
    lines = ["rules:"] if recipe.rules else []
    for axis in get_args(RecipeAxis):
        if axis in recipe.rules:
            shown = [_flow(rule.model_dump(exclude_none=True)) for rule in recipe.rules_of(axis)]
            many = isinstance(recipe.rules[axis], list) and shown
            lines += (
                [f"  {axis}:", *(f"    - {rule}" for rule in shown)]
                if many
                else [f"  {axis}: {''.join(shown) or '[]'}"]
            )
    return lines


def _target_lines(target: Target) -> list[str]:
    plain_fields = target.model_dump(exclude_defaults=True, exclude={"rules", "network"})
    plain_fields |= {key: size_text(plain_fields[key]) for key in KINDS if key in plain_fields}
    lines = ["target:", f"  like: {target.like}"]
    lines += [
        f"  {key}: {_flow(list(value) if isinstance(value, tuple) else value)}"
        for key, value in plain_fields.items()
        if key != "like"
    ]
    if target.rules:
        lines.append("  rules:")
        lines += [f"    {key}: {_flow(rule.model_dump(exclude_defaults=True))}" for key, rule in target.rules.items()]
    if target.network is not None:
        lines += ["  network:"]
        for key, value in target.network.model_dump(exclude={"widths"}).items():
            lines += [] if value is None else [f"    {key}: {_flow(value)}"]
        names = {name: f"{_flow(name)}:" for name in target.network.widths}
        longest = max(map(len, names.values()), default=0)
        lines.append("    widths:")
        lines += [
            f"      {names[name]:{longest}} {_flow(width.model_dump(exclude_none=True))}"
            for name, width in target.network.widths.items()
        ]
    return lines


def _site_lines(sites: Mapping[str, SitePlan]) -> list[str]:
    if not sites:
        return ["  sites: {}"]
    names = {name: f"{_flow(name)}:" for name in sites}
    longest = max(map(len, names.values()))
    return [
        "  sites:",
        *(f"    {names[n]:{longest}} {_flow(site.model_dump(exclude_defaults=True))}" for n, site in sites.items()),
    ]
