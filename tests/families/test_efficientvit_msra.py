"""EfficientViT as a source: its checkpoints, what its sites score, and what it hands on."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from support.efficientvit import SMALL, as_original, images, randomise_

from prune_realloc import Analysis, InputError, emit, load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.core.cost import total_cost
from prune_realloc.data.batches import Batch
from prune_realloc.families import efficientvit_msra as family
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.inherit import inherit
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs
from prune_realloc.verbs.analyze import analyze

ARGS = SMALL | {"in_chans": 1, "num_classes": 10, "embed_dim": (16, 24, 32), "v_dim": [12, 12, 8]}


def flex(**args):
    torch.manual_seed(0)
    return randomise_(timm.create_model("efficientvit_flex", **(ARGS | args)))


@pytest.mark.parametrize("name", SIZES)
def test_shapes_tell_the_stock_sizes(name):
    state = timm.create_model(name).state_dict()
    found, stock = EfficientVitConfig(**family.inferred_args(state, None)), EfficientVitConfig(**SIZES[name])
    assert (found.blocks, found.merges, found.stem_dims) == (stock.blocks, stock.merges, stock.stem_dims)


@pytest.mark.parametrize("form", ["timm", "original", "ours", "named"])
def test_checkpoints_of_every_form_load(form, tmp_path):
    stock = randomise_(timm.create_model("efficientvit_m0"))
    x = images(size=224)
    path, model = tmp_path / "net.pth", None
    state = stock.state_dict()
    if form == "original":
        torch.save({"model": as_original(state, distilled=False)}, path)
    elif form == "ours":
        torch.save(family.to_flex_keys(state), path)
    else:
        torch.save(state, path)
        model = "efficientvit_m0" if form == "named" else None
    net = load_model(model, ckpt=path)
    assert isinstance(net, EfficientVit)
    with torch.no_grad():
        torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-4)


def test_widths_that_differ_from_block_to_block_are_told_by_shapes(tmp_path):
    args = {"qk_dim": [4, 8, [8, 4]], "ffn_dim": [20, 30, [16, 40]], "num_ffns": [1, 2, 1], "distillation": True}
    net = flex(img_size=56, stem_strides=(2, 2, 2, 2)[:3], **args)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    again = load_model(ckpt=tmp_path / "net.pth", img_size=56)
    x = images(2, 56, 1)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))


def test_another_input_size_resizes_the_biases(tmp_path):
    torch.save(timm.create_model("efficientvit_m0").state_dict(), tmp_path / "m0.pth")
    net = load_model(ckpt=tmp_path / "m0.pth", img_size=160)
    assert net.config.resolutions == ((10, 10), (5, 5), (3, 3))
    assert net(images(1, 160)).shape == (1, 1000)


def test_windows_that_are_smaller_than_their_feature_map_stay(tmp_path):
    net = flex(img_size=44, window_size=[6, 6, 3])  # maps of 11, 6 and 3
    torch.save(net.state_dict(), tmp_path / "net.pth")
    again = load_model(ckpt=tmp_path / "net.pth", img_size=44)
    x = images(1, 44, 1)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda net: net.fuse().state_dict(), "has no batch norms: it is a deploy form"),
        (lambda net: {k: v for k, v in net.state_dict().items() if "patch_embed" not in k}, "not whole"),
        (lambda net: {k: v for k, v in net.state_dict().items() if "dws.0" not in k}, "not whole"),
    ],
)
def test_checkpoints_that_are_not_whole_are_refused(broken, words, tmp_path):
    torch.save(broken(flex()), tmp_path / "net.pth")
    with pytest.raises(InputError, match=words):
        load_model(ckpt=tmp_path / "net.pth")


def test_formula_of_the_sites_is_the_networks_cost():
    net = flex()
    cost = total_cost(family.describe(net).terms, widths(find_sites(net)))
    assert cost.params == sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert cost.macs == measured_macs(net, images(1, 28, 1))


def test_it_is_not_cut():
    net = flex()
    with pytest.raises(InputError, match="EfficientVit cannot be cut; `emit --inherit`"):
        cut(net, find_sites(net), {"blocks.0.ffn": np.arange(4)})


def test_every_site_scores_and_batches_do_not_matter():
    net = flex(img_size=56)  # windows in the first stage
    runs = [analyze(net, data="demo", samples=24, batch_size=size) for size in (24, 7)]
    for name, scores in runs[0].scores.items():
        assert np.isfinite(scores).all()
        assert scores.any(), name
        np.testing.assert_allclose(runs[1].scores[name], scores, rtol=1e-4, atol=1e-12 + 1e-6 * scores.max())
    assert set(runs[0].scores) == {"stages.0.embed", "stages.1.embed", "stages.2.embed"} | {
        f"blocks.{b}{axis}" for b in range(4) for axis in ("", ".qk", ".v", ".ffn")
    }


@pytest.mark.parametrize("axis", ["qk", "v", "ffn", "embed", "block"])
def test_scores_are_the_gradient_of_one_factor_on_all_of_a_units_channels(axis):
    net, image, label = flex(img_size=56).double(), images(1, 56, 1).double(), torch.tensor([3])
    site = [s for s in find_sites(net) if s.axis == axis][0 if axis in ("qk", "v") else 1]
    batch = Batch(torch.arange(1), image, label, ())
    first = gate_moments(net, [site], [batch], draws=torch.zeros(1), labelled=True).first[site.name].sum(0)
    for unit in {0, site.units // 2, site.units - 1}:
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)

        def scaled(gate, x, unit=unit, factor=factor):
            index = gate.index[[unit]] if gate.units is None else gate.index[gate.units == unit]
            here = torch.zeros(x.shape[1], dtype=x.dtype)
            here[torch.as_tensor(index.ravel())] = 1
            return x * (1 + (factor - 1) * here)[:, None, None]

        with ExitStack() as stack:
            for gate in site.gates:
                module = net.get_submodule(gate.module)
                handle = (
                    module.register_forward_pre_hook(lambda _, x, gate=gate, f=scaled: (f(gate, x[0]),))
                    if gate.side == "input"
                    else module.register_forward_hook(lambda _, __, out, gate=gate, f=scaled: f(gate, out))
                )
                stack.callback(handle.remove)
            F.cross_entropy(net(image), label).backward()
        assert first[unit] == pytest.approx(float(factor.grad), rel=1e-9, abs=1e-15)


def test_magnitudes_rank_the_rows_of_a_unit():
    net = flex()
    site = next(s for s in find_sites(net) if s.name == "blocks.0.qk")
    found = analyze(net, scorer="magnitude").scores["blocks.0.qk"]
    attn = net.stages[0].blocks[0].mixer.m.attn
    unit = 4 + 1  # second dimension of the second head
    parts = [attn.qkvs[1].conv.weight[[1, 5]], attn.dws[1].conv.weight[1]]
    parts += [getattr(attn.qkvs[1].bn, name)[[1, 5]] for name in ("weight", "bias")]
    parts += [getattr(attn.dws[1].bn, name)[1] for name in ("weight", "bias")]
    assert found[unit] == pytest.approx(sum(float(p.square().sum()) for p in parts) ** 0.5)
    assert site.width == 4


def ones(net):
    return {site.name: np.ones(site.units) for site in find_sites(net)}


def test_the_same_widths_inherit_the_same_network():
    net = flex()
    fresh = EfficientVit(net.config)
    inherit(net, fresh, ones(net))
    x = images(2, 28, 1)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), net(x))


@pytest.mark.parametrize("axis", ["qk", "v", "ffn", "embed"])
def test_without_units_that_are_masked_the_function_stays(axis):
    """Units that do nothing in the source are left behind; the smaller network computes what the source computes."""
    net = flex(v_dim=None)
    scores = {name: s + np.arange(len(s)) / 100 for name, s in ones(net).items()}
    x = images(2, 28, 1)
    config = net.config
    smaller = {
        "qk": {"qk_dim": 3},
        "v": {"v_dim": [8, 12, 12]},
        "ffn": {"ffn_dim": [30, 44, 60]},
        "embed": {
            "embed_dim": [16, 24, 28],
            "v_dim": [8, 12, 14],
            "ffn_dim": [32, 48, 64],
            "merge_dim": [64, 96],
            "merge_ffn_dim": [[32, 48], [48, 64]],
        },
    }[axis]
    gone = {"qk": [0, 4], "v": [12, 13, 14, 15, 28, 29, 30, 31], "ffn": [0, 1], "embed": [0, 1, 16, 17]}[axis]
    lost = []
    for site in find_sites(net):
        if axis == "embed" and site.name == "stages.2.embed":
            scores[site.name][gone] = -1.0
            lost.append((site, gone))
            with torch.no_grad():  # a batch norm makes something of a channel that is zero
                net.head.linear.weight[:, gone] = 0
        elif axis == "embed" and site.axis == "v" and site.block >= 2:
            # values that are added to channels which go, and as many of the last head's
            scores[site.name][gone] = -1.0
            lost.append((site, gone))
        elif axis == site.axis == "qk":
            units = [h * site.width for h in range(site.groups)]
            scores[site.name][units] = -1.0
            lost.append((site, units))
        elif axis == site.axis == "ffn":
            drop = site.width - {0: 30, 1: 44, 2: 60, 3: 60}[site.block]
            units = [g * site.width + i for g in range(2) for i in range(drop)]
            scores[site.name][units] = -1.0
            lost.append((site, units))
        elif axis == site.axis == "v" and site.block >= 2:
            units = [h * 16 + i for h in range(2) for i in range(12, 16)]
            lost.append((site, units))
            scores[site.name][units] = -1.0
    fresh = EfficientVit(EfficientVitConfig(**(config.args() | smaller)))
    inherit(net, fresh, scores)
    with torch.no_grad(), ExitStack() as stack:
        for site, units in lost:
            stack.enter_context(masked(net, site, units))
        expected = net(x)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_wider_networks_keep_what_is_new():
    net = flex(v_dim=None)
    args = net.config.args() | {"embed_dim": [24, 32, 40], "qk_dim": 8, "v_dim": [20, 20, 20], "ffn_dim": [40, 60, 80]}
    torch.manual_seed(1)
    fresh = EfficientVit(EfficientVitConfig(**args))
    inherit(net, fresh, ones(net))
    assert torch.equal(
        fresh.stages[0].blocks[0].before[0].ffn.m.up.conv.weight[:32, :8],
        net.stages[0].blocks[0].before[0].ffn.m.up.conv.weight[:, :8],
    )
    assert torch.isfinite(fresh.eval()(images(2, 28, 1))).all()


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


def saved(net, folder):
    """As timm writes it."""
    folder.mkdir()
    config = {"input_size": [1, *net.config.img_size], "mean": [0.5], "std": [0.5]}
    content = {"architecture": "efficientvit_flex", "num_classes": 10, "model_args": net.config.args()}
    (folder / "config.json").write_text(json.dumps(content | {"pretrained_cfg": config}))
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    return folder


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


def test_windows_of_another_size_inherit_resized_biases():
    net = flex(img_size=56)  # windows of 7, 7 and 4
    fresh = EfficientVit(EfficientVitConfig(**(net.config.args() | {"window_size": [5, 7, 4]})))
    inherit(net, fresh, ones(net))
    biases = fresh.stages[0].blocks[0].mixer.m.attn.attention_biases
    assert biases.shape == (2, 25)
    assert biases.abs().sum() > 0


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
