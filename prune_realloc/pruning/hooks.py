"""Modules watched or masked while a network runs, and put back afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prune_realloc.core.structure import Gate, Side, Site

Place = tuple[str, Side]
"""Name of a module, and which of its tensors is meant: its first input or its output. Or name of a weight, where its
layer is not called as one: what the weight is applied to, or gives."""


@contextmanager
def masked(model: nn.Module, site: Site, units: Iterable[int]) -> Iterator[None]:
    """Inside the block, `units` of `site` are switched off: their channels are zero at all the site's gates."""
    picked = list(units)

    def zeroed(gate: Gate, x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[gate.dim], dtype=x.dtype, device=x.device)
        index = gate.index[picked] if gate.units is None else gate.index[np.isin(gate.units, picked)]
        keep[torch.as_tensor(index.ravel())] = 0
        return (x.movedim(gate.dim, -1) * keep).movedim(-1, gate.dim)

    with _attached(model, [((gate.module, gate.side), partial(zeroed, gate)) for gate in site.gates]):
        yield


@contextmanager
def tapped(
    model: nn.Module, sites: Sequence[Site], use: Callable[[Place, list[tuple[Site, Gate]], Tensor], Tensor | None]
) -> Iterator[None]:
    """Calls `use` with every gated activation as it is computed; one hook serves all gates at a place.

    What it returns, if anything, takes the activation's place.
    It sees them before hooks that are there already, since the graph of a gradient may begin with it.
    """
    places: dict[Place, list[tuple[Site, Gate]]] = defaultdict(list)
    for site in sites:
        for gate in site.gates:
            places[gate.module, gate.side].append((site, gate))
    with _attached(model, [(place, partial(use, place, gates)) for place, gates in places.items()], first=True):
        yield


@contextmanager
def hooked(model: nn.Module, places: Iterable[tuple[str, Side, Callable[[Tensor], None]]]) -> Iterator[None]:
    """Calls each place's function with the named module's first input or its output."""
    with _attached(model, [((module, side), use) for module, side, use in places]):
        yield


@contextmanager
def _attached(
    model: nn.Module, places: Iterable[tuple[Place, Callable[[Tensor], Tensor | None]]], *, first: bool = False
) -> Iterator[None]:
    """While it lasts, each function sees the tensor at its place; what it returns, if anything, takes its place."""
    weights: dict[int, list[tuple[Side, Callable[[Tensor], Tensor | None]]]] = defaultdict(list)
    parameters = dict(model.named_parameters())
    with ExitStack() as stack:
        for (name, side), use in places:
            if name in parameters:
                weights[id(parameters[name])].append((side, use))
                continue
            module = model.get_submodule(name)
            if side == "input":
                handle = module.register_forward_pre_hook(partial(_on_input, use), prepend=first)
            else:
                handle = module.register_forward_hook(partial(_on_output, use), prepend=first)
            stack.callback(handle.remove)
        if weights:
            stack.enter_context(_OnWeights(weights))
        yield


class _OnWeights(TorchFunctionMode):
    """While it lasts, each function sees what is multiplied by its weight, or comes of it."""

    def __init__(self, weights: Mapping[int, Sequence[tuple[Side, Callable[[Tensor], Tensor | None]]]]) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        uses = self.weights.get(id(weight), ()) if func.__name__ in _LAYERS else ()
        for side, use in uses:
            if side == "input":
                args = (_or_same(use(args[0]), args[0]), *args[1:])
        out = func(*args, **kwargs)
        for side, use in uses:
            if side == "output":
                out = _or_same(use(out), out)
        return out


_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


def _or_same(changed: Tensor | None, x: Tensor) -> Tensor:
    return x if changed is None else changed


def _on_input(
    use: Callable[[Tensor], Tensor | None], module: nn.Module, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    changed = use(args[0])
    return None if changed is None else (changed, *args[1:])


def _on_output(
    use: Callable[[Tensor], Tensor | None], module: nn.Module, args: tuple[Tensor, ...], out: Tensor
) -> Tensor | None:
    return use(out)
