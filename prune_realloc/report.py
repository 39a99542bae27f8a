"""What an analysis shows: numbers, terminal tables, the retention picture, and a self-contained page."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from prune_realloc.analysis import Analysis, make_folder, write_file
from prune_realloc.card import component_rows, width_rows
from prune_realloc.planner import INNER_AXES, retention
from prune_realloc.recipe import Recipe
from prune_realloc.structure import site_name, site_place

if TYPE_CHECKING:
    from prune_realloc.variants import Variant

BUDGETS = (0.7, 0.5, 0.3)
"""Shares of the prunable multiply-adds at which the picture shows what is kept."""
_COLOURS = {"qk": "#0b6e99", "v": "#c2410c", "ffn": "#4d7c0f"}
_LABELS = {"qk": "Q/K", "v": "V", "ffn": "FFN", "heads": "heads", "embed": "embed", "block": "block"}
_BLOCK_AXES = ("heads", "qk", "v", "ffn")
_MARKERS = {"qk": "o", "v": "s", "ffn": "^"}


def summary(analysis: Analysis) -> dict[str, Any]:
    """The numbers behind table and page, ready for JSON.

    A site's `share` is its part of all positive scores of the sites on the same axis level (`qk`, `v`, `ffn`
    together; `heads` and `embed` each by themselves, because their units hold the same weights again).
    `units90` is how many of the best units carry 90 % of the site's positive score.
    """
    comparable = analysis.unit == "nats"
    totals: dict[str, float] = {}
    positive = {name: float(s.clip(min=0).sum()) for name, s in analysis.scores.items()}
    for name, value in positive.items():
        level = _level(name, comparable)
        totals[level] = totals.get(level, 0.0) + value
    sites = {}
    for name, s in analysis.scores.items():
        total = totals[_level(name, comparable)]
        sites[name] = {
            "width": analysis.widths[name],
            "units": len(s),
            "score": float(s.sum()),
            "share": positive[name] / total if total else 0.0,
            "units90": _units_for(s, 0.9),
        }
    cost = analysis.cost()
    return {
        "model": dict(analysis.model),
        "data": analysis.data,
        "scorer": analysis.scorer,
        "unit": analysis.unit,
        "samples": analysis.samples,
        "seed": analysis.seed,
        "loss": analysis.loss,
        "top1": analysis.top1,
        "stability": dict(analysis.stability),
        "sites": sites,
        "retention": {str(b): retention(analysis, b) for b in BUDGETS},
        "components": {name: {"params": c.params, "macs": c.macs} for name, c in analysis.component_costs().items()},
        "params": cost.params,
        "macs": cost.macs,
        "notes": list(analysis.notes),
        "versions": dict(analysis.versions),
    }


def site_table(numbers: dict[str, Any]) -> Table:
    """One row per block: width, share and concentration of each axis."""
    sites = numbers["sites"]
    what = "the loss that removing it costs" if numbers["unit"] == "nats" else f"its axis's {numbers['scorer']}"
    table = Table(
        title=f"Where {numbers['model']['architecture']} keeps what matters ({numbers['scorer']})",
        caption=f"share: of {what}, in %   90%: units that carry 90 % of it   Q/K, V and FFN add up to 100 %",
        title_justify="left", caption_justify="left", pad_edge=False, box=None, header_style="bold",
    )  # fmt: skip
    table.add_column("block", justify="right")
    table.add_column("share", justify="right")
    for axis in _BLOCK_AXES:
        for column in (_LABELS[axis], "share", "90%"):
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
        cells += [str(sum(s["units"] for s in members)), f"{100 * sum(s['share'] for s in members):.1f}",
                  str(sum(s["units90"] for s in members))]  # fmt: skip
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
            name, f"{cost['params']:,}", f"{100 * cost['params'] / numbers['params']:.1f}",
            f"{cost['macs']:,}", f"{100 * cost['macs'] / numbers['macs']:.1f}", style="bold" if name == "total" else "",
        )  # fmt: skip
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
        pairs = ", ".join(f"{_LABELS[axis]} {value:.2f}" for axis, value in numbers["stability"].items())
        lines.append(f"rank correlation between two halves of the images: {pairs}")
    return lines


def plan_table(recipe: Recipe) -> Table:
    """One row per block: what stays of each axis, and of how many."""
    assert recipe.plan is not None
    sites = recipe.plan.sites
    table = Table(
        title=f"What stays ({recipe.allocation})", title_justify="left", pad_edge=False, box=None, header_style="bold",
        caption="units of each head for Q/K and V", caption_justify="left",
    )  # fmt: skip
    table.add_column("block", justify="right")
    for axis in _BLOCK_AXES:
        table.add_column(_LABELS[axis], justify="right")
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
    lines = [f"{plan.kind}: {plan.achieved:,} of {plan.source:,} ({plan.achieved / plan.source:.1%}), {asked}; "
             f"{plan.macs:,} MACs, {plan.params:,} params"]  # fmt: skip
    lines += [f"{name}: {site.width} of {site.of}" for name, site in plan.sites.items() if "." not in name]
    if plan.damage is not None:
        bound = "" if plan.bound is None else f"; no plan has less than {plan.bound:.3g}"
        lines.append(f"predicted damage: {plan.damage:.3g} nats per image{bound}")
    return lines


def outcome_table(numbers: dict[str, Any]) -> Table:
    """Before and after a cut, from `Applied.summary()`."""
    table = Table(title="Before and after", title_justify="left", pad_edge=False, box=None, header_style="bold")
    for column in ("", "source", "pruned", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, key, form in (("params", "params", "{:,}"), ("MACs", "macs", "{:,}"), ("bytes", "bytes", "{:,}"),
                            ("top-1", "top1", "{:.2%}")):  # fmt: skip
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
        lines.append(f"{numbers['samples']} images: the two agree on {numbers['agreement']:.2%}, "
                     f"KL(source || pruned) {numbers['kl']:.2g} nats")  # fmt: skip
    return lines + list(numbers["faster"] or ())


def retention_figure(analysis: Analysis) -> bytes:
    """PNG: blocks on x, the share of Q/K, V and FFN that is kept as lines, one panel per budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(BUDGETS), sharey=True)
    for panel, budget in zip(panels, BUDGETS, strict=True):
        kept = retention(analysis, budget)
        for axis in INNER_AXES:
            points = sorted(
                (int(name.split(".")[1]), share) for name, share in kept.items() if name.endswith(f".{axis}")
            )
            panel.plot([b for b, _ in points], [100 * s for _, s in points], label=_LABELS[axis],
                       color=_COLOURS[axis], marker=_MARKERS[axis], markersize=4.5, linewidth=1.6)  # fmt: skip
        panel.set_title(f"{100 * budget:.0f} % of the MACs kept", fontsize=10)
        panel.set_xlabel("block")
        panel.set_ylim(-4, 104)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("units kept, %")
    panels[0].legend(frameon=False, loc="best", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write_report(analysis: Analysis, folder: str | Path) -> Path:
    """Write `retention.png` and the self-contained `report.html`; returns the page's path."""
    folder = Path(folder)
    make_folder(folder)
    picture = retention_figure(analysis)
    write_file(folder / "retention.png", picture)
    page = folder / "report.html"
    write_file(page, _page(summary(analysis), picture).encode())
    return page


def _level(name: str, comparable: bool) -> str:
    axis, _ = site_place(name)
    return "inner" if comparable and axis in INNER_AXES else axis


def _units_for(scores: np.ndarray, share: float) -> int:
    best = np.sort(scores.clip(min=0))[::-1]
    if best.sum() == 0:
        return 0
    return int(np.searchsorted(np.cumsum(best), share * best.sum() * (1 - 1e-12))) + 1


def _page(numbers: dict[str, Any], picture: bytes) -> str:
    def table(head: list[str], rows: list[list[str]], last_bold: bool = True) -> str:
        top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        body = "".join(
            f"<tr{' class=total' if last_bold and i == len(rows) - 1 else ''}>"
            + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
            for i, row in enumerate(rows)
        )  # fmt: skip
        return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"

    def cells(source: Table) -> tuple[list[str], list[list[str]]]:
        columns = [[str(c) for c in column.cells] for column in source.columns]
        return [str(c.header) for c in source.columns], [list(row) for row in zip(*columns, strict=True)]

    name = html.escape(str(numbers["model"]["architecture"]))
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in facts(numbers))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in numbers["notes"])
    image = base64.b64encode(picture).decode()
    provenance = {key: numbers[key] for key in ("model", "data", "scorer", "samples", "seed", "versions")}
    share_of = "the loss that removing it costs" if numbers["unit"] == "nats" else f"its axis's {numbers['scorer']}"
    return _document(
        name,
        f"""<h1>Where {name} keeps what matters</h1>
<ul>{lines}</ul>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
<h2>What is kept at a budget</h2>
<p>All Q/K, V and FFN units ranked together by score per multiply-add; the lines show which share of each
block's units is left when 70, 50 and 30 % of their multiply-adds are kept.</p>
<img alt="Share of units kept per block for Q/K, V and FFN at three budgets" src="data:image/png;base64,{image}">
<h2>Per block</h2>
<p>share: part of {share_of}, in percent; Q/K, V and FFN add up to 100. 90%: units that carry 90 % of it.</p>
{table(*cells(site_table(numbers)))}
<h2>What it costs</h2>
{table(*cells(component_table(numbers)))}
<h2>Provenance</h2>
<pre>{html.escape(json.dumps(provenance, indent=1))}</pre>""",
    )


