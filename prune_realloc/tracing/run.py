"""A network is run on labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from prune_realloc.tracing.ids import Ids
from prune_realloc.tracing.labels import Labels, labels
from prune_realloc.tracing.operations import unknown
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.table import OPERATIONS

_ASKS = [
    "__get__",
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "data_ptr",
    "is_floating_point",
    "__len__",
    "_assert",
]
"""What asks a tensor for its shape and the like."""


_TURNED: dict[str, Callable[[int], tuple[int, ...]]] = {
    "T": lambda ndim: tuple(reversed(range(ndim))),
    "mT": lambda ndim: (*range(ndim - 2), ndim - 1, ndim - 2),
}
"""Property of a tensor -> the order of its dimensions."""


@torch.no_grad()
def traced(model: nn.Module, shape: tuple[int, ...]) -> Record:
    """Everything that a forward pass on one image, a batch of `shape` (1, C, H, W), shows.

    The model is in evaluation mode, and not changed.
    """
    record, model = Record(Ids.of(model)), shell(model)
    with watched_modules(model, record), on_labels(record):
        out = model(labels(shape))
    if getattr(model, "num_classes", None) != 0:
        for x in tree_leaves(out):
            for plane in x.planes if isinstance(x, Labels) else ():
                record.freeze(plane, "it is the network's output")
    return record


def shell(model: nn.Module) -> nn.Module:
    """The modules of `model` once more, with the same tensors, without what they keep from one pass for the next."""
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    shell = copy.deepcopy(model, shared)
    shell.train()  # at this, networks of timm let go of what they keep
    return shell.eval()


@contextmanager
def watched_modules(model: nn.Module, record: Record) -> Iterator[None]:
    """Notes which module is being computed, and what it takes and gives."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            enter, leave = partial(_enter, record, name), partial(_leave, record, name)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        yield


def _enter(record: Record, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    record.stack.append(name)
    _mark(record, (args, kwargs))


def _leave(record: Record, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
    record.stack.pop()
    record.calls[name] = (args, kwargs, out)
    _mark(record, out)


def _mark(record: Record, value: Any) -> None:
    for x in tree_leaves(value):
        if isinstance(x, Labels):
            record.mark(x)


def on_labels(record: Record) -> TorchFunctionMode:
    """While it lasts, torch's functions act on labels."""
    return _OnLabels(record)


class _OnLabels(TorchFunctionMode):
    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        leaves = tree_leaves((args, kwargs))
        known = [x for x in leaves if isinstance(x, Labels | nn.Parameter)]
        turned = _TURNED.get(getattr(getattr(func, "__self__", None), "__name__", "")) if name == "__get__" else None
        if known and turned is not None:  # `x.T`
            return OPERATIONS["permute"](self.record, torch.permute, (args[0], turned(args[0].ndim)), {})
        if not known or name in _ASKS:
            return func(*args, **kwargs)
        if name in OPERATIONS:
            return OPERATIONS[name](self.record, func, args, kwargs)
        return unknown(self.record, func, args, kwargs)
