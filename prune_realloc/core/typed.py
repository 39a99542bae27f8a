"""Files that a verb wrote, read into the dataclass that declares their shape: every field of its type, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from prune_realloc.core.errors import InputError, first_fault

Kind = TypeVar("Kind")

AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def read_typed(kind: type[Kind], path: Path, remedy: str = "make it again") -> Kind:
    """A JSON file as an object of a dataclass, with the type of every field checked; what more there is, is left.

    Raises:
        InputError: it cannot be read, or a field is missing or of another type; the message names the first.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is damaged ({first_fault(error)}); {remedy}") from error


def holding(kind: type) -> AfterValidator:
    """Of a mapping, which stays as it is: what it has of the fields of a dataclass is of their types."""
    return AfterValidator(lambda found: _checked(TypeAdapter(kind), found))


def _checked(kind: TypeAdapter[Any], found: Any) -> Any:
    try:
        kind.validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        raise PydanticCustomError("fields", "{fault}", {"fault": first_fault(error)}) from error
    return found
