"""What `candidates.py` says of both tables and halves, as results.md.

    python examples/width_table/results.py runs/width_table/analysis-fashion

The analysis is the shipped ViT's, which `table.py` writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from candidates import report
from rows import CHOOSE, REPORT

from prune_realloc import InputError
from prune_realloc.core.files import write_file

HERE = Path(__file__).parent
HEAD = """# What the tables say so far

What `candidates.py` prints, of tables that are not complete (README has the plan); `table.py` wrote the analysis, of
the shipped ViT, which saw Fashion-MNIST."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analysis", type=Path)
    args = parser.parse_args(argv)
    parts = [HEAD]
    try:
        for data in ("cifar10", "fashion"):
            for half in (CHOOSE, REPORT):
                table, named = f"{data}_2M.jsonl", f"fashion={args.analysis}"
                command = f"candidates.py examples/width_table/{table} --half {half} --analysis {named}"
                found = report(HERE / table, [named], half)
                parts += [f"## {data}, half `{half}`", f"    python examples/width_table/{command}", found]
    except InputError as error:
        parser.error(str(error))
    write_file(HERE / "results.md", ("\n\n".join(parts) + "\n").encode())


if __name__ == "__main__":
    main()
