"""Self-contained HTML pages: the report of an analysis, the curves of a training."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.files import make_folder, write_file
from prune_realloc.results.figures import retention_figure
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import component_table, facts, site_table


def write_report(analysis: Analysis, folder: str | Path) -> Path:
    """Write `retention.png` and the self-contained `report.html`; returns the page's path."""
    folder = Path(folder)
    make_folder(folder)
    picture = retention_figure(analysis)
    write_file(folder / "retention.png", picture)
    page = folder / "report.html"
    write_file(page, _page(summary(analysis), picture).encode())
    return page


def _page(numbers: dict[str, Any], picture: bytes) -> str:
    def table(head: list[str], rows: list[list[str]], last_bold: bool = True) -> str:
        top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        body = "".join(
            f"<tr{' class=total' if last_bold and i == len(rows) - 1 else ''}>"
            + "".join(f"<td>{html.escape(c)}</td>" for c in row)
            + "</tr>"
            for i, row in enumerate(rows)
        )
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
    write_file(
        folder / "report.html",
        _document(
            name,
            f"""<h1>Training of {name}</h1>
<p>Epochs: {len(rows)}. Top-1 {rows[-1]["top1"]:.2%} after the last, {best["top1"]:.2%} after the best
({best["epoch"]:.0f}). Minutes: {sum(row["seconds"] for row in rows) / 60:.1f}.</p>
<img alt="Loss and accuracy over the epochs" src="data:image/png;base64,{image}">
<p>The training loss is of augmented images, with smoothing and teacher where there are some; the two curves are not of
one thing.</p>
<h2>The last epochs</h2>
<table><tr>{"".join(f"<th>{key}</th>" for key in columns)}</tr>{lines}</table>
<h2>Settings</h2>
<pre>{html.escape(json.dumps(settings, indent=1))}</pre>""",
        ).encode(),
    )
