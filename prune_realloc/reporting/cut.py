"""What was cut and why, what became of the network, and what other budgets would have given."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from math import nan
from typing import Any

from prune_realloc.core.names import count_threads
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.pages.content import Axis, Bars, Chart, Figure, Missing, Panel, Series, Table
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import PlannedLatency
from prune_realloc.reporting.found import by_block
from prune_realloc.reporting.runs import Cut
from prune_realloc.reporting.tables import on_page, owners
from prune_realloc.results.bench import Bench
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.curve import Sweep, curve_columns, curve_rows
from prune_realloc.results.tables import outcome_facts, outcome_table, plan_facts, time_ratios

_UNLABELLED = Missing(what="accuracy", why="the images have no labels; agreement with the source stands in", command="")
_UNMEASURED = Missing(what="accuracy", why="neither top-1 nor agreement was measured; the notes say why", command="")


def cut_panel(cuts: Mapping[str, Cut]) -> Panel:
    """Widths of every site, each with its reason."""
    parts: list[Figure | Table] = []
    owner = owners(cuts)
    for folder, cut in cuts.items():
        parts += [_kept(cut.recipe, owner[folder]), _widths(cut.recipe, owner[folder])]
    return Panel(
        title="What was cut, and why",
        text="Allocation damage prices every width of every site by how much worse the network gets, and takes those "
        "that lose least within the budget; uniform and per-axis are controls. Every width says why it is what it is.",
        lines=tuple(owner[folder] + line for folder, cut in cuts.items() for line in _planned_lines(cut)),
        parts=tuple(parts),
    )


def _kept(recipe: Recipe, owner: str) -> Figure:
    assert recipe.plan is not None
    sites = recipe.plan.sites
    shares = {name: site.width / site.of for name, site in sites.items() if site_place(name)[0] in INNER_AXES}
    chart = Chart(
        title="units kept by block",
        x=Axis(label="block", whole=True),
        y=Axis(label="units kept, %", low=0, high=100),
        series=by_block(shares),
    )
    rows = tuple(
        (name, str(site.width), str(site.of), f"{100 * site.width / site.of:.0f}") for name, site in sites.items()
    )
    return Figure(
        title=f"{owner}What stays",
        text="The share of each block's units that the pruned network keeps.",
        drawings=(chart,),
        table=Table(title="units kept", columns=("site", "kept", "of", "%"), rows=rows),
    )


def _widths(recipe: Recipe, owner: str) -> Table:
    assert recipe.plan is not None
    rows = tuple((name, str(site.width), str(site.of), site.reason) for name, site in recipe.plan.sites.items())
    return Table(title=f"{owner}Each width with its reason", columns=("site", "kept", "of", "why"), rows=rows)


def outcome_panel(cuts: Mapping[str, Cut], benches: Mapping[str, Bench]) -> Panel:
    """Before and after, measured and foretold; `benches`: what `bench -o` wrote into folders."""
    parts: list[Figure | Table] = []
    missing = []
    owner = owners(cuts)
    for folder, cut in cuts.items():
        parts.append(_remaining(cut.numbers, owner[folder]))
        missing += [*_unjudged(cut.numbers), *_unmeasured(folder, cut, benches.get(folder))]
    return Panel(
        title="Before and after",
        text="The source and the pruned network, side by side, without any training after the cut.",
        lines=tuple(
            owner[folder] + line for folder, cut in cuts.items() for line in _outcome_lines(cut, benches.get(folder))
        ),
        notes=tuple(owner[folder] + note for folder, cut in cuts.items() for note in cut.numbers["notes"]),
        parts=tuple(parts),
        missing=tuple(dict.fromkeys(missing)),
    )


def _unjudged(numbers: Mapping[str, Any]) -> list[Missing]:
    if numbers["top1"] is not None:
        return []
    return [_UNMEASURED if numbers["agreement"] is None else _UNLABELLED]


def _unmeasured(folder: str, cut: Cut, bench: Bench | None) -> Iterator[Missing]:
    """The times that nobody has taken: any, or those that were predicted."""
    place = shlex.quote(folder)
    command = f"prune-realloc bench {place} --source CHECKPOINT -o {place}"
    if (time := _planned_time(cut)) is None:
        if cut.numbers["latency"] is None and bench is None:
            yield Missing(what=f"latency of {folder}", why="it was cut with --no-bench", command=command)
    elif _measured_ms(cut, bench, time, "pruned") is None:
        where = f"{time.runtime}, batch {time.batch}, {count_threads(time.threads)}"
        why = f"it was predicted for {where}, and not measured there"
        command += f" --backend {time.runtime} --batch-size {time.batch} --threads {time.threads}"
        yield Missing(what=f"the measured time of {folder}", why=why, command=command)


def _planned_time(cut: Cut) -> PlannedLatency | None:
    assert cut.recipe.plan is not None
    return cut.recipe.plan.latency


def _measured_ms(cut: Cut, bench: Bench | None, time: PlannedLatency, model: str) -> float | None:
    """What `apply` measured where the plan foretold it, else what `bench` did."""
    timings = {model: list(cut.numbers["latency"] or ())}
    if bench is not None and bench.threads == time.threads:
        timings.setdefault({"source": "source", "pruned": "model"}[model], []).extend(map(asdict, bench.timings))
    place = (time.runtime, time.batch)
    for name, found in timings.items():
        for each in found:
            if (each["model"], each["backend"], each["batch_size"]) == (name, *place):
                return float(each["median_ms"])
    return None


def _planned_lines(cut: Cut) -> list[str]:
    return plan_facts(cut.recipe, measured=cut.numbers["kl"] is not None)


def _outcome_lines(cut: Cut, bench: Bench | None) -> Iterator[str]:
    numbers = cut.numbers
    yield from outcome_facts(dict(numbers))
    if (time := _planned_time(cut)) is not None:
        for model, foretold in (("source", time.source_ms), ("pruned", time.achieved_ms)):
            if (measured := _measured_ms(cut, bench, time, model)) is not None:
                yield (
                    f"{time.runtime}, batch {time.batch}, {model}: predicted {foretold:.3g} ms for "
                    f"{count_threads(time.threads)}, measured {measured:.3g} ms, {measured / foretold:.2f} of it"
                )
    share = numbers["macs"]["achieved"] / numbers["macs"]["source"]
    for size, ratio in time_ratios(numbers).items():
        yield f"batch {size}: its multiply-adds foretell {share:.2f} of the time, measured {ratio:.2f}"


def _remaining(numbers: Mapping[str, Any], owner: str) -> Figure:
    kinds = {kind.label: numbers[kind.name] for kind in COST_COLUMNS} | {"bytes": numbers["bytes"]}
    shares = {label: 100 * pair["achieved"] / pair["source"] for label, pair in kinds.items()}
    shares |= {f"ms, batch {size}": 100 * ratio for size, ratio in time_ratios(numbers).items()}
    rows = tuple((label, (("left of the source", share),)) for label, share in shares.items())
    return Figure(
        title=f"{owner}What is left",
        text="What the pruned network costs, in percent of its source; shorter is cheaper. Times are compared over "
        "rounds in which both take turns, not by their medians, between which the machine may change its speed.",
        drawings=(Bars(title="left of the source", unit="%", rows=rows, reach=100),),
        table=on_page(outcome_table(dict(numbers))),
    )


def sweep_panel(sweeps: Mapping[str, Sweep], cuts: Mapping[str, Cut]) -> Panel:
    """Accuracy against cost, with the cuts of the same networks: the chosen one, and the uniform control."""
    figures, missing = [], []
    owner = owners(sweeps)
    for folder, sweep in sweeps.items():
        weights = sweep.points[0].recipe.source.weights_sha256
        same = {name: cut for name, cut in cuts.items() if cut.recipe.source.weights_sha256 == weights}
        figures.append(_curve(sweep, owner[folder], same))
        missing += _unjudged(sweep.points[0].numbers)
        if not sweep.controls and all(cut.recipe.allocation != "uniform" for cut in same.values()):
            why = "no uniform cut of this network is among the runs"
            budget = f"--keep-{sweep.kind} {sweep.points[0].budget:g}"
            command = (
                f"prune-realloc plan ANALYSIS {budget} --allocation uniform -o uniform.yaml; "
                f"prune-realloc apply uniform.yaml -o {shlex.quote(folder)}/uniform"
            )
            missing.append(Missing(what=f"the uniform control beside {folder}", why=why, command=command))
    return Panel(
        title="What other budgets give",
        text="The same network cut at several budgets, each measured without training: where the line falls steeply, "
        "the budget is too small. The uniform control has the same cost and gives up the same share everywhere. The "
        "chosen cut is one of these points, or lies between them.",
        notes=tuple(owner[folder] + note for folder, sweep in sweeps.items() for note in sweep.notes),
        parts=tuple(figures),
        missing=tuple(dict.fromkeys(missing)),
    )


def _curve(sweep: Sweep, owner: str, cuts: Mapping[str, Cut]) -> Figure:
    """Each network against its own source, so that cuts that were measured on other images can be compared."""
    labelled = all(point.numbers["top1"] for point in sweep.points)
    kind = sweep.shown_kind

    def of(name: str, numbers: Iterable[Mapping[str, Any]], line: bool = False) -> Series:
        places = ((_share(each, kind.name), _lost(each, labelled)) for each in numbers)
        return Series(name=name, points=tuple(sorted(places)), line=line)

    uniform = [cut.numbers for cut in cuts.values() if cut.recipe.allocation == "uniform"]
    chosen = [cut.numbers for cut in cuts.values() if cut.recipe.allocation != "uniform"]
    measured = "top-1" if labelled else "agreement"
    chart = Chart(
        title=f"{measured} against cost",
        x=Axis(label=f"{kind.label}, % of the source", low=0, high=100),
        y=Axis(label="points against the source"),
        series=(
            of("pruned, without training", [point.numbers for point in sweep.points], line=True),
            *([of("uniform control", [*sweep.controls, *uniform], line=True)] if sweep.controls or uniform else []),
            *([of("chosen", chosen)] if chosen else []),
            Series(name="source", points=((0.0, 0.0), (100.0, 0.0)), marked=False),
        ),
    )
    return Figure(
        title=f"{owner}Accuracy against cost",
        text=f"Every point is a network, and how many points of {measured} its source is away, the dashed line. "
        f"Examined once in {sweep.examination_seconds:.1f} s.",
        drawings=(chart,),
        table=Table(title="every budget", columns=curve_columns(), rows=tuple(curve_rows(sweep))),
    )


def _share(numbers: Mapping[str, Any], kind: str) -> float:
    return float(100 * numbers[kind]["achieved"] / numbers[kind]["source"])


def _lost(numbers: Mapping[str, Any], labelled: bool) -> float:
    """Points of top-1, or of agreement, to the source; what was not measured is not drawn."""
    pair = numbers["top1"] if labelled else {"achieved": numbers["agreement"], "source": 1.0}
    known = pair and pair["achieved"] is not None and pair["source"] is not None
    return float(100 * (pair["achieved"] - pair["source"])) if known else nan
