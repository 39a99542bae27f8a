"""What `bench` and `eval` found of networks, apart from the cut."""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.core.names import count_threads
from prune_realloc.pages.content import Panel, Table
from prune_realloc.reporting.tables import owners
from prune_realloc.results.bench import Bench
from prune_realloc.results.evaluate import Evaluation


def measured_panel(benches: Mapping[str, Bench], evaluations: Mapping[str, Evaluation]) -> Panel:
    """Tables of times and of accuracy, each with what was measured on what."""
    owner = owners({**benches, **evaluations})
    return Panel(
        title="Measured",
        text="Times of one batch, all networks in turns, and how right the network is on labelled images.",
        lines=tuple(owner[folder] + line for folder, found in benches.items() for line in found.verdicts()),
        notes=tuple(
            owner[folder] + note
            for found in (benches, evaluations)
            for folder, each in found.items()
            for note in each.notes
        ),
        parts=(
            *(_accuracy(found, owner[folder]) for folder, found in evaluations.items()),
            *(_times(found, owner[folder]) for folder, found in benches.items()),
        ),
    )


def _accuracy(found: Evaluation, owner: str) -> Table:
    return Table(title=f"{owner}accuracy, {found.title}", columns=("measure", "value"), rows=tuple(found.rows()))


def _times(found: Bench, owner: str) -> Table:
    where = f"{found.device_name}, {count_threads(found.threads)}"
    named = "; ".join(f"{model}: {name}" for model, name in found.named.items())
    title = f"{owner}times on {where}{f' ({named})' if named else ''}"
    return Table(title=title, columns=found.columns(), rows=tuple(found.rows()))
