"""A network from what a foreign layout was translated to, and images for it."""

from typing import Any

import timm
import torch
from torch import nn

from prune_realloc.checkpoints import register  # noqa: F401  timm is told the names of norms
from prune_realloc.checkpoints.allowed import require_architecture_args
from prune_realloc.checkpoints.layouts import layout_of, translate
from prune_realloc.checkpoints.layouts.translated import Translated, set_norm_eps_
from prune_realloc.checkpoints.prefixes import unwrapped
from support.networks import TINY, randomise_


def translated(state: Any, config: Any = None, preprocessor: Any = None) -> Translated:
    """What a file of these tensors comes down to; its arguments pass the rule of files."""
    found = translate(state, config, preprocessor)
    if found is None:  # in a wrapper
        bare = unwrapped(state, _never, lambda names: layout_of(names, config) is not None, _never)
        found = translate(bare.state, config, preprocessor)
    assert found is not None
    require_architecture_args(found.model_args, "test")
    return found


def _never(state: Any) -> bool:
    """No name is taken for one of timm's own."""
    return False


def built(found: Translated, name: str | None = None, **more: Any) -> nn.Module:
    """timm's network with the translated weights, in double precision, so that nothing hides in rounding."""
    net = timm.create_model(str(name or found.architecture), **(found.model_args | more))
    net.load_state_dict(found.state, strict=True)
    if found.norm_eps is not None:
        set_norm_eps_(net, found.norm_eps)
    return net.double().eval()


def images(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To 1e-5, and they are not all alike, so that an output of zeros shows."""
    return torch.allclose(a, b, rtol=0, atol=1e-5) and bool(a.std() > 1e-3)


def encoder(name: str = "vit_tiny_patch16_224", **more: Any) -> Any:
    return randomise_(timm.create_model(name, **TINY | {"num_classes": 0} | more))


def prefixed(state: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same_outputs(ours: Any, theirs: Any, size: int = 32) -> bool:
    pixels = images(size)
    with torch.no_grad():
        return equal(ours(pixels), theirs.double()(pixels))
