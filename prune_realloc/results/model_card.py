"""The Markdown page beside an emitted network: cost, where the width went and why, and how to retrain it."""

from __future__ import annotations

from prune_realloc.core.cost import KINDS
from prune_realloc.models.efficientvit_stock import stock_args
from prune_realloc.pages.rendering import render
from prune_realloc.planning.rules import RULES
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.variant import READINGS, Variant
from prune_realloc.results.variant_rows import component_rows, cost_rows, width_columns, width_rows

_CHANNELS_STAY = "everything inside blocks as its rules say, channels in the uniform network's proportions"


def model_card(variant: Variant, name: str, folder: str, source: str | None, inherited: str | None) -> str:
    """The page of one of the networks of a variant.

    Args:
        name: which of them.
        folder: where it lies, for the commands that use it.
        source: the network whose pruning shows what to keep.
        inherited: the network whose weights it starts with; None: it is untrained.
    """
    network, target = variant.network, variant.recipe.target
    assert target is not None
    configs = variant.configs()
    others = [key for key in configs if key != name]
    stock, lost = stock_args(configs[name])
    return render(
        "model_card.md.jinja",
        name=name,
        others=others,
        count=len(configs),
        folder=folder,
        source=source,
        inherited=inherited,
        like=target.like,
        costs=cost_rows(variant, (name, *others)),
        latency=variant.latency,
        requested=network.requested,
        budget_noun=KINDS[network.kind].noun,
        share_columns=_share_columns(variant),
        shares=component_rows(variant),
        rule=variant.rule,
        rule_reads=_CHANNELS_STAY if variant.channels_stay() else READINGS[variant.rule],
        channels_stay=variant.channels_stay(),
        reading=_reading(variant) if variant.rule in RULES else None,
        width_columns=[*width_columns(variant), "reason"],
        widths=width_rows(variant),
        stock=", ".join(f"{key}={value}" for key, value in stock.items()),
        lost=lost,
    )


def _share_columns(variant: Variant) -> list[str]:
    _, _, *rest = variant.configs()
    columns = ["component"]
    for kind in COST_COLUMNS:
        columns += [f"{kind.label} control", f"{kind.label} realloc", "change"]
        columns += [f"{kind.label} {name}" for name in rest]
    return columns


def _reading(variant: Variant) -> str:
    """At which budget it was read what pruning kept."""
    budget = variant.recipe.budget
    if budget is None:
        return "the widths of its recipe"
    kind, value = next(iter(budget.model_dump(exclude_none=True).items()))
    return f"{kind} {value:g}"
