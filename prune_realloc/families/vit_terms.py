"""What a timm VisionTransformer costs, as a formula of the widths of its sites."""

# D embed, H heads, K q/k width per head, V value width per head, F ffn width, N tokens, P patches

from __future__ import annotations

from typing import Any

from timm.layers import GluMlp, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from prune_realloc.core.cost import Term
from prune_realloc.families.attention import has_module


def stem_terms(model: VisionTransformer) -> list[Term]:
    """Patch embedding, position embedding and tokens, and the norms before the first block."""
    conv = model.patch_embed.proj
    patches = model.patch_embed.num_patches
    per_channel = conv.weight[0].numel()
    extra = _count_elements(
        conv.bias, model.cls_token, model.reg_token, getattr(model, "dist_token", None), model.pos_embed
    )
    return [
        Term(
            component="stem",
            sites=("embed",),
            params=per_channel + extra // conv.weight.shape[0],
            macs=per_channel * patches,
        ),
        Term(
            component="norm",
            sites=("embed",),
            params=_count_elements(*model.norm_pre.parameters(), *model.patch_embed.norm.parameters())
            // conv.weight.shape[0],
        ),
    ]


def block_terms(i: int, block: Any, tokens: int) -> list[Term]:
    """One block over `tokens` tokens."""
    N, attn, mlp = tokens, block.attn, block.mlp
    whole = f"blocks.{i}"  # 1, or 0 when the block is gone
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    values = 2 if has_module(attn, "gate") else 1  # a gated attention has one more projection of V's size
    bias = int(attn.qkv.bias is not None)
    matrices = 3 if isinstance(mlp, GluMlp | SwiGLU) else 2
    hidden = next(m for m in (getattr(mlp, "fc1", None), getattr(mlp, "fc1_x", None)) if m is not None)
    embed_dim = attn.qkv.weight.shape[1]
    per_channel = (
        _count_elements(
            *block.norm1.parameters(),
            *block.norm2.parameters(),
            *_layer_scale(block, "ls1"),
            *_layer_scale(block, "ls2"),
        )
        // embed_dim
    )
    return [
        Term(component="qk", sites=("embed", heads, qk), params=2, macs=2 * N),
        Term(component="qk", sites=(heads, qk), params=2 * bias, macs=N * N),
        Term(component="v", sites=("embed", heads, v), params=values, macs=values * N),
        Term(component="v", sites=(heads, v), params=values * bias, macs=N * N),
        Term(component="proj", sites=("embed", heads, v), params=1, macs=N),
        Term(component="proj", sites=("embed", whole), params=int(attn.proj.bias is not None)),
        Term(component="ffn", sites=("embed", ffn), params=matrices, macs=matrices * N),
        Term(component="ffn", sites=(ffn,), params=(matrices - 1) * int(hidden.bias is not None)),
        Term(component="ffn", sites=("embed", whole), params=int(mlp.fc2.bias is not None)),
        Term(component="norm", sites=("embed", whole), params=per_channel),
        Term(component="norm", sites=(qk,), params=2 * len(list(attn.q_norm.parameters()))),
        Term(component="norm", sites=(heads, v), params=len(list(attn.norm.parameters()))),
        Term(component="norm", sites=(ffn,), params=len(list(mlp.norm.parameters()))),
    ]


def _layer_scale(block: nn.Module, name: str) -> list[nn.Parameter]:
    module = getattr(block, name, None)  # a ResPostBlock has none
    return [] if module is None else list(module.parameters())


def head_terms(model: VisionTransformer, tokens: int) -> list[Term]:
    """The norms behind the last block, attention pooling, and the classifiers."""
    norms = [*model.norm.parameters()] + ([] if model.attn_pool is not None else [*model.fc_norm.parameters()])
    terms = [Term(component="norm", sites=("embed",), params=_count_elements(*norms) // model.embed_dim)]
    pool: Any = model.attn_pool
    if pool is not None:
        width, length = pool.out_features, pool.latent_len
        inside = _count_elements(*pool.parameters(), *model.fc_norm.parameters()) - pool.kv.weight.numel()
        products = _count_elements(pool.q.weight, pool.proj.weight, pool.mlp.fc1.weight, pool.mlp.fc2.weight) * length
        terms += [
            Term(component="head", sites=("embed",), params=2 * width, macs=2 * width * tokens),
            Term(component="head", params=inside, macs=products + 2 * length * tokens * width),
        ]
    for head in (model.head, getattr(model, "head_dist", None)):
        if isinstance(head, nn.Linear):
            sites, wide = (("embed",), 1) if pool is None else ((), head.in_features)
            terms.append(
                Term(component="head", sites=sites, params=head.out_features * wide, macs=head.out_features * wide)
            )
            terms.append(Term(component="head", params=_count_elements(head.bias)))
    return terms


def _count_elements(*tensors: Tensor | None) -> int:
    """Numbers in all of them together."""
    return sum(t.numel() for t in tensors if t is not None)
