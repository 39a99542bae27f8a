"""Modules tapped or masked inside a block, and put back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Gate, Site


@contextmanager
def masked(model: nn.Module, site: Site, units: Iterable[int]) -> Iterator[None]:
    """Inside the block, `units` of `site` are switched off: their channels are zero at all the site's gates."""
    picked = list(units)

    def zeroed(gate: Gate, x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[gate.dim], dtype=x.dtype, device=x.device)
        index = gate.index[picked] if gate.units is None else gate.index[np.isin(gate.units, picked)]
        keep[torch.as_tensor(index.ravel())] = 0
        return (x.movedim(gate.dim, -1) * keep).movedim(-1, gate.dim)

    handles = []
    try:
        for gate in site.gates:
            module = model.get_submodule(gate.module)
            if gate.side == "input":
                handles.append(
                    module.register_forward_pre_hook(lambda _, args, gate=gate: (zeroed(gate, args[0]), *args[1:]))
                )
            else:
                handles.append(module.register_forward_hook(lambda _, __, out, gate=gate: zeroed(gate, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def tapped(
    model: nn.Module,
    sites: tuple[Site, ...],
    use: Callable[[tuple[str, str], list[tuple[Site, Gate]], Tensor], None],
) -> Iterator[None]:
    """Calls `use` with every gated activation as it is computed; one hook serves all gates at a place."""
    places: dict[tuple[str, str], list[tuple[Site, Gate]]] = defaultdict(list)
    for site in sites:
        for gate in site.gates:
            places[gate.module, gate.side].append((site, gate))
    handles = []
    try:
        for key, gates in places.items():
            module = model.get_submodule(key[0])
            if key[1] == "input":
                handles.append(
                    module.register_forward_pre_hook(lambda _, args, key=key, gates=gates: use(key, gates, args[0]))
                )
            else:
                handles.append(
                    module.register_forward_hook(lambda _, __, out, key=key, gates=gates: use(key, gates, out))
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def hooked(model: nn.Module, places: list) -> Iterator[None]:
    """Calls each place's function with the named module's first input or its output."""
    handles = []
    try:
        for name, side, use in places:
            module = model.get_submodule(name)
            if side == "input":
                handles.append(module.register_forward_pre_hook(lambda _, args, use=use: use(args[0])))
            else:
                handles.append(module.register_forward_hook(lambda _, __, out, use=use: use(out)))
        yield
    finally:
        for handle in handles:
            handle.remove()
