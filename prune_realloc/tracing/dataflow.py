"""One pass of a network, watched: which module is called when, and how many tensors carry the images at that moment.

A tensor carries the images from the operation that computes it out of others that do, to the last one that reads it. At
a moment at which there is only one such tensor, all that comes later depends on the images through it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prune_realloc.tracing.slots import Seen, see


@dataclass
class Call:
    """One call of a module."""

    name: str
    module: nn.Module
    entered: int
    """How many operations had been run before."""
    reads: bool
    """Does an input depend on the images?"""
    inputs: Seen | None
    left: int = -1
    output: Seen | None = None
    children: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Pass:
    root: Call
    alive: Sequence[int]
    """After so many operations: the number of storages that carry the images."""

    def calls(self) -> list[Call]:
        """Every call, a module before those inside."""
        return list(walk(self.root))


def watch(model: nn.Module, images: Tensor) -> Pass:
    """Run `model` on `images`, and watch."""
    operations, root = _Operations(images), Call("", model, 0, True, None)
    with _calls_recorded(model, operations, root), operations:
        output = model(images)
    return Pass(root.children[0], operations.alive(output))


def walk(call: Call) -> Iterator[Call]:
    """`call` and every one inside, each before those inside of it."""
    yield call
    for child in call.children:
        yield from walk(child)


class _Operations(TorchDispatchMode):
    """Sees every operation, and keeps when each storage that depends on the images was computed and last read."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.count = 0
        # a weak reference keeps the address, not the numbers: no later storage is taken for this one
        self.spans: dict[StorageWeakRef, list[int]] = {_storage(images): [0, 0]}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.count += 1
        sources = [] if _reads_shape_only(func) else self._known((args, kwargs))
        for span in sources:
            span[1] = self.count
        if sources:
            for tensor in _tensors(output):
                self.spans.setdefault(_storage(tensor), [self.count, self.count])
        return output

    def depends(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self.spans

    def alive(self, output: Any) -> list[int]:
        """The number of storages after so many operations."""
        changes = [0] * (self.count + 2)
        for span in self._known(output):
            span[1] = self.count + 1
        for computed, read in self.spans.values():
            changes[computed] += 1
            changes[read] -= 1
        return list(accumulate(changes))

    def _known(self, value: Any) -> list[list[int]]:
        found = (self.spans.get(_storage(tensor)) for tensor in _tensors(value))
        return [span for span in found if span is not None]


@contextmanager
def _calls_recorded(model: nn.Module, operations: _Operations, root: Call) -> Iterator[None]:
    """Every call that a module gets inside becomes a child of the call around it."""
    names = {module: name for name, module in model.named_modules()}
    open_calls = [root]

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        reads = any(operations.depends(tensor) for tensor in _tensors((args, kwargs)))
        call = Call(names[module], module, operations.count, reads, see((args, kwargs), operations.depends))
        open_calls[-1].children.append(call)
        open_calls.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = open_calls.pop()
        call.left, call.output = operations.count, see(output, operations.depends)

    handles: list[Any] = []
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _reads_shape_only(func: Any) -> bool:
    """Is it an operation such as `zeros_like`, whose result does not depend on what is in the tensor?"""
    name = func.__name__
    return name.startswith("new_") or "_like" in name
