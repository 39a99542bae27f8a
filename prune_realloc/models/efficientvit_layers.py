"""The parts of our EfficientViT: convolution with norm, token FFN, cascaded group attention, patch merging, stem."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SqueezeExcite, resize_rel_pos_bias_table_levit, trunc_normal_
from torch import Tensor, nn

from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_shapes import BlockShape, MergeShape


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm."""

    conv: Any
    bn: Any

    def __init__(
        self, before: int, after: int, side: int = 1, *, stride: int = 1, groups: int = 1, scale: float = 1.0
    ) -> None:
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
        """Whether to add into the tensor that m returns, which nobody else holds; the deploy form does that."""

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
        """One bias for each head and each distance (rows, columns) between two tokens of a window."""
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
        """The bias of every pair of tokens of a window, shape (heads, N, N)."""
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
            v = v.flatten(2)
            if torch.onnx.is_in_onnx_export():  # a file's feature maps have the channels first, and no strides
                outs.append(torch.bmm(v, weights.transpose(1, 2)).view(B, V, H, W))
            else:
                out = torch.bmm(weights, v.transpose(1, 2))
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
        if torch.onnx.is_in_onnx_export():  # planes: one transposition to and one from the windows
            x = x.reshape(B, C, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
            x = self.attn(x.reshape(B * rows * columns, C, side, side))
            x = x.reshape(B, rows, columns, C, side, side).permute(0, 3, 1, 4, 2, 5)
            return x.reshape(B, C, rows * side, columns * side)[:, :, :H, :W]
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
        super().__init__(
            OrderedDict(
                expand=ConvNorm(shape.embed_in, hidden),
                act1=nn.ReLU(inplace=True),
                dw=ConvNorm(hidden, hidden, 3, stride=2, groups=hidden),
                act2=nn.ReLU(inplace=True),
                se=SqueezeExcite(hidden, rd_channels=shape.squeeze),
                reduce=ConvNorm(hidden, shape.embed_out),
            )
        )


class Stage(nn.Sequential):
    """What leads to the stage's resolution and width, nothing in the first, and its blocks."""

    def __init__(self, merge: MergeShape | None, blocks: Sequence[BlockShape]) -> None:
        downsample = (
            nn.Sequential()
            if merge is None
            else nn.Sequential(
                OrderedDict(
                    before=TokenFfn(merge.embed_in, merge.ffn_in, scale=1.0),
                    merge=PatchMerging(merge),
                    after=TokenFfn(merge.embed_out, merge.ffn_out, scale=1.0),
                )
            )
        )
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
