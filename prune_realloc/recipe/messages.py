"""What pydantic finds -> one line with field, value and remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Compensation, Data, Recipe, Source
from prune_realloc.recipe.fields import Location, Part, shown, unknown
from prune_realloc.recipe.plan import Limit, Plan, PlannedLatency, PlannedPeak, SitePlan
from prune_realloc.recipe.rules import Rule
from prune_realloc.recipe.target import Network, Target, TargetRule


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a recipe's text, and where."""

    line: int
    column: int
    field: str
    """Dotted name, such as `rules.ffn[1].keep`; empty for the document as a whole."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.line}:{self.column}", self.field, self.message) if part)


def untagged_location(loc: Location) -> Location:
    """Without what pydantic adds that is not in the document."""
    return tuple(part for part in loc if part not in ("[one]", "[many]", "[pair]", "[key]"))


def dotted_location(loc: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in untagged_location(loc)).lstrip(".")


_PARTS: dict[str, type[Part]] = {
    "source": Source,
    "data": Data,
    "budget": Budget,
    "compensate": Compensation,
    "plan": Plan,
    "target": Target,
}
_INNER_PARTS: dict[Location, type[Part]] = {
    ("plan", "sites"): SitePlan,
    ("plan", "also"): Limit,
    ("plan", "latency"): PlannedLatency,
    ("plan", "peak"): PlannedPeak,
    ("target", "rules"): TargetRule,
    ("target", "network"): Network,
}
_MUST_BE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "invalid_key": "text",
    "bool_type": "true or false",
    "tuple_type": "a list, such as [qk, ffn]",
    "dict_type": "a mapping, such as {{key: value}}",
    "too_long": "at most {max_length} items long",
    "model_type": "a mapping, such as {{key: value}}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}


def problem_text(error: Any) -> str:
    """One of pydantic's errors in our words: what is wrong with the field, and what would be right."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "conflict":
        return context["message"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown_key(untagged_location(error["loc"][:-1]), str(error["loc"][-1]))
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return unknown("value", value, choices) if choices else f"must be {context['expected']}, got {shown(value)}"
    if kind in _MUST_BE:
        return f"must be {_MUST_BE[kind].format(**context)}, got {shown(value)}"
    return error["msg"]


def _unknown_key(around: Location, key: str) -> str:
    if not around:
        for name, part in _PARTS.items():
            if key in part.model_fields:
                return f"unknown key {key!r}; it belongs under {name}"
        return unknown("key", key, Recipe.model_fields)
    part = _INNER_PARTS.get(around[:2]) or (Rule if around[0] == "rules" else _PARTS[str(around[0])])
    return unknown("key", key, part.model_fields)
