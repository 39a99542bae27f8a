"""Which slices hang on a residual stream, by torch-pruning's dependency graph; its only importer.

Attention is opaque to the graph: each declared module is replaced by a narrow pair of linear layers, one that
reads the stream and one that writes it, and what the graph finds for them is translated to the real parameters.
The trace runs on the meta device, so it copies no weights and computes nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.core.structure import OpaqueModule, Slice


class _StandIn(nn.Module):
    """What the graph sees in place of an opaque module."""

    def __init__(self, opaque: OpaqueModule) -> None:
        super().__init__()
        self.read = nn.Linear(opaque.in_width, 1, bias=False, device="meta")
        self.write = nn.Linear(1, opaque.out_width, bias=False, device="meta")
        self.tokens_out = opaque.tokens_out

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        out = self.write(self.read(x))
        return out if self.tokens_out is None else out[:, 0]


def stream_slices(
    model: nn.Module, input_shape: tuple[int, ...], opaque: Iterable[OpaqueModule], root: tuple[str, int]
) -> tuple[Slice, ...]:
    """Every slice whose units are channels of the residual stream that `root` writes.

    Args:
        input_shape: shape of one batch of images, (B, C, H, W).
        root: the parameter and dimension that write the stream first.

    Returns:
        Slices in the order of the model's parameters, then those of what batch norms keep; unit i of each belongs to
        channel i of `root`.
    """
    declared = list(opaque)
    skeleton = _meta_copy(model)
    translate: dict[str, tuple[tuple[str, int], ...]] = {}
    for item in declared:
        parent, _, child = item.module.rpartition(".")
        setattr(skeleton.get_submodule(parent), child, _StandIn(item))
        translate[f"{item.module}.read.weight"] = item.reads
        translate[f"{item.module}.write.weight"] = item.writes
    names = {id(p): name for name, p in skeleton.named_parameters()}
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # torch-pruning warns of every bare parameter, which it treats as we need
        graph = tp.DependencyGraph().build_dependency(skeleton, torch.empty(input_shape, device="meta"), verbose=False)
        layer = skeleton.get_submodule(root[0].rpartition(".")[0])
        units = graph.get_out_channels(layer)
        group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(range(units)))

    order = {name: position for position, (name, _) in enumerate(model.named_parameters())}
    found: dict[tuple[str, int], np.ndarray] = {}
    for item in group:
        index = np.empty((units, len(item.idxs) // units), dtype=np.int64)
        by_root = np.argsort(np.asarray(item.root_idxs), kind="stable")
        index[:] = np.asarray(item.idxs)[by_root].reshape(units, -1)
        for parameter, dim in _touched(graph, item.dep, names):
            for name, real_dim in translate.get(parameter, ((parameter, dim),)):
                found[name, real_dim] = index
    slices = [
        Slice(name, dim, found[name, dim]) for name, dim in sorted(found, key=lambda key: (order[key[0]], key[1]))
    ]
    return (*slices, *_statistics(model, slices))


def _statistics(model: nn.Module, slices: Iterable[Slice]) -> Iterator[Slice]:
    """What batch norms keep of the channels whose weights are in `slices`."""
    for part in slices:
        module, _, name = part.parameter.rpartition(".")
        norm = model.get_submodule(module)
        if name == "weight" and isinstance(norm, _BatchNorm) and norm.track_running_stats:
            yield from (Slice(f"{module}.{buffer}", 0, part.index) for buffer in ("running_mean", "running_var"))


def _meta_copy(model: nn.Module) -> nn.Module:
    """The model's modules with parameters and buffers that have shapes but no data."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty(p.shape, device="meta")) for p in model.parameters()
    }  # nothing in the copy shares storage with the model
    memo |= {id(b): torch.empty(b.shape, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _touched(graph: tp.DependencyGraph, dep: tp.Dependency, names: dict[int, str]) -> list[tuple[str, int]]:
    """(parameter, dim) pairs that one pruning step of the graph would cut."""
    module = dep.target.module
    if isinstance(module, nn.Parameter):
        return [(names[id(module)], dep.target.pruning_dim)]
    own = {key: names[id(p)] for key, p in getattr(module, "_parameters", {}).items() if p is not None}
    if isinstance(module, nn.LayerNorm | _BatchNorm | nn.RMSNorm):
        return [(name, 0) for name in own.values()]
    if graph.is_out_channel_pruning_fn(dep.handler):
        return [(name, 0) for name in own.values()]
    return [(own["weight"], 1)] if "weight" in own else []
