"""`emit --inherit`: the weights of an EfficientViT, handed on to the next."""

import json

import pytest
import safetensors.torch
import timm
import torch
from support.efficientvit import flex, images

from prune_realloc import Analysis, InputError, apply, build_recipe, emit, load_model, load_pruned
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.planning.plan import planned
from prune_realloc.verbs.analyze import analyze


def test_only_the_analysed_efficientvit_hands_on_its_weights(tmp_path):
    folder = saved(flex(), tmp_path / "net")
    found = analyze(ckpt=folder, data="demo", samples=32, labels=False)
    target = {"like": "efficientvit_m0", "macs": 20_000_000, "rule": "kept"}
    widths = emit(found, target=target, timed=False)[0].network.widths
    unmeasured = {name for name, width in widths.items() if width.kept is None}
    assert unmeasured == {f"stages.{stage}.v" for stage in range(3)}  # a cascade's values go with the stream
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
    found = analyze(ckpt=ckpt, data="demo", samples=32, labels=False)
    emit(found, target={"like": "efficientvit_m0", "macs": 12_000_000}, inherit=ckpt, out=tmp_path / "v", timed=False)
    for name in ("realloc", "control", "unmeasured"):
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


def test_a_plan_of_its_analysis_is_carried_out_and_read_again(tmp_path):
    """From one analysis: what `plan` decides `apply` cuts, and `emit` reads it too, planned or not."""
    ckpt = saved(flex(), tmp_path / "net")
    found = analyze(ckpt=ckpt, data="demo", samples=64, labels=False)
    asked = {"budget": {"keep_macs": 0.7}, "axes": ["qk", "ffn", "hidden", "embed"]}
    recipe = planned(found, build_recipe(found.as_recipe() | asked))
    done = apply(recipe, out=tmp_path / "small", timed=False, eval_samples=16)
    assert (done.cost.macs, done.cost.params) == (recipe.plan.macs, recipe.plan.params)
    assert 0.69 * found.cost().macs < done.cost.macs <= 0.7 * found.cost().macs
    x = images(2, 28, 1)
    with torch.no_grad():
        torch.testing.assert_close(load_pruned(tmp_path / "small")(x), done.network(x))
    target = {"like": "efficientvit_m0", "macs": 20_000_000, "rule": "kept"}
    for source in (found, recipe):
        widths = emit(source, target=target, timed=False)[0].network.widths
        assert {name.rpartition(".")[2] for name, width in widths.items() if width.kept is None} == {"v"}


def test_a_plan_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    """Its sites were those of whole attentions, whose values were sites too."""
    ckpt = saved(flex(), tmp_path / "net")
    sites = {"blocks.0.v": {"width": 8, "of": 12, "groups": 2, "reason": ""}}
    plan = {"kind": "macs", "requested": None, "achieved": 1, "source": 2, "macs": 1, "params": 1, "sites": sites}
    recipe = build_recipe({"source": {"ckpt": str(ckpt)}, "data": {"name": "demo"}, "plan": plan})
    with pytest.raises(InputError, match=r"plan.sites: this model has no blocks.0.v; .*, remove it to plan again"):
        apply(recipe, timed=False)
