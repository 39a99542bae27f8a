"""`emit --inherit`: the weights of an EfficientViT, handed on to the next."""

import json

import pytest
import safetensors.torch
import timm
import torch
from support.efficientvit import flex, images

from prune_realloc import Analysis, InputError, emit, load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.verbs.analyze import analyze


def test_only_the_analysed_efficientvit_hands_on_its_weights(tmp_path):
    folder = saved(flex(), tmp_path / "net")
    found = analyze(ckpt=folder, data="demo", samples=32)
    target = {"like": "efficientvit_m0", "macs": 20_000_000}
    assert all(width.kept is not None for width in emit(found, target=target, timed=False)[0].network.widths.values())
    with pytest.raises(InputError, match="inherit: the source has depth"):
        emit(found, target=target, timed=False, inherit=folder)
    other = flex()
    with torch.no_grad():
        other.head.linear.bias.add_(1)
    with pytest.raises(InputError, match="is not the network of the analysis"):
        emit(found, target=target, timed=False, inherit=saved(other, tmp_path / "other"))
    with pytest.raises(InputError, match="is a VisionTransformer; only an EfficientViT"):
        emit(found, target=target, timed=False, inherit=DEMO)


def test_inheritance_opens_the_network_as_the_analysis_did(tmp_path):
    net = flex(depth=(1, 2, 3), num_heads=4, embed_dim=(32, 48, 64), stem_strides=(2, 1), kernels=(5, 5, 5, 5))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    opened = {"img_size": 28, "model_args": {"stem_strides": [2, 1]}}
    found = analyze(ckpt=tmp_path / "net.pth", scorer="magnitude", **opened)
    found = Analysis(**(vars(found) | {"unit": "nats"}))
    target = {"like": "efficientvit_m0", "macs": 12_000_000}
    emit(found, target=target, inherit=tmp_path / "net.pth", out=tmp_path / "v", timed=False)
    with pytest.raises(InputError, match="holds the weights of another network"):
        emit(found, target=target, out=tmp_path / "v", timed=False)


def test_inherited_folders_load_with_their_weights(tmp_path):
    net = flex(depth=(1, 2, 3), num_heads=4, embed_dim=(32, 48, 64), stem_strides=(2, 1), kernels=(5, 5, 5, 5))
    ckpt = saved(net, tmp_path / "net")
    found = analyze(ckpt=ckpt, data="demo", samples=32)
    emit(found, target={"like": "efficientvit_m0", "macs": 12_000_000}, inherit=ckpt, out=tmp_path / "v", timed=False)
    for name in ("realloc", "control"):
        again = load_model(ckpt=tmp_path / "v" / name)
        assert again(images(2, 28, 1)).shape == (2, 10)
        assert torch.equal(
            timm.create_model(f"local-dir:{tmp_path / 'v' / name}", pretrained=True).head.linear.bias,
            again.head.linear.bias,
        )
    assert torch.equal(again.head.linear.bias, net.head.linear.bias)


def saved(net, folder):
    """As timm writes it."""
    folder.mkdir()
    config = {"input_size": [1, *net.config.img_size], "mean": [0.5], "std": [0.5]}
    content = {"architecture": "efficientvit_flex", "num_classes": 10, "model_args": net.config.args()}
    (folder / "config.json").write_text(json.dumps(content | {"pretrained_cfg": config}))
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    return folder
