"""Runs against each other: accuracy, cost and speed, with intervals over seeds and paired against a control.

Runs whose names differ only in `seed` belong together. An interval is Student's, at 95 %; a difference to the control
is taken seed by seed, so that what a seed does to both does not count.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from prune_realloc.analysis import write_file
from prune_realloc.bench import bench
from prune_realloc.checkpoint import load_model
from prune_realloc.errors import InputError
from prune_realloc.export import deployed
from prune_realloc.session import input_shape, measured_macs
from prune_realloc.training import LAST, RESULT_FILE, STATE_FILE

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom."""
_Z = 1.959964
"""And of the normal distribution."""
_SEEDED = re.compile(r".+[-_]seed(?P<seed>\d+)")
"""Names of folders that tell their seed."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    """Of the last network, by seed."""
    macs: int
    """Multiply-adds for one image, by torch's counter."""
    params: int
    mean: float
    half_width: float | None
    """Of the 95 % interval of the mean; None with one seed."""
    control: str | None
    """Name of the group that it is compared with; None for a control."""
    difference: float | None
    """To the control, mean over the seeds that both have."""
    difference_half_width: float | None
    differs: str | None
    """The first setting, or part of the data, in which it was trained otherwise than its control."""
    folder: str
    """Of its first run."""
    latency_ms: float | None = None
    """Median for one image, of the deploy form on the CPU."""


def compare(folders: Sequence[str | Path], control: str | None = None) -> tuple[Group, ...]:
    """Groups in the order in which their first runs are given.

    Args:
        folders: of finished runs.
        control: name of the group that the others are compared with; default: of those whose name has `control`, the
            one that is nearest in multiply-adds.

    Raises:
        InputError: a folder holds no finished run, runs of one group differ in more than their seed, a seed is there
            twice, or there is no such control.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for folder in folders:
        result = _result(Path(folder))
        seed = int(result["config"]["seed"])
        name = _name(Path(folder), seed)
        if seed in runs.setdefault(name, {}):
            raise InputError(f"run {str(folder)!r}: seed {seed} of {name} is given twice; leave one out")
        for other in runs[name].values():
            if (differs := _first_difference(result, other)) is not None:
                raise InputError(f"run {str(folder)!r} is no other seed of {other['folder']!r}: {differs}; give its "
                                 "folder another name")  # fmt: skip
        runs[name][seed] = result
    if control is not None and control not in runs:
        raise InputError(f"control {control!r} is none of the groups {', '.join(runs)}")
    macs = {name: _macs(Path(by_seed[min(by_seed)]["folder"])) for name, by_seed in runs.items()}
    controls = [name for name in runs if (name == control if control else "control" in name)]
    groups = []
    for name, by_seed in runs.items():
        against = None
        if controls and name not in controls:
            against = min(controls, key=lambda other: abs(macs[other] - macs[name]))
        groups.append(_group(name, by_seed, macs[name], against, runs[against] if against else {}))
    return tuple(groups)


def with_latency(groups: Sequence[Group], seconds: float = 2.0) -> tuple[Group, ...]:
    """Measures all groups' networks in turns, so that they are timed alike."""
    nets = {group.name: deployed(load_model(ckpt=Path(group.folder) / LAST)) for group in groups}
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
    return _quantile(count - 1) * float(np.std(values, ddof=1)) / sqrt(count)


