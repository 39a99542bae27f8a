"""A network of two stages, each with a residual stream of its own, whose blocks run in windows; and its family.

Stem -> 16 tokens of 8 channels -> blocks 0 and 1 in four windows of four tokens -> merging: the mean of each window,
and a linear layer to 12 channels -> blocks 2 and 3 in one window -> norm -> mean -> head. This module is the family.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import Branch, Gate, OpaqueModule, Pair, Site, Slice, Stream, Structure, site_name
from support.networks import randomise_

CHANNELS, TOKENS, CLASSES, HEADS = (8, 12), (16, 4), 5, 2
STREAMS = ("stages.0.embed", "stages.1.embed")


class WindowAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qk, self.v, self.scale = dim // HEADS, dim // HEADS, dim**-0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, 4, D) -> the same."""
        widths = [HEADS * self.qk, HEADS * self.qk, HEADS * self.v]
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).split(widths, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            nn.LayerNorm(dim),
            WindowAttention(dim),
            nn.LayerNorm(dim),
            Mlp(dim),
        )

    def output(self, branch: str, x: Tensor) -> Tensor:
        """What a branch adds to the stream (B, N, D), computed in windows of four tokens."""
        norm, module = (self.norm1, self.attn) if branch == "attn" else (self.norm2, self.mlp)
        windows = norm(x).reshape(-1, 4, x.shape[-1])
        return module(windows).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.output("attn", x)
        return x + self.output("mlp", x)


class TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.stem = nn.Conv2d(3, CHANNELS[0], 8, 8)
        self.stages = nn.ModuleList(nn.Sequential(Block(dim), Block(dim)) for dim in CHANNELS)
        self.merge = nn.Linear(*CHANNELS)
        self.norm, self.head = nn.LayerNorm(CHANNELS[1]), nn.Linear(CHANNELS[1], CLASSES)

    def embed(self, images: Tensor) -> Tensor:
        return self.stem(images).flatten(2).transpose(1, 2)

    def merged(self, x: Tensor) -> Tensor:
        return self.merge(x.unflatten(1, (4, 4)).mean(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages[1](self.merged(self.stages[0](self.embed(images))))
        return head_output(self, x)


def network(dtype: torch.dtype = torch.float64) -> Any:
    return randomise_(TwoStreams()).to(dtype)


SUPPORTS = "networks of two streams"
TIMM_MODULES: tuple[str, ...] = ()
ALIASES: tuple[str, ...] = ()


def owns(model: nn.Module) -> bool:
    return isinstance(model, TwoStreams)


def adopt(model: nn.Module) -> nn.Module:
    return model


def blocks(model: TwoStreams) -> Iterator[tuple[int, int, str, Any]]:
    """Number, stage, name and module of each block."""
    number = 0
    for stage, module in enumerate(model.stages):
        for i, block in enumerate(module):
            yield number, stage, f"stages.{stage}.{i}", block
            number += 1


def describe(model: TwoStreams) -> Structure:
    found = list(blocks(model))
    sites = {number: _sites(number, name, block) for number, _, name, block in found}
    return Structure(
        sites=tuple(site for each in sites.values() for site in each),
        terms=tuple(_terms(model)),
        opaque=tuple(
            OpaqueModule(
                f"{name}.attn",
                ((f"{name}.attn.qkv.weight", 1),),
                ((f"{name}.attn.proj.weight", 0), (f"{name}.attn.proj.bias", 0)),
                block.attn.qkv.weight.shape[1],
                len(block.attn.proj.weight),
            )
            for _, _, name, block in found
        ),
        streams=tuple(_stream(model, stage) for stage in (0, 1)),
        fixed={"head.bias": "one entry per class"},
        branches=tuple(branch for number, stage, name, _ in found for branch in _branches(number, stage, name)),
        pairs=tuple(pair for _, qk, v, _ in sites.values() for pair in _pairs(qk, v)),
        exits={"merge": STREAMS[0], "head": STREAMS[1]},
    )


def _stream(model: TwoStreams, stage: int) -> Stream:
    first = ("stem", "merge")[stage]
    every = np.arange(len(model.get_parameter(f"{first}.weight")))[:, None]
    # the stem puts out feature maps, the branches windows, and merging puts out tokens
    names = [f"{name}.{module}" for _, own, name, _ in blocks(model) if own == stage for module in ("attn", "mlp")]
    gates = (Gate(first, "output", every, -1 if stage else 1), *(Gate(name, "output", every) for name in names))
    return Stream((f"{first}.weight", 0), gates, stage, multiple=2 if stage else 1)


def _sites(number: int, name: str, block: Any) -> tuple[Site, Site, Site, Site]:
    every = np.arange(len(block.attn.proj.weight))[None]
    slices = (Slice(f"{name}.{n}", 0, np.arange(len(p))[None]) for n, p in block.named_parameters())
    gates = (Gate(f"{name}.attn", "output", every), Gate(f"{name}.mlp", "output", every))
    whole = Site("block", number, 1, tuple(slices), gates)
    q, v, ffn = (
        np.arange(n)[:, None] for n in (HEADS * block.attn.qk, HEADS * block.attn.v, len(block.mlp.fc1.weight))
    )
    qkv, both, rows = f"{name}.attn.qkv", np.concatenate([q, len(q) + q], 1), 2 * len(q) + v
    qk_slices = (Slice(f"{qkv}.weight", 0, both), Slice(f"{qkv}.bias", 0, both))
    v_slices = (Slice(f"{qkv}.weight", 0, rows), Slice(f"{qkv}.bias", 0, rows), Slice(f"{name}.attn.proj.weight", 1, v))
    fc1 = (Slice(f"{name}.mlp.fc1.weight", 0, ffn), Slice(f"{name}.mlp.fc1.bias", 0, ffn))
    return (
        whole,
        Site("qk", number, len(q), qk_slices, (Gate(qkv, "output", q),), HEADS),
        Site("v", number, len(v), v_slices, (Gate(qkv, "output", rows),), HEADS),
        Site(
            "ffn",
            number,
            len(ffn),
            (*fc1, Slice(f"{name}.mlp.fc2.weight", 1, ffn)),
            (Gate(f"{name}.mlp.fc2", "input", ffn),),
        ),
    )


def _branches(number: int, stage: int, name: str) -> list[Branch]:
    return [
        Branch(
            f"{name}.{module}",
            number,
            site_name(axis, number),
            STREAMS[stage],
            (f"{name}.{module}.{reader}",),
            f"{name}.{module}.{writer}",
            False,
        )
        for module, axis, reader, writer in (("attn", "v", "qkv", "proj"), ("mlp", "ffn", "fc1", "fc2"))
    ]


def _pairs(qk: Site, v: Site) -> list[Pair]:
    q, k = (tuple(Slice(s.parameter, s.dim, s.index[:, [side]]) for s in qk.slices) for side in (0, 1))
    return [Pair(qk.name, q, k, HEADS), Pair(v.name, v.slices[:-1], v.slices[-1:], HEADS)]


def _terms(model: TwoStreams) -> Iterator[Term]:
    first, last = STREAMS
    yield Term(component="stem", sites=(first,), params=3 * 64 + 1, macs=3 * 64 * TOKENS[0])
    yield Term(component="stem", sites=STREAMS, params=1, macs=TOKENS[1])
    yield Term(component="stem", sites=(last,), params=1)
    for number, stage, _, _ in blocks(model):
        D, whole, N = STREAMS[stage], site_name("block", number), TOKENS[stage]
        qk, v, ffn = (site_name(axis, number) for axis in ("qk", "v", "ffn"))
        yield Term(component="qk", sites=(D, qk), params=2 * HEADS, macs=2 * HEADS * N)
        yield Term(component="qk", sites=(qk,), params=2 * HEADS, macs=HEADS * N * 4)
        yield Term(component="v", sites=(D, v), params=2 * HEADS, macs=2 * HEADS * N)
        yield Term(component="v", sites=(v,), params=HEADS, macs=HEADS * N * 4)
        yield Term(component="ffn", sites=(D, ffn), params=2, macs=2 * N)
        yield Term(component="ffn", sites=(ffn,), params=1)
        yield Term(component="norm", sites=(D, whole), params=4 + 2)
    yield Term(component="head", sites=(last,), params=2 + CLASSES, macs=CLASSES)
    yield Term(component="head", params=CLASSES)


def example_input(model: TwoStreams) -> tuple[int, int, int, int]:
    return (1, 3, 32, 32)


def features(model: TwoStreams, images: Tensor) -> Tensor:
    return model.norm(model.stages[1](model.merged(model.stages[0](model.embed(images))))).mean(1)


def stream_input(model: TwoStreams, stream: str, x: Tensor) -> Tensor:
    return model.embed(x) if stream == STREAMS[0] else model.merged(x)


def branch_output(model: TwoStreams, branch: Branch, x: Tensor) -> Tensor:
    name, _, module = branch.name.rpartition(".")
    block: Any = model.get_submodule(name)
    return block.output(module, x)


def head_output(model: TwoStreams, x: Tensor) -> Tensor:
    return model.head(model.norm(x).mean(1))


def fold_scales_(model: TwoStreams) -> None:
    """There are none."""


def depth_args(blocks: int) -> dict[str, Any]:
    return {}


def sync_(model: TwoStreams, keep: Mapping[str, np.ndarray], source: Any, gone: Any) -> None:
    for _, _, _, block in blocks(model):
        block.attn.v = block.attn.proj.weight.shape[1] // HEADS
        block.attn.qk = (len(block.attn.qkv.weight) - HEADS * block.attn.v) // (2 * HEADS)


def drop_blocks_(model: TwoStreams, gone: Collection[int]) -> None:
    left = [
        [block for number, own, _, block in blocks(model) if own == stage and number not in gone] for stage in (0, 1)
    ]
    model.stages = nn.ModuleList(nn.Sequential(*own) for own in left)


def recognises(state: Mapping[str, Tensor]) -> bool:
    return False


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    return {}


def to_timm_keys(state: dict[str, Tensor], model: TwoStreams) -> dict[str, Tensor]:
    return state


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {}
