"""Folders as other libraries write them, from their files to a network of the same outputs."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from support.layouts import built, equal, images, translated
from support.networks import randomise_

from prune_realloc.checkpoints.beside import config_in, preprocessor_in, read_json, weights_in
from prune_realloc.checkpoints.shards import index_of, read_shards
from prune_realloc.core.errors import InputError


def read(folder: Any) -> Any:
    weights = weights_in(folder)
    assert weights is not None
    index = index_of(weights)
    state = safetensors.torch.load_file(weights) if index is None else read_shards(index)
    return translated(state, config_in(folder), preprocessor_in(folder))


@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_hugging_face_folder_whole_and_in_shards(tmp_path, size):
    hf = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32}
    config = hf.ViTConfig(**sizes, intermediate_size=96, patch_size=8, id2label={0: "a", 1: "b"})
    net = randomise_(hf.ViTForImageClassification(config))
    net.save_pretrained(tmp_path, max_shard_size=size)
    hf.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == (size == "20KB")
    found = read(tmp_path)
    assert found.pretrained_cfg["label_names"] == ["a", "b"]
    assert found.pretrained_cfg["mean"] == pytest.approx([0.1, 0.2, 0.3])
    pixels = images()
    with torch.no_grad():
        assert equal(built(found)(pixels), net.double()(pixel_values=pixels).logits)


def test_open_clip_folder(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0}
    text = {"context_length": 4, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    net = randomise_(open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True))
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    stated = {"model_cfg": model, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))  # hubs have both
    safetensors.torch.save_file(net.state_dict(), tmp_path / "open_clip_model.safetensors")
    found = read(tmp_path)
    assert (found.model_args["act_layer"], found.pretrained_cfg["mean"]) == ("quick_gelu", [0.1, 0.2, 0.3])
    pixels = images()
    with torch.no_grad():
        assert equal(built(found)(pixels), net.visual.double()(pixels))


def test_a_folder_without_files_states_nothing(tmp_path):
    assert weights_in(tmp_path) is config_in(tmp_path) is preprocessor_in(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100000])
def test_damaged_json(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match="no JSON mapping") as caught:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
