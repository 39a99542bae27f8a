"""A network of convolutions and FFNs whose blocks differ in their sites, and its family, which is this module.

Stem -> 16 channels of 4 x 4 -> block 0, an MBConv: `hidden` -> block 1, a grouped convolution: `hidden` before it,
`hidden.1` behind it -> block 2, two FFNs on tokens: `ffn`, `ffn.1` -> mean -> head.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import Axis, Branch, Gate, Site, Slice, Structure, site_name
from support.networks import randomise_

CHANNELS, HIDDEN, REDUCED, TOKENS, CLASSES = 16, 32, 4, 16, 5
FFNS = (32, 48)
NORM = ("weight", "bias", "running_mean", "running_var")


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(HIDDEN, REDUCED, 1), nn.Conv2d(REDUCED, HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class MBConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(CHANNELS, HIDDEN, 1, bias=False), nn.BatchNorm2d(HIDDEN)
        self.depthwise = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, groups=HIDDEN, bias=False)
        self.bn2, self.se = nn.BatchNorm2d(HIDDEN), SqueezeExcite()
        self.project, self.bn3 = nn.Conv2d(HIDDEN, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn2(self.depthwise(F.silu(self.bn1(self.expand(x))))))
        return x + self.bn3(self.project(self.se(y)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1)
        self.grouped = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, groups=2)
        self.project = nn.Conv2d(HIDDEN, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.grouped(F.relu(self.expand(x)))))


class Ffn(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, units), nn.Linear(units, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TwoFfns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ffns = nn.ModuleList(Ffn(units) for units in FFNS)

    def forward(self, x: Tensor) -> Tensor:
        for ffn in self.ffns:
            x = x + ffn(x)
        return x


class Convs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.stem = nn.Conv2d(3, CHANNELS, 8, 8)
        self.blocks = nn.ModuleList([MBConv(), Grouped(), TwoFfns()])
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = stream_input(self, "embed", images)
        for block in self.blocks:
            x = block(x) if isinstance(block, TwoFfns) else x
        return head_output(self, x)


def network(dtype: torch.dtype = torch.float64) -> Any:
    """With weights, and with means and variances of the batch norms, that are no channel's twice."""
    model = randomise_(Convs())
    generator = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.to(dtype).eval()


WRITERS = {MBConv: ["bn3"], Grouped: ["project"], TwoFfns: ["ffns.0.fc2", "ffns.1.fc2"]}
"""What each kind of block adds to the stream by."""
SUPPORTS = "networks of convolutions"
TIMM_MODULES: tuple[str, ...] = ()
ALIASES: tuple[str, ...] = ()


def owns(model: nn.Module) -> bool:
    return isinstance(model, Convs)


def adopt(model: nn.Module) -> nn.Module:
    return model


def describe(model: Convs) -> Structure:
    sites = [site for number, block in enumerate(model.blocks) for site in _sites(number, block)]
    return Structure(
        sites=(_stream(model), *sites),
        terms=tuple(_terms(model)),
        opaque=(),
        streams=(),
        fixed={"head.bias": "one entry per class"}
        | {name: "width of its own" for name, _ in model.named_parameters() if name.endswith("se.fc1.bias")},
        branches=tuple(_branches(model)),
        pairs=(),
        exits={"head": "embed"},
    )


def column(units: int) -> np.ndarray:
    return np.arange(units)[:, None]


def _stream(model: Convs) -> Site:
    every = column(len(model.stem.weight))
    slices = [Slice(f"stem.{name}", 0, every) for name in ("weight", "bias")]
    gates = [Gate("stem", "output", every, 1)]
    for i, block in enumerate(model.blocks):
        name, dim = f"blocks.{i}", -1 if isinstance(block, TwoFfns) else 1
        own = dict(block.named_parameters()) | dict(block.named_buffers())
        rows = [part for part in own if re.match(r"(bn3|project|ffns\.\d\.(norm|fc2))\.", part) and own[part].ndim]
        columns = [part for part in own if re.fullmatch(r"(expand|ffns\.\d\.fc1)\.weight", part)]
        slices += [Slice(f"{name}.{part}", 0, every) for part in rows]
        slices += [Slice(f"{name}.{part}", 1, every) for part in columns]
        gates += [Gate(f"{name}.{writer}", "output", every, dim) for writer in WRITERS[type(block)]]
    return Site("embed", None, len(every), (*slices, Slice("head.weight", 1, every)), tuple(gates))


def _sites(number: int, block: Any) -> Iterator[Site]:
    name = f"blocks.{number}"
    slices = (Slice(f"{name}.{part}", 0, np.arange(len(p))[None]) for part, p in block.named_parameters())
    every = np.arange(len(block.get_submodule(WRITERS[type(block)][0]).weight))[None]
    dim = -1 if isinstance(block, TwoFfns) else 1
    gates = tuple(Gate(f"{name}.{writer}", "output", every, dim) for writer in WRITERS[type(block)])
    yield Site("block", number, 1, tuple(slices), gates)
    yield from {MBConv: _mbconv, Grouped: _grouped, TwoFfns: _ffns}[type(block)](number, name, block)


def _mbconv(number: int, name: str, block: MBConv) -> Iterator[Site]:
    every = column(len(block.expand.weight))
    rows = ["expand.weight", "depthwise.weight", "se.fc2.weight", "se.fc2.bias"]
    rows += [f"{norm}.{part}" for norm in ("bn1", "bn2") for part in NORM]
    slices = [Slice(f"{name}.{part}", 0, every) for part in rows]
    slices += [Slice(f"{name}.{part}.weight", 1, every) for part in ("se.fc1", "project")]
    yield _site("hidden", number, every, slices, Gate(f"{name}.se", "input", every, 1))


