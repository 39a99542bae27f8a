"""Checkpoints in the layouts of other libraries -> timm's, a file per source. Nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.layouts import (
    efficientvit_mit_original,
    hf_beit,
    hf_clip,
    hf_swin,
    hf_vit,
    levit_original,
    open_clip,
    self_supervised,
    swin_original,
    timm_wrapper,
    tiny_vit_original,
    torchvision,
)
from prune_realloc.checkpoints.layouts.translated import Layout, Translated

LAYOUTS: dict[str, Layout] = {
    "TimmWrapper": Layout(timm_wrapper.recognise, timm_wrapper.translate),
    "Hugging Face Swin": Layout(hf_swin.recognise, hf_swin.translate),
    "Hugging Face BEiT": Layout(hf_beit.recognise, hf_beit.translate),
    "Hugging Face ViT": Layout(hf_vit.recognise, hf_vit.translate),
    "Hugging Face CLIP": Layout(hf_clip.recognise, hf_clip.translate),
    "torchvision ViT": Layout(torchvision.recognise_vit, torchvision.translate_vit),
    "torchvision Swin": Layout(torchvision.recognise_swin, torchvision.translate_swin),
    "open_clip": Layout(open_clip.recognise, open_clip.translate),
    "Swin": Layout(swin_original.recognise, swin_original.translate),
    "LeViT": Layout(levit_original.recognise, levit_original.translate),
    "TinyViT": Layout(tiny_vit_original.recognise, tiny_vit_original.translate),
    "EfficientViT (MIT)": Layout(efficientvit_mit_original.recognise, efficientvit_mit_original.translate),
    "self-supervised": Layout(self_supervised.recognise, self_supervised.translate),
}
"""The first that recognises the tensors counts; BEiT and Swin have all that tells ViT, and more."""


def layout_of(state: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Layout | None:
    """The layout of these names; None: it is none of another library."""
    return next((layout for layout in LAYOUTS.values() if layout.recognise(state, config)), None)


def translate(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> Translated | None:
    """The tensors by timm's names, with what builds their network; None: they are of no foreign layout known here.

    Args:
        state: tensors by their names in the file, before any are left out: a decoder or a second encoder tells the
            method. What all names begin with has been taken off (`prefixes.unwrapped`).
        config: the folder's `config.json`, or `open_clip_config.json`; None: there is none.
        preprocessor: the folder's `preprocessor_config.json`.

    Raises:
        InputError: the layout is known, but the file is not whole, contradicts its configuration, or is of a network
            that timm does not have.
    """
    layout = layout_of(state, config)
    return None if layout is None else layout.translate(state, config, preprocessor)
