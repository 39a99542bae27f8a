"""The sound files that `fuzz_inputs.py` damages: checkpoints, folders, recipes and pictures, and what opens them."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image

from prune_realloc import load_model, save_pruned

NAME = "vit_tiny_patch16_224"
CLASSES = ("bee", "cat", "dog")
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": len(CLASSES)}
FLAGS = ("--model", NAME, *(word for key, value in SMALL.items() for word in ("--model-arg", f"{key}={value}")))
FORMATS = ("png", "jpg", "bmp", "tif", "webp", "gif", "16-bit png")


@dataclass(frozen=True)
class Container:
    """One way in which tensors are kept in a file."""

    content: Callable[[Mapping[str, torch.Tensor]], Any]
    suffix: str
    flags: tuple[str, ...] = field(default=FLAGS)
    """What the command line needs to open the sound file."""


def _timm(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    options = argparse.Namespace(model=NAME, model_kwargs=SMALL, mean=[0.5] * 3, std=[0.5] * 3, lr=1e-3, opt="adamw")
    averaged = {name: tensor + 1e-3 for name, tensor in state.items()}
    arch = {"epoch": 3, "arch": NAME, "version": 2, "metric": 71.5}
    return {"state_dict": dict(state), "state_dict_ema": averaged, "args": options, **arch}


def _lightning(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": {"model_name": NAME, **SMALL},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 1e-3}]}],
    }


CONTAINERS: dict[str, Container] = {
    "bare": Container(dict, ".pth"),
    "model": Container(lambda state: {"model": dict(state), "epoch": 3}, ".pth"),
    "timm": Container(_timm, ".pth.tar", ()),
    "lightning": Container(_lightning, ".ckpt"),
    "safetensors": Container(dict, ".safetensors"),
}


def network() -> Any:
    torch.manual_seed(0)
    return timm.create_model(NAME, **SMALL).eval()


def write_folders(folder: Path) -> dict[str, Path]:
    """A network's folder as timm writes it, as this package does, and as Hugging Face's classes do."""
    net = network()
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "bare.pth")
    save_pruned(load_model(NAME, ckpt=folder / "bare.pth", model_args=SMALL), folder / "ours")
    timm_config = {
        "architecture": NAME,
        "num_classes": len(CLASSES),
        "num_features": 24,
        "model_args": {key: value for key, value in SMALL.items() if key != "num_classes"},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "label_names": CLASSES}
        | {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center", "first_conv": "patch_embed.proj"},
    }
    _write_folder(folder / "timm", timm_config, net.state_dict())
    hf_config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 24}
    hf_config |= {
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
    }
    hf_config |= {"id2label": {str(i): name for i, name in enumerate(CLASSES)}, "intermediate_size": 96}
    _write_folder(folder / "hugging face", hf_config, huggingface_names(net.state_dict()))
    return {name: folder / name for name in ("ours", "timm", "hugging face")}


def _write_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})


def huggingface_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's tensors under the names of transformers' ViTForImageClassification."""
    inner = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    inner |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    outer = {"cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings"}
    outer |= {"patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm"}
    outer |= {"head": "classifier"}
    found = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if not module.startswith("blocks."):
            found[f"{outer[module]}.{kind}" if module else outer[kind]] = tensor
            continue
        _, number, part = module.split(".", 2)
        layer = f"vit.encoder.layer.{number}."
        if part == "attn.qkv":
            for own, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{layer}attention.attention.{own}.{kind}"] = piece.clone()
        else:
            found[f"{layer}{inner[part]}.{kind}"] = tensor
    return found


RECIPE: dict[str, Any] = {
    "format_version": 1,
    "source": {"model": NAME, "ckpt": None, "model_args": SMALL},
    "data": {"name": "demo", "samples": 8, "seed": 0, "preprocess": {"mean": [0.5] * 3, "crop_pct": 0.9}},
    "scorer": "fisher",
    "budget": {"keep_macs": 0.5},
    "allocation": "damage",
    "axes": ["qk", "v", "ffn"],
    "rules": {"qk": {"round_to": 8, "floor": 8}, "ffn": [{"round_to": 8}, {"blocks": [0], "floor": 16}]},
    "compensate": {"rotate": True, "refit": True, "mean_shift": True},
}


def write_pictures(folder: Path) -> None:
    """Class folders with a picture of each format."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for kind in FORMATS:
            pixels = rng.integers(0, 256, (20 + number, 26, 3), np.uint8)
            if kind == "16-bit png":
                Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / name / "deep.png")
            else:
                Image.fromarray(pixels).save(folder / name / f"picture.{kind}")
