"""Where does a trained Vision Transformer keep the parameters that matter, and what should the next one look like?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune_realloc.analysis import Analysis
    from prune_realloc.checkpoint import load_model
    from prune_realloc.errors import InputError
    from prune_realloc.importance import analyze
    from prune_realloc.report import write_report
    from prune_realloc.sites import find_sites

__version__ = "0.1.0"
__all__ = ["Analysis", "InputError", "analyze", "find_sites", "load_model", "write_report"]

_HOMES = {
    "Analysis": "analysis",
    "InputError": "errors",
    "analyze": "importance",
    "find_sites": "sites",
    "load_model": "checkpoint",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    # torch and timm take seconds to import; `prune-realloc --help` must not wait for them
    if name not in _HOMES:
        raise AttributeError(f"module 'prune_realloc' has no attribute {name!r}")
    return getattr(import_module(f"prune_realloc.{_HOMES[name]}"), name)
