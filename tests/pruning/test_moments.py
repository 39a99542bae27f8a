import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.moments import LAYOUTS, batches_of, built, case_of, draws_of, folded, images_of, measured

from prune_realloc.families import family_of
from prune_realloc.pruning.moments import GradientWatch, Regression, layer_moments
from prune_realloc.pruning.objectives import random_direction


def captured(model, structure, images):
    """Layer -> input, output, and their gradients by plain autograd; (B, N, channels), tied heads (B, H * N, K)."""
    seen = defaultdict(dict)
    names = {name for b in structure.branches for name in (b.writer, b.readers[0])} | set(structure.exits)
    names |= {site.gates[0].module for site in structure.sites if site.axis == "qk"}

    def keep(module, args, out, name):
        seen[name] = {"input": args[0], "output": out}
        for tensor in seen[name].values():
            if tensor.requires_grad:
                tensor.retain_grad()

    handles = [model.get_submodule(n).register_forward_hook(lambda m, a, o, n=n: keep(m, a, o, n)) for n in names]
    if model.num_classes:
        F.cross_entropy(model(images), torch.arange(len(images)) % 5, reduction="sum").backward()
    else:
        pooled = family_of(model).features(model, images)
        directions = torch.stack([random_direction(float(d), pooled.shape[1]) for d in draws_of(len(images))])
        (pooled * directions).sum().backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()

    def value(tensor):
        return tensor.detach().reshape(len(tensor), -1, tensor.shape[-1])

    return {
        name: {side: (value(t), value(t.grad)) for side, t in both.items() if t.grad is not None}
        for name, both in seen.items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments_equal_plain_einsum(layout):
    model, images = folded(built(layout).double()), images_of(6)
    case = measured(model, batches_of(images, 4))
    structure, found = case.structure, case.moments
    seen = captured(model, structure, images)
    places = {b.site: (b.writer, "output", found.writers[b.site]) for b in structure.branches}
    places |= {name: (name, "input", read) for name, read in found.readers.items()}
    assert len(places) == 8 + len(structure.exits)
    for key, (layer, side, read) in places.items():
        (x, _), (_, g) = seen[layer]["input"], seen[layer][side]
        B, N, _ = x.shape
        power = torch.einsum("bnd,bnd->n", g, g)
        weight = 0.9 * power / power.sum() * N + 0.1
        close = {"rtol": 1e-9, "atol": 1e-15, "msg": key}
        assert read.tokens == N
        torch.testing.assert_close(read.weight, weight, **close)
        torch.testing.assert_close(read.gradient, torch.einsum("bnd,bne->de", g, g) / (B * N), **close)
        rows, each = x.flatten(0, 1).numpy(), weight.repeat(B).numpy()
        np.testing.assert_allclose(read.mean, np.average(rows, axis=0, weights=each), atol=1e-12, err_msg=key)
        np.testing.assert_allclose(read.covariance, np.cov(rows.T, aweights=each, ddof=0), atol=1e-12, err_msg=key)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logit_moments_equal_plain_einsum(layout):
    model, images = built(layout).double(), images_of(6)
    case = measured(model, batches_of(images, 4))
    seen = captured(model, case.structure, images)
    for i in (0, 1):
        found = case.moments.logits[f"blocks.{i}.qk"]
        tied = layout == "qk_norm"  # one set of dimensions for all heads, behind the norm
        x, g = seen[f"blocks.{i}.attn.{'q_norm' if tied else 'qkv'}"]["output"]
        heads, width = (1, 16) if tied else (3, model.embed_dim // 3)
        q, at_q = (t[..., : heads * width].reshape(6, -1, heads, width) for t in (x, g))
        assert found.tokens == q.shape[1]
        for moment, part in ((found.activation, q), (found.gradient, at_q)):
            expected = torch.einsum("bnhk,bnhl->hkl", part, part) / (6 * q.shape[1])
            torch.testing.assert_close(moment, expected, rtol=1e-9, atol=1e-16)


def everything(moments):
    """Every tensor by its place."""
    parts = {"writers": moments.writers, "readers": moments.readers, "logits": moments.logits}
    return {
        (part, name, field): value
        for part, by_name in parts.items()
        for name, read in by_name.items()
        for field, value in vars(read).items()
    }


@pytest.mark.parametrize("layout", ["distilled", "attention_pool", "qk_norm", "swiglu", "gated"])
def test_another_batch_split_changes_no_moment(layout):
    model, images = built(layout).double(), images_of(6)
    whole, split, single = (everything(measured(model, batches_of(images, size)).moments) for size in (6, 4, 1))
    for key, value in whole.items():
        for other in (split[key], single[key]):
            torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(value), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_token_weights_have_mean_one(layout):
    weights = case_of(layout).token_weights
    prefix = {"distilled": 2, "registers": 5, "average_pool": 0, "attention_pool": 0, "post_norm": 0}.get(layout, 1)
    assert {len(w) for name, w in weights.items() if not name.startswith("head")} == {16 + prefix}
    assert all(float(w.mean()) == pytest.approx(1) and float(w.min()) >= 0.1 for w in weights.values())


def test_behind_the_last_attention_only_the_class_token_counts():
    weights = case_of("plain").token_weights
    expected = torch.full((17,), 0.1, dtype=torch.float64)
    expected[0] = 0.9 * 17 + 0.1
    for name in ("blocks.1.v", "blocks.1.ffn", "blocks.1.mlp.fc1"):
        torch.testing.assert_close(weights[name], expected)
    # keys and values of the others are still read
    assert (weights["blocks.1.attn.qkv"][1:] > 0.15).any()


def test_where_no_gradient_arrives_tokens_count_alike(tiny_vit):
    with torch.no_grad():
        tiny_vit.head.weight.zero_()
    case = measured(tiny_vit.double(), batches_of(images_of(6)))
    for name, weight in case.token_weights.items():
        if name != "head":  # it reads what has no gradient, but is one token
            assert torch.equal(weight, torch.ones(17, dtype=torch.float64))
    assert all(torch.as_tensor(value).isfinite().all() for value in everything(case.moments).values())
    assert not any(read.gradient.any() for read in case.moments.writers.values())


def test_autocast_moves_the_gradients_moments_little(tiny_vit, images_BCHW):
    exact, rough = (measured(tiny_vit, batches_of(images_BCHW), amp=amp).moments.writers for amp in (False, True))
    for site, read in exact.items():
        off = (rough[site].gradient - read.gradient).norm() / read.gradient.norm()
        assert 0 < off < 0.05, site
        assert torch.equal(rough[site].weight, read.weight) or (rough[site].weight - read.weight).abs().max() < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_measured(tiny_vit, images_BCHW, dtype):
    found = []
    for model in (tiny_vit, copy.deepcopy(tiny_vit).to(dtype)):
        structure = family_of(model).describe(model)
        watch = GradientWatch(model, structure)
        with watch.attached(batches_of(images_BCHW)) as watched:
            for batch in watched:
                F.cross_entropy(
                    model(batch.images.to(model.cls_token)).float(), batch.labels, reduction="sum"
                ).backward()
        found.append(layer_moments(model, structure, watch, batches_of(images_BCHW)).writers["blocks.0.ffn"])
    exact, half = found
    for field in ("gradient", "covariance"):
        assert (getattr(half, field) - getattr(exact, field)).norm() < 0.1 * getattr(exact, field).norm(), field
    assert half.covariance.dtype == torch.float64


def test_regression_by_hand():
    moments = Regression()
    # two images of two tokens; the second token counts three times
    weight = torch.tensor([0.5, 1.5], dtype=torch.float64)
    moments.add(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[10.0], [20.0]]]), weight)
    moments.add(torch.tensor([[[5.0], [3.0]]]), torch.tensor([[[0.0], [40.0]]]), weight)
    # sum of weights 4; x: 0.5 + 4.5 + 2.5 + 4.5 = 12; xx: 0.5 + 13.5 + 12.5 + 13.5 = 40
    assert float(moments.count) == 4
    assert float(moments.mean()) == 3
    assert float(moments.covariance()) == 10 - 9
    # t: 5 + 30 + 0 + 60 = 95; tx: 5 + 90 + 0 + 180 = 275
    assert (float(moments.t), float(moments.tx)) == (95, 275)
