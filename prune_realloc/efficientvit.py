"""EfficientViT (MSRA, Liu et al., CVPR 2023, arXiv 2305.07027) with every width free, for training and for deployment.

Where a configuration says what the stock class fixes, the network computes what timm's `EfficientVitMsra` computes
with the same weights. The deploy form (`fuse`) folds every batch norm, the residual of the depthwise convolutions and
the softmax scale into the weights, and keeps feature maps in the channels-last layout.
"""

# B images, C channels, H x W feature map, K q/k width per head, V value width per head, N tokens of a window

from __future__ import annotations

import copy
import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d, SqueezeExcite, resize_rel_pos_bias_table_levit, trunc_normal_
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from prune_realloc.efficientvit_config import BlockShape, EfficientVitConfig, MergeShape
from prune_realloc.errors import InputError


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm."""

    conv: Any
    bn: Any

    def __init__(self, before: int, after: int, side: int = 1, *, stride: int = 1, groups: int = 1,
                 scale: float = 1.0) -> None:  # fmt: skip
        """`scale`: the batch norm's first weight; 0 makes a residual branch start as the identity."""
        conv = nn.Conv2d(before, after, side, stride, side // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(after)))
        nn.init.constant_(self.bn.weight, scale)

    def fused(self) -> nn.Conv2d:
        """One convolution that computes what both compute in evaluation mode."""
        factor = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        conv = copy.deepcopy(self.conv)
        conv.weight = nn.Parameter(conv.weight * factor[:, None, None, None])
        conv.bias = nn.Parameter(self.bn.bias - self.bn.running_mean * factor)
        return conv


class NormLinear(nn.Sequential):
    """The classifier: batch norm, dropout, linear."""

    bn: Any
    linear: Any

    def __init__(self, before: int, after: int, drop: float = 0.0) -> None:
        linear = nn.Linear(before, after)
        super().__init__(OrderedDict(bn=nn.BatchNorm1d(before), drop=nn.Dropout(drop), linear=linear))
        trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)

    def fused(self) -> nn.Linear:
        """One linear layer that computes what all compute in evaluation mode."""
        factor = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        linear = copy.deepcopy(self.linear)
        linear.bias = nn.Parameter(linear.bias + linear.weight @ (self.bn.bias - self.bn.running_mean * factor))
        linear.weight = nn.Parameter(linear.weight * factor)
        return linear


class Residual(nn.Module):
    """x + m(x)."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m
        self.inplace = False
        """Into what m returns, which is nobody else's; the deploy form does that."""

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x).add_(x) if self.inplace else x + self.m(x)


