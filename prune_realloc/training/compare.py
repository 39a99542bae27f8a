"""Runs against each other: accuracy, cost and speed, with intervals over seeds and paired against a control.

Runs whose names differ only in `seed` belong together. An interval is Student's, at 95 %; a difference to the control
is taken seed by seed, so that what a seed does to both does not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError
from prune_realloc.core.intervals import interval
from prune_realloc.core.names import RESULT_FILE, STATE_FILE
from prune_realloc.core.typed import read_typed
from prune_realloc.families.inputs import input_shape
from prune_realloc.results.bench import bench
from prune_realloc.results.export import deployed
from prune_realloc.runtime.networks import measured_macs
from prune_realloc.training.group import Group
from prune_realloc.training.outputs import LAST, read_result

_SEEDED = re.compile(r".+[-_]seed(?P<seed>\d+)")
"""Names of folders that tell their seed."""

Result = Mapping[str, Any]
"""The fields of `Finished`, with the run's folder and network."""


@dataclass(frozen=True, kw_only=True)
class _Built:
    """What is read of a network's `config.json`."""

    architecture: str
    model_args: Mapping[str, Any]


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
    runs = _by_name(folders)
    if control is not None and control not in runs:
        raise InputError(f"group {control!r} is not there; give one of {', '.join(runs)}")
    macs = {name: _macs(Path(by_seed[min(by_seed)]["folder"])) for name, by_seed in runs.items()}
    controls = [name for name in runs if (name == control if control else "control" in name)]
    groups = []
    for name, by_seed in runs.items():
        against = None
        if controls and name not in controls:
            against = min(controls, key=lambda other: abs(macs[other] - macs[name]))
        groups.append(_group(name, by_seed, macs[name], against, runs[against] if against else {}))
    return tuple(groups)


def _by_name(folders: Sequence[str | Path]) -> dict[str, dict[int, Result]]:
    """Name of a group -> seed -> what the run has come to, in the order of the folders."""
    runs: dict[str, dict[int, Result]] = {}
    for folder in folders:
        result = _result(Path(folder))
        seed = result["config"]["seed"]
        name = group_name(Path(folder), seed)
        for other in runs.setdefault(name, {}).values():
            if (differs := _first_difference(result, other)) is not None:
                raise InputError(
                    f"run {str(folder)!r} is no other seed of {other['folder']!r}: {differs}; give its "
                    "folder another name"
                )
        if seed in runs[name]:
            raise InputError(f"run {str(folder)!r}: seed {seed} of {name} is given twice; leave one out")
        runs[name][seed] = result
    return runs


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


def _group(
    name: str,
    by_seed: Mapping[int, Result],
    macs: int,
    control: str | None,
    base: Mapping[int, Result],
) -> Group:
    seeds = tuple(sorted(by_seed))
    top1 = tuple(float(by_seed[seed]["top1"]) for seed in seeds)
    pairs = [by_seed[seed]["top1"] - base[seed]["top1"] for seed in seeds if seed in base]
    first = by_seed[seeds[0]]
    return Group(
        name=name,
        seeds=seeds,
        top1=top1,
        macs=macs,
        params=first["params"],
        mean=float(np.mean(top1)),
        half_width=interval(top1),
        control=control,
        difference=float(np.mean(pairs)) if pairs else None,
        difference_half_width=interval(pairs),
        data=first["data_name"],
        folder=first["folder"],
        guesses=tuple(seed for seed in seeds if by_seed[seed]["guesses"]),
        differs=next((_first_difference(first, run, network=False) for run in base.values()), None),
    )


def _result(folder: Path) -> Result:
    description = folder / LAST / "config.json"
    for path in (folder / RESULT_FILE, description):
        if not path.exists():
            if not (folder / STATE_FILE).exists():
                raise InputError(f"run {str(folder)!r} is not there; give a folder that `train -o` wrote")
            raise InputError(f"run {str(folder)!r} is not finished: it has no {path.name}; start its command again")
    found = read_result(folder)
    if found.top1 is None:
        raise InputError(
            f"run {str(folder)!r} read no labels, so there is no top-1 to compare; its {RESULT_FILE} says how near "
            "it is to its teacher"
        )
    built = read_typed(_Built, description, "train it again in another folder")
    network = {"architecture": built.architecture} | dict(built.model_args)
    return vars(found) | {
        "network": network,
        "data_name": found.data["name"],
        "folder": str(folder),
        "guesses": found.guesses,
    }


def _macs(folder: Path) -> int:
    net = load_model(ckpt=folder / LAST)
    with torch.no_grad():
        return measured_macs(net, torch.zeros(1, *input_shape(net)))


def _first_difference(one: Result, other: Result, network: bool = True) -> str | None:
    """In what two runs differ beyond their seed; `network`: the network counts too."""
    left, right = ({key: run[key] for key in ("teacher", "teacher_options", "model_args")} for run in (one, other))
    for part in ("network", "config", "data") if network else ("config", "data"):
        left |= {f"{part}.{key}": value for key, value in one[part].items()}
        right |= {f"{part}.{key}": value for key, value in other[part].items()}
    names = (name for name in left | right if name != "config.seed" and left.get(name) != right.get(name))
    return next((f"{name} is {left.get(name)} here, {right.get(name)} there" for name in names), None)


def group_name(folder: Path, seed: int) -> str:
    """The folder's name without its seed.

    Raises:
        InputError: the name tells another seed than the run had.
    """
    named = _SEEDED.fullmatch(folder.name)
    if named and int(named["seed"]) != seed:
        raise InputError(
            f"run {str(folder)!r} has seed {seed}, not what its name says; train it with --set "
            f"seed={named['seed']}, or rename it"
        )
    for ending in (f"-seed{seed}", f"_seed{seed}", f"-{seed}", f"_{seed}"):
        if folder.name.endswith(ending):
            return folder.name.removesuffix(ending)
    return folder.name
