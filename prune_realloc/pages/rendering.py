"""The text of pages: templates in `templates/`, filled in with values."""

from __future__ import annotations

import re
import shlex
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_TEMPLATES = Environment(
    loader=PackageLoader("prune_realloc.pages"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "number": format,
    "quoted": shlex.quote,
    # what Markdown would read as markup (an underscore inside a word is none), and a line break, which ends a line
    "literal": lambda text: re.sub(r"[\\`*\[\]<>|#]|\b_|_\b", r"\\\g<0>", " ".join(str(text).split())),
}


def render(template: str, **values: Any) -> str:
    """A file of `templates/` with its values filled in; what goes into HTML is escaped."""
    return _TEMPLATES.get_template(template).render(values)
