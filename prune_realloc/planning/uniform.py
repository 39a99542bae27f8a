"""The same share everywhere, or one share for each axis, until the budget holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from prune_realloc.core.structure import site_place, without_dropped_blocks
from prune_realloc.planning.budgeted import Budgeted, all_hold
from prune_realloc.planning.choices import PlanningProblem


def shared_shares(budgets: Sequence[Budgeted], allocation: str) -> dict[str, int]:
    """All sites (`uniform`), or all axes (`per-axis`), give up the same share, up to the last steps of one multiple.

    `per-axis` takes from each axis what hurts least there, by its hulls, and compares only inside an axis.
    """
    problem = budgets[0].problem
    steps = sorted(_uniform_steps(problem) if allocation == "uniform" else _axis_steps(problem))
    widths = {name: choices[0] for name, choices in problem.choices.items()}

    def after(taken: Iterable[_Step]) -> dict[str, int]:
        result = dict(widths)
        for _, _, name, width in taken:
            result[name] = min(result[name], width)
        return without_dropped_blocks(result)

    low, high = 0, len(steps)
    while low < high:  # the first number of steps that fits
        middle = (low + high) // 2
        low, high = (low, middle) if all_hold(budgets, after(steps[:middle])) else (middle + 1, high)
    taken, result = steps[:low], after(steps[:low])
    for step in reversed(steps[:low]):  # after a coarse last step, the latest finer ones are given back
        if result[step[2]] != step[3] or any(each.is_near(result) for each in budgets):
            continue
        fewer = [other for other in taken if other is not step]
        if all_hold(budgets, after(fewer)):
            taken, result = fewer, after(fewer)
    return result


_Step = tuple[float, int, str, int]
"""Share given up so far, place in the network, site, its width after the step."""


def _uniform_steps(problem: PlanningProblem) -> Iterator[_Step]:
    for place, (name, choices) in enumerate(problem.choices.items()):
        for width in choices[1:]:
            yield 1 - width / problem.analysis.widths[name], place, name, width


def _axis_steps(problem: PlanningProblem) -> Iterator[_Step]:
    smooth = problem.counting(problem.measure.smooth)
    for axis in problem.axes:
        ranked, total = [], 0
        for place, (name, choices) in enumerate(problem.choices.items()):
            if site_place(name)[0] != axis:
                continue
            saved = smooth.source - smooth.cost(dict(problem.analysis.widths) | {name: 0})
            each = saved // problem.analysis.widths[name]
            if not each:
                continue  # its units save nothing, so they stay
            total += saved
            hull = _hull([(each * width, float(problem.curves[name][width]), width) for width in choices])
            ranked += [
                (_slope(cheap, dear), place, name, cheap[2], dear[0] - cheap[0]) for cheap, dear in pairwise(hull)
            ]
        ranked.sort(key=lambda step: (-step[0], step[1], -step[3]))
        done = 0
        for _, place, name, width, less in ranked:
            done += less
            yield done / total, place, name, width


_Choice = tuple[int, float, int]
"""Cost, damage, width."""


def _hull(menu: Iterable[_Choice]) -> list[_Choice]:
    """The lower convex hull of damage over cost, the cheapest first; the dearest is always on it."""
    hull: list[_Choice] = []
    for choice in sorted(menu):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: _Choice, b: _Choice) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
