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
    from prune_realloc.checkpoints.load import load_model, load_pruned
    from prune_realloc.checkpoints.save import save_pruned
    from prune_realloc.core.analysis import Analysis
    from prune_realloc.core.errors import InputError
    from prune_realloc.planning.plan import plan
    from prune_realloc.pruning.sites import find_sites
    from prune_realloc.recipe.document import Recipe
    from prune_realloc.recipe.reader import build_recipe, load_recipe
    from prune_realloc.results.page import write_report
    from prune_realloc.training.train import train
    from prune_realloc.verbs.analyze import analyze
    from prune_realloc.verbs.apply import apply
    from prune_realloc.verbs.emit import emit

__version__ = "0.1.0"
_HOMES = {
    "Analysis": "core.analysis",
    "InputError": "core.errors",
    "Recipe": "recipe.document",
    "analyze": "verbs.analyze",
    "apply": "verbs.apply",
    "build_recipe": "recipe.reader",
    "emit": "verbs.emit",
    "find_sites": "pruning.sites",
    "load_model": "checkpoints.load",
    "load_pruned": "checkpoints.load",
    "load_recipe": "recipe.reader",
    "plan": "planning.plan",
    "save_pruned": "checkpoints.save",
    "train": "training.train",
    "write_report": "results.page",
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
                import_module("prune_realloc.checkpoints.register")

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    import_module("prune_realloc.checkpoints.register")
else:
    sys.meta_path.insert(0, _OnceTimmIsThere())
