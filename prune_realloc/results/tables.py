"""Tables for the terminal, and the lines under them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from prune_realloc.core.structure import site_name, site_place
from prune_realloc.planning.site_reasons import allocation_note
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.model_card import component_rows, width_rows

if TYPE_CHECKING:
    from prune_realloc.results.variant import Variant


LABELS = {"qk": "Q/K", "v": "V", "ffn": "FFN", "heads": "heads", "embed": "embed", "block": "block"}
_BLOCK_AXES = ("heads", "qk", "v", "ffn")


def site_table(numbers: dict[str, Any]) -> Table:
    """One row per block: width, share and concentration of each axis."""
    sites = numbers["sites"]
    what = "the loss that removing it costs" if numbers["unit"] == "nats" else f"its axis's {numbers['scorer']}"
    table = Table(
        title=f"Where {numbers['model']['architecture']} keeps what matters ({numbers['scorer']})",
        caption=f"share: of {what}, in %   90%: units that carry 90 % of it   Q/K, V and FFN add up to 100 %",
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        box=None,
        header_style="bold",
    )
    table.add_column("block", justify="right")
    table.add_column("share", justify="right")
    for axis in _BLOCK_AXES:
        for column in (LABELS[axis], "share", "90%"):
            table.add_column(column, justify="right", style="" if column == "share" else "dim")
    blocks = sorted({int(name.split(".")[1]) for name in sites if "." in name})
    for block in blocks:
        cells = [f"{100 * sites[f'blocks.{block}']['share']:.1f}"]
        for axis in _BLOCK_AXES:
            site = sites.get(f"blocks.{block}.{axis}")
            cells += [str(site["units"]), f"{100 * site['share']:.1f}", str(site["units90"])] if site else [""] * 3
        table.add_row(str(block), *cells)
    cells = ["100.0"]
    for axis in _BLOCK_AXES:
        members = [site for name, site in sites.items() if name.endswith(f".{axis}")]
        cells += [
            str(sum(s["units"] for s in members)),
            f"{100 * sum(s['share'] for s in members):.1f}",
            str(sum(s["units90"] for s in members)),
        ]
    table.add_section()
    table.add_row("all", *cells, style="bold")
    return table


def component_table(numbers: dict[str, Any]) -> Table:
    """Params and MACs of each component and in all."""
    table = Table(title="What it costs", title_justify="left", pad_edge=False, box=None, header_style="bold")
    for column in ("component", "params", "%", "MACs", "%"):
        table.add_column(column, justify="left" if column == "component" else "right")
    rows = [*numbers["components"].items(), ("total", {"params": numbers["params"], "macs": numbers["macs"]})]
    for name, cost in rows:
        table.add_row(
            name,
            f"{cost['params']:,}",
            f"{100 * cost['params'] / numbers['params']:.1f}",
            f"{cost['macs']:,}",
            f"{100 * cost['macs'] / numbers['macs']:.1f}",
            style="bold" if name == "total" else "",
        )
    return table


def facts(numbers: dict[str, Any]) -> list[str]:
    """The lines under the tables: embedding, calibration, stability, notes."""
    lines = []
    if embed := numbers["sites"].get("embed"):
        lines.append(f"embed: {embed['units']} channels, {embed['units90']} of them carry 90 % of its score")
    if numbers["data"]:
        line = f"data: {numbers['samples']} images of {numbers['data']['name']}, labels {numbers['data']['labels']}"
        line += f", loss {numbers['loss']:.4f} nats" if numbers["loss"] is not None else ""
        lines.append(line + (f", top-1 {numbers['top1']:.1%}" if numbers["top1"] is not None else ""))
    if numbers["stability"]:
        pairs = ", ".join(f"{LABELS[axis]} {value:.2f}" for axis, value in numbers["stability"].items())
        lines.append(f"rank correlation between two halves of the images: {pairs}")
    return lines


def plan_table(recipe: Recipe) -> Table:
    """One row per block: what stays of each axis, and of how many."""
    assert recipe.plan is not None
    sites = recipe.plan.sites
    table = Table(
        title=f"What stays ({recipe.allocation})",
        title_justify="left",
        pad_edge=False,
        box=None,
        header_style="bold",
        caption="units of each head for Q/K and V",
        caption_justify="left",
    )
    table.add_column("block", justify="right")
    for axis in _BLOCK_AXES:
        table.add_column(LABELS[axis], justify="right")
        table.add_column("of", justify="right", style="dim")
    for block in sorted({block for _, block in map(site_place, sites) if block is not None}):
        inside = [sites.get(site_name(axis, block)) for axis in _BLOCK_AXES]
        cells = [text for site in inside for text in ((str(site.width), str(site.of)) if site else ("", ""))]
        table.add_row(str(block), *cells)
    return table


def plan_facts(recipe: Recipe) -> list[str]:
    """The lines under the table: cost against the budget, embedding, predicted damage."""
    plan = recipe.plan
    assert plan is not None
    asked = "by rule" if plan.requested is None else f"{plan.requested:,} asked for"
    lines = [
        f"{plan.kind}: {plan.achieved:,} of {plan.source:,} ({plan.achieved / plan.source:.1%}), {asked}; "
        f"{plan.macs:,} MACs, {plan.params:,} params"
    ]
    lines += [f"{name}: {site.width} of {site.of}" for name, site in plan.sites.items() if "." not in name]
    if plan.damage is not None:
        bound = "" if plan.bound is None else f"; no plan has less than {plan.bound:.3g}"
        lines.append(f"predicted damage: {plan.damage:.3g} nats per image{bound}")
    if note := allocation_note(recipe):
        lines.append(note)
    return lines


def outcome_table(numbers: dict[str, Any]) -> Table:
    """Before and after a cut, from `Applied.summary()`."""
    table = Table(title="Before and after", title_justify="left", pad_edge=False, box=None, header_style="bold")
    for column in ("", "source", "pruned", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, key, form in (
        ("params", "params", "{:,}"),
        ("MACs", "macs", "{:,}"),
        ("bytes", "bytes", "{:,}"),
        ("top-1", "top1", "{:.2%}"),
    ):
        if pair := numbers[key]:
            before, after = pair["source"], pair["achieved"]
            ratio = "" if key == "top1" else f"{after / before:.3f}"
            table.add_row(name, form.format(before), form.format(after), ratio)
    by_batch: dict[int, dict[str, Any]] = {}
    for timing in numbers["latency"] or ():
        by_batch.setdefault(timing["batch_size"], {})[timing["model"]] = timing
    for batch_size, pair in by_batch.items():
        before, after = (pair[name]["median_ms"] for name in ("source", "pruned"))
        table.add_row(f"ms, batch {batch_size}", f"{before:.2f}", f"{after:.2f}", f"{after / before:.3f}")
    return table


def outcome_facts(numbers: dict[str, Any]) -> list[str]:
    """The lines under that table."""
    lines = []
    if numbers["agreement"] is not None:
        lines.append(
            f"{numbers['samples']} images: the two agree on {numbers['agreement']:.2%}, "
            f"KL(source || pruned) {numbers['kl']:.2g} nats"
        )
    return lines + list(numbers["faster"] or ())


def variant_tables(variant: Variant) -> list[Table]:
    """Where an emitted network spends its cost against its control, and the width of every place with its reason."""
    title = f"{variant.name or 'The emitted network'} and its uniform control"
    shares = Table(title=title, title_justify="left", pad_edge=False, box=None, header_style="bold")
    for column in ("component", "params: control", "realloc", "points", "MACs: control", "realloc", "points"):
        shares.add_column(column, justify="left" if column == "component" else "right")
    for row in component_rows(variant):
        shares.add_row(*row)
    widths = Table(
        title="Widths",
        title_justify="left",
        pad_edge=False,
        box=None,
        header_style="bold",
        caption="of each head for qk and v",
        caption_justify="left",
    )
    for column in ("place", "control", "realloc", "why"):
        widths.add_column(column, justify="right" if column in ("control", "realloc") else "left")
    for row in width_rows(variant):
        widths.add_row(*row)
    return [shares, widths]


def variant_facts(variant: Variant) -> list[str]:
    """Cost, latency, and what moved, in words."""
    n = variant.network
    lines = [
        f"budget: {n.requested:,} {n.kind}; reallocated {n.macs:,} MACs, {n.params:,} params; control "
        f"{n.control_macs:,} MACs, {n.control_params:,} params",
        *(() if variant.latency is None else variant.latency.verdicts()),
    ]
    inside = [width for name, width in n.widths.items() if not name.endswith("embed")]
    floors = sum("at its floor" in width.reason for width in inside)
    if 2 * floors > len(inside):
        lines.append(
            f"{floors} of {len(inside)} widths inside blocks stand at the floors of the rules, which decide "
            "them rather than what pruning kept"
        )
    moved = sorted(((float(row[6]), row[0]) for row in component_rows(variant)), key=lambda item: -abs(item[0]))
    words = [f"{name} {points:+.1f}" for points, name in moved if abs(points) >= 0.5]
    lines.append(f"share of the MACs against the control, in points: {', '.join(words) or 'nothing moved'}")
    return lines
