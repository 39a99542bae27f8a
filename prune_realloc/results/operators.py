"""Operators of torch: which class each is of, and what one call computes and moves, by the shapes that it was given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

MATRIX, MOVES, ELEMENTWISE = "matrix products, convolutions", "reshape and copy", "element-wise"
NORM, SOFTMAX, FUSED, OTHER = "normalisation", "softmax", "fused attention", "other"
KINDS = (MATRIX, FUSED, SOFTMAX, NORM, ELEMENTWISE, MOVES, OTHER)
_WORDS = {
    FUSED: "attention",
    SOFTMAX: "softmax",
    NORM: "layer_norm batch_norm group_norm rms_norm instance_norm",
    MATRIX: "addmm baddbmm bmm mm matmul linear conv einsum addbmm mkldnn_linear",
}
"""Class -> what the name of an operator has to hold; the first that fits."""
_MOVES = (
    "alias as_strided broadcast_to cat chunk clone col2im constant_pad_nd contiguous copy_ detach expand expand_as "
    "flatten flip im2col index index_select lift_fresh movedim narrow pad permute repeat reshape reshape_as "
    "_reshape_alias resize_ resolve_conj resolve_neg roll select slice split split_with_sizes squeeze stack t to "
    "_to_copy transpose unbind unflatten unfold unsafe_split unsafe_view _unsafe_view unsqueeze view view_as"
)
_ELEMENTWISE = (
    "abs add addcmul clamp clamp_min copysign cos div elu erf exp gelu hardsigmoid hardswish hardtanh leaky_relu log "
    "logical_not maximum minimum mul neg pow reciprocal relu relu6 rsqrt rsub sigmoid silu sin sqrt square sub tanh "
    "threshold where"
)
_PER_ELEMENT = {NORM: 5, SOFTMAX: 5}
"""Operations for each element that is put out; one elsewhere. What only moves computes nothing."""

Key = tuple[str, tuple[tuple[int, ...], ...]]
"""An operator's name (`aten::mm`) and the shapes of its first tensors, which tells one kind of call from another."""


@dataclass(frozen=True)
class Work:
    """What one call does."""

    flops: int
    """Operations; a multiply-add is two."""
    bytes: int
    """Read and written, each tensor once; a view moves none."""


def kind_of(name: str) -> str:
    """The class of `aten::NAME`, one of `KINDS`."""
    bare = name.removeprefix("aten::")
    for kind, words in _WORDS.items():
        if any(word in bare for word in words.split()):
            return kind
    if bare in _MOVES.split():
        return MOVES
    return ELEMENTWISE if bare.rstrip("_") in _ELEMENTWISE.split() else OTHER


def key_of(name: str, shapes: Any) -> Key:
    """Of a recorded call; shapes of numbers are empty and not counted, since not every recorder has them."""
    flat = [part for shape in shapes for part in (shape if shape and not isinstance(shape[0], int) else [shape])]
    return name, tuple(tuple(shape) for shape in flat if len(shape))[:3]


class Counted(TorchDispatchMode):
    """While it lasts, every operator that runs is counted, the innermost that torch itself tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[Key, Work] = {}
        self.calls: dict[Key, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        key = key_of(f"aten::{func.name().partition('::')[2].partition('.')[0]}", [x.shape for x in given])
        moved = 0 if func.is_view else sum(x.numel() * x.element_size() for x in (*given, *made))
        self.work[key] = Work(_flops(func, args, kwargs or {}, out, made), moved)
        self.calls[key] += 1
        return out


def _flops(func: Any, args: Any, kwargs: Mapping[str, Any], out: Any, made: list[Tensor]) -> int:
    packet = func.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    if "scaled_dot_product" in func.name():  # of the CPU, which torch's table leaves out
        return int(sdpa_flop_count(*(x.shape for x in args[:3])))
    kind = kind_of(f"aten::{func.name().partition('::')[2].partition('.')[0]}")
    if kind == MOVES or func.is_view:
        return 0
    return _PER_ELEMENT.get(kind, 1) * sum(x.numel() for x in made[:1])


@torch.no_grad()  # in inference mode composite operators would not be told apart from what they call
def work_of(net: torch.nn.Module, images: Tensor) -> dict[Key, Work]:
    """What each kind of call of one pass does."""
    with Counted() as counted:
        net(images)
    return counted.work
