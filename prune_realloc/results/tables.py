"""Tables for the terminal, and the lines under them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import log
from typing import Any, TypeVar

from rich.table import Table

from prune_realloc.core.cost import DEFAULT_KIND, KINDS
from prune_realloc.core.names import count_threads
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.curves import FELT
from prune_realloc.planning.forecast import compared, unchecked
from prune_realloc.planning.rules import RULES
from prune_realloc.planning.site_reasons import allocation_note
from prune_realloc.recipe.budget import MEGABYTE
from prune_realloc.recipe.cost_fields import CostPart
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.target import Network
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.variant import CONTROL, READINGS, REALLOCATED, UNMEASURED, Variant
from prune_realloc.results.variant_rows import COMPONENTS, component_rows, component_shares, width_columns, width_rows

AnySite = TypeVar("AnySite")
LABELS = {
    "qk": "Q/K",
    "v": "V",
    "ffn": "FFN",
    "hidden": "hidden",
    "heads": "heads",
    "embed": "embed",
    "block": "block",
}
"""What an axis is called."""
_TRANSFORMER_AXES = ("heads", "qk", "v", "ffn")
"""The axes that have columns of their own where each block has a row and some block has one of them."""


def site_table(numbers: dict[str, Any]) -> Table:
    """One row per block: width, share and concentration of each axis, of all its sites in the block together."""
    sites = _by_place(numbers["sites"])
    axes = _block_axes(numbers["sites"])
    inside = [LABELS[axis] for axis in INNER_AXES if axis in axes]
    caption = f"share: of {share_meaning(numbers)}, in %   90%: units that carry 90 % of it"
    table = _table(
        f"Where {numbers['model']['architecture']} keeps what matters ({numbers['scorer']})",
        f"{caption}   {_listed(inside)} add up to 100 %" if len(inside) > 1 else caption,
    )
    table.add_column("block", justify="right")
    table.add_column("share", justify="right")
    for axis in axes:
        for column in (LABELS[axis], "share", "90%"):
            table.add_column(column, justify="right", style="" if column == "share" else "dim")
    for block in _blocks(sites):
        cells = [f"{100 * site['share']:.1f}" for site in sites.get(("block", block), [])] or [""]
        for axis in axes:
            cells += _site_cells(sites[axis, block]) if (axis, block) in sites else [""] * 3
        table.add_row(str(block), *cells)
    table.add_section()
    sums = (_site_cells([site for (of, _), own in sites.items() if of == axis for site in own]) for axis in axes)
    table.add_row("all", "100.0", *(cell for cells in sums for cell in cells), style="bold")
    return table


def share_meaning(numbers: dict[str, Any]) -> str:
    """What the share of a site is a share of."""
    return "the loss that removing it costs" if numbers["unit"] == "nats" else f"its axis's {numbers['scorer']}"


def component_table(numbers: dict[str, Any]) -> Table:
    """Each kind of cost of each component and in all."""
    table = _table("What it costs")
    table.add_column("component")
    for kind in COST_COLUMNS:
        table.add_column(kind.label, justify="right")
        table.add_column("%", justify="right")
    for name, cost in [*numbers["components"].items(), ("total", numbers)]:
        cells = [(f"{cost[kind.name]:,}", f"{100 * cost[kind.name] / numbers[kind.name]:.1f}") for kind in COST_COLUMNS]
        table.add_row(name, *(cell for pair in cells for cell in pair), style="bold" if name == "total" else "")
    return table


def facts(numbers: dict[str, Any]) -> list[str]:
    """The lines under the tables: embedding, calibration, stability."""
    lines = [
        f"{name}: {site['units']} channels, {site['units90']} of them carry 90 % of its score"
        for name, site in numbers["sites"].items()
        if site_place(name)[0] == "embed"
    ]
    if numbers["data"]:
        labels, loss = numbers["data"]["labels"], numbers["loss"]
        line = f"data: {numbers['samples']} images of {numbers['data']['name']}, labels {labels}"
        if loss is not None:
            line += f", {'entropy' if labels == 'the prediction' else 'loss'} {loss:.4f} nats"
        if loss is not None and labels == "given" and (classes := numbers["model"].get("num_classes") or 0) > 1:
            line += f" (a guess costs {log(classes):.2f})"
        lines.append(line + (f", top-1 {numbers['top1']:.1%}" if numbers["top1"] is not None else ""))
    if numbers["stability"]:
        pairs = ", ".join(f"{LABELS[axis]} {value:.2f}" for axis, value in numbers["stability"].items())
        lines.append(f"rank correlation between two halves of the images: {pairs}")
    return lines


def plan_table(recipe: Recipe) -> Table:
    """One row per block: what stays of each axis, and of how many, of all its sites in the block together."""
    assert recipe.plan is not None
    sites, axes = _by_place(recipe.plan.sites), _block_axes(recipe.plan.sites)
    table = _table(f"What stays ({recipe.allocation})", "units of each head for Q/K and V" if "qk" in axes else None)
    table.add_column("block", justify="right")
    for axis in axes:
        table.add_column(LABELS[axis], justify="right")
        table.add_column("of", justify="right", style="dim")
    for block in _blocks(sites):
        cells: list[str] = []
        for axis in axes:
            own = sites.get((axis, block), [])
            cells += [str(sum(s.width for s in own)), str(sum(s.of for s in own))] if own else ["", ""]
        table.add_row(str(block), *cells)
    return table


def plan_facts(recipe: Recipe, *, measured: bool = False) -> list[str]:
    """The lines under the table: cost against the budget, embedding, predicted damage.

    Args:
        measured: what the cut costs stands elsewhere.
    """
    plan = recipe.plan
    assert plan is not None
    ruled = ", by rule" if plan.latency is None and plan.peak is None else ""
    asked = ruled if plan.requested is None else f", {plan.requested:,} asked for"
    lines = [
        f"{plan.kind}: {plan.achieved:,} of {plan.source:,} ({plan.achieved / plan.source:.1%}){asked}; {_costs(plan)}"
    ]
    lines += [f"{kind}: {limit.requested:,} asked for" for kind, limit in plan.also.items()]
    if (time := plan.latency) is not None:
        lines.append(
            f"latency: {time.achieved_ms:.4g} of {time.source_ms:.4g} ms ({time.achieved_ms / time.source_ms:.1%}), "
            f"{time.requested_ms:.4g} asked for; {time.runtime}, batch {time.batch}, {count_threads(time.threads)}, "
            f"{time.device}; by a table whose median error is {time.error:.1%}"
        )
    if (peak := plan.peak) is not None:
        shown = [f"{each / MEGABYTE:.4g}" for each in (peak.achieved, peak.source, peak.requested)]
        lines.append(
            f"peak memory: {shown[0]} of {shown[1]} MB ({peak.achieved / peak.source:.1%}), {shown[2]} asked for; "
            f"inference on a CPU, batch {peak.batch}"
        )
    lines += [f"{name}: {site.width} of {site.of}" for name, site in plan.sites.items() if site_place(name)[1] is None]
    if plan.damage is not None:
        bound = "" if plan.bound is None else f"; no plan of these axes and rules has less than {plan.bound:.3g}"
        checked = "" if measured else f"; {unchecked(recipe)}"
        lines.append(f"predicted damage: {plan.damage:.3g} nats per image{bound}{checked}")
    if note := allocation_note(recipe):
        lines.append(note)
    return lines


def outcome_table(numbers: dict[str, Any]) -> Table:
    """Before and after a cut, from `Applied.summary()`."""
    table = _table("Before and after")
    for column in ("", "source", "pruned", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for label, key in (*((kind.label, kind.name) for kind in COST_COLUMNS), ("bytes", "bytes")):
        before, after = numbers[key]["source"], numbers[key]["achieved"]
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.3f}")
    if pair := numbers["top1"]:
        table.add_row("top-1", f"{pair['source']:.2%}", f"{pair['achieved']:.2%}", "")
    timed = {(timing["batch_size"], timing["model"]): timing for timing in numbers["latency"] or ()}
    for batch_size, ratio in time_ratios(numbers).items():
        cells = (f"{timed[batch_size, model]['median_ms']:.2f}" for model in ("source", "pruned"))
        table.add_row(f"ms, batch {batch_size}", *cells, f"{ratio:.3f}")
        table.caption = "ms: medians; their ratio: median over rounds in which both take turns"
    return table


def time_ratios(numbers: Mapping[str, Any]) -> dict[int, float]:
    """Batch size -> time of the pruned network over that of its source, median over rounds in which both took turns.

    Not the ratio of two medians, between which the machine may have changed its speed.
    """
    pruned = (timing for timing in numbers["latency"] or () if timing["model"] == "pruned")
    return {timing["batch_size"]: 1 / timing["speedup"] for timing in pruned}


def outcome_facts(numbers: dict[str, Any]) -> list[str]:
    """The lines under the table of before and after."""
    lines = []
    if numbers["agreement"] is not None:
        lines.append(
            f"{numbers['samples']} images: the two agree on {numbers['agreement']:.2%}, "
            f"KL(source || pruned) {numbers['kl']:.2g} nats"
        )
    if numbers["predicted_damage"] and numbers["kl"] is not None and "loss" not in numbers:  # else damage is of that
        lines.append(compared(numbers["predicted_damage"], numbers["kl"]))
    return lines + list(numbers["faster"] or ())


def variant_tables(variant: Variant) -> list[Table]:
    """Where an emitted network spends its cost against its controls, and the width of every place with its reason."""
    shares = _table(f"{variant.name or 'The emitted network'} and its controls")
    shares.add_column("component")
    _, _, *rest = variant.configs()
    for kind in COST_COLUMNS:
        for column in (f"{kind.label}: control", "realloc", "points", *rest):
            shares.add_column(column, justify="right")
    for row in component_rows(variant):
        shares.add_row(*row)
    widths = _table("Widths", "of each head for qk and v")
    for column in (*width_columns(variant), "why"):
        widths.add_column(column, justify="left" if column in ("place", "why") else "right")
    for row in width_rows(variant):
        widths.add_row(*row)
    return [shares, widths]


def variant_facts(variant: Variant) -> list[str]:
    """Cost, latency, and what moved, in words."""
    network = variant.network
    unmeasured = network.unmeasured_args is not None
    cost = [
        f"budget: {network.requested:,} {network.kind}",
        f"reallocated {_costs(network)}",
        f"control {_costs(network, 'control_')}",
        *([f"unmeasured {_costs(network, 'unmeasured_')}"] if unmeasured else []),
    ]
    lines = ["; ".join(cost), *(() if variant.latency is None else variant.latency.verdicts())]
    lines += [*_ruled(variant), *_bounded(network)]
    still = sorted({site_place(name)[0] for name, width in network.widths.items() if width.kept is None})
    if still and variant.rule in RULES:
        lines.append(
            f"not measured: {', '.join(still)}, which the source has not, or not so that it can be cut; relative to "
            "the channels it is as wide as the uniform network's"
        )
    return [*lines, *_larger(variant), *_against_unmeasured(variant), _moved(variant)]


def _larger(variant: Variant) -> Iterator[str]:
    """Whether the network costs more than its source does, as one that is like a network for larger images may."""
    plan, kind = variant.recipe.plan, variant.network.kind
    if plan is None or plan.kind != kind:
        return
    times = getattr(variant.network, kind) / plan.source
    if times > 1:
        yield f"it is larger than its source: {times:.3g} times its {KINDS[kind].noun}; give --{kind} for a smaller one"


def _ruled(variant: Variant) -> Iterator[str]:
    """By which rule the widths came about, and whether a measurement decided them."""
    if variant.channels_stay():
        yield "channels do not move: they are in the uniform network's proportions, and no measurement decides them"
        return
    yield f"rule {variant.rule}: {READINGS[variant.rule]}"
    beyond = variant.beyond_measured()
    if 2 * len(beyond) > len(variant.network.args["embed_dim"]):
        yield (
            f"stages {', '.join(map(str, beyond))} are wider than what the measurement speaks of (where {FELT:g} nats "
            "are lost); there the last slope of the curve decides, and hardly the measurement"
        )


def _bounded(network: Network) -> Iterator[str]:
    """The widths that what was kept does not decide."""
    every = len(network.widths)
    bounds = {name: width.bound for name, width in network.widths.items()}
    if users := [f"{name} ({bound})" for name, bound in bounds.items() if bound in ("floor", "ceiling")]:
        yield f"bounds of the rules decide {len(users)} of {every} widths: {', '.join(users)}"
    if least := [name for name, bound in bounds.items() if bound == "least"]:
        asked = "" if all(network.widths[name].kept is None for name in least) else ", of which less was kept,"
        yield f"{len(least)} of {every} widths{asked} stand at the least multiple: {', '.join(least)}"


def _against_unmeasured(variant: Variant) -> Iterator[str]:
    """That there is no unmeasured network, or no other than the reallocated one."""
    configs = variant.configs()
    if UNMEASURED not in configs:
        yield "unmeasured: the rules leave no such network of this budget, so there is none"
    elif configs[UNMEASURED] == configs[REALLOCATED]:
        yield f"the measurement changes nothing: {REALLOCATED} and {UNMEASURED} are the same network"


def _moved(variant: Variant) -> str:
    """Which components have another share of the cost than in the control, the largest difference first."""
    kind = KINDS[DEFAULT_KIND]
    shares = component_shares(variant, kind.name)
    points = {COMPONENTS[part]: round(after - shares[CONTROL][part], 1) for part, after in shares[REALLOCATED].items()}
    largest = sorted(points.items(), key=lambda item: -abs(item[1]))
    words = [f"{name} {moved:+.1f}" for name, moved in largest if abs(moved) >= 0.5]
    return f"share of the {kind.label} against the control, in points: {', '.join(words) or 'nothing moved'}"


def _costs(owner: CostPart, prefix: str = "") -> str:
    """What a plan or an emitted network costs, in each kind."""
    return ", ".join(f"{getattr(owner, prefix + kind.name):,} {kind.label}" for kind in KINDS.values())


def _listed(words: Iterable[str]) -> str:
    """`Q/K, V and FFN`."""
    *most, last = words
    return f"{', '.join(most)} and {last}"


def _by_place(sites: Mapping[str, AnySite]) -> dict[tuple[str, int | None], list[AnySite]]:
    """(axis, block) -> what `sites` says of each site there."""
    found: dict[tuple[str, int | None], list[AnySite]] = {}
    for name, site in sites.items():
        found.setdefault(site_place(name), []).append(site)
    return found


def _blocks(places: Iterable[tuple[str, int | None]]) -> list[int]:
    """Numbers of the blocks that have a site."""
    return sorted({block for _, block in places if block is not None})


def _block_axes(sites: Collection[str]) -> list[str]:
    """The axes that have columns of their own where each block has a row."""
    present = {site_place(name)[0] for name in sites}
    shown = [*_TRANSFORMER_AXES] if present & {*_TRANSFORMER_AXES} else []
    return [*shown, "hidden"] if "hidden" in present else shown


def _site_cells(sites: Sequence[Mapping[str, Any]]) -> list[str]:
    """Width, share and concentration of some sites of one axis together."""
    return [
        str(sum(site["units"] for site in sites)),
        f"{100 * sum(site['share'] for site in sites):.1f}",
        str(sum(site["units90"] for site in sites)),
    ]


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        box=None,
        header_style="bold",
    )
