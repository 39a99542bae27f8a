"""The text of pages: templates in `templates/`, filled in with values."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_TEMPLATES = Environment(
    loader=PackageLoader("prune_realloc.results"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["number"] = format


def render(template: str, **values: Any) -> str:
    """A file of `templates/` with its values filled in; what goes into HTML is escaped."""
    return _TEMPLATES.get_template(template).render(values)
