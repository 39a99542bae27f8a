"""What one group claims, against every other group as a control: differences by seed, and ranks in sets of controls.

Groups whose names differ only in a number at the end, such as `random-007`, are a set too. If nothing set the claiming
group apart, each place among them would be as likely: p is the share of places that are as good as its own, or better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune_realloc.core.errors import InputError
from prune_realloc.training.group import Group, group_notes

LARGEST_P = 0.05
"""The same chance of error that an interval of 95 % leaves."""

_NUMBERED = re.compile(r"(?P<stem>.*[-_])\d+")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A group, and what the claiming one is above it."""

    name: str
    seeds: tuple[int, ...]
    mean: float
    """Mean top-1 over the seeds."""
    half_width: float | None
    """Half the width of its 95 % interval; None with one seed."""
    difference: float | None
    """Top-1 of the claiming group minus this one's, mean over the seeds that both have; None where there are none."""
    difference_half_width: float | None
    """Half the width of its 95 % interval; None with fewer than two seeds in common."""
    over_zero: bool | None
    """Whether the interval of the difference lies over zero; None where there is no interval."""
    macs: int
    params: int


@dataclass(frozen=True, kw_only=True)
class ControlSet:
    """Controls whose names differ only in their number, and the claiming group's place among them."""

    name: str
    """What their names have in common, and a star."""
    names: tuple[str, ...]
    """Those that have a seed in common with the claiming group."""
    mean: float
    """Mean of their means."""
    best: str
    """Name of the one with the highest mean."""
    best_mean: float
    at_or_above: int
    """How many the claiming group is not above, over the seeds that both have."""
    rank: int
    """Place of the claiming group among all of them and itself; ties count against it."""
    p: float
    """`rank` as a share of the places."""
    by_intervals: bool
    """Whether every one's interval lies over zero."""

    @property
    def place(self) -> str:
        return f"rank {self.rank} of {len(self.names) + 1}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A group against its controls."""

    claiming: Row
    controls: tuple[Row, ...]
    sets: tuple[ControlSet, ...]
    not_above: tuple[str, ...]
    """Controls and sets that it is not shown to be above, each with the reason."""
    verdict: str
    """What follows, in a sentence."""
    notes: tuple[str, ...]


def claim(groups: Sequence[Group], name: str) -> Claim:
    """The claim of the group `name`; a set of controls is passed by its rank, or by the interval of each in it.

    Args:
        groups: as `compare` gives them with `name` as the control of all others.

    Raises:
        InputError: there is no other group, or the groups were trained on several data sets.
    """
    _check_one_data(groups)
    claiming = next(_row(group) for group in groups if group.name == name)
    controls = tuple(_row(group) for group in groups if group.name != name)
    if not controls:
        raise InputError(f"controls {name!r}: no other group is given; give the runs of its controls too")
    sets = _sets(controls)
    not_above = _not_above(controls, sets)
    notes = group_notes(groups) + _cost_notes(claiming, controls) + _name_notes(groups, controls)
    return Claim(
        claiming=claiming,
        controls=controls,
        sets=sets,
        not_above=not_above,
        verdict=f"{name} {_verdict(controls, sets, not_above)}",
        notes=notes + _seed_notes(claiming, controls, sets),
    )


def _check_one_data(groups: Sequence[Group]) -> None:
    first = groups[0]
    for group in groups:
        if group.data != first.data:
            raise InputError(
                f"run {group.folder!r} is of the data {group.data!r}, {first.folder!r} of {first.data!r}; give runs "
                "of one data set"
            )


def _row(group: Group) -> Row:
    gain = None if group.difference is None else 0 - group.difference  # not -0.0
    half = group.difference_half_width
    return Row(
        name=group.name,
        seeds=group.seeds,
        mean=group.mean,
        half_width=group.half_width,
        difference=gain,
        difference_half_width=half,
        over_zero=None if gain is None or half is None else gain - half > 0,
        macs=group.macs,
        params=group.params,
    )


