"""Which tensors are alive while a network runs, counted exactly: storages, from the operator that makes them on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """While it lasts, every storage that an operator gives out is noted; what a kernel takes for itself is not seen."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Args:
        known: what is there already, and not counted.
        """
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._number: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.sizes: list[int] = []
        """Bytes of each storage, by its number."""
        self._alive: set[int] = set()
        self.moments: list[frozenset[int]] = []
        """Numbers of the storages that are alive after each operator that made one; the largest is the last made."""

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max((sum(self.sizes[number] for number in alive) for alive in self.moments), default=0)

    def number(self, tensor: Tensor) -> int | None:
        """Of the storage in which a tensor lies; None where it was not made in here."""
        return self._number.get(tensor.untyped_storage())

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [self._made(x) for x in tree_leaves(out) if isinstance(x, Tensor)]
        if any(made):
            self.moments.append(frozenset(self._alive))
        return out

    def _made(self, tensor: Tensor) -> bool:
        """Notes the storage of a tensor, if it is new."""
        storage = tensor.untyped_storage()
        if storage in self._number or storage.data_ptr() in self._known or not storage.nbytes():
            return False
        number = len(self.sizes)
        self._number[storage] = number
        self.sizes.append(storage.nbytes())
        self._alive.add(number)
        weakref.finalize(storage, self._alive.discard, number)
        return True


@torch.no_grad()
def peak_memory(model: nn.Module, images: Tensor) -> int:
    """The most bytes that inference holds at once: weights and buffers, the images, and the activations.

    Args:
        model: in evaluation mode, on the device of the images.
        images: shape (B, C, H, W).
    """
    kept = [*model.parameters(), *model.buffers()]
    with Allocations(kept) as allocations:
        model(images.clone())
    return sum(x.numel() * x.element_size() for x in kept) + allocations.peak
