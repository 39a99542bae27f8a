"""A plan in numbers and words: what it costs, and why each site has its width. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import KINDS, Widths, total_cost
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.structure import INNER_AXES, site_beside, site_place
from prune_realloc.planning.budgeted import Budgeted
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.measures import PEAK
from prune_realloc.planning.site_reasons import site_reason
from prune_realloc.recipe.plan import Limit, Plan, PlannedLatency, PlannedPeak, SitePlan


def described(
    problem: PlanningProblem,
    budgets: Sequence[Budgeted],
    widths: Widths,
    bound: float | None,
    table: LatencyTable | None,
) -> Plan:
    """The plan of these widths.

    Args:
        bound: the damage that no plan beats, where it is known.
        table: where time is limited.
    """
    analysis = problem.analysis
    cost = total_cost(analysis.terms, widths)
    comparable = analysis.unit == "nats"
    counted = {each.problem.kind: each for each in budgets if each.problem.kind in KINDS}
    own = counted.pop(problem.kind, None)
    explained = budgets[0].problem if budgets else problem
    return Plan(
        kind=problem.kind,
        requested=None if own is None else own.limit,
        achieved=cost.of(problem.kind),
        source=problem.source,
        **{kind: cost.of(kind) for kind in KINDS},
        also={kind: Limit(requested=each.limit, source=each.problem.source) for kind, each in counted.items()},
        latency=_planned_latency(problem, widths, table),
        peak=_planned_peak(budgets, widths),
        damage=digits(problem.damage(widths)) if comparable else None,
        bound=digits(bound) if comparable and bound is not None else None,
        sites={
            name: SitePlan(
                width=widths[name],
                of=analysis.widths[name],
                groups=_groups(analysis, name),
                reason=site_reason(explained, name, widths),
            )
            for name in analysis.widths
        },
    )


def _planned_latency(problem: PlanningProblem, widths: Widths, table: LatencyTable | None) -> PlannedLatency | None:
    budget = problem.recipe.budget
    if budget is None or table is None or not budget.limits_time:
        return None
    source_ms = digits(table.predict(problem.analysis.widths), 6)
    where = table.conditions
    return PlannedLatency(
        requested_ms=budget.limit_ms(source_ms),
        achieved_ms=digits(table.predict(widths), 6),
        source_ms=source_ms,
        batch=where.batch,
        runtime=where.runtime,
        threads=where.threads,
        device=where.device,
        error=digits(table.error[0], 2),
    )


def _planned_peak(budgets: Sequence[Budgeted], widths: Widths) -> PlannedPeak | None:
    peak = next((each for each in budgets if each.problem.kind == PEAK), None)
    if peak is None or (budget := peak.problem.recipe.budget) is None:
        return None
    achieved, source = peak.problem.cost(widths), peak.problem.source
    return PlannedPeak(requested=peak.limit, achieved=achieved, source=source, batch=budget.images)


def _groups(analysis: Analysis, name: str) -> int | None:
    """Groups of a site whose number of groups no other site tells."""
    axis, _ = site_place(name)
    if axis not in INNER_AXES or (axis in ("qk", "v") and site_beside(name, "heads") in analysis.widths):
        return None
    return analysis.groups[name] if analysis.groups[name] > 1 else None


def digits(value: float, count: int = 4) -> float:
    """A number of so many digits, as files have it."""
    return float(f"{value:.{count}g}")
