"""Attention by products, or padded to one width: what PyTorch's function computes, by the kernel that is meant."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.kernels import FusedCalls
from torch import nn

from prune_realloc.runtime import attention
from prune_realloc.runtime.attention import scaled_dot_product_attention
from prune_realloc.runtime.networks import measured_macs

B, H, N = 2, 3, 7
MASKS = {"none": None, "numbers": torch.randn(1, H, N, N, dtype=torch.float64), "booleans": torch.rand(N, N) > 0.3}


def parts(qk, v, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, N, width, generator=generator, dtype=dtype, requires_grad=True) for width in (qk, qk, v)]


def is_fused(q, k, v, **how):
    with FusedCalls() as fused, torch.no_grad():
        scaled_dot_product_attention(q, k, v, **how)
    return fused.count == 1


@pytest.fixture(params=["products", "padded"])
def way(request, monkeypatch):
    """The logits of these tests count as few, or as many."""
    if request.param == "padded":
        monkeypatch.setattr(attention, "FEW_KEYS", N - 1)
        monkeypatch.setattr(attention, "FEW_LOGITS", B * H * N * N - 1)
    return request.param


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("qk", "v"), [(2, 5), (5, 2), (4, 4), (1, 8)])
def test_outputs_and_gradients_are_those_of_the_fused_function(way, qk, v, mask):
    ours, theirs = parts(qk, v), parts(qk, v)
    for scale in (None, 0.3):
        found = scaled_dot_product_attention(*ours, mask, scale=scale)
        expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=scale)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        weights = torch.randn_like(expected)
        for x, y in zip(
            torch.autograd.grad(found, ours, weights), torch.autograd.grad(expected, theirs, weights), strict=True
        ):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_unlike_widths_take_the_fused_kernel_where_logits_are_many(way):
    assert is_fused(*parts(2, 5)) == is_fused(*parts(5, 2)) == (way == "padded")
    assert is_fused(*parts(4, 4))
    assert not any(is_fused(q, k, v) for q, k, v in [[x[0] for x in parts(4, 4)]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_never_multiplied_out(dtype):
    assert is_fused(*parts(2, 5, dtype))


def test_a_mask_that_learns_is_given_its_gradient():
    mask = torch.zeros(1, H, N, N, dtype=torch.float64, requires_grad=True)
    q, k, v = parts(4, 4)
    F.scaled_dot_product_attention(q, k, v, mask).square().sum().backward()
    expected, mask.grad = mask.grad, None
    scaled_dot_product_attention(q, k, v, mask).square().sum().backward()
    torch.testing.assert_close(mask.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_triangle_is_kept(way):
    q, k, v = parts(2, 5)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, is_causal=True), expected, rtol=1e-12, atol=1e-12)


def test_dropout_drops_shares():
    q, k, v = (torch.ones(1, 1, 4000, 1), torch.ones(1, 1, 50, 1), torch.ones(1, 1, 50, 1))
    out = scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert out.std() > 0.05  # sums of 50 shares of 2/50, each with probability 1/2: 1 +- 0.14
    assert abs(out.mean() - 1) < 0.02


class Attention(nn.Module):
    def forward(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, scale=0.3)


def test_multiply_adds_are_counted_without_padding(way):
    q, k, v = parts(2, 5)

    class Net(Attention):
        def forward(self, q):
            return super().forward(q, k, v)

    assert measured_macs(Net(), q) == B * H * N * N * (2 + 5)


def test_compiled_in_one_graph(way):
    torch._dynamo.reset()
    run = torch.compile(Attention(), backend="eager", fullgraph=True)
    torch.testing.assert_close(run(*parts(2, 5)), Attention()(*parts(2, 5)))


@pytest.mark.parametrize("keys", [N, 2])
def test_an_exported_program_runs_any_number_of_images(keys, monkeypatch):
    monkeypatch.setattr(attention, "FEW_KEYS", keys)
    images = {0: torch.export.Dim("images")}
    with torch.no_grad():
        program = torch.export.export(Attention(), tuple(parts(2, 5)), dynamic_shapes=(images,) * 3).module()
        more = [torch.cat([x, x, -x]) for x in parts(2, 5)]
        torch.testing.assert_close(program(*more), Attention()(*more), rtol=1e-12, atol=1e-12)
        with FusedCalls() as fused:
            program(*more)
    assert fused.count == (keys < N)


MEASURED = json.loads((Path(__file__).parents[2] / "docs/fused_attention.json").read_text())["kernels"]


@pytest.mark.parametrize("row", [row for row in MEASURED if row["qk"] != row["v"]], ids=str)
def test_the_rule_takes_what_was_measured_to_be_faster(row):
    shape = row["images"], row["heads"], row["tokens"]
    query, value = (torch.empty(1).expand(*shape, row[width]) for width in ("qk", "v"))
    assert attention._in_products(query, query, value, None, 0.0) == (row["products"] > row["padded"])
