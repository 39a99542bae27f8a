"""Shares of attention layers, and the channels that one cost leaves them."""

import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.sandwiches import attention_share, layers, sandwich
from prune_realloc.recipe.target import Target

SMALL = Target(like="efficientvit_m0", img_size=28, in_chans=1, num_classes=10)


@pytest.mark.parametrize(
    ("share", "blocks", "ffns"),
    [
        (0.2, [1, 1, 2], [[2], [2], [2, 2]]),  # N = (1/0.2 - 1) / 2 = 2
        (0.3, [1, 2, 3], [[1], [1, 2], [1, 1, 1]]),  # 6 attentions, 14 FFNs
        (0.5, [2, 3, 5], [[1, 0], [1, 0, 1], [0, 1, 0, 1, 0]]),  # as many FFNs as attentions, N = 1/2
        (1 / 3, [1, 2, 3], [[1], [1, 1], [1, 1, 1]]),  # the paper's M0
        (1.0, [3, 6, 9], [[0] * 3, [0] * 6, [0] * 9]),
        (0.1, [1, 1, 1], [[5], [4], [5]]),  # every stage has a block, so there are more layers; N = 4.5
    ],
)
def test_blocks_and_ffns_follow_from_the_share(share, blocks, ffns):
    assert layers(share, (1, 2, 3)) == (blocks, ffns)


def test_the_share_of_a_third_at_the_cost_of_m0_is_m0():
    target = Target(like="efficientvit_m0", img_size=224, in_chans=3, num_classes=1000)
    m0 = EfficientVitConfig(**SIZES["efficientvit_m0"])
    found = sandwich(target, 1 / 3, m0.cost.macs)
    assert found.embed_dim == m0.embed_dim
    assert found.cost == m0.cost


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_the_cost_is_met_to_one_percent_and_the_share_nearly(share):
    found = sandwich(SMALL, share, 20_000_000)
    assert found.cost.macs == pytest.approx(20_000_000, rel=0.01)
    assert attention_share(found) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("share", "macs", "complaint"),
    [(0.0, 10**7, "0 is no share"), (1.2, 10**7, "1.2 is no share"), (0.2, 1000, "multiply-adds are the nearest")],
)
def test_what_cannot_be_is_refused(share, macs, complaint):
    with pytest.raises(InputError, match=complaint):
        sandwich(SMALL, share, macs)
