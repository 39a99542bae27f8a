"""Attention as its products is what PyTorch's fused function computes."""

import pytest
import torch
import torch.nn.functional as F

from prune_realloc.runtime.attention import products
from prune_realloc.runtime.in_products import InProducts

MASKS = {
    "none": None,
    "numbers": torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0)),
    "booleans": torch.arange(30).reshape(5, 6) % 4 > 0,
    "a query without keys": torch.arange(5)[:, None].expand(5, 6) != 2,
}


def parts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, *size, generator=generator) for size in ((5, 4), (6, 4), (6, 7))]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_products_are_the_fused_function(mask, scale):
    expected = F.scaled_dot_product_attention(*parts(), attn_mask=mask, scale=scale)
    with InProducts():
        found = F.scaled_dot_product_attention(*parts(), attn_mask=mask, scale=scale)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, products(*parts(), mask, scale))


def test_what_products_do_not_have_stays_as_it_is():
    q, k, _ = parts()
    expected = F.scaled_dot_product_attention(q, k, k, is_causal=True)
    with InProducts():
        assert torch.equal(F.scaled_dot_product_attention(q, k, k, is_causal=True), expected)
        assert torch.equal(F.scaled_dot_product_attention(q, k, k, None, 0.0, True), expected)
