"""Which networks are cut and timed for a latency table: as unlike each other as plans are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from math import lcm

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import Site, site_name, site_place
from prune_realloc.planning.choices import rounding_multiple
from prune_realloc.recipe.rules import Rule

_LEAST = 0.125
"""Share of a width that is left at least."""
_LEAST_STREAM = 0.4
"""The same of a stream, which every block reads."""


def drawn_widths(sites: Sequence[Site], terms: Sequence[Term], seed: int = 0) -> Iterator[dict[str, int]]:
    """Widths of networks to be timed, without end; the same for the same seed.

    In turns: few blocks of each kind, whose widths differ by kind; every site by itself; one share for the whole
    network, so that queries and values are alike. Streams are whole in every second one.
    """
    draw = random.Random(seed)
    kinds = like_blocks(sites, terms)
    for number in count():
        stream = 1.0 if number % 2 else draw.uniform(_LEAST_STREAM, 1)
        widths = {site.name: _near(site, stream) for site in sites}
        if number % 3 == 0:
            widths |= _shallow(sites, kinds, draw)
        else:
            most, same = draw.uniform(_LEAST, 1), draw.uniform(_LEAST, 1)
            for site in sites:
                if site.axis not in ("embed", "block", "heads"):
                    share = same if number % 3 == 1 else draw.uniform(_LEAST, max(most, 2 * _LEAST))
                    widths[site.name] = _near(site, share)
                elif site.axis != "embed":
                    widths[site.name] = site.width
        yield widths


def like_blocks(sites: Sequence[Site], terms: Sequence[Term]) -> list[list[int]]:
    """Numbers of the blocks whose terms, and so shapes, are the same."""
    found: dict[object, list[int]] = {}
    for block in sorted({site.block for site in sites if site.block is not None}):
        own = [term for term in terms if any(site_place(name)[1] == block for name in term.sites)]
        shape = sorted((_without_number(term.sites, block), term.macs, term.params) for term in own)
        found.setdefault(tuple(shape), []).append(block)
    return list(found.values())


def _without_number(names: Sequence[str], block: int) -> tuple[str, ...]:
    """Names of sites as they are in any block like this."""
    whole = site_name("block", block)
    return tuple(name.removeprefix(whole) if site_place(name)[1] == block else name for name in names)


def _shallow(sites: Sequence[Site], kinds: Sequence[Sequence[int]], draw: random.Random) -> dict[str, int]:
    """One or two blocks of each kind, as far as blocks may go, with a share for each axis of a kind."""
    may_go = {site.block for site in sites if site.axis == "block"}
    of_block = {block: kind for kind, blocks in enumerate(kinds) for block in blocks}
    gone = {block for blocks in kinds for block in blocks[draw.randint(1, 2) :] if block in may_go}
    shares: dict[tuple[int, str], float] = {}
    widths = {}
    for site in sites:
        if site.block in gone:
            widths[site.name] = 0
        elif site.block is not None and site.axis not in ("block", "heads"):
            key = of_block[site.block], f"{site.axis}.{site.nth}"
            widths[site.name] = _near(site, shares.setdefault(key, draw.uniform(_LEAST, 1)))
        elif site.axis != "embed":
            widths[site.name] = site.width
    return widths


def _near(site: Site, share: float) -> int:
    """The width nearest to a share of the whole among those that a plan may have."""
    multiple = lcm(rounding_multiple(Rule.model_construct(), site.width, site.axis), site.multiple)
    return min(site.width, max(multiple, round(share * site.width / multiple) * multiple))