def _quantile(freedom: int) -> float:
    """Of Student's t; beyond the table by Abramowitz and Stegun 26.7.5, to 2e-4 there."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    terms = (_Z, (_Z**3 + _Z) / 4, (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
             (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384)  # fmt: skip
    return sum(term / freedom**power for power, term in enumerate(terms))


def write_plot(groups: Sequence[Group], path: Path) -> None:
    """Accuracy over multiply-adds, parameters and, where it was measured, latency, and differences to the control.

    Dashes are single seeds, bars Student's 95 % intervals of the mean.

    Raises:
        InputError: the name's ending is no format of pictures.
    """
    kind = path.suffix.removeprefix(".") or "png"
    costs: list[tuple[str, str, float]] = [("macs", "MACs, millions", 1e6), ("params", "parameters, millions", 1e6)]
    if any(group.latency_ms is not None for group in groups):
        costs.append(("latency_ms", "ms for one image", 1.0))
    compared = [group for group in groups if group.difference is not None]
    panels = len(costs) + bool(compared)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"plot {str(path)!r}: {kind} is no format of pictures; choose .png, .svg or .pdf")
    axes = figure.subplots(1, panels)
    colours = {group.name: f"C{index % 10}" for index, group in enumerate(groups)}
    for axis, (field, label, unit) in zip(axes, costs, strict=False):
        for group in groups:
            if (cost := getattr(group, field)) is None:
                continue
            axis.errorbar(cost / unit, 100 * group.mean, 100 * (group.half_width or 0), fmt="o", capsize=3,
                          label=group.name, color=colours[group.name])  # fmt: skip
            axis.plot([cost / unit] * len(group.top1), [100 * top1 for top1 in group.top1], "_", markersize=10,
                      color=colours[group.name])  # fmt: skip
        axis.set_xlabel(label)
        spread = [getattr(group, field) for group in groups if getattr(group, field) is not None]
        if max(spread) > 20 * min(spread):
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, 1.1 * axis.dataLim.x1)
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 100))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    axes[0].legend(fontsize=8)
    figure.suptitle("dots and bars: mean over seeds and its 95 % interval; dashes: single seeds", fontsize=9)
    if compared:
        _draw_differences(axes[-1], compared, colours)
    buffer = io.BytesIO()
    # without the program's version, and in SVG the date, which would make other bytes every time
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    write_file(path, buffer.getvalue())


def _draw_differences(axis: Any, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    for place, group in enumerate(reversed(groups)):
        axis.errorbar(100 * (group.difference or 0), place, xerr=100 * (group.difference_half_width or 0), fmt="o",
                      capsize=3, color=colours[group.name])  # fmt: skip
    axis.set_yticks(range(len(groups)), [group.name for group in reversed(groups)])
    axis.set_ylim(-0.5, len(groups) - 0.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("to the control, points (paired by seed)")
    axis.grid(alpha=0.3, axis="x")


def _group(name: str, by_seed: Mapping[int, Mapping[str, Any]], macs: int, control: str | None,
           base: Mapping[int, Mapping[str, Any]]) -> Group:  # fmt: skip
    seeds = tuple(sorted(by_seed))
    top1 = tuple(float(by_seed[seed]["top1"]) for seed in seeds)
    pairs = [by_seed[seed]["top1"] - base[seed]["top1"] for seed in seeds if seed in base]
    first = by_seed[seeds[0]]
    return Group(
        name=name, seeds=seeds, top1=top1, macs=macs, params=first["params"], mean=float(np.mean(top1)),
        half_width=interval(top1), control=control, difference=float(np.mean(pairs)) if pairs else None,
        difference_half_width=interval(pairs), folder=first["folder"],
        differs=next((_first_difference(first, run, network=False) for run in base.values()), None),
    )  # fmt: skip


def _result(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RESULT_FILE).read_text())
        own = {key: found[key] for key in ("params", "config", "data")}
        built = json.loads((folder / LAST / "config.json").read_text())
        own |= {"network": {"architecture": built["architecture"]} | built["model_args"]}
        own |= {key: found.get(key) for key in ("teacher", "model_args")}  # older runs do not say
        return own | {"top1": float(found["top1"]), "folder": str(folder)}
    except FileNotFoundError as error:
        if not (folder / STATE_FILE).exists():
            raise InputError(f"run {str(folder)!r} is not there; give a folder that `train -o` wrote") from error
        raise InputError(f"run {str(folder)!r} is not finished: it has no {Path(str(error.filename)).name}; start its "
                         "command again") from error  # fmt: skip
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"run {str(folder)!r} is damaged ({error!r}); train it again in another folder") from error


def _macs(folder: Path) -> int:
    net = load_model(ckpt=folder / LAST)
    with torch.no_grad():
        return measured_macs(net, torch.zeros(1, *input_shape(net)))


def _first_difference(one: Mapping[str, Any], other: Mapping[str, Any], network: bool = True) -> str | None:
    """In what two runs differ beyond their seed; `network`: the network counts too."""
    left, right = ({key: run[key] for key in ("teacher", "model_args")} for run in (one, other))
    for part in ("network", "config", "data") if network else ("config", "data"):
        left |= {f"{part}.{key}": value for key, value in one[part].items()}
        right |= {f"{part}.{key}": value for key, value in other[part].items()}
    names = (name for name in left | right if name != "config.seed" and left.get(name) != right.get(name))
    return next((f"{name} is {left.get(name)} here, {right.get(name)} there" for name in names), None)


def _name(folder: Path, seed: int) -> str:
    """The folder's name without its seed.

    Raises:
        InputError: the name tells another seed than the run had.
    """
    named = _SEEDED.fullmatch(folder.name)
    if named and int(named["seed"]) != seed:
        raise InputError(f"run {str(folder)!r} has seed {seed}, not what its name says; train it with --set "
                         f"seed={named['seed']}, or rename it")  # fmt: skip
    for ending in (f"-seed{seed}", f"_seed{seed}", f"-{seed}", f"_{seed}"):
        if folder.name.endswith(ending):
            return folder.name.removesuffix(ending)
    return folder.name
