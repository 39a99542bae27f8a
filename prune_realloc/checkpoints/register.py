"""timm's names of our networks. What builds them is imported when one is created, so that timm can be told at once."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from prune_realloc.checkpoints.norms import add_norms
from prune_realloc.core.names import EFFICIENTVIT, PRUNED

add_norms()

default_cfgs = generate_default_cfgs(
    {
        PRUNED: {},
        EFFICIENTVIT: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (4, 4),
            "fixed_input_size": True,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.conv1.conv",
            "classifier": "head.linear",
        },
    }
)


@register_model
def prune_realloc(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Any network that this package has cut; `source`, `source_args`, `widths` and `blocks` say which."""
    from prune_realloc.checkpoints.pruned import build_pruned

    return build_model_with_cfg(
        build_pruned, PRUNED, pretrained, feature_cfg={"out_indices": 3, "feature_cls": "getter"}, **kwargs
    )


@register_model
def efficientvit_flex(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """An EfficientViT (MSRA) of any widths: the arguments of `EfficientVitConfig`."""
    from prune_realloc.models.efficientvit import build_efficientvit
    from prune_realloc.models.efficientvit_keys import to_flex_weights

    embed = kwargs.get("embed_dim")
    stages = len(embed) if isinstance(embed, list | tuple) else 3
    return build_model_with_cfg(
        build_efficientvit,
        EFFICIENTVIT,
        pretrained,
        pretrained_filter_fn=to_flex_weights,
        feature_cfg={"flatten_sequential": True, "out_indices": tuple(range(stages))},
        **kwargs,
    )
