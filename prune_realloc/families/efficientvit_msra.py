"""Our EfficientViT (MSRA), and through it timm's and the original's: their checkpoints are loaded into our class."""

# C channels of a stage, H heads, K q/k width per head, V value width per head, F ffn width

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from math import lcm
from typing import Any

import numpy as np
from timm.models.efficientvit_msra import EfficientVitMsra
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import EFFICIENTVIT
from prune_realloc.core.structure import Gate, Site, Slice, Structure
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys, to_flex_weights
from prune_realloc.models.efficientvit_layers import Block, CascadedGroupAttention, PatchMerging, Residual, TokenFfn

SUPPORTS = "EfficientViT (MSRA)"
TIMM_MODULES: tuple[str, ...] = ("efficientvit_msra",)
ALIASES = tuple(SIZES)


class Plain(EfficientVit):
    """An EfficientVit as a network like any other, whose sites are traced: so it is cut, not handed on by `inherit`."""


def as_cut(model: nn.Module) -> nn.Module:
    """Our network with the same modules and weights as one that can be cut; any other as it is."""
    if not owns(model):
        return model
    plain: Any = copy.copy(model)
    plain.__class__ = Plain
    plain.input_size = plain.config.input_size
    return plain


def owns(model: nn.Module) -> bool:
    return isinstance(model, EfficientVit) and not isinstance(model, Plain)


def adopt(model: nn.Module) -> nn.Module:
    """timm's network in our class; any other as it is."""
    if not isinstance(model, EfficientVitMsra):
        return model
    state = to_flex_keys(model.state_dict())
    net: Any = EfficientVit(EfficientVitConfig(**inferred_args(state, model.img_size)))
    net.load_state_dict(to_flex_weights(state, net))
    config: Any = model.pretrained_cfg
    net.pretrained_cfg = net.default_cfg = dict(config) | {"architecture": EFFICIENTVIT}
    net.origin = {"source": EFFICIENTVIT, "source_args": net.config.args()}
    return net


def describe(model: EfficientVit) -> Structure:
    """Sites and costs. V and the streams are measured; what a cascade adds where keeps them from being cut freely.

    A head's output is added to the next head's input channel by channel, so units of V, and channels of the stream,
    have a place of their own; `inherit` carries both over together.
    """
    streams = [_stream(model, stage) for stage in range(len(model.stages))]
    sites: list[Site] = []
    for number, (name, block) in enumerate(blocks(model)):
        sites += [_whole(number, name, block), *_attention(number, name, block), _ffns(number, name, block)]
    covered = {part.parameter for site in (*streams, *sites) if site.axis != "block" for part in site.slices}
    return Structure(
        sites=(*streams, *sites),
        terms=model.config.terms,
        opaque=(),
        streams=(),
        fixed={name: "a width of no site" for name, _ in model.named_parameters() if name not in covered},
        branches=(),
        pairs=(),
        exits={},
        notes=("units are ranked by their scores; layers of this family are neither rotated nor refitted",),
    )


def blocks(model: EfficientVit) -> Iterator[tuple[str, Block]]:
    """Name and module of every block, counted through the stages."""
    stages: Iterable[Any] = model.stages
    for stage, module in enumerate(stages):
        for index, block in enumerate(module.blocks):
            yield f"stages.{stage}.blocks.{index}", block


def example_input(model: EfficientVit) -> tuple[int, int, int, int]:
    return (1, *model.config.input_size)


def features(model: EfficientVit, images: Tensor) -> Tensor:
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    return pooled if pooled.ndim == 2 else pooled.mean((2, 3))


def _rows(name: str, index: np.ndarray, units: np.ndarray | None = None) -> list[Slice]:
    """Output channels of a convolution with its batch norm."""
    return [Slice(f"{name}.{part}", 0, index, units) for part in ("conv.weight", "bn.weight", "bn.bias")]


def _attention(number: int, name: str, block: Any) -> list[Site]:
    """`qk` and `v` of a block."""
    attn: CascadedGroupAttention = block.mixer.m.attn
    H, K, V = attn.num_heads, attn.qk_dim, attn.v_dim
    name = f"{name}.mixer.m.attn"
    qk_slices: list[Slice] = []
    v_slices: list[Slice] = []
    qk_gates: list[Gate] = []
    v_gates: list[Gate] = []
    for head in range(H):
        q, v, qkv = np.arange(K)[:, None], np.arange(V)[:, None], f"{name}.qkvs.{head}"
        qk_slices += _rows(qkv, np.concatenate([q, K + q], axis=1), head * K + q[:, 0])
        qk_slices += _rows(f"{name}.dws.{head}", q, head * K + q[:, 0])
        v_slices += _rows(qkv, 2 * K + v, head * V + v[:, 0])
        # without its key a unit adds nothing to the logits; without its value nothing to the output and the cascade
        qk_gates.append(Gate(qkv, "output", K + q, 1, head * K + q[:, 0]))
        v_gates.append(Gate(qkv, "output", 2 * K + v, 1, head * V + v[:, 0]))
    v_slices.append(Slice(f"{name}.proj.conv.weight", 1, np.arange(H * V)[:, None]))
    return [
        Site("qk", number, H * K, tuple(qk_slices), tuple(qk_gates), H),
        Site("v", number, H * V, tuple(v_slices), tuple(v_gates), H),
    ]


