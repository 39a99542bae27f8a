"""Hugging Face's vision models -> timm's networks of the same outputs, from files and from memory."""

import json
import re
from typing import Any

import pytest
import safetensors.torch
import torch
from support.layouts import built, equal, images, translated
from support.networks import randomise_

from prune_realloc.core.errors import InputError

hf = pytest.importorskip("transformers")

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
    return out.last_hidden_state[:, 0] if hasattr(getattr(net, "pooler", None), "dense") or pooled is None else pooled


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
    "BEiT": lambda: vit("BeitForImageClassification", hf.BeitConfig(**SIZE, **LABELS, use_relative_position_bias=True)),
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
    "CLIP with projection": lambda: vit(
        "CLIPVisionModelWithProjection", hf.CLIPVisionConfig(**SIZE, projection_dim=16)
    ),
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


def test_a_prefix_that_all_share_may_be_gone():
    net = vit("ViTModel", hf.ViTConfig(**SIZE))
    ours = translated({f"vit.{name}": tensor for name, tensor in net.state_dict().items()}, net.config.to_dict())
    assert ours.state.keys() == translated(net.state_dict(), net.config.to_dict()).state.keys()


def test_what_is_left_out_is_named_and_nothing_else():
    net = vit("ViTModel", hf.ViTConfig(**SIZE))
    assert set(translated(net.state_dict(), net.config.to_dict()).left_out) == {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    net = vit("ViTForMaskedImageModeling", hf.ViTConfig(**SIZE, encoder_stride=8))
    assert set(translated(net.state_dict(), net.config.to_dict()).left_out) == {
        "vit.embeddings.mask_token",
        "decoder.0.weight",
        "decoder.0.bias",
    }
    state = net.state_dict() | {"vit.mystery.weight": torch.ones(2)}
    assert "mystery.weight" in translated(state, net.config.to_dict()).state  # so that loading refuses it by its name


def test_masked_autoencoder_keeps_its_encoder():
    net = vit("ViTMAEForPreTraining", hf.ViTMAEConfig(**SIZE, decoder_num_hidden_layers=1, mask_ratio=0.0))
    found = translated(net.state_dict(), net.config.to_dict())
    assert found.model_args["num_classes"] == 0
    assert all(name.startswith("decoder.") for name in found.left_out)
    pixels = images()
    with torch.no_grad():
        assert equal(built(found)(pixels), net.vit.double()(pixel_values=pixels).last_hidden_state[:, 0])


def test_classifier_that_timm_does_not_have_is_left_out_and_said():
    net = vit("Dinov2ForImageClassification", hf.Dinov2Config(**SIZE, **LABELS))
    found = translated(net.state_dict(), net.config.to_dict())
    assert {"classifier.weight", "classifier.bias"} <= set(found.left_out)
    assert found.model_args["num_classes"] == 0
    assert "label_names" not in found.pretrained_cfg
    assert "left out" in found.notes[0]
    pixels = images()
    with torch.no_grad():
        assert equal(built(found)(pixels), net.dinov2.double()(pixels).pooler_output)


def test_rectangular_images():
    net = vit("ViTForImageClassification", hf.ViTConfig(**SIZE | {"image_size": (32, 48)}, **LABELS))
    found = translated(net.state_dict(), net.config.to_dict())
    assert found.pretrained_cfg["input_size"] == [3, 32, 48]
    pixels = torch.cat([images(), images()[..., :16]], dim=-1)
    with torch.no_grad():
        assert equal(built(found)(pixels), net.double()(pixel_values=pixels).logits)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vit_base_patch16_224", "ViTConfig"),
        ("deit_base_distilled_patch16_224", "DeiTConfig"),
        ("vit_base_patch14_dinov2", "Dinov2Config"),
        ("vit_base_patch16_siglip_224", "SiglipVisionConfig"),
        ("vit_base_patch32_clip_quickgelu_224", "CLIPVisionConfig"),
        ("beit_base_patch16_224", "BeitConfig"),
        ("swin_tiny_patch4_window7_224", "SwinConfig"),
    ],
)
def test_networks_of_published_sizes_have_timms_names(name, config):
    kinds = {"DeiTConfig": "DeiTForImageClassificationWithTeacher", "SiglipVisionConfig": "SiglipVisionModel"}
    kinds["CLIPVisionConfig"] = "CLIPVisionModel"
    stem = config.removesuffix("Config")
    more = {"patch_size": 14, "image_size": 518} if stem == "Dinov2" else {}
    with torch.device("meta"):
        net = getattr(hf, kinds.get(config, f"{stem}Model"))(getattr(hf, config)(**more))
    assert translated(net.state_dict(), net.config.to_dict()).architecture == name


def test_class_names_and_preprocessing_are_those_of_the_folder():
    net = vit("ViTForImageClassification", hf.ViTConfig(**SIZE, **LABELS))
    preprocessor = hf.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], resample=3
    ).to_dict()
    stated = translated(net.state_dict(), net.config.to_dict(), preprocessor).pretrained_cfg
    assert stated["label_names"] == ["tench", "cock", "hen"]
    assert stated["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert (stated["interpolation"], stated["crop_pct"], stated["crop_mode"]) == ("bicubic", 1.0, "squash")
    assert (stated["input_size"], stated["num_classes"]) == ([3, 32, 32], 3)
    unnamed = net.config.to_dict() | {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
    assert "label_names" not in translated(net.state_dict(), unnamed).pretrained_cfg


def test_without_configuration_nothing_is_made_up():
    net = vit("ViTModel", hf.ViTConfig(**SIZE))
    found = translated(net.state_dict())
    assert found.architecture is None
    assert not {"num_heads", "act_layer", "norm_layer"} & found.model_args.keys()
    assert "config.json" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": "three"}, "num_attention_heads 'three' is not a positive whole number"),
        ({"num_attention_heads": True}, "num_attention_heads True is not"),
        ({"hidden_act": "tanhshrink"}, "hidden_act 'tanhshrink' is not one of"),
        ({"hidden_size": 64}, "not the width of the tensors, 48"),
        ({"image_size": 40}, "does not go with pos_embed"),
        ({"image_size": 10**9}, "4096"),
        ({"layer_norm_eps": 3e-7}, "no power of ten"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps nan is not a number"),
        ({"id2label": {"0": "one"}}, "names 1 classes, the classifier has 3"),
        ({"id2label": {"a": "one"}}, "label that is no number"),
        ({"vision_config": 3}, "no mapping"),
    ],
)
def test_damaged_configurations_are_refused_in_one_line(change, message):
    net = vit("ViTForImageClassification", hf.ViTConfig(**SIZE, **LABELS))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        translated(net.state_dict(), net.config.to_dict() | change)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_whole_are_refused():
    net = vit("ViTForImageClassification", hf.ViTConfig(**SIZE, **LABELS))
    key = next(name for name in net.state_dict() if re.search(r"\.1\..*(k_proj|key)\.weight", name))
    state = {name: tensor for name, tensor in net.state_dict().items() if name != key}
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.k\.weight is missing"):
        translated(state, net.config.to_dict())
    swin = vit("SwinModel", hf.SwinConfig(**SWIN, use_absolute_embeddings=True))
    with pytest.raises(InputError, match="no absolute positions"):
        translated(swin.state_dict(), swin.config.to_dict())
