"""Values that are written as text on the command line; read as in recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.reader import parse_value


def parse_pairs(items: Sequence[str], flag: str, example: str = "num_heads=6") -> dict[str, Any]:
    """KEY=VALUE, each key once."""
    pairs: dict[str, Any] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key.isidentifier():
            raise InputError(f"{flag} {item!r} is not KEY=VALUE, such as {example}")
        if key in pairs:
            raise InputError(f"{flag} {item!r}: {key} is given twice; leave one out")
        pairs[key] = parse_value(value, f"{flag} {item!r}")
    return pairs


def parse_list(flag: str, text: str, single: bool = False) -> Any:
    """Values between commas; one alone is no list where `single` is allowed."""
    found = [parse_value(part.strip(), f"{flag} {text!r}") for part in text.split(",")]
    return found[0] if single and len(found) == 1 else found


def parse_numbers(flag: str, text: str) -> list[float]:
    """Numbers between commas."""
    found = parse_list(flag, text)
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in found):
        raise InputError(f"{flag} {text!r} is not a list of numbers, such as 0.485,0.456,0.406")
    return [float(number) for number in found]
