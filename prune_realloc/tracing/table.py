"""Which of torch's functions does what to labels, by its name."""

from __future__ import annotations

from prune_realloc.tracing.layers import LAYERS
from prune_realloc.tracing.operations import (
    Operation,
    combined,
    each,
    filled,
    largest,
    length,
    moved,
    normalised,
    pooled,
    reduced,
    same,
    where,
    written,
)
from prune_realloc.tracing.products import PRODUCTS

_MOVES = (
    "reshape view reshape_as view_as permute transpose flatten unflatten squeeze unsqueeze expand expand_as repeat "
    "cat concat stack split split_with_sizes chunk tensor_split unbind __getitem__ roll flip pad narrow select "
    "index_select repeat_interleave movedim moveaxis swapaxes swapdims t unfold pixel_shuffle pixel_unshuffle tile "
    "__iter__ T mT meshgrid rot90 channel_shuffle gather"
).split()
_SAME = (
    "contiguous to float half type type_as double bfloat16 clone detach dropout dropout1d dropout2d cpu cuda long"
).split()
_EACH = (
    "gelu relu relu_ relu6 silu hardswish hardsigmoid hardtanh sigmoid tanh exp log log2 log1p sqrt rsqrt abs neg "
    "square leaky_relu elu selu softplus mish prelu clamp clamp_ clamp_min pow __rpow__ sin cos masked_fill "
    "masked_fill_ reciprocal sign round floor erf logsigmoid nan_to_num silu_ gelu_ hardswish_ __pow__ sigmoid_"
).split()
_PAIRS = (
    "add add_ sub sub_ mul mul_ div div_ true_divide rsub __rsub__ __rtruediv__ __rdiv__ maximum minimum lerp "
    "__radd__ __rmul__ __add__ __mul__ __sub__ __truediv__ __iadd__ __imul__ __isub__ __itruediv__"
).split()
_REDUCTIONS = "mean sum amax amin var std logsumexp".split()
_POOLS = (
    "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool1d avg_pool1d max_pool1d "
    "interpolate upsample _max_pool2d boolean_dispatch fn"
).split()

OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(_MOVES, moved),
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_EACH, each),
    **dict.fromkeys(_PAIRS, combined),
    **dict.fromkeys(_REDUCTIONS, reduced),
    **dict.fromkeys(_POOLS, pooled),
    **dict.fromkeys(("max", "min"), largest),
    **dict.fromkeys(("softmax", "log_softmax", "normalize"), normalised),
    **dict.fromkeys(("norm", "vector_norm", "linalg_vector_norm"), length),
    **dict.fromkeys(
        ("new_zeros", "new_ones", "new_empty", "zeros_like", "ones_like", "empty_like", "new_full"), filled
    ),
    "where": where,
    "__setitem__": written,
    **LAYERS,
    **PRODUCTS,
}
