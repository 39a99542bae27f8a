"""The rules of a recipe: what one axis must or must not do, in all blocks or in some. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, StrictBool, Tag, WithJsonSchema

from prune_realloc.recipe.fields import Conflict, Count, Part, Share, shown

_RANGES = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(, ?[0-9]{1,5}(-[0-9]{1,5})?)*")


def _block_numbers(value: Any) -> Any:
    if value is not None and not block_ranges(value):
        raise ValueError(f'must be a block number, a range "4-11", a mix "0,3-5" or a list, got {shown(value)}')
    return value


def block_ranges(blocks: Any) -> list[range]:
    """The blocks that `blocks` names; empty where it is not the name of any."""
    items = blocks if isinstance(blocks, list) else [blocks]
    if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
        return [range(item, item + 1) for item in items]
    if not isinstance(blocks, str) or not _RANGES.fullmatch(blocks):
        return []
    ends = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in blocks.split(","))]
    return [range(first, last + 1) for first, last in ends] if all(a <= b for a, b in ends) else []


_Blocks = Annotated[
    int | str | list[int] | None,
    BeforeValidator(_block_numbers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{_RANGES.pattern}$"},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {"type": "null"},
            ]
        }
    ),
]


class Rule(Part):
    """What one axis must or must not do, in all blocks or some; later rules override earlier ones."""

    blocks: _Blocks = None
    """Block numbers of the source: 7, "4-11", "0,3-5" or [0, 1]. Default: all blocks."""
    keep: Share | None = None
    """Share of the width that stays, above 0 and at most 1; needs no budget. Excludes width."""
    width: Count | None = None
    """Units that stay, exactly; for qk and v in each head. Needs no budget. Excludes keep."""
    floor: Count | None = None
    """Never fewer units than this; for qk and v in each head."""
    ceiling: Count | None = None
    """Never more units than this; for qk and v in each head."""
    round_to: Count | None = None
    """Widths are multiples of this; for qk and v in each head."""
    freeze: StrictBool | None = None
    """true: nothing goes. Excludes keep and width."""

    def covers(self, block: int | None) -> bool:
        """Whether the rule speaks about this block; None is a site that belongs to no block."""
        return self.blocks is None or any(block in numbers for numbers in block_ranges(self.blocks))

    @property
    def fixes_width(self) -> bool:
        """Whether it says how much stays, so that it cuts without a budget."""
        return self.keep is not None or self.width is not None

    def _conflicts(self) -> Iterator[Conflict]:
        low, high = self.floor or 1, self.ceiling or math.inf
        if self.keep is not None and self.width is not None:
            yield Conflict(("width",), f"{self.width} excludes keep {self.keep}; remove one of the two")
        if self.freeze and self.fixes_width:
            yield Conflict(("freeze",), "true excludes keep and width; remove freeze, or the width")
        if low > high:
            yield Conflict(("floor",), f"{low} is above ceiling {high}; lower it to at most {high}")
        elif self.width is not None and not low <= self.width <= high:
            yield Conflict(("width",), f"{self.width} is outside floor and ceiling ({low} to {high}); change one")
        if self.width is not None and self.round_to is not None and self.width % self.round_to:
            down = self.width - self.width % self.round_to
            nearest = " or ".join(str(n) for n in (down, down + self.round_to) if n)
            yield Conflict(("width",), f"{self.width} is not a multiple of round_to {self.round_to}; take {nearest}")


def _one_or_many(value: Any) -> str:
    return "[many]" if isinstance(value, list) else "[one]"


OneOrMany = Annotated[Annotated[Rule, Tag("[one]")] | Annotated[list[Rule], Tag("[many]")], Discriminator(_one_or_many)]
