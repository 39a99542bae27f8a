"""A configuration of somebody else's, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prune_realloc.core.errors import InputError


@dataclass(frozen=True)
class Stated:
    """A configuration in which every field is looked at before it is used."""

    content: Mapping[str, Any]
    name: str = "config.json"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the library takes where the configuration says nothing."""

    def get(self, key: str) -> Any:
        value = self.content.get(key)
        return self.defaults.get(key) if value is None else value

    def whole(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**16:
            raise self.wrong(key, "a positive whole number")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise self.wrong(key, "a number")
        return float(value)

    def wrong(self, key: str, wanted: str) -> InputError:
        return InputError(f"{self.name}: {key} {self.get(key)!r} is not {wanted}; correct the file")
