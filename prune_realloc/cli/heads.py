"""The verb `heads`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from prune_realloc.cli.console import print_table, quiet_libraries
from prune_realloc.cli.options import ALL_SOURCE, OPENED, BatchSize, Device, Json, Workers, data_flags, source_flags
from prune_realloc.recipe.document import Data, Source

if TYPE_CHECKING:
    from prune_realloc.verbs.heads import BlockHeads, Likeness

_COLUMNS = ("site", "heads", "maps alike", "most", "outputs alike", "most", "least lost", "head", "most lost", "head")


def heads(
    source: Annotated[Source, source_flags(*ALL_SOURCE, path=True)],
    data: Annotated[
        Data,
        data_flags(*OPENED, "samples", "seed", defaults={"samples": 256}, help={"samples": "How many images."}),
    ],
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How alike the heads of each block are, and what removing each one costs on real images.

    Without a checkpoint and --model: the ViT and the images that the package ships.
    """
    with quiet_libraries():
        from prune_realloc.verbs.heads import heads as run

        found = run(source, data=data, batch_size=batch_size, workers=workers, device=device)
    lost = "loss at the labels" if found.labelled else "KL to the whole network"
    title = f"cosine similarity between heads, and nats per image ({lost}) without one; {found.samples} images"
    print_table(found, as_json, title, _COLUMNS, [_row(block) for block in found.blocks], found.notes)


def _row(block: BlockHeads) -> tuple[str, ...]:
    order = sorted(range(block.heads), key=lambda head: block.removal[head])
    least, most = order[0], order[-1]
    return (
        block.site,
        str(block.heads),
        *_cells(block.maps),
        *_cells(block.outputs),
        f"{block.removal[least]:.2g}",
        str(least),
        f"{block.removal[most]:.2g}",
        str(most),
    )


def _cells(likeness: Likeness | None) -> tuple[str, str]:
    return ("", "") if likeness is None else (f"{likeness.mean:.2f}", f"{likeness.largest:.2f}")
