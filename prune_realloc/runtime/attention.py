"""Attention of any widths by whatever computes it fastest: PyTorch's fused kernel, or the products that it is made of.

On a CPU, PyTorch 2.14 has a fused kernel for queries and values of one width, without dropout, whose mask needs no
gradient. For all else it makes the products, with a scaling of both sides and checks for rows without any key.
Attention alone on one core, float32, 6 heads, speed relative to PyTorch's own choice (`benchmarks/fused_attention.py`,
which also measures whole networks; docs/fused_attention.json has machine and date):

| Q/K, V | images, tokens | padded to one width, fused | products |
| --- | --- | ---: | ---: |
| 16, 64 | 1, 197 | 1.04 | 1.55 |
| 16, 64 | 16, 197 | 1.09 | 1.44 |
| 48, 64 | 1, 197 | 1.23 | 1.43 |
| 48, 64 | 16, 197 | 1.31 | 1.36 |
| 64, 32 | 16, 577 | 2.35 | 1.19 |
| 16, 64 | 16, 98 | 1.04 | 1.61 |
| 16, 64 | 16, 64 | 1.05 | 1.76 |

So products where the keys are few or the logits of all heads and images at most four million (16 MB in float32),
else the fused kernel: products write the logits to memory and read them back, which costs little while a cache holds
them. The fourth row has 3.7 million, the fifth 32.
"""

# N queries, M keys, K width of a head, V width of its values

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

FEW_KEYS = 128
"""Where queries and values differ in width, products over so many keys, or fewer;"""
FEW_LOGITS = 2**22
"""or where so many logits, of all heads and images, are the most."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Tensor:
    """What PyTorch's function of this name computes, shape (B, H, N, V).

    It has that name and those arguments since what traces a network knows a function by its name.

    Args:
        query: shape (B, H, N, K).
        key: shape (B, H, M, K).
        value: shape (B, H, M, V).
        attn_mask: added to the logits (.., N, M); or booleans, of the logits that count.
        scale: of the logits; None: 1 / sqrt(K).
    """
    every = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if has_torch_function(every):
        named: dict[str, Any] = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        return handle_torch_function(scaled_dot_product_attention, every, query, key, value, **named)
    v_dim = value.shape[-1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not torch.onnx.is_in_onnx_export():  # a file holds products in any case, and shall not hold padding
        if not is_causal and _in_products(query, key, value, attn_mask, dropout_p):
            return products(query, key, value, attn_mask, scale, dropout_p)
        width = _fused_width(query, value, dropout_p)
        query, key, value = (_widened(x, width) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    return out if out.shape[-1] == v_dim else out[..., :v_dim]


def products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Softmax of the logits times the values; arguments as above."""
    weights = shares(query, key, attn_mask, scale)
    return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value


def shares(query: Tensor, key: Tensor, attn_mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax of the logits, (B, H, N, M): what values are weighed by; arguments as above."""
    logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if attn_mask is None:
        return logits.softmax(-1)
    if attn_mask.dtype != torch.bool:
        return logits.add_(attn_mask).softmax(-1)  # no third copy of what may hold the most
    # a query to which nothing counts gets zeros, as from PyTorch's function
    found = logits.masked_fill(~attn_mask, float("-inf")).softmax(-1)
    return found.masked_fill(~attn_mask.any(-1, keepdim=True), 0.0)


def _in_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float) -> bool:
    """Is the fused kernel of a CPU out of reach, or not worth its padding? In half precision products lose digits."""
    if query.device.type != "cpu" or query.dtype not in (torch.float32, torch.float64):
        return False
    if dropout_p or query.ndim != 4 or (mask is not None and mask.requires_grad):
        return True
    if query.shape[-1] == value.shape[-1]:
        return False
    few = key.shape[-2] <= FEW_KEYS
    if few or torch.compiler.is_exporting():  # a program for any number of images does not ask for that number
        return few
    # what compiles fuses the softmax with what is around it
    return torch.compiler.is_compiling() or query.shape[:-1].numel() * key.shape[-2] <= FEW_LOGITS


def _fused_width(query: Tensor, value: Tensor, dropout_p: float) -> int | None:
    """To which the fused kernels of the device want queries and values padded; None: they stay as they are.

    Of CUDA's kernels PyTorch's documentation says that they want one width of queries and values, a multiple of 8; what
    padding gains there is not measured.
    """
    widest = max(query.shape[-1], value.shape[-1])
    if query.device.type == "cuda":
        return -(-widest // 8) * 8
    return widest if query.device.type == "cpu" and not dropout_p else None


def _widened(x: Tensor, width: int | None) -> Tensor:
    """With zeros behind the channels of each head; they add nothing to a product."""
    return x if width is None or x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
