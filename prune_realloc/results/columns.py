"""The kinds of cost in the order in which tables and pages list them."""

from __future__ import annotations

from dataclasses import fields

from prune_realloc.core.cost import KINDS, Cost, CostKind

COST_COLUMNS: tuple[CostKind, ...] = tuple(KINDS[field.name] for field in fields(Cost))
"""One for each field of `Cost`, in the order of the fields."""
