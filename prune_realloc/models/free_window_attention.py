"""timm's window attention with Q/K and V of any widths, the source's softmax scale and its table of positions."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from prune_realloc.runtime.attention import scaled_dot_product_attention


class FreeWindowAttention(WindowAttention):
    """timm's `WindowAttention` with q/k and v widths of their own, and the softmax scale of its source.

    The parameters keep timm's names; `qkv` holds the rows of q (H * K), of k (H * K) and of v (H * V). The table of
    positions has a column for each head that is left.
    """

    def __init__(self, source: Any, num_heads: int, qk_dim: int, v_dim: int) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.qk_dim, self.v_dim = num_heads, qk_dim, v_dim
        self.dim, self.scale = source.qkv.weight.shape[1], source.scale
        self.window_size, self.window_area = source.window_size, source.window_area
        self.relative_position_bias_table = source.relative_position_bias_table
        self.register_buffer("relative_position_index", source.relative_position_index, persistent=False)
        self.qkv, self.attn_drop = source.qkv, source.attn_drop
        self.proj, self.proj_drop, self.softmax = source.proj, source.proj_drop, source.softmax

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B * nW, N, D) -> the same.

        Args:
            mask: 0 or a large negative number for each pair of tokens, shape (nW, N, N).
        """
        windows, N, _ = x.shape
        H, K, V = self.num_heads, self.qk_dim, self.v_dim
        bias = self._get_rel_pos_bias()
        if mask is not None:
            bias = (bias + mask[:, None]).reshape(1, -1, N, N)
        # windows of an image that differ in their masks count as heads, so that one bias holds for all images
        heads = bias.shape[1]
        q, k, v = self.qkv(x).split([H * K, H * K, H * V], dim=-1)
        q, k, v = (
            t.reshape(-1, heads // H, N, H, width).transpose(2, 3).reshape(-1, heads, N, width)
            for t, width in ((q, K), (k, K), (v, V))
        )
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = scaled_dot_product_attention(q, k, v, bias, dropout_p, scale=self.scale)
        out = out.reshape(windows, H, N, V).transpose(1, 2).reshape(windows, N, H * V)
        return self.proj_drop(self.proj(out))
