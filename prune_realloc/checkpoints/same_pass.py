"""Do two networks with tensors of the same names and shapes have the same forward pass?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.families.host import copied
from prune_realloc.families.inputs import input_shape
from prune_realloc.tracing.chain import evaluating

_ROUNDING = 1e-4
"""What the same computed twice may differ by, as a share of the largest output."""


@torch.no_grad()
def same_pass(net: nn.Module, other: nn.Module) -> bool:
    """Whether they compute the same from the same weights, on random images in float32 on the CPU.

    The weights are those of `net`, moved at random: a scale that starts at 0 would silence its layer. `other` has
    them afterwards.

    Raises:
        InputError: one of them does not run.
    """
    twin = copied(net, _without_history(net)).to("cpu", torch.float32)
    twin.train()  # at this, networks of timm let go of what they keep of their weights
    generator = torch.Generator().manual_seed(0)
    for p in twin.parameters():
        p.add_((0.1 * p.square().mean().sqrt() + 0.02) * torch.randn(p.shape, generator=generator))
    other.load_state_dict(twin.state_dict())
    # three, as forward passes are written anew on one or two
    images = torch.randn(3, *input_shape(net), generator=generator)
    found, wanted = _output(other, images), _output(twin, images)
    close = _ROUNDING * float(wanted.nan_to_num().abs().max())
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=close, equal_nan=True)


def _without_history(net: nn.Module) -> dict[int, object]:
    """What a module keeps of a pass with gradients, which cannot be copied with them."""
    kept = [leaf for module in net.modules() for leaf in tree_leaves(vars(module)) if isinstance(leaf, Tensor)]
    return {id(x): x.detach().clone() for x in kept if not x.is_leaf}


def _output(net: nn.Module, images: Tensor) -> Tensor:
    """All numbers that a network gives for each image, shape (B, n)."""
    try:
        with evaluating(net):
            out: Any = net(images)
    except Exception as error:  # it is the network's own code that runs
        raise InputError(
            f"model {type(net).__name__} does not run on {len(images)} images of {tuple(images.shape[1:])}: "
            f"{first_line(error)}"
        ) from error
    return torch.cat([x.flatten(1) for x in tree_leaves(out) if isinstance(x, Tensor)], dim=1)