class ConvFfn(nn.Sequential):
    """Two 1x1 convolutions with ReLU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        up, down = ConvNorm(dim, hidden), ConvNorm(hidden, dim, scale=0.0)
        super().__init__(OrderedDict(up=up, act=nn.ReLU(inplace=True), down=down))


class TokenFfn(nn.Sequential):
    """Token interaction (a depthwise 3x3 convolution), then an FFN, each on a residual branch."""

    def __init__(self, dim: int, hidden: int, *, scale: float = 0.0) -> None:
        dw = Residual(ConvNorm(dim, dim, 3, groups=dim, scale=scale))
        super().__init__(OrderedDict(dw=dw, ffn=Residual(ConvFfn(dim, hidden))))


class CascadedGroupAttention(nn.Module):
    """Attention whose heads see one part of the channels each, plus what the head before them put out.

    A head's input is C / heads channels wide. Its output, V wide, is added to the next head's input where they
    overlap: all of it where V is C / heads (the paper, section 2.2), its first channels where V is wider, and to the
    first channels of the input where V is narrower.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.num_heads, self.qk_dim, self.v_dim, self.window = shape.heads, shape.qk, shape.v, shape.window
        self.scale = shape.qk**-0.5
        part, out = shape.embed // shape.heads, 2 * shape.qk + shape.v
        self.qkvs = nn.ModuleList(ConvNorm(part, out) for _ in range(shape.heads))
        self.dws = nn.ModuleList(ConvNorm(shape.qk, shape.qk, side, groups=shape.qk) for side in shape.kernels)
        self.proj = ConvNorm(shape.heads * shape.v, shape.embed, scale=0.0)
        self.attention_biases = nn.Parameter(torch.zeros(shape.heads, shape.window**2))
        """One for each head and each distance (rows, columns) between two tokens of a window."""
        self.offsets: Tensor
        self.register_buffer("offsets", _offsets(shape.window), persistent=False)
        self.register_buffer("fused_biases", None)

    def init_non_persistent_buffers(self) -> None:
        """timm's hook after a network was built without memory."""
        self.offsets.copy_(_offsets(self.window))

    def set_window(self, window: int) -> None:
        """Another side of the windows; the biases are resized by bicubic interpolation."""
        if window == self.window:
            return
        resized = resize_rel_pos_bias_table_levit(self.attention_biases.detach().T, (window**2, self.num_heads))
        self.attention_biases = nn.Parameter(resized.T.contiguous(), self.attention_biases.requires_grad)
        self.window = window
        self.register_buffer("offsets", _offsets(window).to(resized.device), persistent=False)

    def biases(self) -> Tensor:
        """Shape (heads, N, N)."""
        # index_select: its gradient is much faster on a CPU than that of indexing with a tensor
        found = self.attention_biases.index_select(1, self.offsets.flatten())
        return found.view(self.num_heads, self.window**2, self.window**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, window, window) -> the same; B counts windows."""
        B, _, H, W = x.shape
        K, V = self.qk_dim, self.v_dim
        biases: Any = self.biases() if self.fused_biases is None else self.fused_biases
        parts = x.chunk(self.num_heads, dim=1)
        outs: list[Tensor] = []
        overlap = min(V, parts[0].shape[1])
        for head, (qkv, dw) in enumerate(zip(self.qkvs, self.dws, strict=True)):
            part = parts[head]
            if head:
                part = _add_first(part, outs[-1], overlap)
            q, k, v = qkv(part).split([K, K, V], dim=1)
            q = dw(q).flatten(2)
            if self.fused_biases is None:
                q = q * self.scale
            # rows are queries; (B, N, V) keeps the channels of one token together, as channels-last has them
            weights = torch.baddbmm(biases[head], q.transpose(1, 2), k.flatten(2)).softmax(dim=-1)
            out = torch.bmm(weights, v.flatten(2).transpose(1, 2))
            outs.append(out.view(B, H, W, V).permute(0, 3, 1, 2))
        return self.proj(torch.cat(outs, dim=1).relu_())


class WindowAttention(nn.Module):
    """Cascaded group attention in windows that do not overlap; one window where the feature map is no larger."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attn = CascadedGroupAttention(shape)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        side = self.attn.window
        if side == H == W:
            return self.attn(x)
        x = F.pad(x, (0, -W % side, 0, -H % side)) if H % side or W % side else x
        rows, columns = x.shape[2] // side, x.shape[3] // side
        # one copy to and one from the windows, both of rows of channels
        x = x.permute(0, 2, 3, 1).reshape(B, rows, side, columns, side, C).transpose(2, 3)
        x = self.attn(x.reshape(B * rows * columns, side, side, C).permute(0, 3, 1, 2))
        x = x.permute(0, 2, 3, 1).reshape(B, rows, columns, side, side, C).transpose(2, 3)
        x = x.reshape(B, rows * side, columns * side, C).permute(0, 3, 1, 2)
        return x[:, :, :H, :W]


class Block(nn.Sequential):
    """The sandwich: N x (token interaction, FFN), attention, N x (token interaction, FFN)."""

    def __init__(self, shape: BlockShape) -> None:
        def ffns() -> nn.Module:
            return nn.Sequential(*(TokenFfn(shape.embed, shape.ffn) for _ in range(shape.num_ffns)))

        mixer = Residual(WindowAttention(shape))
        super().__init__(OrderedDict(before=ffns(), mixer=mixer, after=ffns()))


class PatchMerging(nn.Sequential):
    """An inverted bottleneck of stride 2 with squeeze-excite."""

    def __init__(self, shape: MergeShape) -> None:
        hidden = shape.hidden
        super().__init__(OrderedDict(
            expand=ConvNorm(shape.embed_in, hidden), act1=nn.ReLU(inplace=True),
            dw=ConvNorm(hidden, hidden, 3, stride=2, groups=hidden), act2=nn.ReLU(inplace=True),
            se=SqueezeExcite(hidden, rd_channels=shape.squeeze), reduce=ConvNorm(hidden, shape.embed_out),
        ))  # fmt: skip


class Stage(nn.Sequential):
    def __init__(self, merge: MergeShape | None, blocks: Sequence[BlockShape]) -> None:
        downsample = nn.Sequential() if merge is None else nn.Sequential(OrderedDict(
            before=TokenFfn(merge.embed_in, merge.ffn_in, scale=1.0),
            merge=PatchMerging(merge),
            after=TokenFfn(merge.embed_out, merge.ffn_out, scale=1.0),
        ))  # fmt: skip
        super().__init__(OrderedDict(downsample=downsample, blocks=nn.Sequential(*map(Block, blocks))))


