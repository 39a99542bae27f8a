"""Field types of YAML documents, the base of their parts, and the words for what is wrong with a value. No torch."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[str | int, ...]
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgG]?)")
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def whole(value: Any) -> Any:
    """NumPy's integers as Python's; everything else as it is, for the strict check that follows."""
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def size(value: Any) -> Any:
    given = value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        value = Fraction(found[1]) * _SCALE[found[2].upper()]
    if isinstance(value, float | Fraction) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"must be a whole number, such as 80M, 1.2G or 600000000, got {shown(given)}")
    return operator.index(value)


def size_text(size: int) -> int | str:
    for letter in "GMK":
        tenths, rest = divmod(size * 10, _SCALE[letter])
        if tenths >= 10 and not rest:
            return f"{tenths // 10}.{tenths % 10}".removesuffix(".0") + letter
    return size


def plain(value: Any) -> Any:
    """Tuples as lists; refuses what a YAML file of plain values cannot hold."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"must hold finite numbers, text, true, false, lists and mappings only, got {shown(value)}")


Count = Annotated[int, Field(strict=True, ge=1), BeforeValidator(whole)]
Natural = Annotated[int, Field(strict=True, ge=0), BeforeValidator(whole)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Size = Annotated[
    int,
    Field(strict=True, ge=1, le=10**18),
    BeforeValidator(size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}),
]


def _one_or_pair(value: Any) -> str:
    return "[pair]" if isinstance(value, list | tuple) else "[one]"


ImageSize = Annotated[
    Annotated[Count, Tag("[one]")] | Annotated[tuple[Count, Count], Tag("[pair]")], Discriminator(_one_or_pair)
]
"""Pixels of an image: one number, or (height, width)."""
PlainDict = Annotated[dict[str, Any], BeforeValidator(plain)]


@dataclass(frozen=True)
class Conflict:
    """Fields that are right one by one, but not together."""

    loc: Location
    message: str
    about: tuple[str, ...] = ()
    """Top-level fields that the check reads, where they are more than `loc`."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    def _conflicts(self) -> Iterator[Conflict]:
        return iter(())

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        errors: list[InitErrorDetails] = [
            {
                "type": PydanticCustomError("conflict", "{message}", {"message": c.message, "about": c.about}),
                "loc": c.loc,
                "input": None,
            }
            for c in self._conflicts()
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def unknown(what: str, value: Any, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"
    return f"unknown {what} {shown(value)}; {hint}"


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
