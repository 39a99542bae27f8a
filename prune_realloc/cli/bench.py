"""The verb `bench`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from prune_realloc.cli.console import print_table, quiet_libraries, say, show_lines
from prune_realloc.cli.networks import compared, name_of, opened
from prune_realloc.cli.options import (
    RUN,
    CompareWith,
    Device,
    Json,
    Seed,
    SourceArgs,
    SourceModel,
    option,
    require_writable,
    source_flags,
)
from prune_realloc.core.names import count_threads
from prune_realloc.recipe.document import Source


def bench(
    network: Annotated[Source, source_flags("ckpt", "model", "ema", "img_size", "model_args", path=True)],
    source: CompareWith = None,
    source_model: SourceModel = None,
    source_arg: SourceArgs = None,
    batch_size: Annotated[
        list[int] | None, option(RUN, "--batch-size", help="May be repeated. Default: 1 and 32.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        option(RUN, "--backend", help="eager, compiled or onnxruntime; may be repeated. Default: eager."),
    ] = None,
    threads: Annotated[int | None, option(RUN, "--threads", help="CPU threads. Default: PyTorch's.")] = None,
    seconds: Annotated[float, option(RUN, "--seconds", help="Per network, backend and batch size.")] = 3.0,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for bench.json, which `report` shows.")] = None,
    as_json: Json = False,
) -> None:
    """Latency and throughput; with --source both networks in turns, and whether the model is faster at all."""
    with quiet_libraries():
        from prune_realloc.checkpoints.facts import plain_facts
        from prune_realloc.core.files import write_file
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.bench import BENCH_FILE
        from prune_realloc.results.bench import bench as run
        from prune_realloc.results.evaluate import load_source, require_same_input, source_facts
        from prune_realloc.results.export import deployed

        if out is not None:
            require_writable(out)
        net = opened(network)
        taken = plain_facts(net)
        models, second, named = {"model": deployed(net)}, {}, {"model": name_of(network)}
        if (origin := compared(source, source_model, source_arg or [])) is not None:
            before = load_source(origin, img_size=network.img_size)
            require_same_input(net, before)
            second, named = {"source": source_facts(before)}, {"source": name_of(origin)} | named
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
        found = replace(found, named=named)
    where = f"{found.device_name} ({found.device}), {count_threads(found.threads)}, images {found.input_shape}"
    print_table(found, as_json, where, found.columns(), found.rows(), found.notes, taken=taken, second=second)
    if not as_json:
        show_lines(*found.verdicts())
    if out is not None:
        write_file(out / BENCH_FILE, found.file())
        say(f"wrote {out / BENCH_FILE}")
