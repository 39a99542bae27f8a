"""What a network costs, by the paper and by hand; that it is what is built: test_efficientvit.py."""

import pytest

from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig

# Table 1 of the paper, rounded as printed there: million multiply-adds, million parameters
PAPER = {
    "efficientvit_m0": (79, 2.3),
    "efficientvit_m1": (167, 3.0),
    "efficientvit_m2": (201, 4.2),
    "efficientvit_m3": (263, 6.9),
    "efficientvit_m4": (299, 8.8),
    "efficientvit_m5": (522, 12.4),
}


@pytest.mark.parametrize("name", PAPER)
def test_cost_is_the_papers(name):
    cost = EfficientVitConfig(**SIZES[name]).cost
    macs, params = PAPER[name]
    assert round(cost.macs / 1e6) == macs
    assert cost.params / 1e6 == pytest.approx(params, abs=0.08)  # the paper cuts 12.47 to 12.4


def test_components_add_up_to_the_whole():
    config = EfficientVitConfig(**SIZES["efficientvit_m2"])
    costs = config.component_costs
    assert sum(cost.params for cost in costs.values()) == config.cost.params
    # by hand: a stage's q and k convolutions, their batch norms, and the depthwise kernels with theirs
    qk = [
        (2 * c * 16 + h * 2 * 2 * 16 + h * 2 * 16 + 16 * sum(k[:h])) * d
        for c, h, d, k in zip((128, 192, 224), (4, 3, 2), (1, 2, 3), [(49, 25, 9, 9)] * 3, strict=True)
    ]
    assert costs["qk"].params == sum(qk)
