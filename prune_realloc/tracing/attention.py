"""PyTorch's own attention in a form that can be watched and cut: four linear layers around one fused product.

`nn.MultiheadAttention` packs three projections into one parameter and hands all of them to a function that checks their
widths, and `nn.TransformerEncoderLayer` hands on whole blocks. `Attention` computes the same with modules.
"""

# B images, N tokens, D stream, H heads

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from prune_realloc.tracing.chain import evaluating


class Attention(nn.Module):
    """What `nn.MultiheadAttention` computes without masks, of the same numbers; it gives no attention weights.

    Its parameters are new ones that share the memory of those of `whole`.
    """

    in_proj_bias = None
    """`nn.TransformerEncoderLayer` asks for it, and without one takes the pass that calls its modules."""

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.batch_first = whole.num_heads, whole.dropout, whole.batch_first
        packed: Any = whole.in_proj_weight
        weights = (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight) if packed is None else packed.chunk(3)
        biases = (None,) * 3 if whole.in_proj_bias is None else whole.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_layer, weights, biases)
        self.out_proj = _layer(whole.out_proj.weight, whole.out_proj.bias)
        self.train(whole.training)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError where a mask is given; here, since a forward pass that is written anew asks no more."""
        call = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        if call.get("key_padding_mask") is not None or call.get("attn_mask") is not None:
            raise ValueError("this attention was made for calls without masks; give none, or leave the attention whole")
        return super().__call__(*args, **kwargs)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: None = None,
        need_weights: bool = True,
        attn_mask: None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Of (B, N, D), or (N, B, D) where `batch_first` is false."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = self.out_proj(x.transpose(1, 2).flatten(2))
        return x if self.batch_first else x.transpose(0, 1), None


_ARGUMENTS = tuple(inspect.signature(Attention.forward).parameters)[1:]


class Whole(nn.MultiheadAttention):
    """One that was looked at, and is left as it is."""


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), bias.requires_grad)
    return layer


def why_whole(call: Mapping[str, Any]) -> str | None:
    """Why an attention that is called like this is not exchanged; None where nothing in the call says so.

    Args:
        call: arguments of `nn.MultiheadAttention` by their names, with `bias_k` and `add_zero_attn`.
    """
    if call.get("key_padding_mask") is not None or call.get("attn_mask") is not None:
        return "its attention has a mask"
    if call["bias_k"] is not None or call["add_zero_attn"]:
        return "its keys and values have one more token (add_bias_kv, add_zero_attn)"
    return None if call["query"].ndim == 3 else "its attention is called without a dimension of images"


def _is_plain(module: nn.Module) -> bool:
    """Is it PyTorch's with nothing added: no pass of its own, no hooks, no weights that are computed?"""
    own = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return type(module) is nn.MultiheadAttention and not own and not any(map(is_parametrized, module.modules()))


class _Weights(Tensor):
    """Attention weights that tell when anybody reads them."""

    note: Callable[[], None]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _note_read((args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _note_read(value: Any) -> None:
    for x in tree_leaves(value):
        if isinstance(x, _Weights):
            x.note()


@torch.no_grad()
def exchanged(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of `model`, on the same tensors, in which each `nn.MultiheadAttention` is an `Attention` or `Whole`.

    Those are left whole that are called in a way that `Attention` does not know, and those whose weights are read.

    Args:
        images: shape (B, ..), as `model` takes them.
    """
    same: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    watched = copy.deepcopy(model, dict(same))  # the network's own code may keep what it is given
    fits: dict[nn.Module, bool] = {}

    def see(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        call = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        call |= {"bias_k": module.bias_k, "add_zero_attn": module.add_zero_attn}
        fits[module] = fits.get(module, True) and why_whole(call) is None
        if out[1] is None:
            return out
        weights = out[1].as_subclass(_Weights)
        weights.note = partial(fits.update, {module: False})
        return out[0], weights

    with evaluating(watched), ExitStack() as stack:
        for module in watched.modules():
            if _is_plain(module):
                stack.callback(module.register_forward_hook(see, with_kwargs=True).remove)
        _note_read(watched(images))
    pairs: Any = zip(model.modules(), watched.modules(), strict=True)
    network = copy.deepcopy(model, same | {id(module): Attention(module) for module, seen in pairs if fits.get(seen)})
    for module in network.modules():
        if type(module) is nn.MultiheadAttention:
            module.__class__ = Whole
    return network