class Stem(nn.Sequential):
    """3x3 convolutions, each of stride 1 or 2, with ReLU between them."""

    def __init__(self, config: EfficientVitConfig) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = config.in_chans
        for i, (stride, after) in enumerate(zip(config.stem_strides, config.stem_dims, strict=True), start=1):
            if i > 1:
                layers[f"relu{i - 1}"] = nn.ReLU(inplace=True)
            layers[f"conv{i}"] = ConvNorm(before, after, 3, stride=stride)
            before = after
        super().__init__(layers)


class EfficientVit(nn.Module):
    """The network of an `EfficientVitConfig`; images (B, in_chans, H, W) -> logits (B, num_classes).

    With `distillation`, training mode returns (logits, logits of the second classifier), evaluation mode their mean.
    """

    def __init__(self, config: EfficientVitConfig, *, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes, self.in_chans, self.drop_rate = config.num_classes, config.in_chans, drop_rate
        self.grad_checkpointing = self.fused = False
        self.num_features = config.embed_dim[-1]
        self.global_pool: Any = None
        self.patch_embed: Any = Stem(config)
        stages, reduction = [], 1
        for stride in config.stem_strides:
            reduction *= stride
        self.feature_info: list[dict[str, Any]] = []
        for index, embed in enumerate(config.embed_dim):
            merge = config.merges[index - 1] if index else None
            stages.append(Stage(merge, [shape for shape in config.blocks if shape.stage == index]))
            self.feature_info.append({"num_chs": embed, "reduction": reduction << index, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)
        self.reset_classifier(config.num_classes, global_pool)

    # -- what timm asks of a network ------------------------------------------------------------------------

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+).downsample", (0,)), (r"^stages\.(\d+)\.\w+\.(\d+)", None)]
        )
        return {"stem": r"^patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.linear if isinstance(self.head, NormLinear) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; `global_pool` "" keeps the feature map, which no classifier can read."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        if global_pool == "catavgmax":
            raise InputError("global_pool 'catavgmax' doubles the features; take 'avg', 'max' or 'avgmax'")
        if num_classes and not global_pool:
            raise InputError(f"global_pool {global_pool!r} leaves a feature map, num_classes {num_classes} needs "
                             "pooled features; take global_pool 'avg', or num_classes 0")  # fmt: skip
        like = next(self.parameters())
        self.num_classes = num_classes
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_hidden_size = self.num_features

        def head() -> nn.Module:
            made = NormLinear(self.head_hidden_size, num_classes, self.drop_rate) if num_classes else nn.Identity()
            return made.to(like.device, like.dtype).train(self.training)

        self.head = head()
        self.head_dist = head() if self.config.distillation else None

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Another input size; where windows shrink or grow, the attention biases are resized."""
        if self.fused:
            raise InputError(
                "img_size: the deploy form has one input size; change that of the network it was made from"
            )
        self.config = dataclasses.replace(self.config, img_size=img_size)
        attentions = [module for module in self.modules() if isinstance(module, CascadedGroupAttention)]
        for attention, shape in zip(attentions, self.config.blocks, strict=True):
            attention.set_window(shape.window)

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
        output_fmt: str = "NCHW", intermediates_only: bool = False,
    ) -> Any:  # fmt: skip
        """Feature maps of the stages that `indices` names (the last n where it is a number, all where None)."""
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt {output_fmt!r}: this network has feature maps only; take 'NCHW'")
        take, last = feature_take_indices(len(self.stages), indices)
        x, found = self.patch_embed(x), []
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = self._run(stage, x)
            if index in take:
                found.append(x)
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last that `indices` names, and the classifier."""
        take, last = feature_take_indices(len(self.stages), indices)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.config = self.config.truncated(last + 1)
        if shorter:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the last stage's feature map."""
        x = self.patch_embed(x)
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        x = self.global_pool(x)
        if pre_logits:
            return x
        if self.head_dist is None:
            return self.head(x)
        both = self.head(x), self.head_dist(x)
        return both if self.training else (both[0] + both[1]) / 2

    def forward(self, x: Tensor) -> Any:
        return self.forward_head(self.forward_features(x))

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(stage, x) if self.grad_checkpointing and self.training else stage(x)

    # -- deployment -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def fuse(self) -> EfficientVit:
        """The deploy form: a copy for inference that computes the same, without batch norms."""
        net = copy.deepcopy(self).eval()
        if self.fused:
            return net
        net.fused = True
        for module in list(net.modules()):
            for name, child in module.named_children():
                if isinstance(child, ConvNorm | NormLinear):
                    setattr(module, name, child.fused())
        for module in list[Any](net.modules()):
            if isinstance(module, CascadedGroupAttention):
                module.fused_biases = module.biases()
                for dw in list[Any](module.dws):
                    dw.weight.mul_(module.scale)
                    dw.bias.mul_(module.scale)
            elif isinstance(module, Residual):
                module.inplace = True
            elif isinstance(module, TokenFfn):
                conv: Any = module.get_submodule("dw.m")
                middle = conv.kernel_size[0] // 2
                conv.weight[:, 0, middle, middle] += 1
                module.dw = conv
        return net.requires_grad_(False).to(memory_format=torch.channels_last)


def _offsets(window: int) -> Tensor:
    """Which bias belongs to each pair of tokens of a window, shape (N, N): distance in rows * window + in columns."""
    place = torch.arange(window)
    distance = (place[:, None] - place).abs()
    rows, columns = distance[:, None, :, None], distance[None, :, None, :]
    return (rows * window + columns).reshape(window**2, window**2)


def _add_first(part: Tensor, out: Tensor, overlap: int) -> Tensor:
    """`part` with the first `overlap` channels of `out` added to its own first."""
    if out.shape[1] > overlap:
        out = out[:, :overlap]
    if part.shape[1] == overlap:
        return part + out
    return torch.cat([part[:, :overlap] + out, part[:, overlap:]], dim=1)


# -- checkpoints ----------------------------------------------------------------------------------------------

_FROM_ORIGINAL = (
    (r"^patch_embed\.(\d+)\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}."),
    (r"^blocks1\.(\d+)\.", lambda m: f"stages.0.blocks.{m[1]}."),
    (
        r"^blocks(\d+)\.([012])\.",
        lambda m: f"stages.{int(m[1]) - 1}.downsample.{('res1', 'patchmerge', 'res2')[int(m[2])]}.",
    ),
    (r"^blocks(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}."),
    (r"\.c\.", ".conv."),
    (r"\.l\.", ".linear."),
)
_FROM_TIMM = (
    (r"\.(dw|ffn)([01])\.m\.", lambda m: f".{('before', 'after')[int(m[2])]}.0.{m[1]}.m."),
    (r"\.res([12])\.([01])\.m\.", lambda m: f".{('before', 'after')[int(m[1]) - 1]}.{('dw', 'ffn')[int(m[2])]}.m."),
    (r"\.pw1\.", ".up."),
    (r"\.pw2\.", ".down."),
    (r"\.patchmerge\.conv1\.", ".merge.expand."),
    (r"\.patchmerge\.conv2\.", ".merge.dw."),
    (r"\.patchmerge\.conv3\.", ".merge.reduce."),
    (r"\.patchmerge\.se\.", ".merge.se."),
    (r"\.proj\.1\.", ".proj."),
)


def to_flex_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of this module for a checkpoint of timm's class, of the original code, or of this module.

    The original stores 1x1 convolutions as matrices, and what follows from the window's size as a buffer.
    """
    rules = (*_FROM_ORIGINAL, *_FROM_TIMM) if any(name.startswith("blocks1.") for name in state) else _FROM_TIMM
    found = {}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in ("attention_bias_idxs", "ab"):
            continue
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        matrix = tensor.ndim == 2 and name.endswith(".conv.weight")
        found[name] = tensor[:, :, None, None] if matrix else tensor
    return found


def to_flex_weights(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """`to_flex_keys`, with attention biases resized to the network's windows."""
    found, wanted = to_flex_keys(state), dict(net.named_parameters())
    for name, tensor in found.items():
        if name.endswith("attention_biases") and name in wanted and tensor.shape != wanted[name].shape:
            found[name] = resize_rel_pos_bias_table_levit(tensor.T, wanted[name].shape[::-1]).T.contiguous()
    return found


def build_efficientvit(*, global_pool: str = "avg", drop_rate: float = 0.0, **args: Any) -> EfficientVit:
    """The network of these arguments of `EfficientVitConfig`.

    Raises:
        InputError: an argument that is none, or a value that cannot be built.
    """
    known = {field.name for field in dataclasses.fields(EfficientVitConfig)}
    for name in args:
        if name not in known:
            raise InputError(f"{name} is no argument of efficientvit_flex; it takes {', '.join(sorted(known))}")
    return EfficientVit(EfficientVitConfig(**args), global_pool=global_pool, drop_rate=drop_rate)
