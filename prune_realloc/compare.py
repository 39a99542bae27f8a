"""Runs against each other: accuracy, cost and speed, with intervals over seeds and paired against a control.

Runs whose names differ only in `seed` belong together. An interval is Student's, at 95 %; a difference to the control
is taken seed by seed, so that what a seed does to both does not count.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from prune_realloc.analysis import write_file
from prune_realloc.bench import bench
from prune_realloc.checkpoint import load_model
from prune_realloc.efficientvit_config import EfficientVitConfig
from prune_realloc.errors import InputError
from prune_realloc.export import deployed
from prune_realloc.session import input_shape

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    """Of the last network, by seed."""
    macs: int | None
    """Multiply-adds for one image, where the configuration tells them."""
    params: int
    mean: float
    half_width: float | None
    """Of the 95 % interval of the mean; None with one seed."""
    difference: float | None
    """To the control, mean over the seeds that both have; None for the control."""
    difference_half_width: float | None
    folder: str
    """Of its first run."""
    latency_ms: float | None = None
    """Median for one image, of the deploy form on the CPU."""


def compare(folders: Sequence[str | Path], control: str | None = None) -> tuple[Group, ...]:
    """Groups in the order in which their first runs are given.

    Args:
        folders: of finished runs.
        control: name of the group that the others are compared with; default: the first whose name has `control`.

    Raises:
        InputError: a folder holds no finished run, a seed is there twice, or there is no such control.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for folder in folders:
        result = _result(Path(folder))
        seed = int(result["config"]["seed"])
        name = _name(Path(folder), seed)
        if seed in runs.setdefault(name, {}):
            raise InputError(f"run {str(folder)!r}: seed {seed} of {name} is given twice; leave one out")
        runs[name][seed] = result
    if control is None:
        control = next((name for name in runs if "control" in name), None)
    elif control not in runs:
        raise InputError(f"control {control!r} is none of the groups {', '.join(runs)}")
    base = runs.get(control or "", {})
    return tuple(_group(name, by_seed, {} if name == control else base) for name, by_seed in runs.items())


def with_latency(groups: Sequence[Group], seconds: float = 2.0) -> tuple[Group, ...]:
    """Measures all groups' networks in turns, so that they are timed alike."""
    nets = {group.name: deployed(load_model(ckpt=Path(group.folder) / "last")) for group in groups}
    shapes = {input_shape(net) for net in nets.values()}
    if len(shapes) > 1:
        raise InputError(f"the networks take images of {len(shapes)} sizes; leave --bench out, or compare those of one")
    found = bench(nets, shapes.pop(), batch_sizes=(1,), seconds=seconds)
    return tuple(
        replace(group, latency_ms=timing.median_ms) for group, timing in zip(groups, found.timings, strict=True)
    )


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    quantile = _T[count - 2] if count - 1 <= len(_T) else 1.96 + 2.5 / (count - 1)
    return quantile * float(np.std(values, ddof=1)) / sqrt(count)


def write_plot(groups: Sequence[Group], path: Path) -> None:
    """Accuracy over multiply-adds, parameters and, where it was measured, latency, with intervals."""
    costs: list[tuple[str, str, float]] = [("macs", "MACs, millions", 1e6), ("params", "parameters, millions", 1e6)]
    if any(group.latency_ms is not None for group in groups):
        costs.append(("latency_ms", "ms for one image", 1.0))
    figure = Figure(figsize=(4.5 * len(costs), 3.8), layout="constrained")
    for axis, (field, label, unit) in zip(figure.subplots(1, len(costs), sharey=True), costs, strict=True):
        for group in groups:
            cost = getattr(group, field)
            if cost is not None:
                axis.errorbar(cost / unit, 100 * group.mean, 100 * (group.half_width or 0), fmt="o", capsize=3,
                              label=group.name)  # fmt: skip
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1, %")
    figure.axes[1].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".") or "png", dpi=150, metadata={"Software": None})
    write_file(path, buffer.getvalue())


def _group(name: str, by_seed: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> Group:
    seeds = tuple(sorted(by_seed))
    top1 = tuple(float(by_seed[seed]["top1"]) for seed in seeds)
    pairs = [by_seed[seed]["top1"] - base[seed]["top1"] for seed in seeds if seed in base]
    first = by_seed[seeds[0]]
    return Group(
        name=name, seeds=seeds, top1=top1, macs=first["macs"], params=first["params"], mean=float(np.mean(top1)),
        half_width=interval(top1), difference=float(np.mean(pairs)) if pairs else None,
        difference_half_width=interval(pairs), folder=first["folder"],
    )  # fmt: skip


def _result(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "result.json").read_text())
        config = json.loads((folder / "last" / "config.json").read_text())
        found["macs"] = None
        if config["architecture"] == "efficientvit_flex":
            found["macs"] = EfficientVitConfig(**config["model_args"]).cost.macs
        return found | {"top1": float(found["top1"]), "folder": str(folder)}
    except FileNotFoundError as error:
        raise InputError(f"run {str(folder)!r} is not finished: it has no {Path(str(error.filename)).name}; start its "
                         "command again") from error  # fmt: skip
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"run {str(folder)!r} is damaged ({error!r}); train it again in another folder") from error


def _name(folder: Path, seed: int) -> str:
    """The folder's name without its seed."""
    name = folder.name
    for ending in (f"-seed{seed}", f"_seed{seed}", f"-{seed}", f"_{seed}"):
        name = name.removesuffix(ending)
    return name
