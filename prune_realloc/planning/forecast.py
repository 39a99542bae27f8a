"""How far a forecast of damage goes: what was measured beside it, and when another network is outside of that.

The expansion is to second order around the source. What it leaves out grows with the cut: that errors of one block meet
those of the next, that tokens err together, and that a refit is fitted to the images at hand. No torch here.
"""

from __future__ import annotations

from prune_realloc.core.names import count_threads
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import PlannedLatency

SEEN = {True: (0.7, 3.2, 31.0), False: (3.0, 18.0, 400.0)}
"""Whether layers are refitted -> the least, the median and the most of the measured KL over the forecast, on five
trained networks at 0.8 to 0.3 of their multiply-adds (`benchmarks/forecast.py`)."""


_NOISE = 1.1
"""Two measurements of a time that differ by less are alike."""


def unchecked(recipe: Recipe) -> str:
    """What to say beside a forecast that nothing was measured for."""
    if not _seen(recipe):
        return "not checked; apply measures it on a classifier"
    least, median, most = SEEN[recipe.compensate.refit]
    how = "" if recipe.compensate.refit else ", without refit,"
    return (
        f"not checked: on five networks{how} {median:g} times as much was measured ({least:g} to {most:g}); apply "
        "measures it on a classifier"
    )


def compared(predicted: float, measured: float) -> str:
    """A forecast beside the KL to the source; both in nats per image, the forecast above 0."""
    times = measured / predicted
    return f"predicted damage {predicted:.2g} nats per image, measured {measured:.2g}: {times:.2g} times as much"


def outside(predicted: float | None, measured: float | None, recipe: Recipe) -> list[str]:
    """A note where the two differ by more than was seen anywhere; none where there is nothing to compare."""
    if not predicted or measured is None or not _seen(recipe):
        return []
    least, _, most = SEEN[recipe.compensate.refit]
    if least <= measured / predicted <= most:
        return []
    return [
        f"the forecast does not hold for this cut: {compared(predicted, measured)}, where {least:g} to {most:g} times "
        "were seen; do not compare plans of this network by predicted damage at this budget, sweep measures them"
    ]


def missed(planned: PlannedLatency, measured_ms: float) -> list[str]:
    """A note where a cut takes longer than it was asked to; none where it is as fast, but for `_NOISE`."""
    if measured_ms <= _NOISE * planned.requested_ms:
        return []
    where = f"{planned.runtime}, batch {planned.batch}, {count_threads(planned.threads)}"
    return [
        f"the time that was asked for is missed: {planned.requested_ms:.3g} ms asked for, {planned.achieved_ms:.3g} "
        f"foretold, {measured_ms:.3g} measured ({where}); "
        "plan with a table that was measured longer (--measure-seconds), on a machine that is as busy as this one"
    ]


def _seen(recipe: Recipe) -> bool:
    """`SEEN` speaks of the Fisher information of the prediction, and of networks that were not tuned."""
    return recipe.scorer == "fisher" and not recipe.compensate.tune
