"""LeViT, TinyViT and MIT's EfficientViT of their authors -> timm's networks of the same outputs."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.checkpoints import saved
from support.layouts import built, equal, prefixed, same_outputs, translated

from prune_realloc.checkpoints.layouts import translate
from prune_realloc.checkpoints.load import load_model
from prune_realloc.checkpoints.recognise import recognise_unlisted
from prune_realloc.core.errors import InputError
from prune_realloc.families.inputs import input_shape

LARGE: dict[str, Any] = {
    "widths": (8, 16, 16, 32, 32),
    "depths": (1, 1, 1, 1, 1),
    "head_dim": 16,
    "head_widths": (32, 48),
    "num_classes": 5,
}


def network(name: str, **args: Any) -> Any:
    """A network none of whose norms and tables of positions is at its first values."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = timm.create_model(name, **args)
    for tensor_name, tensor in net.state_dict().items():
        if tensor_name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point() and (tensor.ndim == 1 or "attention_biases" in tensor_name):
            tensor.copy_(tensor.mean().round() + 0.3 * torch.randn(tensor.shape, generator=generator))
    return net.eval()


def by_rules(state: Any, *rules: tuple[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in state.items():
        for pattern, by in rules:
            name = re.sub(pattern, by, name)
        found[name] = tensor
    assert len(found) == len(state)
    return found


def as_levit(state: Any) -> dict[str, torch.Tensor]:
    """Attentions and MLPs in one row, what is added to the stream under `m`, and the tables' buffers."""
    modules = r"(stages\.\d+\.(?:downsample|blocks\.\d+)\.(attn_downsample|attn|mlp))\."
    row = dict.fromkeys(found[1] for name in state if (found := re.match(modules, name)))
    places = (
        (re.escape(f"{module}."), f"blocks.{number}.{'' if module.endswith('attn_downsample') else 'm.'}")
        for number, module in enumerate(row)
    )
    theirs = by_rules(
        state,
        *places,
        *((rf"^stem\.conv{layer}\.", f"patch_embed.{2 * layer - 2}.") for layer in (1, 2, 3, 4)),
        (r"\.(q|proj)\.ln\.", r".\1.1."),
        (r"\.ln1\.", ".0."),
        (r"\.ln2\.", ".2."),
        (r"^(head|head_dist)\.linear\.", r"\1.l."),
        (r"\.linear\.", ".c."),
    )
    return theirs | {"blocks.0.m.attention_bias_idxs": torch.zeros(196, 196, dtype=torch.long)}


def as_tiny_vit(state: Any) -> dict[str, torch.Tensor]:
    """Halving at the end of a stage, and the norm of the head beside it."""
    theirs = by_rules(
        state,
        *((rf"^stages\.{stage + 1}\.downsample", f"stages.{stage}.downsample") for stage in (0, 1, 2)),
        (r"^stages\.", "layers."),
        (r"^patch_embed\.conv1\.", "patch_embed.seq.0."),
        (r"^patch_embed\.conv2\.", "patch_embed.seq.2."),
        (r"\.conv\.", ".c."),
        (r"^head\.norm\.", "norm_head."),
        (r"^head\.fc\.", "head."),
    )
    return theirs | {"layers.1.blocks.0.attn.attention_bias_idxs": torch.zeros(49, 49, dtype=torch.long)}


def as_efficientvit(state: Any, stem: str = "input_stem", first: int = 0) -> dict[str, torch.Tensor]:
    """A backbone and a head, both rows of operations."""
    return by_rules(
        state,
        *((rf"^stages\.{stage}\.blocks\.", f"backbone.stages.{stage + first}.op_list.") for stage in range(4)),
        (r"^stem\.in_conv\.", f"backbone.{stem}.op_list.0."),
        (r"^stem\.res0\.", f"backbone.{stem}.op_list.1."),
        (r"^head\.in_conv\.", "head.op_list.0."),
        (r"^head\.classifier\.0\.", "head.op_list.2.linear."),
        (r"^head\.classifier\.1\.", "head.op_list.2.norm."),
        (r"^head\.classifier\.4\.", "head.op_list.3.linear."),
    )


def as_large_efficientvit(state: Any) -> dict[str, torch.Tensor]:
    """The stem is the first stage."""
    return as_efficientvit(state, stem="stages.0", first=1)


AS_AUTHORS = {"levit_128s": as_levit, "tiny_vit_5m_224": as_tiny_vit, "efficientvit_b0": as_efficientvit}
BY_HAND = {
    # two attentions, each with its MLP, before the first that halves: depths 2, 3 and 4
    "levit_128s": {
        "patch_embed.6.c.weight": "stem.conv4.linear.weight",
        "blocks.0.m.proj.1.c.weight": "stages.0.blocks.0.attn.proj.ln.linear.weight",
        "blocks.3.m.2.c.weight": "stages.0.blocks.1.mlp.ln2.linear.weight",
        "blocks.4.q.1.c.weight": "stages.1.downsample.attn_downsample.q.ln.linear.weight",
        "blocks.4.attention_biases": "stages.1.downsample.attn_downsample.attention_biases",
        "blocks.5.m.0.bn.running_mean": "stages.1.downsample.mlp.ln1.bn.running_mean",
        "blocks.6.m.qkv.c.weight": "stages.1.blocks.0.attn.qkv.linear.weight",
        "blocks.13.m.2.bn.weight": "stages.2.downsample.mlp.ln2.bn.weight",
        "blocks.20.m.attention_biases": "stages.2.blocks.3.attn.attention_biases",
        "head.bn.running_var": "head.bn.running_var",
        "head_dist.l.bias": "head_dist.linear.bias",
    },
    "tiny_vit_5m_224": {
        "patch_embed.seq.2.bn.weight": "patch_embed.conv2.bn.weight",
        "layers.0.blocks.1.conv3.c.weight": "stages.0.blocks.1.conv3.conv.weight",
        "layers.0.downsample.conv2.c.weight": "stages.1.downsample.conv2.conv.weight",
        "layers.2.blocks.5.attn.norm.bias": "stages.2.blocks.5.attn.norm.bias",
        "layers.3.blocks.0.local_conv.bn.running_var": "stages.3.blocks.0.local_conv.bn.running_var",
        "norm_head.weight": "head.norm.weight",
        "head.bias": "head.fc.bias",
    },
    "efficientvit_b0": {
        "backbone.input_stem.op_list.0.norm.bias": "stem.in_conv.norm.bias",
        "backbone.input_stem.op_list.1.main.depth_conv.conv.weight": "stem.res0.main.depth_conv.conv.weight",
        "backbone.stages.0.op_list.1.main.point_conv.norm.weight": "stages.0.blocks.1.main.point_conv.norm.weight",
        "backbone.stages.2.op_list.1.context_module.main.aggreg.0.1.weight": (
            "stages.2.blocks.1.context_module.main.aggreg.0.1.weight"
        ),
        "backbone.stages.3.op_list.0.main.inverted_conv.conv.bias": "stages.3.blocks.0.main.inverted_conv.conv.bias",
        "head.op_list.0.conv.weight": "head.in_conv.conv.weight",
        "head.op_list.2.norm.weight": "head.classifier.1.weight",
        "head.op_list.3.linear.bias": "head.classifier.4.bias",
    },
}
"""Names in the authors' sources -> timm's."""


def authors_file(name: str) -> dict[str, torch.Tensor]:
    """Its names and shapes, without values."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    if name.startswith("efficientvit_l"):
        return as_large_efficientvit(state)
    return next(theirs for known, theirs in AS_AUTHORS.items() if name[:5] == known[:5])(state)


@pytest.mark.parametrize("name", AS_AUTHORS)
def test_the_authors_files_are_recognised_and_compute_the_same(name, tmp_path):
    net = network(name, num_classes=7)
    found = load_model(ckpt=saved(tmp_path / "net.pth", {"model": AS_AUTHORS[name](net.state_dict())}))
    pixels = torch.randn(2, *input_shape(net), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert equal(found(pixels), net(pixels))
    assert (found.taken["architecture"].value, found.taken["architecture"].guessed) == (name, False)
    assert "of its authors" in found.taken["layout"].value
    assert found.taken["mean"].guessed  # no tensor tells it
    assert found.taken["input size"].guessed == (name == "efficientvit_b0")


@pytest.mark.parametrize("name", BY_HAND)
def test_names_in_the_authors_sources(name):
    state = authors_file(name)
    assert BY_HAND[name].keys() <= state.keys()
    found = translated(state)
    assert all(found.state[ours] is state[theirs] for theirs, ours in BY_HAND[name].items())
    assert all("attention_bias_idxs" in gone for gone in found.left_out)


def test_levit_trained_without_a_teacher_has_one_head(tmp_path):
    """With the options that its script keeps beside the weights, and the prefix of parallel training."""
    net = network("levit_128s", num_classes=3, distilled=False)
    options = argparse.Namespace(model="LeViT_128S", input_size=224, distillation_type="none")
    content = {"model": prefixed(as_levit(net.state_dict()), "module."), "optimizer": {"state": {}}, "args": options}
    found = load_model(ckpt=saved(tmp_path / "checkpoint.pth", content))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert equal(found(pixels), net(pixels))


@pytest.mark.parametrize(
    "name",
    ["levit_conv_128s", "levit_384", "tiny_vit_21m_224", "tiny_vit_21m_384", "efficientvit_b3", "efficientvit_l3"],
)
def test_published_sizes_are_told_by_their_shapes(name):
    found = translated(authors_file(name))
    recognised = recognise_unlisted(found.state, found.model_args, Path("net.pth"))
    assert (recognised.name, recognised.guessed) == (name, False)


def test_large_efficientvit_computes_with_the_authors_epsilon():
    """timm's head adds a hundred times as much to the variance of its batch norm; with little variance that shows."""
    net = network("efficientvit_l1", **LARGE)
    net.head.in_conv.norm.running_var.fill_(1e-3)
    net.head.in_conv.norm.eps = 1e-7
    found = translated(as_large_efficientvit(net.state_dict()))
    assert same_outputs(built(found, "efficientvit_l1", **LARGE), net, 128)
    as_it_is = timm.create_model("efficientvit_l1", **LARGE).eval()
    as_it_is.load_state_dict(net.state_dict())
    assert not same_outputs(as_it_is.double(), net, 128)


def test_what_timm_cannot_express_of_efficientvit_is_said():
    """Where few positions answer a query, what is added to their sum shows, more than anywhere else in the network."""
    net = network("efficientvit_b0", num_classes=5).double()
    assert any("1e-15" in note for note in translated(as_efficientvit(net.state_dict())).notes)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        timms = net(pixels)
        for module in net.modules():
            if hasattr(module, "kernel_func"):
                module.eps = 1e-15
        assert 0 < (net(pixels) - timms).abs().max() < 1e-3


def test_the_input_size_of_efficientvit_is_named_by_timms_tag(tmp_path):
    path = saved(tmp_path / "b1-r288.pt", as_efficientvit(timm.create_model("efficientvit_b1").state_dict()))
    assert input_shape(load_model(ckpt=path)) == (3, 224, 224)
    assert input_shape(load_model("efficientvit_b1.r288_in1k", ckpt=path)) == (3, 288, 288)


def test_two_tensors_of_one_place_are_refused():
    state = authors_file("levit_128s")
    state = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.2.")}
    state["blocks.2.m.0.c.weight"] = state["blocks.1.m.0.c.weight"]
    with pytest.raises(InputError, match=r"two tensors are stages\.0\.blocks\.0\.mlp\.ln1\.linear\.weight"):
        translate(state)


def test_files_of_neither_layout_are_named_as_before(tmp_path):
    """LeViT with its norms merged into its layers, and EfficientViT for segmentation."""
    fused = {name.replace(".c.", "."): tensor for name, tensor in as_levit(network("levit_128s").state_dict()).items()}
    state = as_efficientvit(network("efficientvit_b0").state_dict())
    dense = {name.replace("head.op_list", "head.input_ops.0.op_list"): tensor for name, tensor in state.items()}
    for others in (fused, dense):
        assert translate(others) is None
        with pytest.raises(InputError, match=r"tensors .* of no known layout.*name it with --model") as refusal:
            load_model(ckpt=saved(tmp_path / "net.pth", others))
        assert "\n" not in str(refusal.value)
