"""Where does a trained Vision Transformer keep the parameters that matter, and what should the next one look like?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune_realloc.analysis import Analysis
    from prune_realloc.checkpoint import load_model, load_pruned, save_pruned
    from prune_realloc.errors import InputError
    from prune_realloc.examine import analyze
    from prune_realloc.planner import plan
    from prune_realloc.prune import apply
    from prune_realloc.recipe import Recipe, build_recipe, load_recipe
    from prune_realloc.report import write_report
    from prune_realloc.sites import find_sites
    from prune_realloc.training import train
    from prune_realloc.variants import emit

__version__ = "0.1.0"
_HOMES = {
    "Analysis": "analysis",
    "InputError": "errors",
    "Recipe": "recipe",
    "analyze": "examine",
    "apply": "prune",
    "build_recipe": "recipe",
    "emit": "variants",
    "find_sites": "sites",
    "load_model": "checkpoint",
    "load_pruned": "checkpoint",
    "load_recipe": "recipe",
    "plan": "planner",
    "save_pruned": "checkpoint",
    "train": "training",
    "write_report": "report",
}
__all__ = [
    "Analysis",
    "InputError",
    "Recipe",
    "analyze",
    "apply",
    "build_recipe",
    "emit",
    "find_sites",
    "load_model",
    "load_pruned",
    "load_recipe",
    "plan",
    "save_pruned",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # torch and timm take seconds to import; `prune-realloc --help` must not wait for them
    if name not in _HOMES:
        raise AttributeError(f"module 'prune_realloc' has no attribute {name!r}")
    return getattr(import_module(f"prune_realloc.{_HOMES[name]}"), name)


class _OnceTimmIsThere(MetaPathFinder):
    """timm must know our architectures as soon as both packages are imported, without this one importing timm."""

    looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm" or self.looking:
            return None
        self.looking = True  # find_spec asks this finder too
        try:
            spec = find_spec("timm")
        finally:
            self.looking = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                sys.meta_path.remove(self)
                import_module("prune_realloc.architectures")

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    import_module("prune_realloc.architectures")
else:
    sys.meta_path.insert(0, _OnceTimmIsThere())
