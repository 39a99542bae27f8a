"""EfficientViT as a source: its checkpoints, what its sites score, and what it hands on."""

from contextlib import ExitStack

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from support.efficientvit import as_original, flex, images, randomise_

from prune_realloc import InputError, load_model, load_pruned, save_pruned
from prune_realloc.checkpoints.create import create_fresh
from prune_realloc.core.cost import total_cost
from prune_realloc.data.batches import Batch
from prune_realloc.families import efficientvit_msra as family
from prune_realloc.families import family_of, traced
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.law import check_cut_equals_mask
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs
from prune_realloc.verbs.analyze import analyze


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
    cost = total_cost(family_of(net).describe(net).terms, widths(find_sites(net)))
    assert cost.params == sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert cost.macs == measured_macs(net, images(1, 28, 1))


def test_what_is_analysed_is_what_is_cut():
    """timm's network, which is adopted, and ours have the same sites, those that `apply` finds."""
    assert family_of(flex()) is traced
    sites = find_sites(create_fresh("efficientvit_m0"))
    assert {site.axis for site in sites} == {"embed", "block", "qk", "ffn", "hidden"}  # values go with the stream
    assert sum(site.axis == "qk" for site in sites) == 6 * 4


def test_every_site_scores_and_batches_do_not_matter():
    net = flex(img_size=56)  # windows in the first stage
    runs = [analyze(net, data="demo", samples=24, batch_size=size) for size in (24, 7)]
    assert set(runs[0].scores) == {site.name for site in find_sites(net)}
    for name, scores in runs[0].scores.items():
        assert np.isfinite(scores).all()
        assert scores.any(), name
        np.testing.assert_allclose(runs[1].scores[name], scores, rtol=1e-4, atol=1e-12 + 1e-6 * scores.max())


@pytest.mark.parametrize("axis", ["qk", "ffn", "hidden", "embed", "block"])
def test_scores_are_the_gradient_of_one_factor_on_all_of_a_units_channels(axis):
    net, image, label = flex(img_size=56).double(), images(1, 56, 1).double(), torch.tensor([3])
    site = [s for s in find_sites(net) if s.axis == axis][0 if axis == "qk" else 1]
    batch = Batch(torch.arange(1), image, label, ())
    first = gate_moments(net, [site], [batch], objective=LABELS).first[site.name].sum(0)
    for unit in {0, site.units // 2, site.units - 1}:
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)

        def scaled(gate, x, unit=unit, factor=factor):
            index = gate.index[[unit]] if gate.units is None else gate.index[gate.units == unit]
            here = torch.zeros(x.shape[1], dtype=x.dtype)
            here[torch.as_tensor(index.ravel())] = 1
            return x * (1 + (factor - 1) * here).reshape(-1, *[1] * (x.ndim - 2))

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
    site = [s for s in find_sites(net) if s.axis == "qk"][1]  # of the second head
    found = analyze(net, scorer="magnitude").scores[site.name]
    attn = net.stages[0].blocks[0].mixer.m.attn
    unit = 1
    parts = [attn.qkvs[1].conv.weight[[1, 5]], attn.dws[1].conv.weight[1]]
    parts += [getattr(attn.qkvs[1].bn, name)[[1, 5]] for name in ("weight", "bias")]
    parts += [getattr(attn.dws[1].bn, name)[1] for name in ("weight", "bias")]
    assert found[unit] == pytest.approx(sum(float(p.square().sum()) for p in parts) ** 0.5)
    assert site.units == 4


def test_a_cut_network_is_the_one_without_the_units_and_loads_again(tmp_path):
    net = flex()
    sites = {site.name: site for site in find_sites(net)}
    keep = {
        name: np.concatenate([site.width * group + np.arange(site.width // 2) for group in range(site.groups)])
        for name, site in sites.items()
        if site.axis in ("ffn", "embed", "hidden")
    }
    ffn = {name: units for name, units in keep.items() if sites[name].axis == "ffn"}
    assert ffn
    check_cut_equals_mask(net, sites.values(), ffn)
    smaller = cut(net, sites.values(), keep)
    save_pruned(smaller, tmp_path)
    x = images(chans=1)
    with torch.no_grad():
        torch.testing.assert_close(load_pruned(tmp_path)(x), smaller(x))
