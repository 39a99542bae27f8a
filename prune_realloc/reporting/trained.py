"""Trainings: their curves, and what the networks are worth against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from statistics import fmean

from prune_realloc.core.errors import InputError
from prune_realloc.pages.content import Axis, Chart, Figure, Missing, Panel, Series, Table
from prune_realloc.reporting.runs import Training
from prune_realloc.training.compare import compare, group_name
from prune_realloc.training.curves import Rows, curves_figure
from prune_realloc.training.group import ACCURACY_COLUMNS, Group, accuracy_cells, group_notes


def trained_panel(trainings: Mapping[str, Training]) -> Panel:
    """Curves by network, and the comparison of what is finished."""
    comparable = [folder for folder, training in trainings.items() if _has_top1(training)]
    missing = list(_left_out(trainings))
    groups: tuple[Group, ...] = ()
    try:
        groups = compare(comparable) if comparable else ()
    except InputError as error:
        command = "prune-realloc compare RUN..."
        missing.append(Missing(what="the comparison", why=str(error), command=command))
    parts: list[Figure | Table] = [curves_figure(_by_network(trainings, comparable if groups else ()))]
    parts += [_comparison(groups)] if groups else []
    notes = group_notes(groups)
    if len(groups) > 1 and all(len(group.seeds) == 1 for group in groups):
        notes = (*notes, "one seed each: a try-out, no evidence; train with --seeds 5 for intervals")
    return Panel(
        title="Training",
        text="What the networks are worth after the same training. The difference to the control is taken seed by "
        "seed; an interval that does not hold zero is a difference that chance does not explain.",
        notes=notes,
        parts=tuple(parts),
        missing=tuple(missing),
    )


def _has_top1(training: Training) -> bool:
    return training.result is not None and training.result.top1 is not None


def _left_out(trainings: Mapping[str, Training]) -> Iterator[Missing]:
    """Runs that the comparison is without."""
    for folder, training in trainings.items():
        if training.result is None:
            why = f"{len(training.rows)} epochs are done"
            yield Missing(what=f"the result of {folder}", why=why, command="start it again")
        elif training.result.top1 is None:
            why = "it read no labels, so it has no top-1; its result.json says how near it is to its teacher"
            yield Missing(what=f"{folder} in the comparison", why=why, command="")


def _by_network(trainings: Mapping[str, Training], compared: Collection[str]) -> dict[str, Rows]:
    """Name of a network -> its log, the mean over its seeds; runs that are not compared, each by its folder."""
    logs: dict[str, list[Rows]] = defaultdict(list)
    for folder, training in trainings.items():
        done = training.result
        name = group_name(Path(folder), done.seed) if done is not None and folder in compared else folder
        logs[name].append(training.rows)
    return {
        name: [{column: fmean(row[column] for row in rows) for column in rows[0]} for rows in zip(*every, strict=False)]
        for name, every in logs.items()
    }


def _comparison(groups: tuple[Group, ...]) -> Figure:
    chart = Chart(
        title="accuracy against cost",
        x=Axis(label="MACs, millions", low=0),
        y=Axis(label="top-1, %"),
        series=tuple(_point(group) for group in groups),
    )
    return Figure(
        title="Trained networks against each other",
        text="Each point is the mean over the seeds of a network, its bar the 95 % interval.",
        drawings=(chart,),
        table=Table(title="comparison", columns=(*ACCURACY_COLUMNS, "MACs", "params"), rows=tuple(map(_row, groups))),
    )


def _point(group: Group) -> Series:
    half = 100 * (group.half_width or 0)
    mean = 100 * group.mean
    return Series(
        name=group.name,
        points=((group.macs / 1e6, mean),),
        spread=((max(mean - half, 0), min(mean + half, 100)),),
        line=False,
    )


def _row(group: Group) -> tuple[str, ...]:
    return (*accuracy_cells(group), f"{group.macs:,}", f"{group.params:,}")
