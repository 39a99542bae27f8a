"""A network run on images and on labels, call by call the same: which tensors are made when, and what lies in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from prune_realloc.runtime.memory import Allocations
from prune_realloc.tracing.ids import Ids
from prune_realloc.tracing.labels import Labels, compact, labels
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.run import on_labels, shell, watched_modules


class _Calls(TorchFunctionMode):
    """Notes the calls of torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = len(self.names)
        self.names.append(getattr(func, "__name__", ""))
        out = func(*args, **(kwargs or {}))
        self.called(call, [*args, *(kwargs or {}).values()], out)
        return out

    def called(self, call: int, inputs: Sequence[Any], out: Any) -> None:
        """What is to be noted of a call, which has this number."""
        raise NotImplementedError


class OnImages(_Calls):
    """A pass on images: what was made where, and when it was alive."""

    def __init__(self, allocations: Allocations) -> None:
        super().__init__()
        self.allocations = allocations
        self.made: list[tuple[int, int | None]] = []
        """Of each storage: the call that made it, and which of the tensors that the call gave lies in it, if any."""

    @classmethod
    def of(cls, model: nn.Module, shape: tuple[int, ...]) -> OnImages:
        parameter, model = next(model.parameters()), shell(model)
        with Allocations([*model.parameters(), *model.buffers()]) as allocations:
            images = torch.zeros(shape, dtype=parameter.dtype)
            with cls(allocations) as calls:
                calls.made.append((-1, None))
                model(images)
        return calls

    def called(self, call: int, inputs: Sequence[Any], out: Any) -> None:
        places: dict[int | None, int] = {}
        for place, x in enumerate(x for x in tree_leaves(out) if isinstance(x, Tensor)):
            places.setdefault(self.allocations.number(x), place)
        new = range(len(self.made), len(self.allocations.sizes))
        self.made += [(call, places.get(number)) for number in new]


@dataclass(frozen=True)
class Labelled:
    """The labels of a tensor."""

    shape: tuple[int, ...]
    planes: tuple[Tensor, ...]
    """With a size of 1 where labels are the same along a dimension."""


class OnLabels(_Calls):
    """A pass on labels: what lies in the tensors that some calls took and gave."""

    def __init__(self, record: Record, wanted: Collection[int]) -> None:
        super().__init__()
        self.record, self._wanted = record, wanted
        self.modules: dict[int, str] = {}
        """Call -> the module that made it."""
        self.gave: dict[int, list[Labelled]] = {}
        self.took: dict[int, list[Labelled]] = {}

    @classmethod
    def of(cls, model: nn.Module, shape: tuple[int, ...], wanted: Collection[int]) -> OnLabels:
        record, images = Record(Ids.of(model)), labels(shape)
        model = shell(model)
        with watched_modules(model, record), on_labels(record), cls(record, wanted) as calls:
            model(images)
        return calls

    def called(self, call: int, inputs: Sequence[Any], out: Any) -> None:
        if call in self._wanted:
            self.modules[call] = self.record.module
            self.gave[call], self.took[call] = (_labelled(x) for x in (out, inputs))

    def like(self, call: int, place: int | None, size: int) -> Labelled | None:
        """Of the tensors at a call the one that has the channels of what it made: `place` of those that it gave where
        that has the size, else any that has it, else the first that it gave."""
        gave = self.gave.get(call, [])
        own = gave[place : place + 1] if place is not None else []
        sized = (one for one in (*own, *gave, *self.took.get(call, [])) if prod(one.shape) == size)
        return next(sized, next(iter(gave), None))


def _labelled(value: Any) -> list[Labelled]:
    found = (x for x in tree_leaves(value) if isinstance(x, Labels))
    return [Labelled(tuple(x.shape), tuple(map(compact, x.planes))) for x in found]
