"""Where the latency table of a network comes from: a file, the cache of this machine, or a measurement."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term, Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import require_writable
from prune_realloc.core.latency import Conditions, LatencyTable, digest
from prune_realloc.core.names import MEASURE_SECONDS
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, inner_of
from prune_realloc.pruning.sites import find_sites
from prune_realloc.pruning.sites import widths as widths_of
from prune_realloc.recipe.budget import Budget
from prune_realloc.results.bench import device_name, package_versions
from prune_realloc.results.latency import measure_latency
from prune_realloc.runtime.device import pick_device
from prune_realloc.runtime.networks import module_kinds


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Of a network: what a table must be of."""

    terms: Sequence[Term]
    widths: Widths
    input_shape: Sequence[int]
    modules: str
    """The kinds of its modules, as `module_kinds` has it; empty where an older analysis does not tell."""

    @property
    def digest(self) -> str:
        return digest(self.terms, self.widths, self.input_shape, self.modules)


def shapes_of(analysis: Analysis) -> Shapes:
    """Those of the network that was analysed."""
    size, modules = analysis.model.get("input_size") or (), analysis.model.get("modules", "")  # not in older files
    return Shapes(terms=analysis.terms, widths=analysis.widths, input_shape=tuple(size), modules=modules)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """How a table is found, where a budget limits time."""

    file: Path | None = None
    """A table that is taken as it is, for the device that it was measured on."""
    measure: bool = True
    """Measure where the cache has no table of this machine."""
    seconds: float = MEASURE_SECONDS
    """What that may take."""
    progress: Callable[[str], None] | None = None

    def of(self, budget: Budget | None, shapes: Shapes, network: Callable[[], nn.Module]) -> LatencyTable | None:
        """The table by which a budget is planned; None where it limits no time.

        Args:
            network: opens the network; called where it is measured.

        Raises:
            InputError: there is no table, and none may be measured; or the one that is named is of other things.
        """
        if budget is None or not budget.limits_time:
            if self.file is not None:
                raise InputError(
                    "latency_table: no budget limits time; set latency_ms or keep_latency, or leave it out"
                )
            return None
        return self._cached(budget, shapes, network) if self.file is None else self._given(self.file, budget, shapes)

    def _given(self, file: Path, budget: Budget, shapes: Shapes) -> LatencyTable:
        table = LatencyTable.load(file)
        table.require(shapes.terms, shapes.widths, shapes.modules, budget.asked)
        return table

    def _cached(self, budget: Budget, shapes: Shapes, network: Callable[[], nn.Module]) -> LatencyTable:
        wanted = _conditions(budget)
        path = cache_folder() / f"{shapes.digest[:16]}_{budget.device or 'cpu'}_{wanted.runtime}"
        path = path.with_name(f"{path.name}_{wanted.threads}_{wanted.batch}.json")
        why = "there is none"
        if path.exists():
            try:
                table = LatencyTable.load(path)
            except InputError as error:  # damaged, or of an older version of this program
                why = str(error)
            else:
                others = wanted.differences(table.conditions)
                if not others and not table.notes:
                    return table
                why = f"the one at hand is of {', '.join(others or ['a machine that was not quiet'])}"
        if not self.measure:
            raise InputError(
                f"no_measure: a latency table of this network on {wanted} is needed, {why}; leave --no-measure out, or "
                "give one by --latency-table"
            )
        return self._measured(budget, wanted, shapes, network(), path)

    def _measured(self, budget: Budget, wanted: Conditions, shapes: Shapes, net: nn.Module, path: Path) -> LatencyTable:
        _require_same(net, shapes)
        _require_cache(path.parent)
        table = measure_latency(
            net,
            runtime=wanted.runtime,
            batch=wanted.batch,
            threads=wanted.threads,
            device=budget.device or "cpu",
            seconds=self.seconds,
            progress=self.progress,
        )
        if table.notes:
            return replace(table, notes=(*table.notes, "the table of times is not kept: the next plan measures anew"))
        table.save(path)
        return table


def cache_folder() -> Path:
    """Where tables lie that were measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune-realloc" / "latency"


def _require_cache(folder: Path) -> None:
    """Raises InputError where a table could not be kept: the measurement takes minutes."""
    try:
        require_writable(folder)
    except InputError as error:
        raise InputError(
            f"{error}; it is where latency tables are kept, set XDG_CACHE_HOME to another folder"
        ) from error


def _conditions(budget: Budget) -> Conditions:
    """Under which the budget holds, on this machine."""
    runtime, device = budget.runtime or "eager", pick_device(budget.device or "cpu")
    return Conditions(
        device=device_name(device),
        device_type=device.type,
        runtime=runtime,
        threads=budget.threads or torch.get_num_threads(),
        batch=budget.images,
        versions=package_versions(*(("onnxruntime",) if runtime == "onnxruntime" else ())),
    )


def _require_same(net: nn.Module, shapes: Shapes) -> None:
    """Raises InputError where the network that was opened is not the one that was analysed."""
    inner = inner_of(adopted(net))
    terms, widths = family_of(inner).describe(inner).terms, widths_of(find_sites(net))
    modules = module_kinds(inner) if shapes.modules else ""
    if digest(terms, widths, shapes.input_shape, modules) != shapes.digest:
        raise InputError(
            "latency: the network of the analysis is not at hand; measure it in Python by measure_latency(model), save "
            "the table, and give it by --latency-table"
        )
