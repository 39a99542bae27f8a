"""Classifiers of MIT's EfficientViT, of its authors (mit-han-lab/efficientvit) -> timm's EfficientVit(Large)."""

from __future__ import annotations

import torch
from torch import Tensor

from prune_realloc.checkpoints.layouts.originals import by_shapes
from prune_realloc.checkpoints.layouts.translated import Config, Rules, State, Translated, renamed

_HEAD: Rules = (
    (r"^head\.op_list\.0\.", "head.in_conv."),
    (r"^head\.op_list\.2\.linear\.", "head.classifier.0."),
    (r"^head\.op_list\.2\.norm\.", "head.classifier.1."),
    (r"^head\.op_list\.3\.linear\.", "head.classifier.4."),
)
_STEM_OF_B = "backbone.input_stem.op_list.0.conv.weight"
_WEIGHT, _VARIANCE = "head.in_conv.norm.weight", "head.in_conv.norm.running_var"
_EPS, _TIMMS_EPS = 1e-7, 1e-5
"""Added to that variance in l1 to l3, of the authors and of timm."""
_NOTES = (
    "no tensor tells the input size; that of weights such as b1-r288.pt is stated by --model efficientvit_b1.r288_in1k",
    "timm adds 1e-5 to what linear attention divides by, the authors add 1e-15",
)


def recognise(state: State, config: Config) -> bool:
    # those for segmentation have another head, those of SAM none
    stages = any(name.startswith("backbone.stages.0.op_list.") for name in state)
    return stages and "head.op_list.0.conv.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs.

    Raises:
        InputError: two tensors have one place in timm's network.
    """
    if _STEM_OF_B in state:
        ours = renamed(state, _rules("input_stem", 0))
    else:
        ours = _with_timms_epsilon(renamed(state, _rules(r"stages\.0", 1)))
    return by_shapes("EfficientViT (MIT)", ours, supposed=("img_size",), notes=_NOTES)


def _rules(stem: str, first: int) -> Rules:
    """
    Args:
        stem: the module in the backbone that is timm's stem.
        first: the number of the stage that is timm's first.
    """
    return (
        (rf"^backbone\.{stem}\.op_list\.0\.", "stem.in_conv."),
        (rf"^backbone\.{stem}\.op_list\.1\.", "stem.res0."),
        *((rf"^backbone\.stages\.{first + stage}\.op_list\.", f"stages.{stage}.blocks.") for stage in range(4)),
        *_HEAD,
    )


def _with_timms_epsilon(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """In l1 to l3 the authors add 1e-7 to every variance, and so does timm but in its head; the weight makes up for it.

    What is no pair of tensors of floats is left for the check of the whole network to refuse.
    """
    pair = [state[name] for name in (_WEIGHT, _VARIANCE) if name in state]
    plain = all(tensor.is_floating_point() and tensor.layout == torch.strided for tensor in pair)
    if len(pair) < 2 or not plain or pair[0].shape != pair[1].shape:
        return state
    weight, variance = (tensor.double() for tensor in pair)
    exact = weight * ((variance + _TIMMS_EPS) / (variance + _EPS)).sqrt()
    return state | {_WEIGHT: exact.to(pair[0].dtype)}
