"""The budget of a recipe: what must hold after rounding. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from pydantic import ConfigDict, Field

from prune_realloc.core.cost import KINDS, CostKind
from prune_realloc.recipe.cost_fields import CostPart, per_kind, size_help
from prune_realloc.recipe.fields import Conflict, Share, Size


def _share_of_source(kind: CostKind) -> tuple[Any, Any]:
    return Share | None, Field(None, description=f"Share of the source's {kind.noun}, above 0 and at most 1.")


def _absolute(kind: CostKind) -> tuple[Any, Any]:
    return Size | None, Field(None, description=size_help(kind, kind.example))


@per_kind("{}", _absolute)
@per_kind("keep_{}", _share_of_source)
class Budget(CostPart):
    """What must hold after rounding; exactly one field is set."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [f]} for f in (*(f"keep_{kind}" for kind in KINDS), *KINDS)]}
    )

    def _conflicts(self) -> Iterator[Conflict]:
        given = self.model_dump(exclude_none=True)
        if not given:
            yield Conflict((), f"is empty; set one of {', '.join(type(self).model_fields)}")
        for second in list(given)[1:]:
            first = next(iter(given))
            yield Conflict((second,), f"excludes {first} {given[first]}; keep one of the two")

    @property
    def kind(self) -> str:
        """The kind of cost that the budget counts."""
        (given,) = self.model_dump(exclude_none=True)
        return given.removeprefix("keep_")

    def limit(self, source: int) -> int:
        """The most that the pruned network may cost, of `kind`, where the source costs `source`."""
        absolute: int | None = getattr(self, self.kind)
        if absolute is not None:
            return absolute
        share = getattr(self, f"keep_{self.kind}")
        # as the decimal that was written: 0.29 of 100 is 29, although 0.29 * 100 is 28.999...
        return int(Fraction(str(share)) * source)
