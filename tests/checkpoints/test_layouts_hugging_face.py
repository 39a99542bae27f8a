"""Hugging Face's vision models -> timm's networks of the same outputs, from files and from memory."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from support.layouts import built, equal, images, translated
from support.networks import randomise_

hf = pytest.importorskip("transformers")

from prune_realloc.core.errors import InputError

SIZE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
LABELS = {"id2label": {0: "tench", 1: "cock", 2: "hen"}, "label2id": {"tench": 0, "cock": 1, "hen": 2}}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def folder_of(net: Any, folder: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    net.save_pretrained(folder)
    return safetensors.torch.load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def outputs(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Logits, the projected image, or the pooled one; the normed class token where pooling is another layer."""
    with torch.no_grad():
        out = net(pixel_values=pixels)
    for name in ("logits", "image_embeds"):
        if getattr(out, name, None) is not None:
            return getattr(out, name)
    pooled = getattr(out, "pooler_output", None)
    return out.last_hidden_state[:, 0] if pooled is None or getattr(net, "pooler", None) is not None else pooled


def vit(kind: str, config: Any) -> Any:
    return randomise_(getattr(hf, kind)(config))


CASES: dict[str, Any] = {
    "ViT classifier": lambda: vit("ViTForImageClassification", hf.ViTConfig(**SIZE, **LABELS)),
    "ViT without classifier": lambda: vit("ViTModel", hf.ViTConfig(**SIZE)),
    "ViT of other norms, activation, biases": lambda: vit(
        "ViTForImageClassification",
        hf.ViTConfig(**SIZE, **LABELS, qkv_bias=False, hidden_act="gelu_new", layer_norm_eps=1e-3),
    ),
    "MSN": lambda: vit("ViTMSNForImageClassification", hf.ViTMSNConfig(**SIZE, **LABELS)),
    "DeiT of two heads": lambda: vit("DeiTForImageClassificationWithTeacher", hf.DeiTConfig(**SIZE, **LABELS)),
    "DeiT of one head": lambda: vit("DeiTForImageClassification", hf.DeiTConfig(**SIZE, **LABELS)),
    "DeiT without head": lambda: vit("DeiTModel", hf.DeiTConfig(**SIZE)),
    "DINOv2": lambda: vit("Dinov2Model", hf.Dinov2Config(**SIZE)),
    "DINOv2 with registers": lambda: vit("Dinov2WithRegistersModel", hf.Dinov2WithRegistersConfig(**SIZE)),
    "DINOv2 with gates": lambda: vit("Dinov2Model", hf.Dinov2Config(**SIZE, use_swiglu_ffn=True)),
    "Swin": lambda: vit("SwinForImageClassification", hf.SwinConfig(**SWIN, **LABELS)),
    "Swin without head": lambda: vit("SwinModel", hf.SwinConfig(**SWIN, layer_norm_eps=1e-6)),
    "BEiT": lambda: vit(
        "BeitForImageClassification", hf.BeitConfig(**SIZE, **LABELS, use_relative_position_bias=True)
    ),
    "BEiT of one table and positions": lambda: vit(
        "BeitForImageClassification",
        hf.BeitConfig(
            **SIZE,
            **LABELS,
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
        ),
    ),
    "Data2Vec": lambda: vit(
        "Data2VecVisionForImageClassification",
        hf.Data2VecVisionConfig(**SIZE, **LABELS, use_relative_position_bias=True),
    ),
    "CLIP with projection": lambda: vit("CLIPVisionModelWithProjection", hf.CLIPVisionConfig(**SIZE, projection_dim=16)),
    "CLIP without projection": lambda: vit("CLIPVisionModel", hf.CLIPVisionConfig(**SIZE, hidden_act="gelu")),
    "CLIP classifier": lambda: vit(
        "CLIPForImageClassification", hf.CLIPConfig(vision_config=SIZE, text_config=TEXT, **LABELS)
    ),
    "SigLIP": lambda: vit("SiglipVisionModel", hf.SiglipVisionConfig(**SIZE)),
    "SigLIP classifier": lambda: vit(
        "SiglipForImageClassification", hf.SiglipConfig(vision_config=SIZE, text_config=TEXT, **LABELS)
    ),
}


@pytest.mark.parametrize("memory", [False, True], ids=["file", "memory"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_equal(tmp_path, case, memory):
    net = CASES[case]()
    state, config = folder_of(net, tmp_path)
    ours = built(translated(net.state_dict() if memory else state, config))
    pixels = images(64 if "Swin" in case else 32)
    with torch.no_grad():
        assert equal(ours(pixels), outputs(net.double(), pixels))
