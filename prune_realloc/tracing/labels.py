"""Labels: what stands for the numbers of a tensor while a network is traced.

Each position of each dimension of a parameter has an id. A layer's output carries the ids of the rows that wrote it, so
a tensor of labels says of every element which channel it belongs to; what only moves elements about moves labels. A
tensor may have several channel dimensions (channels times channels), each with a plane of its own. 0 stands for an
element of no channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Labels(Tensor):
    """A tensor without numbers: a shape, and planes of ids of that shape."""

    planes: tuple[Tensor, ...]
    source: int | None
    """The layer that wrote it, by its number, where elements have only been moved about or acted on one by one."""
    pure: bool
    """Nothing but moves and multiplications by a number since then."""
    plain: bool
    """Nothing but those, a batch norm and factors for each channel."""
    origin: int | None = None
    """Tensors that are the same elements, moved about, have the same one; None as long as nobody asked."""
    parameter: bool
    """It is a parameter, or moved about from parameters alone."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # stubs know methods only


def labels(
    shape: Sequence[int],
    planes: Iterable[Tensor] = (),
    *,
    source: int | None = None,
    pure: bool = False,
    plain: bool = False,
    parameter: bool = False,
    origin: int | None = None,
) -> Labels:
    """A tensor of labels; planes are expanded to `shape`."""
    made = torch.zeros(()).expand(tuple(shape)).as_subclass(Labels)
    made.planes = tuple(plane.expand(tuple(shape)) for plane in planes)
    made.source, made.pure, made.plain = source, pure, pure or plain
    made.parameter, made.origin = parameter, origin
    return made


def varies(plane: Tensor, dim: int) -> bool:
    """Do the labels of `plane` depend on the place along `dim`?"""
    if plane.shape[dim] == 1 or plane.stride(dim) == 0:
        return False
    plane = compact(plane, but=dim)
    return bool(((plane != 0) & (plane != plane.amax(dim, keepdim=True))).any())


def varying(plane: Tensor) -> list[int]:
    """Dimensions along which the labels of `plane` vary."""
    return [dim for dim in range(plane.ndim) if varies(plane, dim)]


def compact(plane: Tensor, but: int | None = None) -> Tensor:
    """The same plane with a size of 1 where it is expanded."""
    keep = None if but is None else but % plane.ndim
    for dim in range(plane.ndim):
        if plane.stride(dim) == 0 and plane.shape[dim] > 1 and dim != keep:
            plane = plane.narrow(dim, 0, 1)
    return plane


def settled(plane: Tensor) -> Tensor:
    """The same plane, expanded along all dimensions along which it does not vary."""
    dims = [dim for dim in range(plane.ndim) if plane.stride(dim) != 0 and not varies(plane, dim)]
    return collapsed(plane, dims).expand(plane.shape) if dims else plane


def collapsed(plane: Tensor, dims: Iterable[int]) -> Tensor:
    """The labels without the places along `dims`, each of which keeps a size of 1."""
    small, shape = compact(plane), list(plane.shape)
    for dim in dims:
        small, shape[dim] = small.amax(dim, keepdim=True), 1
    return small.expand(shape)
