"""Is a network what its branches say, in numbers? What is not is left to the units, or left as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prune_realloc.core.structure import Branch, Crossing
from prune_realloc.runtime.networks import is_layer
from prune_realloc.tracing.branches import joint_branches, unit_branches
from prune_realloc.tracing.order import order_of
from prune_realloc.tracing.walk import Walk

_ROUNDING = 1e-3
"""What the same computed twice may differ by, as a share of the largest value."""


@dataclass(frozen=True)
class Checked:
    """What holds."""

    walk: Walk
    crossings: tuple[Crossing, ...]
    exits: Mapping[str, str]
    notes: tuple[str, ...]


@torch.no_grad()
def checked(
    model: nn.Module,
    walk: Walk,
    crossings: Sequence[Crossing],
    exits: Mapping[str, str],
    norms: Mapping[str, str],
    images: Tensor,
) -> Checked:
    """The way through a network on a few images, and what can be fitted on it.

    Args:
        walk: without branches.
    """
    nothing = Checked(walk, (), {}, ("the way through this network could not be followed: no layer is refitted",))
    if not walk.chain.units or walk.chain.units != walk.traced.units or not walk.streams:
        return nothing
    try:
        found = _Checking(model, walk, norms).all_of(images, crossings, exits)
        output = found.walk.head_output(model, _end_of(model, found.walk, images))
    except Exception:  # it is the network's own code that runs
        return nothing
    wanted = model(images.clone())
    pairs = zip(tree_leaves(output), tree_leaves(wanted), strict=True)
    return found if all(_close(a, b) for a, b in pairs if isinstance(b, Tensor)) else nothing


def _end_of(model: nn.Module, walk: Walk, x: Tensor) -> Tensor:
    for stream in walk.streams:
        x = walk.stream_input(model, stream, x)
        for branch in (each for each in walk.branches if each.stream == stream):
            x = walk.lead(model, branch, x)
            x = x + walk.branch_output(model, branch, x)
    return x


class _Checking:
    """One check, unit by unit."""

    def __init__(self, model: nn.Module, walk: Walk, norms: Mapping[str, str]) -> None:
        self.model, self.walk, self.norms = model, walk, norms
        self.branches: list[Branch] = []
        self.joint: set[int] = set()
        self.left: list[str] = []
        """Layers that cannot be fitted."""

    @property
    def so_far(self) -> Walk:
        return dataclasses.replace(self.walk, branches=tuple(self.branches), joint=frozenset(self.joint))

    def all_of(self, x: Tensor, crossings: Sequence[Crossing], exits: Mapping[str, str]) -> Checked:
        kept: list[Crossing] = []
        stay: dict[str, str] = {}
        for place, stream in enumerate(self.walk.streams):
            arrive = partial(self.so_far.stream_input, self.model, stream)
            own = [each for each in crossings if each.stream == stream and place and _fits(self.model, each.writer)]
            before = self.walk.streams[place - 1] if place else None
            ways = [name for name, at in exits.items() if at == before and _fits(self.model, name)]
            x, once = self._run([*(each.writer for each in own), *ways], x, arrive)
            kept += [each for each in own if each.writer in once]
            stay |= {name: exits[name] for name in ways if name in once}
            x = self._stream(stream, x)
        last = [name for name, at in exits.items() if at == self.walk.streams[-1] and _fits(self.model, name)]
        once = self._run(last, x, partial(self.so_far.head_output, self.model))[1]
        stay |= {name: exits[name] for name in last if name in once}
        return Checked(self.so_far, tuple(kept), stay, self._notes(crossings, exits, kept, stay))

    def _stream(self, stream: str, x: Tensor) -> Tensor:
        """All branches on a stream; returns what it holds behind them."""
        start = self.walk.entry(stream)
        for unit in sorted(unit for unit in self.walk.sites.blocks if unit >= start):
            for joint in (False, True):
                make = joint_branches if joint else unit_branches
                found = make(self.walk.traced, self.walk.sites, unit)
                if not found or found[0].stream != stream:
                    continue
                behind, right = self._tried(unit, found, x, joint or not self.walk.traced.added[unit])
                if right:
                    x = behind
                    break
                self.branches = [each for each in self.branches if each.block != found[0].block]
                self.joint.discard(unit)
        return x

    def _tried(self, unit: int, found: Sequence[Branch], x: Tensor, joint: bool) -> tuple[Tensor, bool]:
        """What leaves a unit, and whether its branches tell that; they are noted."""
        model = self.model
        found = [_with_layers(model, branch) for branch in found]
        if joint:
            self.joint.add(unit)
            found = [branch for branch in found if branch.fitted]
        if not found:
            return x, False
        self.branches += found
        walk = self.so_far
        entered = state = walk.lead(model, found[0], x)
        raw = walk.run(model, unit, entered)
        made: list[Branch] = []
        for branch in found:
            layers = [*branch.readers, *([branch.writer] if branch.fitted else [])]
            output, once = self._run(layers, state, partial(walk.branch_output, model, branch))
            if not {branch.writer} <= once and branch.fitted:
                return state, False
            alone = joint or not branch.fitted or self._adds(walk, branch, state, output)
            readers = tuple(name for name in branch.readers if name in once)
            made.append(dataclasses.replace(branch, readers=readers, post_norm=branch.post_norm or not alone))
            state = state + output
        if not _close(state, raw):
            return state, False
        self.branches[-len(found) :] = made
        return raw, True

    def _adds(self, walk: Walk, branch: Branch, x: Tensor, output: Tensor) -> bool:
        """Is what the writer puts out, times a factor for each channel, all that it does to the stream?"""
        noise = torch.Generator().manual_seed(0)
        put, change = self._disturbed(walk, branch, x, output, lambda n, c: torch.randn(n, c, generator=noise))
        factor = self._factor(branch.writer)
        if put.shape[-1] != change.shape[-1]:
            return False
        if put.numel() == change.numel() and _close(put.reshape(change.shape) * factor, change):
            return True
        numbered, moved = self._disturbed(walk, branch, x, output, lambda n, c: _numbers(n).expand(n, c))
        channel = int((numbered[0, 0] * factor).abs().argmax())
        unit = (numbered[0, 0] * factor)[channel]  # what the first place got
        order = order_of(moved[..., channel] / unit, numbered.shape[1])
        if order is None or not _close(order.in_stream(put) * factor, change):
            return False
        walk.orders[branch.writer] = order
        return True

    def _disturbed(
        self, walk: Walk, branch: Branch, x: Tensor, output: Tensor, make: Callable[[int, int], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What is added to the writer's output, (B, N, D), alike for all images, and what that changes in the stream.

        Args:
            make: of a number of positions and channels: what to add.
        """
        added: list[Tensor] = []

        def disturb(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            rows = out.flatten(2).mT if isinstance(module, nn.Conv2d) else out
            count, channels = rows.numel() // (len(x) * rows.shape[-1]), rows.shape[-1]
            one = make(count, channels).to(out) * out.std()
            added.append(one.expand(len(x), count, channels))
            more = added[0].reshape(rows.shape)
            return out + (more.mT.reshape(out.shape) if isinstance(module, nn.Conv2d) else more)

        with _hooked(self.model, branch.writer, disturb):
            change = walk.branch_output(self.model, branch, x) - output
        return added[0], change

    def _factor(self, writer: str) -> Tensor:
        """What the output of a layer is multiplied by on its way to the stream, shape (D,) or ()."""
        factor = torch.ones(()).to(next(self.model.parameters()))
        norm = self.norms.get(writer)
        if norm is not None:
            module: Any = self.model.get_submodule(norm)
            factor = (module.running_var + module.eps).rsqrt()
            factor = factor if module.weight is None else factor * module.weight
        record = self.walk.traced.record
        for name, number in record.scales:
            if record.layers[number].module == writer:
                factor = factor * self.model.get_parameter(name).flatten()
        return factor

    def _run(self, layers: Sequence[str], x: Tensor, run: Callable[[Tensor], Any]) -> tuple[Any, set[str]]:
        """What `run` gives, and those of the layers that it called once."""
        calls = dict.fromkeys(layers, 0)

        def count(name: str) -> Callable[..., None]:
            def seen(*_: Any) -> None:
                calls[name] += 1

            return seen

        handles = [self.model.get_submodule(name).register_forward_hook(count(name)) for name in calls]
        try:
            out = run(x)
        finally:
            for handle in handles:
                handle.remove()
        return out, {name for name, times in calls.items() if times == 1}

    def _notes(
        self, crossings: Sequence[Crossing], exits: Mapping[str, str], kept: Sequence[Crossing], stay: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Which blocks have units that could be refitted and are not."""
        sites = self.walk.sites
        inside = {site.block: None for site in sites.every if site.axis not in ("block", "embed")}
        done = {branch.block for branch in self.branches if branch.fitted}
        crossed = {int(each.site.split(".")[1]) for each in kept}
        names = {block: self.walk.chain.units[self.walk.units_of[block]] for block in inside if block is not None}
        left = [name for block, name in names.items() if block not in done | crossed]
        left += sorted(set(exits) - set(stay))
        if not left:
            return ()
        return (f"not refitted: the layers of {', '.join(left[:5])}{f' and {len(left) - 5} more' * (len(left) > 5)}",)


def _numbers(count: int) -> Tensor:
    return torch.arange(1.0, count + 1)[:, None]


@contextmanager
def _hooked(model: nn.Module, name: str, hook: Callable[..., Any]) -> Iterator[None]:
    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _with_layers(model: nn.Module, branch: Branch) -> Branch:
    """Without what is a layer by name only."""
    readers = tuple(name for name in branch.readers if _fits(model, name))
    return dataclasses.replace(branch, readers=readers, fitted=branch.fitted and _fits(model, branch.writer))


def _fits(model: nn.Module, name: str) -> bool:
    return is_layer(model.get_submodule(name))


def _close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= _ROUNDING * wanted.abs().max())
