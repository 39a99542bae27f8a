"""Any network: its sites, streams and costs follow from a run on labels (`tracing/`), the way through it from hooks."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.structure import Branch, Structure
from prune_realloc.tracing import candidates as grouping
from prune_realloc.tracing.apart import modules_apart, most_layers_within
from prune_realloc.tracing.attention import exchanged
from prune_realloc.tracing.branches import crossings, exits, fitted_pairs, norms
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.chain import evaluating
from prune_realloc.tracing.check import Checked, checked
from prune_realloc.tracing.classes import classes
from prune_realloc.tracing.find import find_chain, join_units
from prune_realloc.tracing.join import joined
from prune_realloc.tracing.left import left_of
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.residual import residual_units
from prune_realloc.tracing.rewrite import rewrite_
from prune_realloc.tracing.run import traced
from prune_realloc.tracing.sites import sites
from prune_realloc.tracing.terms import terms
from prune_realloc.tracing.walk import Walk

SUPPORTS = "networks that are traced, where a block is what one residual connection skips"
TIMM_MODULES: tuple[str, ...] = ()
ALIASES: tuple[str, ...] = ()


class Gone(nn.Module):
    """Where a whole block was: it hands on what it gets."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


@dataclass(frozen=True, eq=False)
class _Found:
    """What a run on labels told of one network; of a copy of it too."""

    key: object
    owner: int | None
    """`id` of the network where tensors of its own are constants of its chain; None where copies share it."""
    walk: Walk
    structure: Structure

    def __deepcopy__(self, memo: object) -> _Found:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())  # another process finds out again


_KEPT = "_prune_realloc_traced"
"""Where a network keeps what was found of it."""
_LEFT = "_prune_realloc_left"
"""Where a network that was cut keeps which places of its source it has."""


def owns(model: nn.Module) -> bool:
    """Whatever no other family has."""
    return True


def adopt(model: nn.Module) -> nn.Module:
    """With PyTorch's attention as ours, on the same tensors; any other network as it is.

    Raises:
        InputError: as `describe`.
    """
    if not any(type(module) is nn.MultiheadAttention for module in model.modules()):
        return model
    shape = example_input(model)
    with _named_errors(model, shape):
        return exchanged(model, _images(model, shape))


def describe(model: nn.Module) -> Structure:
    """Sites, costs and branches.

    Raises:
        InputError: the network does not run on one image, or what it takes is not known.
    """
    return _found(model).structure


def example_input(model: Any) -> tuple[int, int, int, int]:
    """From what the network says of itself, else from timm's configuration.

    Raises:
        InputError: nothing tells it, or what the network says is no size.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    stated = getattr(model, "input_size", None) or config.get("input_size") or ()
    if not isinstance(stated, list | tuple) or not all(isinstance(size, int) for size in stated):
        raise InputError(f"model {type(model).__name__}: input_size is {stated!r}; make it such as (3, 224, 224)")
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else stated[0] if stated else None
    side = getattr(model, "image_size", None)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or stated[-2:]
    if not size and isinstance(side, int):
        size = (side, side)
    if channels is None or len(size) != 2:
        raise InputError(
            f"model {type(model).__name__} does not tell its input size; give it one: model.input_size = (3, 224, 224)"
        )
    return (1, channels, *size)


def features(model: Any, images: Tensor) -> Any:
    """Pooled features, shape (B, D); of a network that puts out several tensors, all that it puts out."""
    if hasattr(model, "forward_head") and hasattr(model, "forward_features"):
        out = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        out = model(images)
    if not isinstance(out, Tensor):
        return out
    return out if out.ndim == 2 else out.flatten(2).mean(2) if out.ndim == 4 else out.mean(1)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """No names of tensors tell of a network that nothing is known of; a file needs timm's name."""
    return False


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    return {}


