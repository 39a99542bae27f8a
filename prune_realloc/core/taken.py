"""What a run took: facts of the network and of the images, each with where it was learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One thing that a run goes by."""

    value: Any
    """A plain value, ready for JSON: text, a number, or a list of them."""
    origin: str
    """What tells it: `args.model in the file`, `shapes`, `--mean`, `timm's deit_tiny_patch16_224`."""
    guessed: bool = False
    """Nothing states it, so that it may be wrong."""

    def text(self) -> str:
        """The value, for people."""
        if isinstance(self.value, list | tuple):
            return ("/" if any(isinstance(part, float) for part in self.value) else ", ").join(map(str, self.value))
        return str(self.value)

    def why(self) -> str:
        """What tells it, for people."""
        return f"a guess from {self.origin}" if self.guessed else self.origin


def fact_name(field: str) -> str:
    """What a field of timm's `pretrained_cfg` is called where it is said."""
    return field.replace("crop_pct", "crop").replace("_", " ")


Taken = Mapping[str, Fact]
"""What is taken -> the fact, in the order in which it is said: weights, architecture, heads, input size, ..."""


def taken_lines(taken: Taken, of: str = "") -> list[str]:
    """All facts for people, in a line for each source, of what it alone tells.

    Args:
        of: whose they are, where it is not the network that the run is about.
    """
    groups: dict[str, list[str]] = {}
    for name, fact in taken.items():
        groups.setdefault(fact.why(), []).append(f"{name} {fact.text()}")
    return [f"took {f'of {of}: ' if of else ''}{', '.join(facts)} ({why})" for why, facts in groups.items()]


def plain_taken(taken: Taken) -> dict[str, dict[str, Any]]:
    """All facts, ready for JSON."""
    return {name: vars(fact) for name, fact in taken.items()}


def taken_from(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Fact]:
    """What `plain_taken` made, read again."""
    return {name: Fact(**fact) for name, fact in plain.items()}