def _sets(controls: Sequence[Row]) -> tuple[ControlSet, ...]:
    """Those of two or more, in the order of the controls."""
    members: dict[str, list[Row]] = {}
    for row in controls:
        if (stem := _stem(row.name)) is not None and row.difference is not None:
            members.setdefault(stem, []).append(row)
    return tuple(_set(stem, rows) for stem, rows in members.items() if len(rows) > 1)


def _stem(name: str) -> str | None:
    """What comes before the number at its end; None: there is none."""
    found = _NUMBERED.fullmatch(name)
    return found["stem"] if found else None


def _set(stem: str, rows: Sequence[Row]) -> ControlSet:
    # a share of images is a whole number of them: what is nearer to zero than 1e-9 is rounding, and a tie
    rank = 1 + sum(row.difference is not None and row.difference < 1e-9 for row in rows)
    best = max(rows, key=lambda row: row.mean)
    return ControlSet(
        name=f"{stem}*",
        names=tuple(row.name for row in rows),
        mean=float(np.mean([row.mean for row in rows])),
        best=best.name,
        best_mean=best.mean,
        at_or_above=rank - 1,
        rank=rank,
        p=rank / (1 + len(rows)),
        by_intervals=all(row.over_zero for row in rows),
    )


def _not_above(controls: Sequence[Row], sets: Sequence[ControlSet]) -> tuple[str, ...]:
    ranked = {name for found in sets for name in found.names}
    alone = tuple(f"{row.name} ({_why(row)})" for row in controls if not row.over_zero and row.name not in ranked)
    return alone + tuple(
        f"{found.name} ({found.place}, p = {found.p:.2g})"
        for found in sets
        if found.p > LARGEST_P and not found.by_intervals
    )


def _why(row: Row) -> str:
    if row.difference is None:
        return "no seed in common"
    if row.difference_half_width is None:
        return "one seed in common, so no interval"
    under = row.difference + row.difference_half_width < 0
    return "the interval lies under zero" if under else "the interval holds zero"


def _verdict(controls: Sequence[Row], sets: Sequence[ControlSet], not_above: Sequence[str]) -> str:
    if not_above:
        return f"is not shown to be above {', '.join(not_above)}"
    by_rank = [found for found in sets if not found.by_intervals]
    parts = [f"has {found.place} among {found.name} (p = {found.p:.2g})" for found in by_rank]
    if len(controls) > sum(len(found.names) for found in by_rank):
        parts.append(f"is above every {'other ' if by_rank else ''}control with the interval over zero")
    return ", and ".join(parts)


def _cost_notes(claiming: Row, controls: Sequence[Row]) -> tuple[str, ...]:
    apart = [
        f"{row.name} ({label} {100 * (its / own - 1):+.1f} %)"
        for row in controls
        for label, its, own in (("MACs", row.macs, claiming.macs), ("params", row.params, claiming.params))
        if 100 * abs(its - own) > own
    ]
    return (f"costs are more than 1 % from those of {claiming.name}: {', '.join(apart)}",) if apart else ()


def _name_notes(groups: Sequence[Group], controls: Sequence[Row]) -> tuple[str, ...]:
    """Folders such as `random-0`, of seed 0, which lie in the group `random` and so in no set."""
    stems = {_stem(row.name) for row in controls} - {None}
    return tuple(
        f"the number of {Path(group.folder).name} was taken for its seed, so {group.name} is in no set; end names of "
        f"folders in -seed{group.seeds[0]}"
        for group in groups
        if _stem(Path(group.folder).name) in stems - {_stem(group.name)}
    )


def _seed_notes(claiming: Row, controls: Sequence[Row], sets: Sequence[ControlSet]) -> tuple[str, ...]:
    """Of sets in which not every one has all of the claiming group's seeds."""
    short = {row.name for row in controls if not set(claiming.seeds) <= set(row.seeds)}
    return tuple(
        f"{found.name} and {claiming.name} are ranked over the seeds that each two have, which are not all of "
        f"{claiming.name}'s"
        for found in sets
        if short & set(found.names)
    )
