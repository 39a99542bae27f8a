"""timm's SwinTransformer: Swin, Swin-S3."""

# D embed of a stage, H heads, K q/k width per head, V value width per head, F ffn width

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from timm.layers import Mlp, PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Gate, Site, Slice, Structure, site_name
from prune_realloc.families.attention import block_branches, block_site, ffn_site, rotation_pairs
from prune_realloc.families.stages import Place, block_slices
from prune_realloc.families.swin_files import TIMM_MODULES as TIMM_MODULES
from prune_realloc.families.swin_files import candidates as candidates
from prune_realloc.families.swin_files import inferred_args as inferred_args
from prune_realloc.families.swin_files import recognises as recognises
from prune_realloc.families.swin_files import to_timm_keys as to_timm_keys
from prune_realloc.families.swin_terms import block_terms, outer_terms
from prune_realloc.families.windows import KINDS, out_of_windows, synced_attention, window_attention_sites

SUPPORTS = "timm's SwinTransformer (Swin, Swin-S3)"
ALIASES: tuple[str, ...] = ()


def owns(model: nn.Module) -> bool:
    return isinstance(model, SwinTransformer) and _is_known(model)


def adopt(model: nn.Module) -> nn.Module:
    """timm's networks are read as they are."""
    return model


def describe(model: Any) -> Structure:
    """Sites and costs. The streams' channels are named here: patch merging lays those of four tokens side by side."""
    blocks = list(_blocks(model))
    sites = [_stream(model, stage) for stage in range(len(model.layers))]
    for place, block in blocks:
        attention = window_attention_sites(place.number, block.attn)
        whole = block_site(place.number, block, len(block.attn.proj.weight))
        sites += [place.site(site) for site in (whole, *attention, ffn_site(place.number, block.mlp))]
    bias = isinstance(model.head.fc, nn.Linear) and model.head.fc.bias is not None
    return Structure(
        sites=tuple(sites),
        terms=(*outer_terms(model), *(term for place, block in blocks for term in block_terms(place, block))),
        opaque=(),
        streams=(),
        fixed={"head.fc.bias": "one entry per class"} if bias else {},
        branches=tuple(place.branch(each) for place, block in blocks for each in block_branches(place.number, block)),
        pairs=tuple(place.pair(each) for place, block in blocks for each in rotation_pairs(place.number, block.attn)),
        exits=_exits(model),
    )


def example_input(model: Any) -> tuple[int, int, int, int]:
    height, width = model.patch_embed.img_size
    return 1, model.patch_embed.proj.in_channels, height, width


def features(model: Any, images: Tensor) -> Tensor:
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    return pooled if pooled.ndim == 2 else pooled.mean((1, 2))


def stream_input(model: Any, stream: str, x: Tensor) -> Tensor:
    """Shape (B, height, width, D)."""
    names = _stream_names(model)
    return model.patch_embed(x) if stream == names[0] else model.layers[names.index(stream)].downsample(x)


