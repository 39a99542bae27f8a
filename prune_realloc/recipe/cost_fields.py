"""Fields of recipes that follow from the kinds of cost: one for each of `KINDS`. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, StrictStr, WithJsonSchema, create_model

from prune_realloc.core.cost import KINDS, CostKind
from prune_realloc.recipe.fields import Count, Natural, Part, unknown

FieldOfKind = Callable[[CostKind], tuple[Any, Any]]
"""Kind of cost -> type of the field and pydantic's `Field` with its default and its description."""


def _known_kind(value: Any) -> Any:
    if value not in list(KINDS):
        raise ValueError(unknown("value", value, KINDS))
    return value


KindName = Annotated[StrictStr, BeforeValidator(_known_kind), WithJsonSchema({"enum": list(KINDS), "type": "string"})]


class CostPart(Part):
    """A part of a recipe that has fields for each kind of cost, such as `macs` and `keep_macs`."""

    if TYPE_CHECKING:  # the fields are made by `per_kind` when the module is imported

        def __getattr__(self, name: str) -> Any: ...


_Part = TypeVar("_Part", bound=CostPart)


def per_kind(name: str, field: FieldOfKind) -> Callable[[type[_Part]], type[_Part]]:
    """A decorator that gives a part one more field for each kind of cost, after the fields that it has.

    Args:
        name: of the field, with `{}` where the kind's name goes, such as `keep_{}`.
        field: what the field holds.
    """

    def extended(part: type[_Part]) -> type[_Part]:
        fields: dict[str, Any] = {name.format(kind.name): field(kind) for kind in KINDS.values()}
        made: type[_Part] = create_model(
            part.__name__, __base__=part, __doc__=part.__doc__, __module__=part.__module__, **fields
        )
        return made

    return extended


def amount_type(kind: CostKind) -> Any:
    """The type of what one network costs."""
    return Count if kind.least else Natural


def size_help(kind: CostKind, example: str) -> str:
    """How a budget of this kind is written, for the description of its field."""
    shown = ", ".join(filter(None, (example, kind.large_example)))
    return f"{kind.noun.capitalize()}{kind.scope}: {shown} or a whole number."
