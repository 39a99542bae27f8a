"""A network of convolutions with batch norms, channels at dim 1, two residual streams; and its family.

Stem -> 8 channels of 8 x 8 -> blocks 0 (1x1, depthwise 3x3, 1x1), 1 (3x3, 3x3) and 2 (depthwise 3x3, 1x1) -> 1x1,
depthwise 3x3 of stride 2, 1x1, to 12 channels of 4 x 4 -> blocks 3 (two as block 0 that are one site, and a residual
depthwise 3x3) and 4 (1x1 with bias, 1x1; nothing in between) -> 3x3 of stride 2 -> mean -> head. This module is the
family.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Crossing, Gate, Pair, Site, Slice, Stream, Structure, site_name
from support.networks import randomise_

CHANNELS, CLASSES, HEADS = (8, 12), 5, 2
STREAMS = ("stages.0.embed", "stages.1.embed")
BLOCKS = (
    (0, ("inverted",)),
    (0, ("full",)),
    (0, ("separable",)),
    (1, ("inverted", "inverted", "mixer")),
    (1, ("pair",)),
)
"""Stage, and the kind of each branch."""


class ConvNorm(nn.Module):
    """A convolution and its batch norm; where the norm is folded into it, one with a bias."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(inner, outer, kernel, stride, padding, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def fold_(self) -> None:
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class Half(nn.Module):
    """What one branch adds; also what lies between the streams."""

    def __init__(self, kind: str, dim: int, outer: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.kind, outer = kind, outer or dim
        hidden = dim if kind == "separable" else 2 * dim
        kernel = 3 if kind == "full" else 1
        if kind == "mixer":
            self.project = ConvNorm(dim, outer, 3, groups=dim)
            return
        if kind != "separable":
            self.expand = ConvNorm(dim, hidden, kernel)
        if kind in ("inverted", "separable"):
            self.dw = ConvNorm(hidden, hidden, 3, stride, hidden)
        self.project = ConvNorm(hidden, outer, kernel)
        if kind == "pair":
            self.expand.eval().fold_()

    def forward(self, x: Tensor) -> Tensor:
        for name in ("expand", "dw"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
            x = x if self.kind in ("pair", "mixer") else F.hardswish(x)
        return self.project(x)


class Block(nn.Module):
    def __init__(self, stage: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.stage, self.halves = stage, nn.ModuleList(Half(kind, CHANNELS[stage]) for kind in kinds)

    def forward(self, x: Tensor) -> Tensor:
        for half in self.halves:
            x = x + half(x)
        return x


class Bottlenecks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.stem, self.merge = ConvNorm(3, CHANNELS[0], 5, 4), Half("inverted", *CHANNELS, 2)
        self.blocks = nn.ModuleList(Block(*block) for block in BLOCKS)
        self.last, self.head = ConvNorm(CHANNELS[1], 16, 3, 2), nn.Linear(16, CLASSES)

    def stage(self, stage: int, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) if block.stage == stage else x
        return x

    def pooled(self, x: Tensor) -> Tensor:
        return F.hardswish(self.last(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return head_output(self, self.stage(1, self.merge(self.stage(0, self.stem(images)))))


def network(dtype: torch.dtype = torch.float64, *, folded: bool = False) -> Any:
    model = randomise_(Bottlenecks())
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.5 * torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    model = model.to(dtype)
    if folded:
        for module in list(model.modules()):
            if isinstance(module, ConvNorm):
                module.fold_()
    return model.requires_grad_()


SUPPORTS = "bottlenecks"
TIMM_MODULES: tuple[str, ...] = ()
ALIASES: tuple[str, ...] = ()


def owns(model: nn.Module) -> bool:
    return isinstance(model, Bottlenecks)


def adopt(model: nn.Module) -> nn.Module:
    return model


def describe(model: Bottlenecks) -> Structure:
    blocks = list(enumerate(model.blocks))
    layers = [(name.removesuffix(".bn"), module) for name, module in model.named_modules() if name.endswith(".bn")]
    return Structure(
        sites=(
            *(site for i, block in blocks for site in (_whole(i, block), *_hidden(i, block))),
            _site([("merge", model.merge)], "ffn", None, stage=1),
        ),
        terms=(),
        opaque=(),
        streams=tuple(_stream(model, stage) for stage in (0, 1)),
        fixed={name: "in no stream" for name, _ in model.named_parameters() if name.startswith(("head.", "last."))},
        branches=tuple(branch for i, block in blocks for branch in _branches(i, block)),
        pairs=tuple(pair for i, block in blocks if block.halves[0].kind == "pair" for pair in _pairs(i, block)),
        exits={"merge.expand.conv": STREAMS[0], "last.conv": STREAMS[1]},
        norms={f"{name}.conv": f"{name}.bn" for name, module in layers if isinstance(module, nn.BatchNorm2d)},
        stream_dims=dict.fromkeys(STREAMS, 1),
        crossings=(Crossing("stages.1.ffn", STREAMS[1], "merge.project.conv"),),
    )


def _halves(i: int, block: Any) -> list[tuple[str, Any]]:
    """Name and module of each branch of a block."""
    return [(f"blocks.{i}.halves.{j}", half) for j, half in enumerate(block.halves)]


def _stream(model: Bottlenecks, stage: int) -> Stream:
    first: Any = (model.stem, model.merge.project)[stage]
    every = np.arange(len(first.conv.weight))[:, None]
    halves = [name for i, block in enumerate(model.blocks) if block.stage == stage for name, _ in _halves(i, block)]
    names = [("stem", "merge.project")[stage], *(f"{name}.project" for name in halves)]
    root = (f"{names[0]}.conv.weight", 0)
    return Stream(root, tuple(Gate(name, "output", every, 1) for name in names), stage)


def _whole(i: int, block: Any) -> Site:
    slices = tuple(Slice(f"blocks.{i}.{n}", 0, np.arange(len(p))[None]) for n, p in block.named_parameters())
    every = np.arange(len(block.halves[0].project.conv.weight))[None]
    return Site("block", i, 1, slices, tuple(Gate(name, "output", every, 1) for name, _ in _halves(i, block)))


def _hidden(i: int, block: Any) -> list[Site]:
    halves = [(name, half) for name, half in _halves(i, block) if hasattr(half, "expand")]
    return [_site(halves, "v" if halves[0][1].kind == "pair" else "ffn", i)] if halves else []


def _site(halves: Sequence[tuple[str, Any]], axis: Any, block: int | None, stage: int | None = None) -> Site:
    """The hidden units of one or several branches, a group for each."""
    column = np.arange(len(halves[0][1].expand.conv.weight))[:, None]
    slices: list[Slice] = []
    gates: list[Gate] = []
    for run, (name, half) in enumerate(halves):
        units = run * len(column) + column[:, 0] if len(halves) > 1 else None
        own = dict(half.named_parameters()) | dict(half.named_buffers())
        inside = [f"{name}.{n}" for n, numbers in own.items() if n.startswith(("expand", "dw")) and numbers.ndim]
        slices += [Slice(parameter, 0, column, units) for parameter in inside]
        slices.append(Slice(f"{name}.project.conv.weight", 1, column, units))
        gates.append(Gate(f"{name}.project.conv", "input", column, 1, units))
    groups = HEADS if axis == "v" else len(halves)
    return Site(axis, block, len(halves) * len(column), tuple(slices), tuple(gates), groups, stage=stage)


def _branches(i: int, block: Any) -> Iterator[Branch]:
    stream = STREAMS[block.stage]
    for name, half in _halves(i, block):
        inside = stream if half.kind == "separable" else site_name("v" if half.kind == "pair" else "ffn", i)
        readers = (f"{name}.expand.conv",) if hasattr(half, "expand") else ()
        yield Branch(name, i, inside, stream, readers, f"{name}.project.conv", False, half.kind != "mixer")


def _pairs(i: int, block: Any) -> list[Pair]:
    return [Pair(site.name, site.slices[:-1], site.slices[-1:], HEADS) for site in _hidden(i, block)]


def example_input(model: Bottlenecks) -> tuple[int, int, int, int]:
    return (1, 3, 32, 32)


def features(model: Bottlenecks, images: Tensor) -> Tensor:
    return model.pooled(model.stage(1, model.merge(model.stage(0, model.stem(images)))))


def stream_input(model: Bottlenecks, stream: str, x: Tensor) -> Tensor:
    return model.stem(x) if stream == STREAMS[0] else model.merge(x)


def branch_output(model: Bottlenecks, branch: Branch, x: Tensor) -> Tensor:
    half: Any = model.get_submodule(branch.name)
    return half(x)


def head_output(model: Bottlenecks, x: Tensor) -> Tensor:
    return model.head(model.pooled(x))


def fold_scales_(model: Bottlenecks) -> None:
    """There are none."""


def depth_args(blocks: int) -> dict[str, Any]:
    return {}


def sync_(model: Bottlenecks, keep: Mapping[str, np.ndarray], source: Any, gone: Any) -> None:
    """No module has numbers of its own."""


def drop_blocks_(model: Bottlenecks, gone: Collection[int]) -> None:
    model.blocks = nn.ModuleList(block for i, block in enumerate(model.blocks) if i not in gone)


def recognises(state: Mapping[str, Tensor]) -> bool:
    return False


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    return {}


def to_timm_keys(state: dict[str, Tensor], model: Bottlenecks) -> dict[str, Tensor]:
    return state


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {}
