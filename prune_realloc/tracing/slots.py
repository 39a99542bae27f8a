"""What a module is called with, or gives: one tensor that depends on the images, and constants around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

_PLAIN = (int, float, complex, str, bytes, tuple, torch.dtype, torch.device)


@dataclass(frozen=True)
class Seen:
    """Inputs or outputs of one call in one pass, in which all tensors that depend on the images are the same one."""

    leaves: tuple[Any, ...]
    """None in the places of the stream."""
    spec: TreeSpec
    places: tuple[int, ...]
    shape: tuple[int, ...]
    order: tuple[int, ...]
    """The stream's axes as they lie in memory, the outermost first."""


@dataclass(frozen=True)
class Slot:
    """The same for any number of images."""

    leaves: tuple[Any, ...]
    spec: TreeSpec
    places: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the stream, of one image; an axis that grows with the images is negative."""
    order: tuple[int, ...]

    def fill(self, x: Tensor) -> Any:
        """The call's inputs or outputs with `x` for the stream."""
        return tree_unflatten([x if i in self.places else leaf for i, leaf in enumerate(self.leaves)], self.spec)

    def lay(self, x: Tensor) -> Tensor:
        """`x` as it lies in memory where the network itself has it: what is behind may view it in other shapes."""
        return _permuted_back(x.permute(self.order).contiguous(), self.order)

    def take(self, value: Any) -> Tensor:
        """The stream out of the inputs or outputs of a call."""
        return tree_flatten(value)[0][self.places[0]]

    def zeros(self, like: Tensor, images: int, *, read: bool) -> Tensor:
        """A stream of zeros of so many images; one that is not read takes no memory."""
        shape = [-n * images if n < 0 else n for n in self.shape]
        return self.lay(like.new_zeros(shape)) if read else like.new_zeros(()).expand(shape)

    def images_in(self, x: Tensor) -> int:
        """How many images `x` is of."""
        axis = next(i for i, n in enumerate(self.shape) if n < 0)
        return x.shape[axis] // -self.shape[axis]


def see(value: Any, depends: Callable[[Tensor], bool]) -> Seen | None:
    """`value` with the stream taken out; None if not exactly one tensor in it depends on the images."""
    leaves, spec = tree_flatten(value)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and depends(leaf)]
    if not places or any(leaves[i] is not leaves[places[0]] for i in places):
        return None
    stream = leaves[places[0]]
    order = sorted(range(stream.ndim), key=lambda axis: -stream.stride(axis))
    kept = tuple(None if i in places else leaf for i, leaf in enumerate(leaves))
    return Seen(kept, spec, tuple(places), tuple(stream.shape), tuple(order))


def slot_of(seen: Sequence[Seen | None], images: Sequence[int]) -> Slot | None:
    """What two passes of so many images have in common; None if more than the number of images differs."""
    first, second = seen
    if first is None or second is None or (first.spec, first.places) != (second.spec, second.places):
        return None
    if not all(map(_same, first.leaves, second.leaves)) or len(first.shape) != len(second.shape):
        return None
    shape = [n if n == m else _of_one_image((n, m), images) for n, m in zip(first.shape, second.shape, strict=True)]
    if 0 in shape or all(n > 0 for n in shape):
        return None
    return Slot(first.leaves, first.spec, first.places, tuple(shape), first.order)


def _of_one_image(sizes: tuple[int, int], images: Sequence[int]) -> int:
    """Minus the length of an axis of one image; 0 if it does not grow with the images."""
    one = sizes[0] // images[0]
    return -one if all(size == one * n for size, n in zip(sizes, images, strict=True)) else 0


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other or (isinstance(one, _PLAIN) and type(one) is type(other) and one == other)


def _permuted_back(x: Tensor, order: tuple[int, ...]) -> Tensor:
    return x.permute([order.index(axis) for axis in range(len(order))])
