"""Layer norms of any epsilon under names that a file may hold, such as `layernorm1e-12`.

timm's own names have one epsilon each, and what adds to a variance of tokens changes every output. Other libraries use
others (Hugging Face's ViT 1e-12), so timm's table of names gets a row for each power of ten.
"""

from __future__ import annotations

from functools import partial

from timm.layers import LayerNorm
from timm.layers.create_norm import _NORM_MAP

_EPSILONS = tuple(float(f"1e-{power}") for power in range(3, 13))


def norm_name(epsilon: float) -> str | None:
    """The name for `norm_layer` of a layer norm of this epsilon; None: there is none."""
    return f"layernorm{epsilon:.0e}" if epsilon in _EPSILONS else None


def add_norms() -> None:
    """Tell timm the names; twice does no harm."""
    for epsilon in _EPSILONS:
        _NORM_MAP[f"layernorm{epsilon:.0e}"] = partial(LayerNorm, eps=epsilon)
