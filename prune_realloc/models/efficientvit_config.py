"""Every width of an EfficientViT (MSRA, Liu et al., CVPR 2023), checked, and what they cost. No torch here.

What the stock class (timm's and the original) fixes is free here, per stage or per block: the value width, the FFN
width and their number, the kernels, the patch merging and the stem. A width that cannot be built is refused by name
when the configuration is made, never when the network runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from prune_realloc.core.cost import Cost, Term, component_costs, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name

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
class BlockShape:
    """One block: FFNs, attention, FFNs."""

    stage: int
    embed: int
    heads: int
    qk: int
    """Of one head."""
    v: int
    """Of one head."""
    ffn: int
    """Hidden units of each FFN."""
    num_ffns: int
    """Before the attention, and as many after it."""
    window: int
    """Side of the attention's windows, no larger than the feature map."""
    kernels: tuple[int, ...]
    """Of the depthwise convolution on each head's queries."""
    resolution: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class MergeShape:
    """What lies before a later stage: an FFN, an inverted bottleneck of stride 2 with squeeze-excite, an FFN."""

    stage: int
    """The stage that it leads to."""
    embed_in: int
    embed_out: int
    hidden: int
    squeeze: int
    """Channels inside the squeeze-excite."""
    ffn_in: int
    ffn_out: int
    resolution_in: tuple[int, int]
    resolution_out: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EfficientVitConfig:
    """Arguments of the network; the defaults are EfficientViT-M0's.

    Raises:
        InputError: a value that cannot be built; the message names the argument and what would be right.
    """

    img_size: int | Sequence[int] = 224
    """Pixels, one number or (height, width)."""
    in_chans: int = 3
    num_classes: int = 1000
    """0: no classifier."""
    stem_strides: Sequence[int] = (2, 2, 2, 2)
    """Of the stem's 3x3 convolutions, 1 or 2 each; (2, 2) suits images of 28 pixels."""
    embed_dim: Sequence[int] = (64, 128, 192)
    """Channels of each stage."""
    depth: Sequence[int] = (1, 2, 3)
    """Blocks of each stage."""
    num_heads: PerBlock = 4
    qk_dim: PerBlock = 16
    """Query and key width of each head."""
    v_dim: PerBlock | None = None
    """Value width of each head; None: embed_dim / num_heads, as in the stock class."""
    ffn_dim: PerBlock | None = None
    """Hidden units of each FFN; None: 2 x embed_dim, as in the stock class."""
    num_ffns: PerBlock = 1
    """FFNs before the attention of a block, and as many after it: the N of the sandwich."""
    window_size: PerBlock = 7
    kernels: Sequence[Any] = (5, 5, 5, 5)
    """Sides of the kernels on each head's queries: one list for all blocks, or one for each stage or block."""
    merge_dim: Sequence[int] | None = None
    """Hidden channels of each patch merging; None: 4 x embed_dim of the stage before it."""
    merge_ffn_dim: Sequence[Sequence[int]] | None = None
    """Hidden units of the FFNs (before, after) each patch merging; None: 2 x the channels there."""
    distillation: bool = False
    """A second classifier that learns from a teacher."""

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        size = self.img_size
        put("img_size", _integers("img_size", [size, size] if isinstance(size, int) else size, least=1))
        if len(self.img_size) != 2:  # type: ignore[arg-type]
            raise InputError(f"img_size {_shown(size)} is neither one number nor (height, width)")
        for name, least in (("in_chans", 1), ("num_classes", 0)):
            put(name, _integer(name, getattr(self, name), least))
        for name in ("stem_strides", "embed_dim", "depth"):
            put(name, _integers(name, getattr(self, name), least=1))
        if not self.stem_strides or max(self.stem_strides) > 2:
            raise InputError(f"stem_strides {_shown(self.stem_strides)} must be a list of 1 and 2, such as [2, 2]")
        stages = len(self.embed_dim)
        if not stages or len(self.depth) != stages:
            raise InputError(
                f"depth {_shown(self.depth)} must have one number for each of the {stages} stages of "
                f"embed_dim {_shown(self.embed_dim)}"
            )
        halvings = len(self.stem_strides) - 1
        if self.embed_dim[0] >> halvings < 1:
            raise InputError(
                f"embed_dim {self.embed_dim[0]} of the first stage is too narrow for a stem of "
                f"{halvings + 1} convolutions, which halves it {halvings} times; take at least "
                f"{1 << halvings}"
            )
        for name in ("num_heads", "qk_dim", "v_dim", "ffn_dim", "num_ffns", "window_size"):
            if getattr(self, name) is not None:
                put(name, self._per_block(name, getattr(self, name), least=0 if name == "num_ffns" else 1))
        put("kernels", self._per_block_kernels())
        if self.merge_dim is not None:
            put("merge_dim", self._per_merge("merge_dim", _integers("merge_dim", self.merge_dim, least=1)))
        if self.merge_ffn_dim is not None:
            pairs = [_integers("merge_ffn_dim", pair, least=1) for pair in _listed("merge_ffn_dim", self.merge_ffn_dim)]
            if any(len(pair) != 2 for pair in pairs):
                raise InputError("merge_ffn_dim must have pairs (before, after), one for each patch merging")
            put("merge_ffn_dim", self._per_merge("merge_ffn_dim", tuple(pairs)))
        if not isinstance(self.distillation, bool):
            raise InputError(f"distillation must be true or false, got {_shown(self.distillation)}")
        for shape in self.blocks:
            self._check(shape)

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
        found = [_strided(self.input_size[1:], prod(self.stem_strides))]
        for _ in self.embed_dim[1:]:
            found.append(_strided(found[-1], 2))
        return tuple(found)

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        return tuple(self._block(stage, index) for stage, depth in enumerate(self.depth) for index in range(depth))

    @cached_property
    def merges(self) -> tuple[MergeShape, ...]:
        return tuple(self._merge(stage) for stage in range(1, len(self.embed_dim)))

    def _block(self, stage: int, index: int) -> BlockShape:
        embed, resolution = self.embed_dim[stage], self.resolutions[stage]
        heads = _pick(self.num_heads, stage, index)
        return BlockShape(
            stage=stage,
            embed=embed,
            heads=heads,
            qk=_pick(self.qk_dim, stage, index),
            v=embed // heads if self.v_dim is None else _pick(self.v_dim, stage, index),
            ffn=2 * embed if self.ffn_dim is None else _pick(self.ffn_dim, stage, index),
            num_ffns=_pick(self.num_ffns, stage, index),
            window=min(_pick(self.window_size, stage, index), *resolution),
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
        """The first so many stages."""
        names = ("embed_dim", "depth", "num_heads", "qk_dim", "v_dim", "ffn_dim", "num_ffns", "window_size", "kernels")
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
        return tuple(_terms(self))

    @property
    def cost(self) -> Cost:
        """Parameters, and multiply-adds for one image."""
        return total_cost(self.terms, self.widths)

    @property
    def component_costs(self) -> dict[str, Cost]:
        return component_costs(self.terms, self.widths)

    def args(self) -> dict[str, Any]:
        """The arguments that differ from the defaults, as plain lists and numbers, as short as they can be."""
        found = {}
        for field in dataclasses.fields(self):
            value = _short(field.name, getattr(self, field.name))
            if value != _short(field.name, getattr(_DEFAULT, field.name)) or field.name in ("embed_dim", "depth"):
                found[field.name] = value
        return found

    def _per_block(self, name: str, value: Any, least: int) -> tuple[tuple[int, ...], ...]:
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value] * len(self.depth)
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a whole number, or a list with one for each stage, got {_shown(value)}")
        stages = self._per_stage(name, value)
        found = []
        for stage, (entry, depth) in enumerate(zip(stages, self.depth, strict=True)):
            numbers = list(entry) if isinstance(entry, list | tuple) else [entry] * depth
            self._one_per_block(name, stage, numbers)
            found.append(tuple(_integer(f"{name} of stage {stage}", number, least) for number in numbers))
        return tuple(found)

    def _per_block_kernels(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        value = _listed("kernels", self.kernels)
        if all(isinstance(side, int) for side in value):
            value = [value] * len(self.depth)
        stages = self._per_stage("kernels", value)
        found = []
        for stage, (entry, depth) in enumerate(zip(stages, self.depth, strict=True)):
            entry = _listed("kernels", entry)
            lists = [entry] * depth if all(isinstance(side, int) for side in entry) else list(entry)
            self._one_per_block("kernels", stage, lists)
            found.append(tuple(_integers(f"kernels of stage {stage}", sides, least=1) for sides in lists))
        return tuple(found)

    def _per_stage(self, name: str, value: Sequence[Any]) -> Sequence[Any]:
        if len(value) != len(self.depth):
            raise InputError(
                f"{name} has {len(value)} entries, embed_dim has {len(self.depth)} stages; give one for each"
            )
        return value

    def _one_per_block(self, name: str, stage: int, value: Sequence[Any]) -> None:
        if len(value) != self.depth[stage]:
            raise InputError(
                f"{name} of stage {stage} has {len(value)} entries, the stage {self.depth[stage]} "
                "block(s); give one number, or one for each"
            )

    def _per_merge(self, name: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(value) != len(self.depth) - 1:
            raise InputError(
                f"{name} has {len(value)} entries; give one for each of the {len(self.depth) - 1} patch merging(s)"
            )
        return value

    def _check(self, block: BlockShape) -> None:
        where = f"of stage {block.stage}"
        if block.embed % block.heads:
            down = block.embed - block.embed % block.heads
            nearest = " or ".join(str(width) for width in (down, down + block.heads) if width)
            raise InputError(
                f"embed_dim {block.embed} {where} is not a multiple of num_heads {block.heads}; take "
                f"{nearest}, or other heads"
            )
        if len(block.kernels) < block.heads:
            raise InputError(
                f"kernels {_shown(block.kernels)} {where} are fewer than num_heads {block.heads}; give "
                "one for each head"
            )
        for side in block.kernels:
            if side % 2 == 0:
                raise InputError(f"kernels {_shown(block.kernels)} {where}: {side} is even; take odd sides")


def _terms(config: EfficientVitConfig) -> Iterator[Term]:
    """One convolution with its batch norm after the other; batch norms have two parameters per channel."""
    stage_sites = [site_name("embed", None, stage) for stage in range(len(config.embed_dim))]
    before, *pixels = config.input_size
    size = _strided(pixels, 1)
    for stride, after in zip(config.stem_strides[:-1], config.stem_dims[:-1], strict=True):
        size = _strided(size, stride)
        yield Term(component="stem", params=(9 * before + 2) * after, macs=9 * before * after * prod(size))
        before = after
    tokens = prod(config.resolutions[0])
    yield Term(component="stem", sites=(stage_sites[0],), params=9 * before + 2, macs=9 * before * tokens)
    for number, block in enumerate(config.blocks):
        if number == sum(config.depth[: block.stage]) and block.stage:
            yield from _merge_terms(config.merges[block.stage - 1], stage_sites)
        yield from _block_terms(number, block, stage_sites[block.stage])
    heads = 2 if config.distillation else 1
    if config.num_classes:
        embed, classes = stage_sites[-1], config.num_classes
        yield Term(component="head", sites=(embed,), params=heads * (2 + classes), macs=heads * classes)
        yield Term(component="head", params=heads * classes)


def _block_terms(number: int, block: BlockShape, embed: str) -> Iterator[Term]:
    qk, v, ffn = (site_name(axis, number) for axis in ("qk", "v", "ffn"))
    tokens, heads, sides = prod(block.resolution), block.heads, 2 * block.num_ffns
    in_window = block.window**2
    windows = prod(-(-side // block.window) for side in block.resolution)
    seen = windows * in_window  # with the padding of windows that reach over the edge
    kernels = sum(side**2 for side in block.kernels)
    yield Term(component="dwconv", sites=(embed,), params=sides * (9 + 2), macs=sides * 9 * tokens)
    yield Term(component="ffn", sites=(embed, ffn), params=2 * sides, macs=2 * sides * tokens)
    yield Term(component="ffn", sites=(ffn,), params=2 * sides)
    yield Term(component="ffn", sites=(embed,), params=2 * sides)
    # every head reads embed / heads channels, so all of them together read embed
    yield Term(component="qk", sites=(embed, qk), params=2, macs=2 * seen)
    yield Term(component="qk", sites=(qk,), params=heads * (4 + 2) + kernels, macs=(kernels + heads * in_window) * seen)
    yield Term(component="v", sites=(embed, v), params=1, macs=seen)
    yield Term(component="v", sites=(v,), params=2 * heads, macs=heads * in_window * seen)
    yield Term(component="proj", sites=(embed, v), params=heads, macs=heads * seen)
    yield Term(component="proj", sites=(embed,), params=2)
    yield Term(component="position", params=heads * in_window)


def _merge_terms(merge: MergeShape, stage_sites: Sequence[str]) -> Iterator[Term]:
    before, after = stage_sites[merge.stage - 1], stage_sites[merge.stage]
    hidden, squeeze = merge.hidden, merge.squeeze
    into, out = prod(merge.resolution_in), prod(merge.resolution_out)
    for embed, ffn, tokens in ((before, merge.ffn_in, into), (after, merge.ffn_out, out)):
        yield Term(component="dwconv", sites=(embed,), params=9 + 2, macs=9 * tokens)
        yield Term(component="ffn", sites=(embed,), params=2 * ffn + 2, macs=2 * ffn * tokens)
        yield Term(component="ffn", params=2 * ffn)
    yield Term(component="merging", sites=(before,), params=hidden, macs=hidden * into)
    yield Term(
        component="merging",
        params=2 * hidden + (9 + 2) * hidden + 2 * hidden * squeeze + squeeze + hidden,
        macs=9 * hidden * out + 2 * hidden * squeeze,
    )
    yield Term(component="merging", sites=(after,), params=hidden + 2, macs=hidden * out)


def _strided(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Of a 3x3 convolution with padding 1; several strides of 2 round as their product does."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _pick(value: Any, stage: int, index: int) -> int:
    return value[stage][index]


def _listed(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a list, got {_shown(value)}")
    return value


def _integers(name: str, value: Any, least: int) -> tuple[int, ...]:
    return tuple(_integer(name, number, least) for number in _listed(name, value))


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def _short(name: str, value: Any) -> Any:
    """Lists in place of tuples, and one value in place of equal ones."""
    if name == "img_size" and isinstance(value, tuple) and value[0] == value[1]:
        return value[0]
    if name in ("num_heads", "qk_dim", "v_dim", "ffn_dim", "num_ffns", "window_size") and value is not None:
        stages = [stage[0] if len(set(stage)) == 1 else list(stage) for stage in value]
        return stages[0] if all(stage == stages[0] and isinstance(stage, int) for stage in stages) else stages
    if name == "kernels":
        stages = [stage[0] if len(set(stage)) == 1 else stage for stage in value]
        one = len(set(stages)) == 1 and isinstance(stages[0][0], int)
        value = stages[0] if one else stages
    return _lists(value)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


_DEFAULT = EfficientVitConfig()
