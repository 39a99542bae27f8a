"""The way through a network along its streams: what enters each, what each branch adds, what follows the last.

A stream is handed on as (B, .., D), its channels last, however the units of the chain have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Branch
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.chain import Chain, muted, run_between, run_from, run_to, run_unit
from prune_realloc.tracing.order import Order
from prune_realloc.tracing.sites import Sites
from prune_realloc.tracing.sums import channel_dim, given, taken

Place = tuple[int, bool]
"""A unit of the chain, and whether it has been run."""


@dataclass(frozen=True, eq=False)
class Walk:
    """One network, with what its branches are."""

    traced: Traced
    chain: Chain
    sites: Sites
    branches: Sequence[Branch]
    joint: frozenset[int] = frozenset()
    """Units whose branches are not added one by one: all comes with the last of them."""
    orders: dict[str, Order] = field(default_factory=dict)
    """Writer -> the order of the tokens that it sees, where it is not that of the stream."""

    @cached_property
    def streams(self) -> list[str]:
        """In the order in which they are computed."""
        return [site.name for site in self.sites.every if site.axis == "embed"]

    @cached_property
    def units_of(self) -> dict[int, int]:
        """Block -> its unit of the chain."""
        return {block: unit for unit, block in self.sites.blocks.items()}

    def entry(self, stream: str) -> int:
        """The unit that takes a stream first; one more than the last where none does."""
        numbers = {number for number, (site, _) in self.sites.of.items() if site == stream}
        for unit, name in enumerate(self.chain.units):
            if numbers & set(self.traced.row(self.traced.record.calls[name][:2])):
                return unit
        return len(self.chain.units)

    def stream_input(self, model: nn.Module, stream: str, x: Tensor) -> Tensor:
        """What enters `stream`, from the images or from what the stream before it holds."""
        entry, place = self.entry(stream), self.streams.index(stream)
        if place:
            return self._lead(model, x, self._end(self.streams[place - 1]), entry)
        units = self.chain.units
        at = min(entry, len(units) - 1)
        x = self._channels_last(run_to(model, self.chain, units[at], x), (at, False))
        return self._lead(model, x, (at, False), entry)

    def lead(self, model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
        """What enters the unit of `branch`, where `x` is the stream behind the branch before it."""
        place, unit = [each.writer for each in self.branches].index(branch.writer), self.units_of[branch.block]
        before = self.branches[place - 1] if place else None
        if before is None or before.stream != branch.stream:
            return self._lead(model, x, (self.entry(branch.stream), False), unit)
        if before.block == branch.block:
            return x
        return self._lead(model, x, (self.units_of[before.block], True), unit)

    def branch_output(self, model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
        """What the unit gives out beyond what it takes, while its other branches add nothing."""
        unit = self.units_of[branch.block]
        own = [each for each in self.branches if each.block == branch.block]
        silent = (
            [] if unit in self.joint else self._silent(unit, [each for each in own if each.writer != branch.writer])
        )
        with muted(model, self.chain.units[unit], silent):
            raw = run_unit(model, self.chain, self.chain.units[unit], self._as_it_is(x, (unit, False)))
        if unit in self.joint and branch.writer != own[-1].writer:
            return torch.zeros_like(x)
        return self._channels_last(raw, (unit, True)) - x

    def run(self, model: nn.Module, unit: int, x: Tensor) -> Tensor:
        """What leaves a unit."""
        raw = run_unit(model, self.chain, self.chain.units[unit], self._as_it_is(x, (unit, False)))
        return self._channels_last(raw, (unit, True))

    def head_output(self, model: nn.Module, x: Tensor) -> Any:
        """The network's output from the last stream, after its last branch."""
        unit, behind = self._end(self.streams[-1])
        if not behind:
            x, unit = self._lead(model, x, (unit, False), len(self.chain.units)), len(self.chain.units) - 1
        return run_from(model, self.chain, self._as_it_is(x, (unit, True)), self.chain.units[unit])

    def in_stream_order(self, model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
        """What the writer of `branch` sees, (.., C), in the order of the tokens of the stream."""
        order = self.orders.get(branch.writer)
        return x if order is None else order.in_stream(x)

    def _end(self, stream: str) -> Place:
        """Where a stream is after its last branch."""
        on_it = [self.units_of[branch.block] for branch in self.branches if branch.stream == stream]
        if on_it:
            return on_it[-1], True
        entry = self.entry(stream)
        return (entry, False) if entry < len(self.chain.units) else (entry - 1, True)

    def _lead(self, model: nn.Module, x: Tensor, at: Place, to: int) -> Tensor:
        """What enters unit `to`, or leaves the last, from what is at a place."""
        units, (unit, behind) = self.chain.units, at
        assert unit <= to, (units[unit], to)
        raw = self._as_it_is(x, at)
        while unit < to and (unit, behind) != (len(units) - 1, True):
            if behind:
                raw = run_between(model, self.chain, units[unit], raw)
                unit += 1
            else:
                raw = run_unit(model, self.chain, units[unit], raw)
            behind = not behind
        return self._channels_last(raw, (unit, behind))

    def _channels_last(self, x: Tensor, at: Place) -> Tensor:
        return x.movedim(self._axes(at), (0, -1))

    def _as_it_is(self, x: Tensor, at: Place) -> Tensor:
        return x.movedim((0, -1), self._axes(at))

    def _axes(self, at: Place) -> tuple[int, int]:
        """Those of the images and of the channels, where the stream is at a place."""
        unit, behind = at
        part, name = self.chain.parts[unit], self.chain.units[unit]
        slot = part.output if behind else part.inputs
        [x] = given(self.traced.record, name) if behind else taken(self.traced.record, name)
        images = next(axis for axis, size in enumerate(slot.shape) if size < 0)
        channels = channel_dim(x) % x.ndim
        assert images != channels, name
        return images, channels

    def _silent(self, unit: int, others: Sequence[Branch]) -> list[str]:
        """The modules in a unit that give out what its other branches add."""
        name = self.chain.units[unit]
        writers = {branch.writer for branch in others}
        added = [each for each in self.traced.added[unit] if each.writer is not None and each.writer.module in writers]
        return [each.module.removeprefix(f"{name}.") for each in added if each.module is not None]
