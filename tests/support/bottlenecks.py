"""A network of convolutions with batch norms, channels at dim 1, two residual streams; and its family.

Stem -> 8 channels of 8 x 8 -> blocks 0 (1x1, depthwise 3x3, 1x1) and 1 (3x3, 3x3) -> merging, 3x3 of stride 2, to 12
channels of 4 x 4 -> blocks 2 (as 0) and 3 (1x1 with bias, 1x1; nothing in between) -> 1x1 -> mean -> head.
This module is the family.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Gate, Pair, Site, Slice, Stream, Structure, site_name
from support.networks import randomise_

CHANNELS, CLASSES, HEADS = (8, 12), 5, 2
STREAMS = ("stages.0.embed", "stages.1.embed")
BLOCKS = ((0, "depthwise"), (0, "full"), (1, "depthwise"), (1, "pair"))
"""Stage and kind."""


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


class Block(nn.Module):
    def __init__(self, dim: int, kind: str, stage: int) -> None:
        super().__init__()
        self.kind, self.stage = kind, stage
        hidden, kernel = 3 * dim, 3 if kind == "full" else 1
        self.expand, self.project = ConvNorm(dim, hidden, kernel), ConvNorm(hidden, dim, kernel)
        self.act: nn.Module = nn.Hardswish()
        self.dw: nn.Module = nn.Identity()
        if kind == "depthwise":
            self.dw = nn.Sequential(ConvNorm(hidden, hidden, 3, groups=hidden), nn.Hardswish())
        if kind == "pair":
            self.expand.eval().fold_()
            self.act = nn.Identity()

    def output(self, x: Tensor) -> Tensor:
        return self.project(self.dw(self.act(self.expand(x))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(x)


class Bottlenecks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.stem, self.merge = ConvNorm(3, CHANNELS[0], 5, 4), ConvNorm(*CHANNELS, 3, 2)
        self.blocks = nn.ModuleList(Block(CHANNELS[stage], kind, stage) for stage, kind in BLOCKS)
        self.last, self.act, self.head = ConvNorm(CHANNELS[1], 16), nn.Hardswish(), nn.Linear(16, CLASSES)

    def stage(self, stage: int, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) if block.stage == stage else x
        return x

    def pooled(self, x: Tensor) -> Tensor:
        return self.act(self.last(x)).mean((2, 3))

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
    layers = [f"blocks.{i}.{part}" for i, _ in blocks for part in ("expand", "project")] + ["merge", "last"]
    return Structure(
        sites=tuple(site for i, block in blocks for site in (_whole(i, block), _hidden(model, i, block))),
        terms=(),
        opaque=(),
        streams=tuple(_stream(model, stage) for stage in (0, 1)),
        fixed={name: "in no stream" for name, _ in model.named_parameters() if name.startswith(("head.", "last."))},
        branches=tuple(_branch(i, block) for i, block in blocks),
        pairs=tuple(_pair(model, i, block) for i, block in blocks if block.kind == "pair"),
        exits={"merge.conv": STREAMS[0], "last.conv": STREAMS[1]},
        norms={f"{n}.conv": f"{n}.bn" for n in layers if isinstance(model.get_submodule(f"{n}.bn"), nn.BatchNorm2d)},
        stream_dims=dict.fromkeys(STREAMS, 1),
    )


def _axis(block: Any) -> Any:
    return "v" if block.kind == "pair" else "ffn"


def _stream(model: Bottlenecks, stage: int) -> Stream:
    first, every = ("stem", "merge")[stage], np.arange(CHANNELS[stage])[:, None]
    every = every[: len(model.get_submodule(f"{first}.conv").weight)]  # type: ignore[arg-type]
    names = [first, *(f"blocks.{i}.project" for i, block in enumerate(model.blocks) if block.stage == stage)]
    return Stream((f"{first}.conv.weight", 0), tuple(Gate(name, "output", every, 1) for name in names), stage)


def _rows(model: Bottlenecks, name: str, index: np.ndarray) -> list[Slice]:
    """All parameters of a convolution with its norm, by output channel."""
    return [Slice(f"{name}.{n}", 0, index) for n, _ in model.get_submodule(name).named_parameters()]


def _whole(i: int, block: Any) -> Site:
    slices = tuple(Slice(f"blocks.{i}.{n}", 0, np.arange(len(p))[None]) for n, p in block.named_parameters())
    every = np.arange(len(block.project.conv.weight))[None]
    return Site("block", i, 1, slices, (Gate(f"blocks.{i}.project", "output", every, 1),))


def _hidden(model: Bottlenecks, i: int, block: Any) -> Site:
    column, name = np.arange(len(block.expand.conv.weight))[:, None], f"blocks.{i}"
    rows = _rows(model, f"{name}.expand", column)
    if block.kind == "depthwise":
        rows += _rows(model, f"{name}.dw.0", column)
    slices = (*rows, Slice(f"{name}.project.conv.weight", 1, column))
    gate = Gate(f"{name}.project.conv", "input", column, 1)
    return Site(_axis(block), i, len(column), slices, (gate,), HEADS if block.kind == "pair" else 1)


def _branch(i: int, block: Any) -> Branch:
    name = f"blocks.{i}"
    return Branch(
        name=name,
        block=i,
        site=site_name(_axis(block), i),
        stream=STREAMS[block.stage],
        readers=(f"{name}.expand.conv",),
        writer=f"{name}.project.conv",
        post_norm=False,
    )


def _pair(model: Bottlenecks, i: int, block: Any) -> Pair:
    site = _hidden(model, i, block)
    return Pair(site.name, site.slices[:-1], site.slices[-1:], HEADS)


def example_input(model: Bottlenecks) -> tuple[int, int, int, int]:
    return (1, 3, 32, 32)


def features(model: Bottlenecks, images: Tensor) -> Tensor:
    return model.pooled(model.stage(1, model.merge(model.stage(0, model.stem(images)))))


def stream_input(model: Bottlenecks, stream: str, x: Tensor) -> Tensor:
    return model.stem(x) if stream == STREAMS[0] else model.merge(x)


def branch_output(model: Bottlenecks, branch: Branch, x: Tensor) -> Tensor:
    block: Any = model.get_submodule(branch.name)
    return block.output(x)


def head_output(model: Bottlenecks, x: Tensor) -> Tensor:
    return model.head(model.pooled(x))


def fold_scales_(model: Bottlenecks) -> None:
    """There are none."""


def depth_args(blocks: int) -> dict[str, Any]:
    return {}


def sync_(model: Bottlenecks, keep: Mapping[str, np.ndarray]) -> None:
    """What is no parameter: running statistics, and groups."""
    for name, site in _widths(model):
        part: Any = model.get_submodule(name)
        if isinstance(part.bn, nn.BatchNorm2d) and site in keep:
            _narrow_(part.bn, torch.as_tensor(keep[site]))
        if part.conv.groups > 1:
            part.conv.groups = part.conv.in_channels = part.conv.out_channels = len(part.conv.weight)


def _widths(model: Bottlenecks) -> Iterator[tuple[str, str]]:
    """Name of a convolution with its norm -> the site whose units are its output channels."""
    yield from (("stem", STREAMS[0]), ("merge", STREAMS[1]))
    for i, block in enumerate(model.blocks):
        yield f"blocks.{i}.expand", site_name(_axis(block), i)
        yield f"blocks.{i}.project", STREAMS[block.stage]
        if block.kind == "depthwise":
            yield f"blocks.{i}.dw.0", site_name(_axis(block), i)


def _narrow_(norm: Any, left: Tensor) -> None:
    norm.num_features = len(norm.weight)
    for name in ("running_mean", "running_var"):
        if len(getattr(norm, name)) > norm.num_features:
            setattr(norm, name, getattr(norm, name)[left].clone())


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