def ffn_names(name: str, block: Any) -> list[str]:
    """Modules of all FFNs of a block, in the order in which they are computed."""
    return [f"{name}.{side}.{i}.ffn.m" for side in ("before", "after") for i in range(len(getattr(block, side)))]


def _ffns(number: int, name: str, block: Any) -> Site:
    """The hidden units of all FFNs of a block, one group for each FFN."""
    names = ffn_names(name, block)
    widths = [block.get_submodule(ffn.removeprefix(f"{name}.")).up.conv.out_channels for ffn in names]
    if len(set(widths)) > 1 or not widths:
        raise InputError(f"{name}: FFNs of widths {widths}; supported: one or more, all alike")
    slices: list[Slice] = []
    gates: list[Gate] = []
    for place, ffn in enumerate(names):
        column = np.arange(widths[0])[:, None]
        units = place * widths[0] + column[:, 0]
        slices += [*_rows(f"{ffn}.up", column, units), Slice(f"{ffn}.down.conv.weight", 1, column, units)]
        gates.append(Gate(f"{ffn}.down", "input", column, 1, units))
    return Site("ffn", number, len(names) * widths[0], tuple(slices), tuple(gates), len(names))


def _whole(number: int, name: str, block: Any) -> Site:
    """A whole block as one unit: its parameters, and what its branches add to the stream."""
    every = np.arange(block.mixer.m.attn.proj.conv.out_channels)[None]
    slices = (Slice(f"{name}.{n}", 0, np.arange(len(p))[None]) for n, p in block.named_parameters())
    gates = (Gate(f"{name}.{n}.m", "output", every, 1) for n, m in block.named_modules() if isinstance(m, Residual))
    return Site("block", number, 1, tuple(slices), tuple(gates))


def _stream(model: EfficientVit, stage: int) -> Site:
    """The channels of a stage: written by the stem or a patch merging, then by every residual branch."""
    width = model.config.embed_dim[stage]
    every = np.arange(width)[:, None]
    modules = _around_stream(model, stage)
    first = "patch_embed" if stage == 0 else f"stages.{stage}.downsample.merge"
    writers = [first, *(f"{name}.m" for name, module in modules.items() if isinstance(module, Residual))]
    slices = _rows(f"patch_embed.conv{len(model.config.stem_strides)}", every) if stage == 0 else []
    if stage + 1 == len(model.stages):
        slices += _classifier_slices(model, every)
    for name, module in modules.items():
        if isinstance(module, PatchMerging):
            reads = name.startswith(f"stages.{stage + 1}.")
            slices += [Slice(f"{name}.expand.conv.weight", 1, every)] if reads else _rows(f"{name}.reduce", every)
        elif isinstance(module, TokenFfn):
            slices += [
                *_rows(f"{name}.dw.m", every),
                Slice(f"{name}.ffn.m.up.conv.weight", 1, every),
                *_rows(f"{name}.ffn.m.down", every),
            ]
        elif isinstance(module, CascadedGroupAttention):
            slices += [*_rows(f"{name}.proj", every), *_head_inputs(name, module.num_heads, width)]
    gates = tuple(Gate(name, "output", every, 1) for name in writers)
    heads = {block.heads for block in model.config.blocks if block.stage == stage}
    return Site("embed", None, width, tuple(slices), gates, stage=stage, multiple=lcm(*heads))


def _around_stream(model: EfficientVit, stage: int) -> dict[str, nn.Module]:
    """Everything that reads or writes a stage's stream: its own modules, and the first of the next stage."""
    own, merge = f"stages.{stage}", f"stages.{stage + 1}.downsample"
    found = {
        f"{own}.{name}": module
        for name, module in model.get_submodule(own).named_modules()
        if not name.startswith("downsample.before")
    }
    if stage + 1 < len(model.stages):
        found |= {
            f"{merge}.{name}": module
            for name, module in model.get_submodule(merge).named_modules()
            if name.startswith("before") or name == "merge"
        }
    return found


def _classifier_slices(model: EfficientVit, every: np.ndarray) -> list[Slice]:
    """Where the classifiers read the last stage."""
    found: list[Slice] = []
    for head in ("head", "head_dist") if model.num_classes else ():
        if getattr(model, head) is not None:
            found += [Slice(f"{head}.bn.{part}", 0, every) for part in ("weight", "bias")]
            found.append(Slice(f"{head}.linear.weight", 1, every))
    return found


