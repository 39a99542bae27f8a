"""Files that say which label a class has: a name a line, names with numbers, or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prune_realloc.core.errors import InputError, first_line

_SYNSET = re.compile(r"n\d{8}")
_IN_CONFIG = ("label_names", "id2label", "label2id")
"""Where a network's config.json has them."""
_WAYS = "a name on each line, lines of name and number, a JSON list, or a JSON object of names and numbers"


def read_class_map(file: str) -> dict[str, int]:
    """Class name -> label, from a file.

    Raises:
        InputError: there is no such file, it is none of the formats, or it says one thing twice.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"class_map {file!r} cannot be read as text ({first_line(error)}); write {_WAYS}") from error
    pairs = _from_json(file, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(text)
    if not pairs:
        raise InputError(f"class_map {file!r} names no classes; write {_WAYS}")
    for place, what in ((0, "class"), (1, "label")):
        seen = set()
        for pair in pairs:
            if pair[place] in seen:
                raise InputError(f"class_map {file!r} has the {what} {pair[place]!r} twice; name each once")
            seen.add(pair[place])
    if min(label for _, label in pairs) < 0:
        raise InputError(f"class_map {file!r} has a label below 0; count labels from 0")
    return dict(pairs)


def _from_json(file: str, text: str) -> list[tuple[str, int]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"class_map {file!r} is no JSON ({first_line(error)}); write {_WAYS}") from error
    pairs = _pairs(value)
    if pairs is None:
        raise InputError(f"class_map {file!r} is JSON of another kind; write {_WAYS}")
    return pairs


def _pairs(value: Any) -> list[tuple[str, int]] | None:
    """Names and labels of a JSON value; None: it has none."""
    if isinstance(value, dict):
        own = value.get("pretrained_cfg")
        for config in (value, own if isinstance(own, dict) else {}):
            for key in _IN_CONFIG:
                if isinstance(config.get(key), list | dict):
                    return _pairs(config[key])
        if all(type(label) is int for label in value.values()):
            return [(name, label) for name, label in value.items()]
        if all(key.isdecimal() for key in value):
            names = [(_name(name), int(label)) for label, name in value.items()]
            return None if any(name is None for name, _ in names) else [(str(name), label) for name, label in names]
        return None
    named = [_name(name) for name in value]
    return None if None in named else [(str(name), label) for label, name in enumerate(named)]


def _name(value: Any) -> str | None:
    """A class name; of a list of its names, as ImageNet's class index has them, the first."""
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) else None


def _from_lines(text: str) -> list[tuple[str, int]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(_SYNSET.match(line) for line in lines) and not all(_SYNSET.fullmatch(line) for line in lines):
        with_number = _numbered(lines)
        return with_number or [(line.split()[0], label) for label, line in enumerate(lines)]
    return _numbered(lines) or _numbered(lines[1:]) or [(line, label) for label, line in enumerate(lines)]


def _numbered(lines: list[str]) -> list[tuple[str, int]] | None:
    """Lines that each end, or each begin, with a number; None where they do not."""
    for pattern, name, label in ((r"(.*\S)(?:\s*[,;:]\s*|\s+)(\d+)", 1, 2), (r"(\d+)(?:\s*[,;:]\s*|\s+)(\S.*)", 2, 1)):
        found = [re.fullmatch(pattern, line) for line in lines]
        if found and all(found):
            pairs = [(m[name].strip("\"'"), int(m[label])) for m in found if m]
            if len({number for _, number in pairs}) == len(pairs):
                return pairs
    return None
