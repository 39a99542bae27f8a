"""timm's attention with Q/K and V of any widths and the source's softmax scale."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.runtime.attention import scaled_dot_product_attention


class FreeAttention(nn.Module):
    """timm's `Attention` with q/k and v widths of their own, and the softmax scale of the network it was cut from.

    The parameters keep timm's names; `qkv` holds the rows of q (H * K), of k (H * K) and of v (H * V).
    """

    def __init__(self, source: Any, num_heads: int, qk_dim: int, v_dim: int) -> None:
        super().__init__()
        self.num_heads, self.qk_dim, self.v_dim = num_heads, qk_dim, v_dim
        self.scale = source.scale
        self.qkv, self.proj = source.qkv, source.proj
        self.q_norm, self.k_norm, self.norm = source.q_norm, source.k_norm, source.norm
        self.gate = getattr(source, "gate", None)
        self.attn_drop, self.proj_drop = source.attn_drop, source.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        B, N, _ = x.shape
        H, K, V = self.num_heads, self.qk_dim, self.v_dim
        q, k, v = self.qkv(x).split([H * K, H * K, H * V], dim=-1)
        q = self.q_norm(q.reshape(B, N, H, K).transpose(1, 2))
        k = self.k_norm(k.reshape(B, N, H, K).transpose(1, 2))
        v = v.reshape(B, N, H, V).transpose(1, 2)
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=attn_mask,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
        )
        out = self.norm(out.transpose(1, 2).reshape(B, N, H * V))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))


class FreePool(nn.Module):
    """timm's `AttentionPoolLatent` over tokens that are narrower than what it puts out."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = source.num_heads, source.head_dim, source.scale
        self.latent_len, self.out_features, self.pool = source.latent_len, source.out_features, source.pool
        self.pos_embed, self.latent = None, source.latent
        self.q, self.kv, self.proj = source.q, source.kv, source.proj
        self.q_norm, self.k_norm, self.norm = source.q_norm, source.k_norm, source.norm
        self.mlp, self.proj_drop = source.mlp, source.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        B, N, _ = x.shape
        H, K = self.num_heads, self.head_dim
        q = self.q(self.latent.expand(B, -1, -1)).reshape(B, self.latent_len, H, K).transpose(1, 2)
        k, v = self.kv(x).reshape(B, N, 2, H, K).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=attn_mask, scale=self.scale)
        out = self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, self.latent_len, H * K)))
        if self.mlp is not None:
            out = out + self.mlp(self.norm(out))
        if self.pool == "token":
            return out[:, 0]
        return out.mean(1) if self.pool == "avg" else out
