"""Memory that every pass takes from the system anew: time that is no arithmetic, and that what ran before decides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

from prune_realloc.results.turns import Call

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # no POSIX
    getrusage = None  # type: ignore[assignment]

SECONDS = 1e-6
"""What a fault costs, with the filling of its page; the least that benchmarks/page_faults.py found."""
_MUCH = 0.03
"""Share of the time above which it is said; faults of threads at once are counted one after the other."""
KEEP = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
"""Environment in which the C library of Linux keeps what is freed."""


def memory_is_kept() -> bool:
    """Whether this process was started so."""
    return KEEP.items() <= os.environ.items()


def page_faults() -> int:
    """Of this process so far, without those that read a disk; 0 where the system does not say."""
    return 0 if getrusage is None else getrusage(RUSAGE_SELF).ru_minflt


def faults_note(calls: Mapping[str, Call], times: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """What to say where they take much of the time; each call is made once more.

    Args:
        times: seconds of each call, as `interleave` found them.
    """
    before = page_faults()
    for call in calls.values():
        call()
    faults, seconds = page_faults() - before, sum(map(median, times.values()))
    if SECONDS * faults < _MUCH * seconds:
        return ()
    kept = " ".join(f"{name}={value}" for name, value in KEEP.items())
    return (
        f"passes give memory back to the system and take it again, {faults / len(calls):,.0f} page faults each, of a "
        f"microsecond or more: times depend on what ran before; with {kept} in the environment of Linux it is kept",
    )
