"""What goes wrong without being our bug: the user's input, or the work itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """The user's input is wrong; the message is one line that names the field, the value and the remedy.

    The command line prints it and exits with code 2. Our own bugs raise other exceptions.
    """


class NotFinite(InputError):
    """A network's predictions are not finite on the user's images."""


class WorkFailed(RuntimeError):
    """The work could not be done, although the input was right."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, to quote in ours; the exception's name where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_fault(error: ValidationError) -> str:
    """The first field of a file that does not fit, and why."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}"


def one_line(text: str) -> str:
    """The text with line breaks and all that a terminal would obey spelled out; file names and keys may hold both."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def require_at_least(name: str, value: float | None, least: float) -> None:
    """Raises InputError where `value` is given and smaller, or no number."""
    if value is not None and not value >= least:
        raise InputError(f"{name} must be at least {least}, got {value}")