def to_timm_keys(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    return state


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {}


def stream_input(model: nn.Module, stream: str, x: Tensor) -> Tensor:
    return _found(model).walk.stream_input(model, stream, x)


def lead(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    return _found(model).walk.lead(model, branch, x)


def branch_output(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    return _found(model).walk.branch_output(model, branch, x)


def in_stream_order(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    return _found(model).walk.in_stream_order(model, branch, x)


def head_output(model: nn.Module, x: Tensor) -> Any:
    return _found(model).walk.head_output(model, x)


def fold_scales_(model: nn.Module) -> None:
    """Scales of each channel between a layer and the stream go into the layer, or into the batch norm behind it."""
    traced, behind = _found(model).walk.traced, norms(_found(model).walk.traced)
    layers, weights = traced.record.layers, Counter(layer.weight for layer in traced.record.layers)
    for scale, numbers in _scales(traced.record).items():
        gamma, factor = model.get_parameter(scale), model.get_parameter(scale).flatten().clone()
        rows = [len(model.get_parameter(layers[number].weight)) for number in numbers]
        alone = all(layers[number].own and weights[layers[number].weight] == 1 for number in numbers)
        if not alone or set(rows) != {len(factor)}:
            continue
        for number in numbers:
            target = model.get_submodule(behind.get(layers[number].module, layers[number].module))
            for part in (target.weight, target.bias):
                if isinstance(part, Tensor):
                    part.data = part * factor.reshape(-1, *[1] * (part.ndim - 1))
        gamma.data = torch.ones_like(gamma)


def _scales(record: Record) -> dict[str, list[int]]:
    """Parameter with a factor for each channel -> the layers whose output it acts on."""
    found: dict[str, list[int]] = {}
    for name, number in record.scales:
        found.setdefault(name, []).append(number)
    return found


def depth_args(blocks: int) -> dict[str, Any]:
    """None: the file has the width 0 for each block that is gone, so the source is built whole."""
    return {}


def left(model: nn.Module) -> Mapping[str, Mapping[int, np.ndarray]]:
    """Parameter or buffer -> dimension -> which places along it are left of the source, however often it was cut.

    In the order in which they now lie. The sites of what was cut may have other names than those of its source: units
    of one site part, or go with another's, once some are gone. So what the file holds is counted in the source.
    """
    found: Mapping[str, Mapping[int, np.ndarray]] = vars(model).get(_LEFT, {})
    return found


def _note_left_(
    model: nn.Module, source: nn.Module, gone: Mapping[str, Mapping[int, np.ndarray]], orders: Mapping[str, np.ndarray]
) -> None:
    found = {name: dict(by_dim) for name, by_dim in left(source).items()}
    tensors = dict(source.named_parameters()) | dict(source.named_buffers())
    for name, by_dim in gone.items():
        for dim, positions in by_dim.items():
            had = found.setdefault(name, {}).get(dim, np.arange(tensors[name].shape[dim]))
            found[name][dim] = np.delete(had, positions)
    for name, order in orders.items():
        found[name][1] = found[name][1][order]
    vars(model)[_LEFT] = found


def drop_blocks_(model: nn.Module, gone: Collection[int]) -> None:
    found = _found(model)
    for block in gone:
        parent, _, child = found.walk.traced.units[found.walk.units_of[block]].rpartition(".")
        setattr(model.get_submodule(parent), child, Gone())


def sync_(model: nn.Module, keep: Mapping[str, np.ndarray], source: nn.Module, gone: Any) -> None:
    record = _found(source).walk.traced.record.of(source)
    stays = left_of(record.ids, gone)
    whole = rewrite_(model, source, record, stays)
    _note_left_(model, source, gone, stays.orders)
    modes = {module: module.training for module in model.modules()}
    model.train()  # at this, networks of timm let go of what they keep
    for module, training in modes.items():
        module.training = training
    try:
        traced(model, (2, *example_input(source)[1:]))  # what was written anew may hold for one image alone
    except Exception as error:  # it is the network's own code that runs
        why = f"; not written anew: {whole[0]}" if whole else ""
        raise InputError(
            f"model {type(model).__name__} does not run with what is left: {first_line(error)}{why}"
        ) from error


def _left_whole(reasons: Mapping[str, str]) -> Iterator[str]:
    """What was not understood, and so stays: a line for each reason; images and classes stay anyway."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if not reason.endswith(("such as the image", "it is the network's output")):
            found.setdefault(reason, []).append(name)
    for reason, names in found.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"channels of {names[0]}{more} are left whole ({reason})"


def _found(model: nn.Module) -> _Found:
    key = _key(model)
    known = vars(model).get(_KEPT)
    if not isinstance(known, _Found) or known.key != key or known.owner not in (None, id(model)):
        known = vars(model)[_KEPT] = _trace(model, key)
    return known


def _key(model: nn.Module) -> tuple[object, ...]:
    """What tells one network from another that is made of it; copies have the same."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kinds = tuple(map(type, model.modules()))
    return (
        tensors[0][1].device,
        example_input(model),
        kinds,
        *((name, tuple(tensor.shape)) for name, tensor in tensors),
    )


@torch.no_grad()
def _trace(model: nn.Module, key: object) -> _Found:
    shape = example_input(model)
    images = _images(model, shape)
    with _named_errors(model, shape):
        chain = find_chain(model, images)
        record = traced(model, shape)
    whole = Traced(record, classes(record), chain.units)
    if not most_layers_within(record, chain.units):
        whole = Traced(record, whole.classes, modules_apart(record, whole.classes))
    elif parents := joined(whole, residual_units(whole)):
        chain = join_units(model, chain, parents, images)
        whole = Traced(record, whole.classes, chain.units)
    walk = Walk(whole, chain, sites(whole, model, grouping.candidates(whole), residual_units(whole)), ())
    # what half precision rounds would hide whether the way is the right one
    exact = model if images.dtype in (torch.float32, torch.float64) else copy.deepcopy(model).float()
    images = images[:1].to(next(exact.parameters()))
    with evaluating(exact):
        found = checked(exact, walk, crossings(whole, walk.sites), exits(whole, walk.sites), norms(whole), images)
    return _Found(key, id(model) if chain.keeps_tensors else None, found.walk, _structure(model, found))


def _images(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Two of noise."""
    first = next(model.parameters())
    return torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(0)).to(first)


@contextmanager
def _named_errors(model: nn.Module, shape: tuple[int, ...]) -> Iterator[None]:
    """Raises InputError for whatever is raised inside."""
    try:
        yield
    except Exception as error:  # it is the network's own code that runs
        raise InputError(
            f"model {type(model).__name__} does not run on one image of {shape[1:]}: {first_line(error)}"
        ) from error


def _structure(model: nn.Module, found: Checked) -> Structure:
    whole, every = found.walk.traced, found.walk.sites
    named = {part.parameter for site in every.every if site.axis != "block" for part in site.slices}
    reasons = {}
    for run in whole.record.ids.all_runs():
        for number in np.unique(whole.classes.along(run)[1]):
            if int(number) in whole.classes.frozen:
                reasons[run.name] = whole.classes.frozen[int(number)]
    fixed = {name: reasons.get(name, "no site has it") for name, _ in model.named_parameters() if name not in named}
    structure = Structure(
        sites=every.every,
        terms=terms(whole, model, every),
        opaque=(),
        streams=(),
        fixed=fixed,
        branches=tuple(found.walk.branches),
        pairs=(),
        exits=dict(found.exits),
        notes=(*_left_whole(reasons), *found.notes),
        norms=norms(whole),
        crossings=found.crossings,
    )
    return dataclasses.replace(structure, pairs=fitted_pairs(whole, every, structure))