_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c1917 }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e7e5e4 } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left } .total td { font-weight: 600; border-top: 2px solid #a8a29e }
img { max-width: 100%; height: auto } .notes { background: #fef3c7; padding: .6rem 2rem; border-radius: 6px }
pre { background: #f5f5f4; padding: .8rem; overflow-x: auto; border-radius: 6px; font-size: 12px }
p { max-width: 48rem }
</style>"""


def _document(title: str, body: str) -> str:
    """A page that needs nothing beside it."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>prune-realloc: {title}</title>
{_STYLE}</head><body>
{body}
</body></html>
"""


# -- runs -----------------------------------------------------------------------------------------------------


def write_curves(rows: Sequence[Mapping[str, float]], settings: Mapping[str, Any], folder: Path) -> None:
    """`report.html` of a training run: loss and accuracy over the epochs, and its settings."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in rows], ".-", label="training, as it is minimised")
    left.plot(epochs, [row["val_loss"] for row in rows], ".-", label="validation, cross-entropy")
    left.set(xlabel="epoch", ylabel="loss, nats")
    left.legend(fontsize=8)
    right.plot(epochs, [100 * row["top1"] for row in rows], ".-", color="#4d7c0f")
    right.set(xlabel="epoch", ylabel="validation top-1, %")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.set_xlim(0.5, len(rows) + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    image, best = base64.b64encode(buffer.getvalue()).decode(), max(rows, key=lambda row: row["top1"])
    name = html.escape(folder.name)
    columns = {"epoch": ".0f", "loss": ".4f", "lr": ".2e", "val_loss": ".4f", "top1": ".2%", "images_per_second": ".0f"}
    lines = "".join(
        f"<tr>{''.join(f'<td>{row[key]:{form}}</td>' for key, form in columns.items())}</tr>" for row in rows[-20:]
    )
    write_file(folder / "report.html", _document(name, f"""<h1>Training of {name}</h1>
<p>Epochs: {len(rows)}. Top-1 {rows[-1]["top1"]:.2%} after the last, {best["top1"]:.2%} after the best
({best["epoch"]:.0f}). Minutes: {sum(row["seconds"] for row in rows) / 60:.1f}.</p>
<img alt="Loss and accuracy over the epochs" src="data:image/png;base64,{image}">
<p>The training loss is of augmented images, with smoothing and teacher where there are some; the two curves are not of
one thing.</p>
<h2>The last epochs</h2>
<table><tr>{"".join(f"<th>{key}</th>" for key in columns)}</tr>{lines}</table>
<h2>Settings</h2>
<pre>{html.escape(json.dumps(settings, indent=1))}</pre>""").encode())  # fmt: skip


# -- emitted networks -----------------------------------------------------------------------------------------


def variant_tables(variant: Variant) -> list[Table]:
    """Where an emitted network spends its cost against its control, and the width of every place with its reason."""
    title = f"{variant.name or 'The emitted network'} and its uniform control"
    shares = Table(title=title, title_justify="left", pad_edge=False, box=None, header_style="bold")
    for column in ("component", "params: control", "realloc", "points", "MACs: control", "realloc", "points"):
        shares.add_column(column, justify="left" if column == "component" else "right")
    for row in component_rows(variant):
        shares.add_row(*row)
    widths = Table(title="Widths", title_justify="left", pad_edge=False, box=None, header_style="bold",
                   caption="of each head for qk and v", caption_justify="left")  # fmt: skip
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
        lines.append(f"{floors} of {len(inside)} widths inside blocks stand at the floors of the rules, which decide "
                     "them rather than what pruning kept")  # fmt: skip
    moved = sorted(((float(row[6]), row[0]) for row in component_rows(variant)), key=lambda item: -abs(item[0]))
    words = [f"{name} {points:+.1f}" for points, name in moved if abs(points) >= 0.5]
    lines.append(f"share of the MACs against the control, in points: {', '.join(words) or 'nothing moved'}")
    return lines
