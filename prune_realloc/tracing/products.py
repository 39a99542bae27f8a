"""What products of two activations do to labels: attention in all of its forms."""

# B batch, H heads, N and M tokens, K and V widths of a head

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_realloc.tracing.attention import why_whole
from prune_realloc.tracing.labels import Labels, collapsed, compact, labels, varies, varying
from prune_realloc.tracing.operations import combined, labelled, unknown
from prune_realloc.tracing.record import Product, Record


def matmul(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """(.., N, K) times (.., K, M)."""
    a, b = (_labels(record, x) for x in args[:2])
    if a.ndim < 2 or b.ndim < 2:
        return unknown(record, func, args, kwargs)
    ndim = max(a.ndim, b.ndim)
    batch = "abcdefgh"[: ndim - 2]
    return contract(record, a, batch[ndim - a.ndim :] + "nk", b, batch[ndim - b.ndim :] + "km", batch + "nm")


def matmul_onto(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x + a b, as torch.baddbmm has it."""
    onto, *sides = args
    return combined(record, torch.add, (matmul(record, func, tuple(sides), {}), onto), {})


def einsum(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of two tensors, in letters."""
    equation, *tensors = args
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = list(tensors[0])
    if len(tensors) != 2 or "." in equation:
        return unknown(record, func, args, kwargs)
    left, out = equation.replace(" ", "").split("->")
    la, lb = left.split(",")
    return contract(record, _labels(record, tensors[0]), la, _labels(record, tensors[1]), lb, out)


def attention(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Scaled dot-product attention: (.., N, K), (.., M, K) and (.., M, V)."""
    q, k, v = (_labels(record, x) for x in args[:3])
    record.sized.add(record.module)  # the scale follows from the width
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    batch = "abcdefgh"[: q.ndim - 2]
    logits = contract(record, q, batch + "nk", k, batch + "mk", batch + "nm")
    if isinstance(mask, Tensor):
        logits = combined(record, torch.add, (logits, mask), {})
    return contract(record, labels(logits.shape, logits.planes), batch + "nm", v, batch + "mv", batch + "nv")


def whole_attention(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Attention that PyTorch computes as a whole, and that was not exchanged: all that goes into it stays."""
    call = inspect.signature(func).bind(*args, **kwargs).arguments
    own = "its attention weights are read, or it has hooks, computed weights or a forward pass of its own"
    return unknown(record, func, args, kwargs, why_whole(call) or own)


def _labels(record: Record, x: Any) -> Labels:
    found = labelled(record, x)
    return found if isinstance(found, Labels) else labels(x.shape)


def contract(record: Record, a: Labels, la: str, b: Labels, lb: str, lo: str) -> Labels:
    """A sum of products, in the letters of einsum; a letter has one size, or 1 where it is spread."""
    sizes = {letter: 1 for letter in la + lb}
    for tensor, letters in ((a, la), (b, lb)):
        for letter, size in zip(letters, tensor.shape, strict=True):
            sizes[letter] = max(sizes[letter], size)
    order = lo + "".join(letter for letter in sizes if letter not in lo)
    summed = [order.index(letter) for letter in order if letter not in lo]
    ours, theirs = (
        [_laid_out(plane, letters, order, sizes) for plane in tensor.planes] for tensor, letters in ((a, la), (b, lb))
    )
    shared = [order.index(letter) for letter in lo if letter in la and letter in lb]
    contracted = _tie_summed(record, ours, theirs, summed, shared)
    planes = _passed_on(record, ours, theirs, summed, shared)
    _note(record, sizes, order, ours, theirs, contracted, (a, b), summed)
    shape = tuple(sizes[letter] for letter in lo)
    out = [_dropped(plane, summed) for plane in planes]
    both = bool(ours) and bool(theirs) and not a.parameter and not b.parameter
    if both:
        for plane in out:
            record.carried.append(np.unique(compact(plane).numpy()).astype(np.int64))
    weighted = len(contracted) == 0  # the right side, weighted by the left, as values are by attention
    return labels(
        shape,
        out,
        source=b.source if weighted else None,
        pure=b.pure and weighted,
        parameter=a.parameter and b.parameter,
    )


def _laid_out(plane: Tensor, letters: str, order: str, sizes: dict[str, int]) -> Tensor:
    """The plane with all letters of `order` as dimensions, those that it lacks spread."""
    moved = plane.permute([letters.index(letter) for letter in order if letter in letters])
    for place, letter in enumerate(order):
        if letter not in letters:
            moved = moved.unsqueeze(place)
    return moved.expand([sizes[letter] for letter in order])


def _dropped(plane: Tensor, summed: list[int]) -> Tensor:
    for dim in sorted(summed, reverse=True):
        plane = plane.squeeze(dim)
    return plane


def _only(record: Record, plane: Tensor, summed: list[int], shared: list[int]) -> Tensor:
    """The labels along what is summed or shared; wherever else, they stay or go together."""
    free = [dim for dim in range(plane.ndim) if dim not in summed and dim not in shared]
    kept = collapsed(plane, free)
    if any(varies(plane, dim) for dim in free):
        record.tie(plane, kept)
    return kept


def _tie_summed(
    record: Record, ours: list[Tensor], theirs: list[Tensor], summed: list[int], shared: list[int]
) -> np.ndarray:
    """Channels that meet in the sum stay or go together; those that meet no channel must stay."""
    mine = [plane for plane in ours if any(varies(plane, dim) for dim in summed)]
    other = [plane for plane in theirs if any(varies(plane, dim) for dim in summed)]
    if mine and other:
        for plane in mine:
            for match in other:
                record.tie(*(_only(record, side, summed, shared) for side in (plane, match)))
        found = np.unique(compact(mine[0]).numpy()).astype(np.int64)
        return found[found > 0]
    for plane in mine + other:
        record.freeze(plane, "a product sums over channels that the other side has not")
    return np.zeros(0, np.int64)


def _passed_on(
    record: Record, ours: list[Tensor], theirs: list[Tensor], summed: list[int], shared: list[int]
) -> list[Tensor]:
    """Planes that vary along what is left; what varies over shared dimensions only (heads) becomes a group."""
    kept = []
    heads = []
    for plane in ours + theirs:
        dims = varying(plane)
        outside = [dim for dim in dims if dim not in summed]
        if any(dim not in shared for dim in outside):
            kept.append(collapsed(plane, summed))
        if any(dim in shared for dim in outside):
            heads.append(record.grouped(plane, [dim for dim in outside if dim in shared]))
    for plane in heads[1:]:
        record.tie(heads[0], plane)
    if heads and not any(set(varying(plane)) & set(shared) for plane in kept):
        kept.append(collapsed(heads[0].expand((ours + theirs)[0].shape), summed))
    return kept


def _note(
    record: Record,
    sizes: dict[str, int],
    order: str,
    ours: list[Tensor],
    theirs: list[Tensor],
    contracted: np.ndarray,
    sides: tuple[Labels, Labels],
    summed: list[int],
) -> None:
    planes = [plane for plane in (*ours, *theirs) if compact(plane).any()]
    macs, bare = int(np.prod([sizes[letter] for letter in order])), []
    for place, plane in enumerate(planes):
        for dim in (dim for dim in varying(plane) if dim not in summed):
            without = macs * _places_of_none(plane, dim) // plane.shape[dim]
            if without:
                bare.append((without, tuple(map(_labels_in, (*planes[:place], *planes[place + 1 :])))))
                macs -= without
    record.products.append(
        Product(
            module=record.module,
            macs=macs,
            factors=tuple(map(_labels_in, planes)),
            bare=tuple(bare),
            contracted=contracted,
            sources=tuple((side.source, side.pure) for side in sides),
        )
    )


def _labels_in(plane: Tensor) -> np.ndarray:
    found = np.unique(compact(plane).numpy()).astype(np.int64)
    return found[found > 0]


def _places_of_none(plane: Tensor, dim: int) -> int:
    """How many places along a dimension are of no channel, such as a column of ones beside values."""
    return int((compact(plane, but=dim) == 0).movedim(dim, 0).flatten(1).all(1).sum())


PRODUCTS = {
    "matmul": matmul,
    "bmm": matmul,
    "baddbmm": matmul_onto,
    "addmm": matmul_onto,
    "__matmul__": matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": whole_attention,
}