def _head_inputs(name: str, heads: int, width: int) -> list[Slice]:
    """The part of the channels that each head of an attention reads."""
    part = np.arange(width // heads)
    return [
        Slice(f"{name}.qkvs.{head}.conv.weight", 1, part[:, None], head * len(part) + part) for head in range(heads)
    ]


def recognises(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r"\.attn\.qkvs\.0\.", name) for name in state)


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Arguments of `EfficientVitConfig`; the stem's strides are taken as 2.

    A window that is as large as its feature map, at `img_size` or at 224, is taken for the paper's 7, cut off there.

    Raises:
        InputError: batch norms are missing, or a layer.
    """
    if not any(name.endswith("bn.running_var") for name in state):
        raise InputError("the checkpoint has no batch norms: it is a deploy form; give the form that it was made from")
    try:
        return _inferred(state, img_size)
    except (KeyError, IndexError) as error:
        raise InputError(
            f"the checkpoint is an EfficientViT (MSRA) without {error.args[0]}; it is not whole"
        ) from error


def _inferred(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    shapes = {name: tuple(tensor.shape) for name, tensor in to_flex_keys(state).items()}
    stem = [shapes[f"patch_embed.conv{i}.conv.weight"] for i in range(1, _count(shapes, r"patch_embed\.conv(\d+)"))]
    depth = [_count(shapes, rf"stages\.{stage}\.blocks\.(\d+)") for stage in range(_count(shapes, r"stages\.(\d+)"))]
    stages = [
        [_block_args(shapes, f"stages.{stage}.blocks.{i}") for i in range(count)] for stage, count in enumerate(depth)
    ]
    args = {
        "img_size": tuple(img_size) if isinstance(img_size, list | tuple) else img_size or 224,
        "in_chans": stem[0][1],
        "stem_strides": [2] * len(stem),
        "num_classes": shapes["head.linear.weight"][0] if "head.linear.weight" in shapes else 0,
        "distillation": "head_dist.linear.weight" in shapes,
        "embed_dim": [
            shapes[f"stages.{stage}.blocks.0.mixer.m.attn.proj.conv.weight"][0] for stage in range(len(depth))
        ],
        "depth": depth,
        **_merge_args(shapes, len(depth)),
    }
    per_block = {name: [[block[name] for block in found] for found in stages] for name in stages[0][0]}
    return args | per_block | {"window_size": _native_windows(args | per_block)}


def _merge_args(shapes: Mapping[str, tuple[int, ...]], stages: int) -> dict[str, Any]:
    """Widths of the patch mergings before all stages but the first."""
    downs = [f"stages.{stage}.downsample" for stage in range(1, stages)]
    return {
        "merge_dim": [shapes[f"{down}.merge.expand.conv.weight"][0] for down in downs],
        "merge_ffn_dim": [
            [shapes[f"{down}.{side}.ffn.m.up.conv.weight"][0] for side in ("before", "after")] for down in downs
        ],
    }


def _native_windows(args: Mapping[str, Any]) -> list[list[int]]:
    """Sides of all windows; one that is as large as its feature map, here or at 224, is the paper's 7, cut off."""
    sizes = {args["img_size"], 224}
    maps = [EfficientVitConfig(**{**args, "img_size": size}).resolutions for size in sizes]
    return [
        [max(side, 7) if side in {min(resolutions[stage]) for resolutions in maps} else side for side in sides]
        for stage, sides in enumerate(args["window_size"])
    ]


def _block_args(shapes: Mapping[str, tuple[int, ...]], name: str) -> dict[str, Any]:
    """What is chosen block by block."""
    attn = f"{name}.mixer.m.attn"
    heads = _count(shapes, rf"{re.escape(attn)}\.qkvs\.(\d+)")
    kernels = [shapes[f"{attn}.dws.{head}.conv.weight"] for head in range(heads)]
    num_ffns = _count(shapes, rf"{re.escape(name)}\.before\.(\d+)")
    side = round(shapes[f"{attn}.attention_biases"][1] ** 0.5)
    return {
        "num_heads": heads,
        "qk_dim": kernels[0][0],
        "kernels": [kernel[-1] for kernel in kernels],
        "v_dim": shapes[f"{attn}.proj.conv.weight"][1] // heads,
        "num_ffns": num_ffns,
        "ffn_dim": shapes[f"{name}.before.0.ffn.m.up.conv.weight"][0] if num_ffns else 1,
        "window_size": side,
    }


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number in the names that begin with `pattern`."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(rf"{pattern}\.", name))), default=-1)


def to_timm_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Also of the original code."""
    return to_flex_weights(state, model)


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The one name of this family; its arguments follow from the shapes."""
    return {EFFICIENTVIT: (224, 224)}
