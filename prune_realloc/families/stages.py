"""Blocks that lie in stages: `attention.py` speaks of `blocks.3`, their modules have names of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prune_realloc.core.structure import Branch, Pair, Site, Slice, site_name


@dataclass(frozen=True)
class Place:
    """Where a block lies."""

    number: int
    """Counted through all stages."""
    stage: int
    name: str
    """The name of its module, such as `layers.1.blocks.0`."""

    @property
    def stream(self) -> str:
        """The site of the stream that the block reads and adds to."""
        return site_name("embed", None, self.stage)

    def site(self, site: Site) -> Site:
        gates = tuple(replace(gate, module=self._named(gate.module)) for gate in site.gates)
        return replace(site, slices=self._slices(site.slices), gates=gates)

    def pair(self, pair: Pair) -> Pair:
        return replace(pair, left=self._slices(pair.left), right=self._slices(pair.right))

    def branch(self, branch: Branch) -> Branch:
        readers = tuple(map(self._named, branch.readers))
        name, writer = self._named(branch.name), self._named(branch.writer)
        return replace(branch, name=name, writer=writer, readers=readers, stream=self.stream)

    def _slices(self, parts: tuple[Slice, ...]) -> tuple[Slice, ...]:
        return tuple(replace(part, parameter=self._named(part.parameter)) for part in parts)

    def _named(self, name: str) -> str:
        return self.name + name.removeprefix(f"blocks.{self.number}")


def block_slices(name: str, every: np.ndarray, own: frozenset[str]) -> list[Slice]:
    """Where the channels of the stream lie in a block of attention and FFN, each behind a norm.

    Args:
        own: names of the network's parameters; biases and norms may be missing.
    """
    dims = {"attn.qkv.weight": 1, "mlp.fc1.weight": 1, "attn.proj.weight": 0, "mlp.fc2.weight": 0}
    dims |= {f"{layer}.bias": 0 for layer in ("attn.proj", "mlp.fc2")}
    dims |= {f"{norm}.{part}": 0 for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    return [Slice(f"{name}.{part}", dim, every) for part, dim in dims.items() if f"{name}.{part}" in own]
