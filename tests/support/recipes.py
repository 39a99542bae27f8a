"""Texts of recipes, and what is wrong in them."""

from pathlib import Path

from prune_realloc.recipe.reader import check_recipe

ROOT = Path(__file__).parents[2]


SCHEMA = ROOT / "prune_realloc" / "recipe" / "recipe.schema.json"


SHIPPED = sorted((ROOT / "prune_realloc" / "assets" / "recipes").rglob("*.yaml"))


HALF = "budget: {keep_macs: 0.5}\n"


PLAN = """
plan: {kind: macs, requested: 500, achieved: 480, source: 1000, macs: 480, params: 90,
       sites: {blocks.0.qk: {width: 16, of: 64, reason: planned}}}
"""


def problems_of(text: str) -> list[tuple[int, str]]:
    return [(p.line, p.field) for p in check_recipe(text)]


def one_message(text: str) -> str:
    (problem,) = check_recipe(text)
    return problem.message
