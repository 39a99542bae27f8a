"""The verb `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from prune_realloc.cli.console import print_table, quiet_libraries, say, show_lines
from prune_realloc.cli.networks import compared, opened
from prune_realloc.cli.options import (
    RUN,
    CompareWith,
    Device,
    Json,
    Seed,
    SourceArgs,
    SourceModel,
    option,
    source_flags,
)
from prune_realloc.recipe.document import Source

if TYPE_CHECKING:
    from prune_realloc.results.bench import Timing

_COLUMNS = ("backend", "batch", "model", "median ms", "iqr ms", "min ms", "images/s", "speed-up", "95 %")


def bench(
    network: Annotated[Source, source_flags("ckpt", "model", "ema", "img_size", "model_args", path=True)],
    source: CompareWith = None,
    source_model: SourceModel = None,
    source_arg: SourceArgs = None,
    batch_size: Annotated[
        list[int] | None, option(RUN, "--batch-size", help="May be repeated. Default: 1 and 32.")
    ] = None,
    backend: Annotated[
        list[str] | None, option(RUN, "--backend", help="eager, compiled or onnx; may be repeated. Default: eager.")
    ] = None,
    threads: Annotated[int | None, option(RUN, "--threads", help="CPU threads. Default: PyTorch's.")] = None,
    seconds: Annotated[float, option(RUN, "--seconds", help="Per network, backend and batch size.")] = 3.0,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Latency and throughput; with --source both networks in turns, and whether the model is faster at all."""
    with quiet_libraries():
        from prune_realloc.checkpoints.facts import plain_facts
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.bench import bench as run
        from prune_realloc.results.evaluate import load_source, require_same_input, source_facts
        from prune_realloc.results.export import deployed

        net = opened(network)
        taken = plain_facts(net)
        models, second = {"model": deployed(net)}, {}
        if (origin := compared(source, source_model, source_arg or [])) is not None:
            before = load_source(origin, img_size=network.img_size)
            require_same_input(net, before)
            second = {"source": source_facts(before)}
            models = {"source": deployed(before)} | models
        found = run(
            models,
            input_shape(net),
            batch_sizes=batch_size or (1, 32),
            backends=backend or ("eager",),
            threads=threads,
            device=device,
            seconds=seconds,
            seed=seed,
            progress=lambda what: say(f"timing {what}"),
        )
    where = f"{found.device_name} ({found.device}), {found.threads} threads, images {found.input_shape}"
    rows = [_row(timing, found.reference) for timing in found.timings]
    print_table(found, as_json, where, _COLUMNS, rows, found.notes, taken=taken, second=second)
    if not as_json:
        show_lines(*found.verdicts())


def _row(timing: Timing, reference: str) -> tuple[str, ...]:
    low, high = timing.speedup_interval
    ratio = ("", "") if timing.model == reference else (f"{timing.speedup:.2f}", f"{low:.2f}-{high:.2f}")
    return (
        timing.backend,
        str(timing.batch_size),
        timing.model,
        f"{timing.median_ms:.2f}",
        f"{timing.iqr_ms:.2f}",
        f"{timing.min_ms:.2f}",
        f"{timing.images_per_second:.1f}",
        *ratio,
    )
