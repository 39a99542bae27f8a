"""EfficientViT (MSRA, Liu et al., CVPR 2023, arXiv 2305.07027) with every width free, for training and for deployment.

Where a configuration says what the stock class fixes, the network computes what timm's `EfficientVitMsra` computes
with the same weights. The deploy form (`fuse`) folds every batch norm, the residual of the depthwise convolutions and
the softmax scale into the weights, and keeps feature maps in the channels-last layout.
"""

# B images, C channels, H x W feature map, K q/k width per head, V value width per head, N tokens of a window

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_layers import (
    CascadedGroupAttention,
    ConvNorm,
    NormLinear,
    Residual,
    Stage,
    Stem,
    TokenFfn,
)


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
        """Of each stage, as timm asks for it: channels, and pixels of the image for one of the feature map."""
        for index, embed in enumerate(config.embed_dim):
            merge = config.merges[index - 1] if index else None
            stages.append(Stage(merge, [shape for shape in config.blocks if shape.stage == index]))
            self.feature_info.append({"num_chs": embed, "reduction": reduction << index, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)
        self.reset_classifier(config.num_classes, global_pool)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that it takes."""
        return self.config.input_size

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """timm's question: the parameters that no weight decay pulls towards zero."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's question: patterns that sort parameters by depth, for learning rates that fall with it."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+).downsample", (0,)), (r"^stages\.(\d+)\.\w+\.(\d+)", None)]
        )
        return {"stem": r"^patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """timm's question: the last linear layer."""
        return self.head.linear if isinstance(self.head, NormLinear) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; `global_pool` "" keeps the feature map, which no classifier can read."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        if global_pool == "catavgmax":
            raise InputError("global_pool 'catavgmax' doubles the features; take 'avg', 'max' or 'avgmax'")
        if num_classes and not global_pool:
            raise InputError(
                f"global_pool {global_pool!r} leaves a feature map, num_classes {num_classes} needs "
                "pooled features; take global_pool 'avg', or num_classes 0"
            )
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
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
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
        """The last stage's feature map -> logits; with `pre_logits` the pooled features."""
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
