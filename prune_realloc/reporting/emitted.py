"""The emitted networks: drawn to scale beside each other, and where their cost goes."""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.pages.content import Boxes, Figure, Panel, Table
from prune_realloc.reporting.tables import on_page, owners
from prune_realloc.results.tables import variant_facts, variant_tables
from prune_realloc.results.variant import Variant
from prune_realloc.results.variant_rows import cost_rows, width_columns, width_rows


def emitted_panel(variants: Mapping[str, Variant]) -> Panel:
    """Each reallocated network and its controls."""
    parts: list[Figure | Table] = []
    owner = owners(variants)
    for folder, variant in variants.items():
        shares, widths = variant_tables(variant)
        parts += [_drawing(variant, owner[folder]), _costs(variant, owner[folder])]
        parts += [on_page(widths, owner[folder]), on_page(shares, owner[folder])]
    return Panel(
        title="The next network",
        text="An EfficientViT whose widths follow from what pruning showed, beside two controls of equal cost: the "
        "uniform network, as one would draw it by hand, and the one that the same rules give without any "
        "measurement.",
        lines=tuple(owner[folder] + line for folder, variant in variants.items() for line in variant_facts(variant)),
        notes=tuple(
            owner[folder] + note
            for folder, variant in variants.items()
            for note in (() if variant.latency is None else variant.latency.notes)
        ),
        parts=tuple(parts),
    )


def _costs(variant: Variant, owner: str) -> Table:
    """What each network costs, with its latency where that was measured."""
    names = tuple(variant.configs())
    return Table(title=f"{owner}What each costs", columns=("", *names), rows=tuple(cost_rows(variant, names)))


def _drawing(variant: Variant, owner: str) -> Figure:
    columns = tuple(width_columns(variant))
    rows = tuple(row[:-1] for row in width_rows(variant))
    return Figure(
        title=f"{owner}The networks, drawn to scale",
        text="Stages from top to bottom, one scale for all: the frame is as wide as the stage has channels, the bars "
        "are all heads' Q/K and V and the FFN's hidden units. The uniform control comes first.",
        drawings=tuple(_boxes(name, config) for name, config in variant.configs().items()),
        table=Table(title="widths; of each head for qk and v", columns=columns, rows=rows),
    )


def _boxes(name: str, config: EfficientVitConfig) -> Boxes:
    """A stage's first block stands for those that are like it; blocks that differ are drawn one by one."""
    stages = []
    for stage, depth in enumerate(config.depth):
        blocks = [block for block in config.blocks if block.stage == stage]
        shapes = list(dict.fromkeys((b.embed, b.heads, b.qk, b.v, b.ffn) for b in blocks))
        for number, (embed, heads, qk, v, ffn) in enumerate(shapes):
            what = f"stage {stage}" if len(shapes) == 1 else f"stage {stage}, block {number}"
            times = f" x {depth}" if len(shapes) == 1 and depth > 1 else ""
            parts = (
                ("channels", embed, f"{embed} channels"),
                ("Q/K", heads * qk, f"Q/K {heads} x {qk}"),
                ("V", heads * v, f"V {heads} x {v}"),
                ("FFN", ffn, f"FFN {ffn}"),
            )
            stages.append((f"{what}{times}: {embed} channels", parts))
    return Boxes(title=name, stages=tuple(stages))
