"""The trade-off of a sweep: accuracy and cost at every budget, as rows, a picture and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune_realloc.core.cost import DEFAULT_KIND, KINDS, CostKind
from prune_realloc.core.files import json_file, write_files
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.figures import as_png

CURVE_FILE, FIGURE_FILE = "sweep.json", "sweep.png"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Point:
    """What became of the network at one budget."""

    budget: float
    """Share of the source's cost."""
    recipe: Recipe
    """As it was carried out: with its plan."""
    numbers: Mapping[str, Any]
    """As `Applied.summary` has them; `control` is the uniform network of the budget, where one was measured."""
    seconds: float
    """For planning, cutting, fitting and measuring."""

    @property
    def file(self) -> str:
        """Name of its recipe: the budget in percent."""
        return f"{100 * self.budget:.6g}.yaml"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The points that are done, in the order in which they were asked for."""

    kind: str
    """What the budgets are shares of: a kind of cost, or `latency`."""
    examination_seconds: float
    """For what all points share: scores, second moments, damage of every width."""
    notes: tuple[str, ...]
    """What must be known of all points."""
    taken: Mapping[str, Mapping[str, Any]]
    """What the run went by, as an analysis has it."""
    points: tuple[Point, ...] = ()

    @property
    def controls(self) -> list[Mapping[str, Any]]:
        """The numbers of the uniform networks that were measured beside its points."""
        return [control for point in self.points if (control := point.numbers.get("control"))]

    def with_point(self, point: Point) -> Sweep:
        return dataclasses.replace(self, points=(*self.points, point))

    @property
    def shown_kind(self) -> CostKind:
        """The cost that a curve has on x: the kind of the budgets, and where they are of time, multiply-adds."""
        return KINDS.get(self.kind, KINDS[DEFAULT_KIND])

    def content(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        points = [
            {"budget": point.budget, "recipe": point.file, "seconds": round(point.seconds, 2)} | dict(point.numbers)
            for point in self.points
        ]
        shared = {"kind": self.kind, "examination_seconds": round(self.examination_seconds, 2)}
        shared |= {"notes": list(self.notes), "taken": dict(self.taken)}
        return {"format_version": FORMAT_VERSION, **shared, "points": points}

    def write(self, folder: Path) -> None:
        """A recipe for each point, `sweep.png` and, last, `sweep.json`; whole whenever it is interrupted."""
        files = {
            point.file: dump_recipe(point.recipe, f"prune-realloc apply {point.file} -o pruned").encode()
            for point in self.points
        }
        write_files(folder, files | {FIGURE_FILE: curve_figure(self), CURVE_FILE: json_file(self.content())})


def curve_columns() -> tuple[str, ...]:
    """The headings of `curve_rows`."""
    costs = [column for kind in COST_COLUMNS for column in (kind.label, "ratio")]
    return ("budget", *costs, "top-1", "agreement", "KL, nats", "uniform", "ms, batch 1", "s")


def curve_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """The source, then one row a point; what was not measured is empty.

    Of the uniform control: its top-1, or where there are no labels its agreement with the source.
    """
    first = sweep.points[0].numbers
    top1 = first["top1"] and first["top1"]["source"]
    costs = [cell for kind in COST_COLUMNS for cell in (f"{first[kind.name]['source']:,}", "1")]
    rows = [("source", *costs, _share(top1), "", "", "", _latency(first, "source"), "")]
    for point in sweep.points:
        numbers = point.numbers
        pairs = [numbers[kind.name] for kind in COST_COLUMNS]
        costs = [c for pair in pairs for c in (f"{pair['achieved']:,}", f"{pair['achieved'] / pair['source']:.3f}")]
        kl = "" if numbers["kl"] is None else f"{numbers['kl']:.2g}"
        right = numbers["top1"] and numbers["top1"]["achieved"]
        control = numbers.get("control") and _quality(numbers["control"])
        measured = (_share(right), _share(numbers["agreement"]), kl, _share(control), _latency(numbers, "pruned"))
        rows.append((f"{point.budget:g}", *costs, *measured, f"{point.seconds:.1f}"))
    return rows


def _quality(numbers: Mapping[str, Any]) -> float | None:
    """Top-1, or where there are no labels the agreement with the source."""
    found: float | None = numbers["top1"]["achieved"] if numbers["top1"] else numbers["agreement"]
    return found


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _latency(numbers: Mapping[str, Any], model: str) -> str:
    found = [t["median_ms"] for t in numbers["latency"] or () if t["model"] == model and t["batch_size"] == 1]
    return f"{found[0]:.2f}" if found else ""


def curve_figure(sweep: Sweep) -> bytes:
    """Cost on x, top-1 on y (agreement with the source where there are no labels); the uniform control is a second
    line, the source a dashed one."""
    from matplotlib.figure import Figure

    kind = sweep.shown_kind
    first = sweep.points[0].numbers
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = {"pruned, without training": [point.numbers for point in sweep.points], "uniform control": sweep.controls}
    for name, networks in lines.items():
        if networks and all(_quality(numbers) is not None for numbers in networks):
            axes.plot(*zip(*sorted(_place(numbers, kind.name) for numbers in networks), strict=True), "o-", label=name)
    if axes.lines:
        source = first["top1"]["source"] if first["top1"] else 1.0
        axes.axhline(100 * source, color="black", linewidth=0.8, linestyle="--", label="source")
        axes.legend(frameon=False, fontsize=9)
    axes.set(
        xlabel=f"{kind.label}, % of the source", ylabel="top-1, %" if first["top1"] else "agreement with the source, %"
    )
    axes.set_xlim(0, 104)
    axes.grid(alpha=0.25, linewidth=0.6)
    return as_png(figure)


def _place(numbers: Mapping[str, Any], kind: str) -> tuple[float, float]:
    """Cost and quality in percent."""
    cost, quality = numbers[kind], _quality(numbers)
    assert quality is not None
    return 100 * cost["achieved"] / cost["source"], 100 * quality
