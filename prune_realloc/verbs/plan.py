"""The verb `plan`: an analysis and a recipe -> widths; with a latency table of the network where time is limited."""

from __future__ import annotations

from prune_realloc.core.analysis import Analysis
from prune_realloc.planning.all_axes import all_axes_notes
from prune_realloc.planning.plan import planned
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.latency_tables import Tables, shapes_of
from prune_realloc.results.opening import open_network


def plan_in_time(analysis: Analysis, recipe: Recipe, tables: Tables) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with its plan, and what must be known of it and of the times by which it was planned.

    Args:
        tables: where the table comes from; where it is measured, the network of the analysis is opened.

    Raises:
        InputError: as `plan` does, or there is no table.
    """
    table = tables.of(recipe.budget, shapes_of(analysis), lambda: open_network(recipe.source))
    done = planned(analysis, recipe, table)
    return done, (*(() if table is None else table.notes), *all_axes_notes(analysis, recipe, done, table))
