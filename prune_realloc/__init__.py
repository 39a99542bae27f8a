"""Where does a trained Vision Transformer keep the parameters that matter, and what should the next one look like?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from prune_realloc.checkpoints.load import load_model as load_model
    from prune_realloc.checkpoints.load import load_pruned as load_pruned
    from prune_realloc.checkpoints.save import save_pruned as save_pruned
    from prune_realloc.core.analysis import Analysis as Analysis
    from prune_realloc.core.errors import InputError as InputError
    from prune_realloc.core.latency import LatencyTable as LatencyTable
    from prune_realloc.planning.plan import plan as plan
    from prune_realloc.pruning.cut import cut_to_widths as cut_to_widths
    from prune_realloc.pruning.follow import follow as follow
    from prune_realloc.pruning.follow import follow_parameters as follow_parameters
    from prune_realloc.pruning.sites import find_sites as find_sites
    from prune_realloc.pruning.units import read_units as read_units
    from prune_realloc.recipe.document import Recipe as Recipe
    from prune_realloc.recipe.reader import build_recipe as build_recipe
    from prune_realloc.recipe.reader import load_recipe as load_recipe
    from prune_realloc.reporting.report import report as report
    from prune_realloc.reporting.report import write_report as write_report
    from prune_realloc.results.latency import measure_latency as measure_latency
    from prune_realloc.results.latency_tables import Tables as Tables
    from prune_realloc.training.train import train as train
    from prune_realloc.verbs.analyze import analyze as analyze
    from prune_realloc.verbs.apply import apply as apply
    from prune_realloc.verbs.emit import emit as emit
    from prune_realloc.verbs.sweep import sweep as sweep

__version__ = "0.1.0"
_HOMES = {
    "Analysis": "core.analysis",
    "InputError": "core.errors",
    "LatencyTable": "core.latency",
    "Recipe": "recipe.document",
    "Tables": "results.latency_tables",
    "analyze": "verbs.analyze",
    "apply": "verbs.apply",
    "build_recipe": "recipe.reader",
    "cut_to_widths": "pruning.cut",
    "emit": "verbs.emit",
    "find_sites": "pruning.sites",
    "follow": "pruning.follow",
    "follow_parameters": "pruning.follow",
    "load_model": "checkpoints.load",
    "load_pruned": "checkpoints.load",
    "load_recipe": "recipe.reader",
    "measure_latency": "results.latency",
    "plan": "planning.plan",
    "read_units": "pruning.units",
    "report": "reporting.report",
    "save_pruned": "checkpoints.save",
    "sweep": "verbs.sweep",
    "train": "training.train",
    "write_report": "reporting.report",
}
"""Public name -> the module that defines it."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # torch and timm take seconds to import; `prune-realloc --help` must not wait for them
    if name not in _HOMES:
        raise AttributeError(f"module 'prune_realloc' has no attribute {name!r}")
    return getattr(import_module(f"prune_realloc.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


@wrapt.when_imported("timm")
def _register(timm: Any) -> None:
    """timm knows our architectures as soon as both packages are imported, without this one importing timm."""
    import_module("prune_realloc.checkpoints.register")
