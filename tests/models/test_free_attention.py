"""Networks that were cut: their attention takes the fused kernel, their files and exports are as narrow as before."""

import numpy as np
import onnx
import pytest
import torch
from support.kernels import FusedCalls
from support.networks import build
from support.standard_attention import encoder
from support.swin import pictures, swin

from prune_realloc import find_sites
from prune_realloc.models import free_attention, free_window_attention
from prune_realloc.pruning.cut import cut, cut_to_widths
from prune_realloc.results.export import export_onnx
from prune_realloc.runtime import attention
from prune_realloc.runtime.attention import products


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """The logits of tiny networks count as many."""
    monkeypatch.setattr(attention, "FEW_KEYS", 0)
    monkeypatch.setattr(attention, "FEW_LOGITS", 0)


def narrowed(model, **widths):
    return cut_to_widths(model, {s.name: widths.get(s.axis, s.width) for s in find_sites(model)})


def run(net, images):
    with torch.no_grad(), FusedCalls() as fused:
        return net(images), fused.count


def unpadded(monkeypatch, net, images):
    """The output with every attention as its products."""
    with monkeypatch.context() as patch, torch.no_grad():
        for room in (free_attention, free_window_attention):
            patch.setattr(room, "scaled_dot_product_attention", in_products)
        return net(images)


def in_products(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale):
    return products(q, k, v, attn_mask, scale, dropout_p)


@pytest.mark.parametrize("variant", ["plain", "qk_norm", "inner_norms"])
@pytest.mark.parametrize("widths", [{"qk": 3, "v": 9}, {"qk": 11, "v": 2}, {"qk": 4, "v": 4}])
def test_a_cut_vit_takes_the_fused_kernel_with_narrow_weights(variant, widths, images_BCHW, monkeypatch):
    net = narrowed(build(variant).double(), **widths)
    found, count = run(net, images_BCHW.double())
    assert count == len(net.blocks)
    torch.testing.assert_close(found, unpadded(monkeypatch, net, images_BCHW.double()), rtol=1e-12, atol=1e-12)
    assert net.state_dict()["blocks.0.attn.qkv.weight"].shape == (3 * (2 * widths["qk"] + widths["v"]), 48)


@pytest.mark.parametrize("layout", ["plain", "filled up", "oblong windows"])
@pytest.mark.parametrize("widths", [{"qk": 3, "v": 9}, {"qk": 5, "v": 5}])
def test_windows_of_a_cut_swin_take_the_fused_kernel(layout, widths, monkeypatch):
    net = narrowed(swin(layout).double(), **widths)
    images = pictures(net)
    found, count = run(net, images)
    assert count == sum(len(stage.blocks) for stage in net.layers)
    torch.testing.assert_close(found, unpadded(monkeypatch, net, images), rtol=1e-12, atol=1e-12)


def test_a_rewritten_pass_takes_the_fused_kernel_and_is_cut_again():
    net = encoder().double().eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    once = cut(net, find_sites(net), {s.name: np.arange(0, s.units, 2) for s in find_sites(net) if s.axis == "qk"})
    out, count = run(once, images)
    assert count == 2
    sites = find_sites(once)
    keep = {s.name: np.arange(0, s.units, 2) for s in sites if s.axis == "v"}
    assert keep
    twice, again = run(cut(once, sites, keep), images)
    assert again == count
    assert not torch.equal(out, twice)


def test_a_file_holds_no_padding(tmp_path):
    net = narrowed(build(), qk=3, v=9)
    found = export_onnx(net, tmp_path / "m.onnx", input_shape=(3, 32, 32))
    assert found.difference < 1e-5
    assert not found.attention_in_products
    assert "Pad" not in {node.op_type for node in onnx.load(found.path).graph.node}