def _grouped(number: int, name: str, block: Grouped) -> Iterator[Site]:
    """What the grouped convolution reads goes from both groups at once, what it writes from each by itself."""
    half, every = block.grouped.weight.shape[1], column(len(block.grouped.weight))
    pairs = np.concatenate([column(half), half + column(half)], axis=1)
    rows = [Slice(f"{name}.expand.{part}", 0, pairs) for part in ("weight", "bias")]
    rows.append(Slice(f"{name}.grouped.weight", 1, column(half)))
    yield _site("hidden", number, pairs, rows, Gate(f"{name}.grouped", "input", pairs, 1))
    rows = [Slice(f"{name}.grouped.{part}", 0, every) for part in ("weight", "bias")]
    rows.append(Slice(f"{name}.project.weight", 1, every))
    yield _site("hidden", number, every, rows, Gate(f"{name}.project", "input", every, 1), groups=2, nth=1)


def _ffns(number: int, name: str, block: TwoFfns) -> Iterator[Site]:
    for n, ffn in enumerate(block.ffns):
        every, own = column(len(ffn.fc1.weight)), f"{name}.ffns.{n}"
        rows = [Slice(f"{own}.fc1.{part}", 0, every) for part in ("weight", "bias")]
        rows.append(Slice(f"{own}.fc2.weight", 1, every))
        yield _site("ffn", number, every, rows, Gate(f"{own}.fc2", "input", every), nth=n)


def _site(axis: Axis, block: int, index: np.ndarray, slices: list[Slice], gate: Gate, **more: int) -> Site:
    return Site(axis, block, len(index), tuple(slices), (gate,), **more)


def _branches(model: Convs) -> Iterator[Branch]:
    for i, block in enumerate(model.blocks):
        for n in range(len(block.ffns) if isinstance(block, TwoFfns) else 0):
            name = f"blocks.{i}.ffns.{n}"
            yield Branch(name, i, site_name("ffn", i, nth=n), "embed", (f"{name}.fc1",), f"{name}.fc2", False)


def _terms(model: Convs) -> Iterator[Term]:
    N = TOKENS
    yield Term(component="stem", sites=("embed",), params=3 * 64 + 1, macs=3 * 64 * N)
    for i, block in enumerate(model.blocks):
        whole, first, second = (site_name("block", i), *(site_name("hidden", i, nth=n) for n in (0, 1)))
        if isinstance(block, MBConv):
            yield Term(component="hidden", sites=("embed", first), params=2, macs=2 * N)
            each = 2 * REDUCED
            yield Term(component="hidden", sites=(first,), params=2 + 2 + 9 + each + 1, macs=9 * N + each)
            yield Term(component="hidden", sites=(whole,), params=REDUCED)
            yield Term(component="hidden", sites=("embed", whole), params=2)
        elif isinstance(block, Grouped):
            yield Term(component="hidden", sites=("embed", first), params=2 * 9, macs=2 * 9 * N)
            yield Term(component="hidden", sites=(first,), params=2)
            yield Term(component="hidden", sites=(first, second), params=2 * 9, macs=2 * 9 * N)
            yield Term(component="hidden", sites=(second,), params=2)
            yield Term(component="hidden", sites=("embed", second), params=2, macs=2 * N)
            yield Term(component="hidden", sites=("embed", whole), params=1)
        else:
            for n in range(len(block.ffns)):
                ffn = site_name("ffn", i, nth=n)
                yield Term(component="ffn", sites=("embed", ffn), params=2, macs=2 * N)
                yield Term(component="ffn", sites=(ffn,), params=1)
                yield Term(component="ffn", sites=("embed", whole), params=3)
    yield Term(component="head", sites=("embed",), params=CLASSES, macs=CLASSES)
    yield Term(component="head", params=CLASSES)


def example_input(model: Convs) -> tuple[int, int, int, int]:
    return (1, 3, 32, 32)


def features(model: Convs, images: Tensor) -> Tensor:
    x = stream_input(model, "embed", images)
    for branch in _branches(model):
        x = x + branch_output(model, branch, x)
    return x.mean(1)


def stream_input(model: Convs, stream: str, x: Tensor) -> Tensor:
    """The convolutions are before the first branch: (B, C, H, W) -> (B, 16, 16)."""
    x = model.stem(x)
    for block in model.blocks:
        x = x if isinstance(block, TwoFfns) else block(x)
    return x.flatten(2).transpose(1, 2)


def branch_output(model: Convs, branch: Branch, x: Tensor) -> Tensor:
    found: Tensor = model.get_submodule(branch.name)(x)
    return found


def head_output(model: Convs, x: Tensor) -> Tensor:
    return model.head(x.mean(1))


def fold_scales_(model: Convs) -> None:
    """There are none."""


def depth_args(blocks: int) -> dict[str, Any]:
    return {}


def sync_(model: Convs, keep: Mapping[str, np.ndarray], source: Any, gone: Any) -> None:
    """No module has numbers of its own."""


def drop_blocks_(model: Convs, gone: Collection[int]) -> None:
    model.blocks = nn.ModuleList(block for i, block in enumerate(model.blocks) if i not in gone)


def recognises(state: Mapping[str, Tensor]) -> bool:
    return False


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    return {}


def to_timm_keys(state: dict[str, Tensor], model: Convs) -> dict[str, Tensor]:
    return state


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {}
