"""Multiplier, bounds and rounding."""

import pytest
from support.pruned import EVEN, papers, source

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.recipe.target import Target, TargetRule


def test_rules_hold():
    rules = {
        "embed": TargetRule(floor=64, ceiling=160, round_to=16),
        "qk": TargetRule(floor=8, ceiling=24),
        "v": TargetRule(floor_ratio=1.25, ceiling_ratio=1.5),
        "ffn": TargetRule(floor_ratio=2, ceiling_ratio=3, round_to=16),
    }
    config = EfficientVitConfig(**reallocate(source(papers), Target(like="efficientvit_m0", rules=rules)).args)
    assert all(64 <= width <= 160 and width % 16 == 0 for width in config.embed_dim)
    for block in config.blocks:
        part = block.embed / block.heads
        assert 8 <= block.qk <= 24
        assert 1.25 * part <= block.v <= 1.5 * part
        assert 2 * block.embed <= block.ffn <= 3 * block.embed


def test_a_budget_below_what_the_rules_allow_is_refused():
    with pytest.raises(InputError, match="macs: the budget of 100,000 is below the least that the rules allow, "):
        reallocate(EVEN, Target(macs=100_000))


@pytest.mark.parametrize(("strides", "named"), [((2, 1), True), ((2, 2), False)])
def test_a_stem_that_leaves_many_tokens_is_named_beside_a_budget_that_is_too_small(strides, named):
    target = Target(macs=100_000, img_size=28, stem_strides=strides)
    with pytest.raises(InputError, match="is below the least that the rules allow") as error:
        reallocate(EVEN, target)
    said = "or let the stem stride by more than [2, 1], it leaves 14 x 14 tokens" in str(error.value)
    assert said == named


def test_a_budget_above_what_the_rules_allow_is_refused():
    inner = {axis: TargetRule(ceiling_ratio=most) for axis, most in (("qk", 1), ("v", 2), ("ffn", 4))}
    rules = {"embed": TargetRule(ceiling=64)} | inner
    with pytest.raises(InputError, match=r"macs: the rules leave at most .*, below the budget of 500,000,000"):
        reallocate(EVEN, Target(macs=500_000_000, rules=rules))


def test_reasons_name_the_bound_of_the_channels():
    rules = {"embed": TargetRule(ceiling=100)}
    network = reallocate(EVEN, Target(like="efficientvit_m0", rules=rules))
    assert "at its ceiling 100, as a multiple of 8" in network.widths["stages.2.embed"].reason