def branch_output(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    """Shape (B, height, width, D), as `x`."""
    block, attention = _block_of(model, branch)
    if attention:
        return block._attn(block.norm1(x))
    return block.mlp(block.norm2(x).flatten(1, 2)).reshape(x.shape)


def in_stream_order(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    """The attention runs in windows, shifted in every other block."""
    block, attention = _block_of(model, branch)
    return out_of_windows(block, x) if attention else x.reshape(-1, *block.input_resolution, x.shape[-1])


def head_output(model: Any, x: Tensor) -> Tensor:
    return model.forward_head(model.norm(x))


def fold_scales_(model: nn.Module) -> None:
    """There are none."""


def depth_args(blocks: int) -> dict[str, Any]:
    """`places` says it stage by stage."""
    return {}


def places(model: Any) -> tuple[dict[str, Any], list[int]]:
    """In a stage the windows of every other block are shifted, so a block's number is even or odd for good."""
    numbers: list[int] = []
    depths: list[int] = []
    for stage in model.layers:
        depth = 0
        for block in stage.blocks:
            depth += any(block.target_shift_size) != depth % 2
            numbers.append(sum(depths) + depth)
            depth += 1
        depths.append(max(depth, 1))
    return {"depths": depths, "window_size": _windows(model)}, numbers


def resize_(model: Any, size: tuple[int, int]) -> None:
    """Windows stay as they are; timm would let them grow with the images, and resize the tables of positions."""
    model.set_input_size(img_size=size, window_size=_windows(model))


def drop_blocks_(model: Any, gone: Collection[int]) -> None:
    left = [[block for place, block in _blocks(model, stage) if place.number not in gone] for stage in _stages(model)]
    for stage, blocks in zip(model.layers, left, strict=True):
        stage.blocks, stage.depth = nn.Sequential(*blocks), len(blocks)


def sync_(model: Any, keep: Mapping[str, np.ndarray], source: Any, gone: Any) -> None:
    for _, block in _blocks(model):
        block.attn = synced_attention(block.attn)
        block.dim = block.attn.dim
    widths = [_width(model, stage) for stage in _stages(model)]
    for before, width, stage in zip([widths[0], *widths], widths, model.layers, strict=False):
        stage.dim = before
        if isinstance(stage.downsample, PatchMerging):
            stage.downsample.dim, stage.downsample.out_dim = before, width
    model.embed_dim, model.num_features = widths[0], widths[-1]
    model.head.in_features = model.head.num_features = model.head_hidden_size = widths[-1]
    model.feature_info = [info | {"num_chs": n} for info, n in zip(model.feature_info, widths, strict=True)]


def _windows(model: Any) -> list[list[int]]:
    """Height and width of the windows of each stage; one token where no block is left."""
    return [list(stage.blocks[0].window_size) if len(stage.blocks) else [1, 1] for stage in model.layers]


def _stages(model: Any) -> range:
    return range(len(model.layers))


def _stream_names(model: Any) -> list[str]:
    return [site_name("embed", None, stage) for stage in _stages(model)]


def _blocks(model: Any, only: int | None = None) -> list[tuple[Place, Any]]:
    """All blocks, or those of one stage; counted through the stages."""
    found = [
        (s, f"layers.{s}.blocks.{i}", block) for s in _stages(model) for i, block in enumerate(model.layers[s].blocks)
    ]
    places_ = [(Place(number, stage, name), block) for number, (stage, name, block) in enumerate(found)]
    return [each for each in places_ if only in (None, each[0].stage)]


def _block_of(model: nn.Module, branch: Branch) -> tuple[Any, bool]:
    """The block of a branch, and whether the branch is its attention."""
    name, _, module = branch.name.rpartition(".")
    return model.get_submodule(name), module == "attn"


def _first_layer(stage: int) -> str:
    """What writes a stage's stream first."""
    return f"layers.{stage}.downsample.reduction" if stage else "patch_embed.proj"


def _width(model: nn.Module, stage: int) -> int:
    return len(model.get_parameter(f"{_first_layer(stage)}.weight"))


def _stream(model: Any, stage: int) -> Site:
    """The channels of a stage: written by the stem or a patch merging, then by both branches of every block."""
    width = _width(model, stage)
    every, own = np.arange(width)[:, None], frozenset(name for name, _ in model.named_parameters())
    slices = [Slice(f"{_first_layer(stage)}.weight", 0, every)]
    if stage == 0:
        slices += _there(own, 0, every, "patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias")
    names = [place.name for place, _ in _blocks(model, stage)]
    slices += [part for name in names for part in block_slices(name, every, own)]
    if stage + 1 < len(model.layers):
        merging, four = f"layers.{stage + 1}.downsample", every + width * np.arange(4)
        slices += _there(own, 0, four, f"{merging}.norm.weight", f"{merging}.norm.bias")
        slices.append(Slice(f"{merging}.reduction.weight", 1, four))
    else:
        slices += _there(own, 0, every, "norm.weight", "norm.bias") + _there(own, 1, every, "head.fc.weight")
    first = f"layers.{stage}.downsample" if stage else "patch_embed"
    writers = [first, *(f"{name}.{each}" for name in names for each in ("drop_path1", "drop_path2"))]
    gates = tuple(Gate(writer, "output", every) for writer in writers)
    return Site("embed", None, width, tuple(slices), gates, stage=stage)


def _there(own: Collection[str], dim: int, index: np.ndarray, *names: str) -> list[Slice]:
    """Slices of those of the parameters that the network has."""
    return [Slice(name, dim, index) for name in names if name in own]


def _exits(model: Any) -> dict[str, str]:
    """Linear layers that read a stream behind its last block: the patch mergings, and the classifier."""
    names = _stream_names(model)
    mergings = {_first_layer(stage): names[stage - 1] for stage in _stages(model) if stage}
    return mergings | ({"head.fc": names[-1]} if isinstance(model.head.fc, nn.Linear) else {})


def _is_known(model: Any) -> bool:
    """Is the network made of the blocks, attentions and mergings that this family declares?"""
    blocks = [block for _, block in _blocks(model)]
    return (
        type(model.patch_embed) is PatchEmbed
        and all(type(model.layers[stage].downsample) is PatchMerging for stage in _stages(model)[1:])
        and all(type(block) is SwinTransformerBlock for block in blocks)
        and all(type(block.attn) in KINDS and type(block.mlp) is Mlp for block in blocks)
        # a pooling that makes several numbers of a channel is another matter
        and model.head.num_features == model.num_features
    )
