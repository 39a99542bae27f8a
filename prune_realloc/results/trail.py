"""What a network became, round by round: its widths, what they cost, and how well it was trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_realloc.core.errors import InputError
from prune_realloc.core.files import json_file, write_files
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.figures import as_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUND = "round-"
"""What the folders of the rounds begin with, beside `TRAIL_FILE`."""
TRAIL_FILE = "trail.json"
FORMAT_VERSION = 1
COMPONENTS = ("embed", "qk", "v", "ffn")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One trained network."""

    args: Mapping[str, Any]
    """Arguments of timm's efficientvit_flex."""
    cost: Mapping[str, int]
    """Kind of cost -> what the network costs."""
    top1: float
    """Share of the evaluated images that it gets right."""
    loss: float
    """Its cross-entropy on them, nats per image."""
    kept: Mapping[str, float] | None = None
    """Width, such as blocks.3.ffn -> share of its units that pruning kept, which the next network follows from; None
    for the last."""

    @cached_property
    def config(self) -> EfficientVitConfig:
        return EfficientVitConfig(**self.args)

    def widths(self, component: str) -> list[list[int]]:
        """The different widths of a component in each stage, in the order of its blocks."""
        if component == "embed":
            return [[width] for width in self.config.embed_dim]
        stages: list[list[int]] = [[] for _ in self.config.depth]
        for block in self.config.blocks:
            stages[block.stage].append(getattr(block, component))
        return [widths[:1] if len(set(widths)) == 1 else widths for widths in stages]


@dataclass(frozen=True, kw_only=True)
class Trail:
    """All rounds that are done."""

    settings: Mapping[str, Any]
    """What must be the same when it is started again, as JSON has it."""
    rounds: tuple[Round, ...] = ()
    notes: tuple[str, ...] = ()
    """What the reader must know."""
    taken: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the trainings went by, as an analysis has it."""

    def write(self, folder: Path) -> None:
        """`trail.json`, and beside it, as soon as there is a round, `trail.md` and `trail.png`."""
        content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)
        files = {TRAIL_FILE: json_file(content)}
        if self.rounds:
            files = {"trail.md": _page(self).encode(), "trail.png": trail_figure(self.rounds)} | files
        write_files(folder, files)

    @classmethod
    def read(cls, folder: Path) -> Trail | None:
        """What `write` wrote; None where there is none.

        Raises:
            InputError: the file is damaged, or of another format version.
        """
        path = folder / TRAIL_FILE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            version = content.pop("format_version")
            if version == FORMAT_VERSION:
                rounds = tuple(Round(**values) for values in content.pop("rounds"))
                return cls(rounds=rounds, notes=tuple(content.pop("notes")), **content)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); remove its folder to start again") from error
        raise InputError(f"{path}: format_version {version!r}, this program reads {FORMAT_VERSION}")


def trail_columns() -> tuple[str, ...]:
    """The headings of `trail_rows`."""
    return ("round", *COMPONENTS, *(kind.label for kind in COST_COLUMNS), "top-1", "loss, nats")


def trail_rows(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    """One row a round; stages are separated by spaces, blocks of a stage that differ by slashes."""
    return [
        (
            str(number),
            *(" ".join("/".join(map(str, widths)) for widths in found.widths(name)) for name in COMPONENTS),
            *(f"{found.cost[kind.name]:,}" for kind in COST_COLUMNS),
            f"{found.top1:.2%}",
            f"{found.loss:.4f}",
        )
        for number, found in enumerate(rounds)
    ]


def trail_figure(rounds: Sequence[Round]) -> bytes:
    """Rounds on x: a panel for the widths of each component, a line a stage, and one for the accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.2), layout="constrained")
    *panels, last = figure.subplots(1, len(COMPONENTS) + 1)
    for panel, component in zip(panels, COMPONENTS, strict=True):
        _draw_widths(panel, rounds, component)
    panels[0].legend(fontsize=8, frameon=False)
    last.plot([100 * found.top1 for found in rounds], "o-", color="black")
    last.set_title("top-1, %", fontsize=10)
    for panel in (*panels, last):
        panel.set_xlabel("round")
        panel.set_xlim(-0.3, len(rounds) - 0.7)
        panel.locator_params(axis="x", integer=True)
        panel.grid(alpha=0.25, linewidth=0.6)
    return as_png(figure)


def _draw_widths(panel: Axes, rounds: Sequence[Round], component: str) -> None:
    """One line for each stage; where its blocks differ, one for each of them."""
    stages = len(rounds[0].config.depth)
    for stage in range(stages):
        by_round = [found.widths(component)[stage] for found in rounds]
        for block in range(max(map(len, by_round))):
            widths = [own[min(block, len(own) - 1)] for own in by_round]
            label = f"stage {stage}" if block == 0 else None
            thick = 1.5 * (stages - stage)  # narrower lines over wider ones, so stages of one width all show
            panel.plot(widths, "o-", label=label, color=f"C{stage}", linewidth=thick, markersize=3 + thick)
    panel.set_title(component, fontsize=10)
    panel.set_ylim(0, 1.1 * panel.dataLim.y1)


def _page(trail: Trail) -> str:
    rows = [trail_columns(), *trail_rows(trail.rounds)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| ---" + " | ---:" * (len(rows[0]) - 1) + " |")
    text = ["# Widths by round", *("\n".join(lines), *(f"- {note}" for note in trail.notes))]
    text.insert(1, "Stages are separated by spaces; widths of qk and v are those of one head.")
    return "\n\n".join(text) + "\n"
