"""What `analyze --check` has tried, and its verdict on the ranking."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import comb

from prune_realloc.core.files import json_file
from prune_realloc.core.typed import AtLeastOne

CHECK_FILE = "check.json"
SAME = 1e-3
"""So far apart, relative to the largest log-probability, may the outputs of one network in two forms be."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One site at one width; losses are KL(whole network || masked), nats per image."""

    site: str
    kept: int
    of: AtLeastOne
    predicted: float
    """The sum of the scores of the units that go by the ranking, in the scorer's unit."""
    ranking: float
    """The lowest scores go."""
    reverse: float
    """The highest scores go."""
    random: float
    """Mean over draws."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was tried."""

    tried: tuple[Tried, ...]
    samples: int
    seed: int
    sorted_difference: float
    """Largest difference of log-probabilities between the network and the one whose units are sorted by score."""
    cut_difference: float
    """The same between units that are masked and units that are cut."""

    @property
    def trusted(self) -> bool:
        """Is less lost by the ranking than at random: in all, and in more cases than one in twenty throws of coins?

        The widths of one site are not independent, so this is rough.
        """
        better, count = sum(each.ranking < each.random for each in self.tried), len(self.tried)
        total = sum(each.ranking for each in self.tried) < sum(each.random for each in self.tried)
        as_good = sum(comb(count, wins) for wins in range(better, count + 1)) / 2**count
        return total and as_good <= 0.05

    def file(self) -> bytes:
        """The content of `CHECK_FILE`."""
        return json_file(asdict(self) | {"trusted": self.trusted})

    def lines(self) -> list[str]:
        """The verdict first."""
        if not self.tried:
            return ["check: nothing was tried; the network has no qk, v, ffn or hidden of more than one unit"]
        ours, other = (sum(getattr(each, order) for each in self.tried) for order in ("ranking", "random"))
        better = sum(each.ranking < each.random for each in self.tried)
        word = "is better than random" if self.trusted else "is NO better than random"
        count = len(self.tried)
        return [
            f"check: the ranking {word}: {ours:.3g} nats lost against {other:.3g}, less in {better} of {count}",
            _same("sorted equals original", self.sorted_difference),
            _same("cut equals mask", self.cut_difference),
        ]


def _same(law: str, difference: float) -> str:
    holds = "holds" if difference <= SAME else "does NOT hold"
    return f"{law}: {holds} (log-probabilities differ by {difference:.1e} of the largest)"
