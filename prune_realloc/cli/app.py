"""The command line: one row a verb. Heavy imports stay inside the verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from prune_realloc import __version__
from prune_realloc.cli.analyze import analyze
from prune_realloc.cli.apply import apply
from prune_realloc.cli.bench import bench
from prune_realloc.cli.compare import compare
from prune_realloc.cli.demo import demo
from prune_realloc.cli.emit import emit
from prune_realloc.cli.evaluate import evaluate
from prune_realloc.cli.export import export
from prune_realloc.cli.flags import with_flags
from prune_realloc.cli.grow import grow
from prune_realloc.cli.heads import heads
from prune_realloc.cli.plan import plan
from prune_realloc.cli.profile import profile
from prune_realloc.cli.recipes import recipes
from prune_realloc.cli.report import report
from prune_realloc.cli.sweep import sweep
from prune_realloc.cli.train import train
from prune_realloc.cli.validate import validate
from prune_realloc.core.errors import InputError, WorkFailed, one_line

VERBS: dict[str, Callable[..., None]] = {
    "analyze": analyze,
    "plan": plan,
    "apply": apply,
    "sweep": sweep,
    "emit": emit,
    "train": train,
    "grow": grow,
    "compare": compare,
    "recipes": recipes,
    "validate": validate,
    "eval": evaluate,
    "bench": bench,
    "profile": profile,
    "heads": heads,
    "report": report,
    "export": export,
    "demo": demo,
}
"""In the order of `--help`."""

app = typer.Typer(
    help="Find where a trained Vision Transformer keeps the parameters that matter.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for name, verb in VERBS.items():
    app.command(name)(with_flags(verb))


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: exit code 0 done, 1 the work failed, 2 the user's input is wrong."""
    try:
        app()
    except InputError as error:
        print(f"prune-realloc: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except WorkFailed as error:
        print(f"prune-realloc: {one_line(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("prune-realloc: interrupted; nothing was left half-written", file=sys.stderr)
        sys.exit(130)
