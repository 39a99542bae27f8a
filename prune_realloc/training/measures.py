"""By which number of the validation images a run is judged, and how pages and terminals write it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of the log; larger is better."""

    text: str
    form: str
    """How a number is written."""
    scale: float
    """From a number to what is drawn."""
    unit: str
    """Of what is drawn."""
    loss: str
    """What the column `val_loss` holds beside it."""


MEASURES = {
    "top1": Measure(text="top-1", form=".2%", scale=100, unit="%", loss="cross-entropy, nats"),
    "agreement": Measure(text="agreement with the teacher", form=".2%", scale=100, unit="%", loss="KL, nats"),
    "cosine": Measure(
        text="cosine to the teacher's features", form=".4f", scale=1, unit="cosine", loss="relative squared error"
    ),
}
"""top1: with labels; agreement: a classifier without them; cosine: a network without a classifier."""


def measure_of(row: Mapping[str, object]) -> str:
    """The measure that a row of a log has.

    Raises:
        KeyError: it has none.
    """
    found = next((name for name in MEASURES if name in row), None)
    if found is None:
        raise KeyError(f"none of {', '.join(MEASURES)}")
    return found
