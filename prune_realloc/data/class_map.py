"""Files that say which label a class has: a name a line, names with numbers, or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prune_realloc.core.errors import InputError, first_line

SYNSET = re.compile(r"n\d{8}")
"""What ImageNet calls a class."""
_IN_CONFIG = ("label_names", "id2label", "label2id")
"""Where a network's config.json has them."""
_SEPARATED, _SPACED = r"\s*[,;:\t]\s*", r" +"
"""What may be between a name and a number."""
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
    pairs = _from_json(file, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(file, text)
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


def _from_lines(file: str, text: str) -> list[tuple[str, int]]:
    """Names and labels of lines.

    With a comma, semicolon, colon or tab between them a number is a label. After a space it may belong to the name, and
    is a label where the numbers count from 0 or 1 and all names differ without them.

    Raises:
        InputError: it cannot be told.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(SYNSET.match(line) for line in lines) and not all(SYNSET.fullmatch(line) for line in lines):
        found = [re.fullmatch(rf"({SYNSET.pattern})[\s,;:]+(\d+)", line) for line in lines]
        if all(found):
            return [(m[1], int(m[2])) for m in found if m]
        return _numbered(lines, _SEPARATED) or [(line[:9], label) for label, line in enumerate(lines)]
    if pairs := _numbered(lines, _SEPARATED):
        return pairs
    below = _numbered(lines[1:], _SEPARATED)
    if below and re.search(_SEPARATED, lines[0]):
        return below  # of a header
    pairs = _numbered(lines, _SPACED)
    if _counts(pairs):
        return pairs
    if below or _distinct(pairs) or (len(lines) > 2 and _counts(_numbered(lines[1:], _SPACED))):
        raise InputError(
            f"class_map {file!r}: whether numbers such as that of {lines[-1]!r} are labels or belong to the names is "
            "unclear; write a comma between name and label on every line, or a JSON list of names"
        )
    return [(line, label) for label, line in enumerate(lines)]


def _numbered(lines: list[str], between: str) -> list[tuple[str, int]]:
    """Names and numbers of lines that each end, or each begin, with a number; nothing where they do not."""
    found = []
    for pattern, name, label in ((rf"(.*\S)(?:{between})(\d+)", 1, 2), (rf"(\d+)(?:{between})(\S.*)", 2, 1)):
        matches = [re.fullmatch(pattern, line) for line in lines]
        if matches and all(matches):
            found.append([(m[name].strip("\"'"), int(m[label])) for m in matches if m])
    # of numbers on both sides, those are the labels that are there once
    return min(found, key=lambda pairs: len({label for _, label in pairs}) < len(pairs), default=[])


def _distinct(pairs: list[tuple[str, int]]) -> bool:
    """Whether no name and no number is there twice."""
    return bool(pairs) and all(len({*column}) == len(pairs) for column in zip(*pairs, strict=True))


def _counts(pairs: list[tuple[str, int]]) -> bool:
    """Whether the numbers are 0 to n - 1, or 1 to n, and all names differ."""
    numbers = sorted(number for _, number in pairs)
    return _distinct(pairs) and numbers == [*range(numbers[0], numbers[0] + len(pairs))] and numbers[0] in (0, 1)
