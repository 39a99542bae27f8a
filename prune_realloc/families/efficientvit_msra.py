"""Our EfficientViT (MSRA), and through it timm's and the original's: their checkpoints are loaded into our class."""

# C channels of a stage, H heads, K q/k width per head, V value width per head, F ffn width

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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

TIMM_MODULES = ("efficientvit_msra",)
"""Where timm defines the networks of this family."""
ALIASES = tuple(SIZES)
"""timm's names of networks that are built in our class; their tensors' shapes tell everything else."""


def owns(model: nn.Module) -> bool:
    return isinstance(model, EfficientVit)


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


def describe(model: Any) -> Structure:
    """Sites and costs. V and the streams are measured; what a cascade adds where keeps them from being cut freely.

    A head's output is added to the next head's input channel by channel, so units of V, and channels of the stream,
    have a place of their own; `inherit` carries both over together.
    """
    config: EfficientVitConfig = model.config
    streams = [_stream(model, stage, width) for stage, width in enumerate(config.embed_dim)]
    sites: list[Site] = []
    for number, (name, block) in enumerate(blocks(model)):
        sites += [_whole(number, name, block), *_attention(number, name, block), _ffns(number, name, block)]
    covered = {part.parameter for site in (*streams, *sites) if site.axis != "block" for part in site.slices}
    return Structure(
        family="efficientvit_msra",
        num_blocks=len(config.blocks),
        sites=(*streams, *sites),
        terms=config.terms,
        opaque=(),
        stream_roots={},
        stream_gates={},
        fixed={name: "a width of no site" for name, _ in model.named_parameters() if name not in covered},
        branches=(),
        pairs=(),
        exits=(),
        notes=("units are ranked by their scores; layers of this family are neither rotated nor refitted",),
    )


def blocks(model: Any) -> Iterator[tuple[str, Block]]:
    """Name and module of every block, counted through the stages."""
    for stage, module in enumerate(model.stages):
        for index, block in enumerate(module.blocks):
            yield f"stages.{stage}.blocks.{index}", block


def example_input(model: Any) -> tuple[int, int, int, int]:
    """Shape (B, C, H, W) of one input image."""
    return (1, *model.config.input_size)


def features(model: Any, images: Tensor) -> Tensor:
    """Pooled features (B, C) of a model without a classifier."""
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    return pooled if pooled.ndim == 2 else pooled.mean((2, 3))


def fold_(model: Any) -> None:
    """Nothing lies between a layer and the stream that could be folded into it and be scored there."""


def _rows(name: str, index: np.ndarray, units: np.ndarray | None = None) -> list[Slice]:
    """Output channels of a convolution with its batch norm."""
    return [Slice(f"{name}.{part}", 0, index, units) for part in ("conv.weight", "bn.weight", "bn.bias")]


def _attention(number: int, name: str, block: Any) -> list[Site]:
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
    every = np.arange(block.mixer.m.attn.proj.conv.out_channels)[None]
    slices = (Slice(f"{name}.{n}", 0, np.arange(len(p))[None]) for n, p in block.named_parameters())
    gates = (Gate(f"{name}.{n}.m", "output", every, 1) for n, m in block.named_modules() if isinstance(m, Residual))
    return Site("block", number, 1, tuple(slices), tuple(gates))


def _stream(model: Any, stage: int, width: int) -> Site:
    """The channels of a stage: written by the stem or a patch merging, then by every residual branch."""
    every = np.arange(width)[:, None]
    here = model.stages[stage]
    modules = {f"stages.{stage}.{n}": m for n, m in here.named_modules() if not n.startswith("downsample.before")}
    writes = ["patch_embed" if stage == 0 else f"stages.{stage}.downsample.merge"]
    slices: list[Slice] = []
    if stage == 0:
        slices += _rows(f"patch_embed.conv{len(model.config.stem_strides)}", every)
    if stage + 1 < len(model.stages):
        after = model.stages[stage + 1].downsample
        modules |= {
            f"stages.{stage + 1}.downsample.{n}": m
            for n, m in after.named_modules()
            if n.startswith("before") or n == "merge"
        }
    else:
        for exit_ in ("head", "head_dist") if model.num_classes else ():
            if getattr(model, exit_) is not None:
                slices += [
                    Slice(f"{exit_}.bn.weight", 0, every),
                    Slice(f"{exit_}.bn.bias", 0, every),
                    Slice(f"{exit_}.linear.weight", 1, every),
                ]
    for name, module in modules.items():
        if isinstance(module, Residual):
            writes.append(f"{name}.m")
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
            slices += _rows(f"{name}.proj", every)
            part = width // module.num_heads
            for head in range(module.num_heads):
                units = head * part + np.arange(part)
                slices.append(Slice(f"{name}.qkvs.{head}.conv.weight", 1, np.arange(part)[:, None], units))
    gates = tuple(Gate(name, "output", every, 1) for name in writes)
    return Site("embed", None, width, tuple(slices), gates, stage=stage)


def recognises(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r"\.attn\.qkvs\.0\.", name) for name in state)


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Arguments of `EfficientVitConfig` that the tensors' shapes tell; the stem's strides are taken as 2.

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
    stages = range(_count(shapes, r"stages\.(\d+)"))
    args: dict[str, Any] = {
        "img_size": img_size or 224,
        "in_chans": stem[0][1],
        "stem_strides": [2] * len(stem),
        "num_classes": shapes["head.linear.weight"][0] if "head.linear.weight" in shapes else 0,
        "distillation": "head_dist.linear.weight" in shapes,
        "embed_dim": [],
        "depth": [],
        "merge_dim": [],
        "merge_ffn_dim": [],
    }
    per_block: dict[str, list[list[Any]]] = {
        name: [] for name in ("num_heads", "qk_dim", "v_dim", "ffn_dim", "num_ffns", "window_size", "kernels")
    }
    for stage in stages:
        count = _count(shapes, rf"stages\.{stage}\.blocks\.(\d+)")
        args["depth"].append(count)
        found = [_block_args(shapes, f"stages.{stage}.blocks.{index}") for index in range(count)]
        for name, values in per_block.items():
            values.append([block[name] for block in found])
        attn = f"stages.{stage}.blocks.0.mixer.m.attn"
        args["embed_dim"].append(shapes[f"{attn}.proj.conv.weight"][0])
        if stage:
            down = f"stages.{stage}.downsample"
            args["merge_dim"].append(shapes[f"{down}.merge.expand.conv.weight"][0])
            args["merge_ffn_dim"].append(
                [shapes[f"{down}.{side}.ffn.m.up.conv.weight"][0] for side in ("before", "after")]
            )
    seen = [
        EfficientVitConfig(**(args | per_block | {"img_size": size})).resolutions for size in {args["img_size"], 224}
    ]
    for stage, sides in enumerate(per_block["window_size"]):
        native = {min(resolutions[stage]) for resolutions in seen}
        per_block["window_size"][stage] = [max(side, 7) if side in native else side for side in sides]
    return args | per_block


def _block_args(shapes: Mapping[str, tuple[int, ...]], name: str) -> dict[str, Any]:
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
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(rf"{pattern}\.", name))), default=-1)


def to_timm_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of timm's class or of the original code under our names."""
    return to_flex_weights(state, model)


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The one name of this family; its arguments follow from the shapes."""
    return {EFFICIENTVIT: (224, 224)}
