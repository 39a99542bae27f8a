"""The verb `bench`."""

from __future__ import annotations

import sys
from typing import Annotated

from prune_realloc.cli.console import print_table, quiet_libraries
from prune_realloc.cli.options import (
    RUN,
    CheckpointPath,
    Device,
    Ema,
    ImgSize,
    Json,
    Model,
    ModelArg,
    Seed,
    Source,
    option,
    parse_pairs,
)


def bench(
    ckpt: CheckpointPath = None,
    model: Model = None,
    ema: Ema = False,
    img_size: ImgSize = None,
    model_arg: ModelArg = None,
    source: Source = None,
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
        from prune_realloc.checkpoints.create import create_fresh
        from prune_realloc.checkpoints.load import load_model
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.bench import bench as run
        from prune_realloc.results.evaluate import load_source, require_same_input
        from prune_realloc.results.export import deployed

        args = parse_pairs(model_arg)
        if model is None or ckpt is not None or ":" in model:
            net = load_model(model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=args)
        else:
            print(f"note: {model} has new weights, times do not depend on them", file=sys.stderr)
            net = create_fresh(model, img_size=img_size, model_args=args)
        models = {"model": deployed(net)}
        if source is not None:
            before = load_source(source, img_size=img_size)
            require_same_input(net, before)
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
            progress=lambda what: print(f"timing {what}", file=sys.stderr),
        )
    columns = ("backend", "batch", "model", "median ms", "iqr ms", "min ms", "images/s", "speed-up", "95 %")
    rows = []
    for t in found.timings:
        low, high = t.speedup_interval
        ratio = ("", "") if t.model == found.reference else (f"{t.speedup:.2f}", f"{low:.2f}-{high:.2f}")
        rows.append(
            (
                t.backend,
                str(t.batch_size),
                t.model,
                f"{t.median_ms:.2f}",
                f"{t.iqr_ms:.2f}",
                f"{t.min_ms:.2f}",
                f"{t.images_per_second:.1f}",
                *ratio,
            )
        )
    where = f"{found.device_name} ({found.device}), {found.threads} threads, images {found.input_shape}"
    print_table(found, as_json, where, columns, rows)
    for line in [] if as_json else found.verdicts():
        print(line)
