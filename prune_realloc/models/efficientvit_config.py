"""Every width of an EfficientViT (MSRA, Liu et al., CVPR 2023), checked. No torch here.

What the stock class (timm's and the original) fixes is free here, per stage or per block: the value width, the FFN
width and their number, the kernels, the patch merging and the stem. A width that cannot be built is refused by name
when the configuration is made, never when the network runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from prune_realloc.core.cost import Cost, Term, component_costs, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_cost import network_terms
from prune_realloc.models.efficientvit_shapes import BlockShape, MergeShape, strided
from prune_realloc.models.efficientvit_values import (
    PER_BLOCK,
    integer,
    integers,
    listed,
    per_block,
    per_block_lists,
    require_buildable,
    require_one_per_merge,
    shortest,
    shown,
)

PerBlock = int | Sequence[int | Sequence[int]]
"""One number for all, or one for each stage, each of which may be a list with one for each block of the stage."""
SIZES: dict[str, dict[str, Any]] = {
    "efficientvit_m0": {"embed_dim": (64, 128, 192)},
    "efficientvit_m1": {"embed_dim": (128, 144, 192), "num_heads": (2, 3, 3), "kernels": (7, 5, 3)},
    "efficientvit_m2": {"embed_dim": (128, 192, 224), "num_heads": (4, 3, 2), "kernels": (7, 5, 3, 3)},
    "efficientvit_m3": {"embed_dim": (128, 240, 320), "num_heads": (4, 3, 4)},
    "efficientvit_m4": {"embed_dim": (128, 256, 384), "kernels": (7, 5, 3, 3)},
    "efficientvit_m5": {
        "embed_dim": (192, 288, 384),
        "depth": (1, 3, 4),
        "num_heads": (3, 3, 4),
        "kernels": (7, 5, 3, 3),
    },
}
"""Table 1 of the paper, as arguments of `EfficientVitConfig`."""


@dataclass(frozen=True, kw_only=True)
class EfficientVitConfig:
    """Arguments of the network; the defaults are EfficientViT-M0's.

    Raises:
        InputError: a value that cannot be built; the message names the argument and what would be right.
    """

    img_size: int | Sequence[int] = 224
    """Pixels, one number or (height, width)."""
    in_chans: int = 3
    """Channels of an image."""
    num_classes: int = 1000
    """Classes of the classifier; 0: no classifier."""
    stem_strides: Sequence[int] = (2, 2, 2, 2)
    """Strides of the stem's 3x3 convolutions, 1 or 2 each; (2, 2) suits images of 28 pixels."""
    embed_dim: Sequence[int] = (64, 128, 192)
    """Channels of each stage."""
    depth: Sequence[int] = (1, 2, 3)
    """Blocks of each stage."""
    num_heads: PerBlock = 4
    """Heads of each attention."""
    qk_dim: PerBlock = 16
    """Query and key width of each head."""
    v_dim: PerBlock | None = None
    """Value width of each head; None: embed_dim / num_heads, as in the stock class."""
    ffn_dim: PerBlock | None = None
    """Hidden units of each FFN; None: 2 x embed_dim, as in the stock class."""
    num_ffns: PerBlock = 1
    """FFNs before the attention of a block, and as many after it: the N of the sandwich."""
    window_size: PerBlock = 7
    """Side of the attention's windows, in tokens; where the feature map is smaller, one window of its size."""
    kernels: Sequence[Any] = (5, 5, 5, 5)
    """Sides of the kernels on each head's queries: one list for all blocks, or one for each stage or block."""
    merge_dim: Sequence[int] | None = None
    """Hidden channels of each patch merging; None: 4 x embed_dim of the stage before it."""
    merge_ffn_dim: Sequence[Sequence[int]] | None = None
    """Hidden units of the FFNs (before, after) each patch merging; None: 2 x the channels there."""
    distillation: bool = False
    """A second classifier that learns from a teacher."""

    def __post_init__(self) -> None:
        self._complete_whole()
        self._complete_blocks()
        self._complete_merges()
        if not isinstance(self.distillation, bool):
            raise InputError(f"distillation must be true or false, got {shown(self.distillation)}")
        for shape in self.blocks:
            require_buildable(shape)

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _complete_whole(self) -> None:
        """What is no matter of one block: images, stem, stages."""
        size = self.img_size
        self._put("img_size", integers("img_size", [size, size] if isinstance(size, int) else size, least=1))
        if len(self.img_size) != 2:  # type: ignore[arg-type]
            raise InputError(f"img_size {shown(size)} is neither one number nor (height, width)")
        for name, least in (("in_chans", 1), ("num_classes", 0)):
            self._put(name, integer(name, getattr(self, name), least))
        for name in ("stem_strides", "embed_dim", "depth"):
            self._put(name, integers(name, getattr(self, name), least=1))
        if not self.stem_strides or max(self.stem_strides) > 2:
            raise InputError(f"stem_strides {shown(self.stem_strides)} must be a list of 1 and 2, such as [2, 2]")
        stages = len(self.embed_dim)
        if not stages or len(self.depth) != stages:
            raise InputError(
                f"depth {shown(self.depth)} must have one number for each of the {stages} stages of "
                f"embed_dim {shown(self.embed_dim)}"
            )
        halvings = len(self.stem_strides) - 1
        if self.embed_dim[0] >> halvings < 1:
            raise InputError(
                f"embed_dim {self.embed_dim[0]} of the first stage is too narrow for a stem of "
                f"{halvings + 1} convolutions, which halves it {halvings} times; take at least {1 << halvings}"
            )

    def _complete_blocks(self) -> None:
        for name in PER_BLOCK:
            if getattr(self, name) is not None or name not in ("v_dim", "ffn_dim"):
                least = 0 if name == "num_ffns" else 1
                self._put(name, per_block(name, getattr(self, name), self.depth, least))
        self._put("kernels", per_block_lists("kernels", self.kernels, self.depth))

    def _complete_merges(self) -> None:
        if self.merge_dim is not None:
            self._put("merge_dim", integers("merge_dim", self.merge_dim, least=1))
            require_one_per_merge("merge_dim", self.merge_dim, self.depth)
        if self.merge_ffn_dim is not None:
            pairs = [integers("merge_ffn_dim", pair, least=1) for pair in listed("merge_ffn_dim", self.merge_ffn_dim)]
            if any(len(pair) != 2 for pair in pairs):
                raise InputError("merge_ffn_dim must have pairs (before, after), one for each patch merging")
            self._put("merge_ffn_dim", tuple(pairs))
            require_one_per_merge("merge_ffn_dim", self.merge_ffn_dim, self.depth)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        height, width = self.img_size  # type: ignore[misc]
        return self.in_chans, height, width

    @property
    def stem_dims(self) -> tuple[int, ...]:
        """Channels after each convolution of the stem: doubling up to the first stage's."""
        count = len(self.stem_strides)
        return tuple(self.embed_dim[0] >> (count - 1 - i) for i in range(count))

    @cached_property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """Feature map (height, width) of each stage."""
        found = [strided(self.input_size[1:], prod(self.stem_strides))]
        for _ in self.embed_dim[1:]:
            found.append(strided(found[-1], 2))
        return tuple(found)

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """All blocks, in order."""
        return tuple(self._block(stage, index) for stage, depth in enumerate(self.depth) for index in range(depth))

    @cached_property
    def merges(self) -> tuple[MergeShape, ...]:
        """The patch merging before each stage but the first."""
        return tuple(self._merge(stage) for stage in range(1, len(self.embed_dim)))

    def _block(self, stage: int, index: int) -> BlockShape:
        embed, resolution = self.embed_dim[stage], self.resolutions[stage]
        heads = _of_block(self.num_heads, stage, index)
        return BlockShape(
            stage=stage,
            embed=embed,
            heads=heads,
            qk=_of_block(self.qk_dim, stage, index),
            v=embed // heads if self.v_dim is None else _of_block(self.v_dim, stage, index),
            ffn=2 * embed if self.ffn_dim is None else _of_block(self.ffn_dim, stage, index),
            num_ffns=_of_block(self.num_ffns, stage, index),
            window=min(_of_block(self.window_size, stage, index), *resolution),
            kernels=self.kernels[stage][index][:heads],
            resolution=resolution,
        )

    def _merge(self, stage: int) -> MergeShape:
        before, after = self.embed_dim[stage - 1], self.embed_dim[stage]
        hidden = 4 * before if self.merge_dim is None else self.merge_dim[stage - 1]
        ffns = (2 * before, 2 * after) if self.merge_ffn_dim is None else self.merge_ffn_dim[stage - 1]
        return MergeShape(
            stage=stage,
            embed_in=before,
            embed_out=after,
            hidden=hidden,
            squeeze=max(8, (hidden // 4 + 4) // 8 * 8),  # a quarter, as a multiple of 8, as timm rounds it
            ffn_in=ffns[0],
            ffn_out=ffns[1],
            resolution_in=self.resolutions[stage - 1],
            resolution_out=self.resolutions[stage],
        )

    def truncated(self, stages: int) -> EfficientVitConfig:
        """The network that has the first so many stages of this one."""
        names = ("embed_dim", "depth", *PER_BLOCK, "kernels")
        cut = {name: value[:stages] for name in names if (value := getattr(self, name)) is not None}
        merges = {
            name: value[: stages - 1]
            for name in ("merge_dim", "merge_ffn_dim")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **cut, **merges)

    @property
    def widths(self) -> dict[str, int]:
        """Site name -> width: `stages.S.embed`, and `blocks.B.qk`, `.v`, `.ffn` with blocks counted through."""
        found = {site_name("embed", None, stage): width for stage, width in enumerate(self.embed_dim)}
        for number, block in enumerate(self.blocks):
            found |= {site_name(axis, number): getattr(block, axis) for axis in ("qk", "v", "ffn")}
        return found

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The cost as a formula of `widths`; everything else is a number in it."""
        stem = list(zip(self.stem_strides, self.stem_dims, strict=True))
        classifiers = 2 if self.distillation else 1
        return tuple(network_terms(self.input_size, stem, self.blocks, self.merges, self.num_classes, classifiers))

    @property
    def cost(self) -> Cost:
        """Parameters, and multiply-adds for one image."""
        return total_cost(self.terms, self.widths)

    @property
    def component_costs(self) -> dict[str, Cost]:
        """Component, such as `ffn` -> its share of `cost`."""
        return component_costs(self.terms, self.widths)

    def args(self) -> dict[str, Any]:
        """The arguments that differ from the defaults, as plain lists and numbers, as short as they can be."""
        found = {}
        for field in dataclasses.fields(self):
            value = shortest(field.name, getattr(self, field.name))
            if value != shortest(field.name, getattr(_DEFAULT, field.name)) or field.name in ("embed_dim", "depth"):
                found[field.name] = value
        return found


def _of_block(value: Any, stage: int, index: int) -> int:
    return value[stage][index]


_DEFAULT = EfficientVitConfig()
