"""The files of the table: JSON lines, the first of which says what they are. README.md has the format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune_realloc import InputError
from prune_realloc.core.files import make_folder, write_files

FORMAT = 1
RANDOM, STRUCTURED = "random", "structured"
CHOOSE, REPORT = "choose", "report"

Row = dict[str, Any]


@dataclass
class Table:
    """Trainings on one data set at one budget; what they come to on test images lies in a file of its own."""

    folder: Path
    name: str
    head: Row
    rows: list[Row]
    tests: list[Row]

    @classmethod
    def open(cls, folder: Path, data: str, budget: int, settings: Mapping[str, Any]) -> Table:
        """The table in a folder, or a new one.

        Raises:
            InputError: the one that is there has another format, or other settings.
        """
        head: Row = {"format": FORMAT, "data": data, "budget": budget, "settings": dict(settings)}
        name = f"{data}_{budget / 1e6:g}M"
        path, tests = folder / f"{name}.jsonl", folder / f"{name}_test.jsonl"
        make_folder(folder)
        if not path.exists():
            return cls(folder, name, head, [], [])
        have, rows = read(path)
        if have != head:
            field = next(key for key in head if have.get(key) != head[key])
            raise InputError(f"{path}: {field} is {have.get(field)} there, {head[field]} now; choose other --tables")
        done = {(row["name"], row["seed"]) for row in rows}  # a kill between the two files leaves one more test
        return cls(folder, name, head, rows, [row for row in read(tests)[1] if (row["name"], row["seed"]) in done])

    def has(self, name: str, seed: int, widths: Mapping[str, Sequence[int]]) -> bool:
        """Whether this training is done.

        Raises:
            InputError: it is, with other widths.
        """
        found = next((row for row in self.rows if (row["name"], row["seed"]) == (name, seed)), None)
        if found is not None and found["widths"] != json.loads(json.dumps(widths)):
            raise InputError(f"{self.name}.jsonl: {name} has other widths there; move the table away")
        return found is not None

    def add(self, row: Row, test: Row) -> None:
        """Write both files anew, first that of the tests."""
        self.rows.append(json.loads(json.dumps(row)))
        self.tests.append({"name": row["name"], "seed": row["seed"]} | test)
        contents = {f"{self.name}_test.jsonl": self.tests, f"{self.name}.jsonl": self.rows}
        lines = {
            name: "".join(json.dumps(line) + "\n" for line in (self.head, *rows)) for name, rows in contents.items()
        }
        write_files(self.folder, {name: text.encode() for name, text in lines.items()})


def read(path: Path) -> tuple[Row, list[Row]]:
    """Head and rows of a file.

    Raises:
        InputError: it is none, or of another format.
    """
    try:
        head, *rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = head["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no table of widths ({type(error).__name__}); give a file of table.py") from error
    if found != FORMAT:
        raise InputError(f"{path} has format {found}, this is for {FORMAT}; make it anew, or take the script of then")
    return head, rows
