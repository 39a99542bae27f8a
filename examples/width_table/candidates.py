"""The rules that were tried, each judged on a table beside what has measured nothing.

    python examples/width_table/candidates.py examples/width_table/cifar10_2M.jsonl --analysis fashion=FOLDER

FOLDER is what `prune-realloc analyze` wrote of a Vision Transformer of one stream. A rule that follows from a
measurement has to tell more than the same rule of curves that were swapped between components, and than a law that
knows the widths alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from judge import Rule, correlations, named, table, trained
from rows import CHOOSE, REPORT, read
from rules import COMPONENTS, channels_of, curves_of, law, predicted, swapped, synflow

from prune_realloc import Analysis, InputError

SHUFFLES = 19


def candidates(name: str, analysis: Analysis) -> dict[str, Rule]:
    """What one analysis foretells, as it is and of swapped curves."""
    curves, channels = curves_of(analysis), channels_of(analysis)
    found: dict[str, Rule] = {
        f"{name}: the stream": predicted(curves, ("embed",), channels),
        f"{name}: all components": predicted(curves, COMPONENTS, channels),
    }
    for seed in range(SHUFFLES):
        found[f"{name}: swapped curves {seed}"] = predicted(swapped(curves, seed), COMPONENTS, channels)
    return found


def report(path: Path, analyses: Sequence[str], half: str) -> str:
    """Every rule on one half of a table, and what the named allocations came to.

    Args:
        analyses: NAME=FOLDER each.
    """
    rules: dict[str, Rule] = {}
    for pair in analyses:
        name, _, folder = pair.partition("=")
        rules |= candidates(name, Analysis.load(folder))
    rules |= {"no measurement: channels alone": law, "no measurement: synflow": synflow}
    rows = read(path)[1]
    judged = [one for one in trained(rows) if one.half == half]
    predictions = {name: [rule(one.allocation) for one in judged] for name, rule in rules.items()}
    return f"{table(correlations(predictions, np.array([one.top1 for one in judged])))}\n\n{named(rows)}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--analysis", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--half", choices=(CHOOSE, REPORT), default=REPORT)
    args = parser.parse_args(argv)
    try:
        print(report(args.table, args.analysis, args.half))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
