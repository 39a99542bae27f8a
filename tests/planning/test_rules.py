"""How what was measured is read."""

from typing import get_args

import pytest
from support.pruned import papers, source

from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.retention import Retention, retention
from prune_realloc.planning.rules import RULES, inverted, kept, least, shuffled
from prune_realloc.planning.shapes import Place
from prune_realloc.recipe.target import Target, TargetRule
from prune_realloc.results.variant import READINGS

FIRST, SECOND, THIRD = Place(0, 0, 1), Place(1, 1, 2), Place(2, 3, 3)
MEASURED = Retention(
    component={("qk", FIRST): 0.1, ("qk", SECOND): 0.3, ("qk", THIRD): 0.2}
    | {("ffn", FIRST): 0.9, ("ffn", SECOND): 0.5, ("ffn", THIRD): 0.6},
    stage=(1.5, 1.0, 0.75),
    whole={"qk": 0.2, "ffn": 0.6},
)


def test_a_recipe_can_name_every_rule():
    named, _ = get_args(Target.model_fields["rule"].annotation)
    assert [rule for rule in get_args(named) if rule in RULES] == list(RULES)
    assert sorted(get_args(named)) == sorted(READINGS)


def test_kept_is_what_was_measured():
    assert kept(MEASURED, 1) == MEASURED


def test_inverted_by_hand():
    found = inverted(MEASURED, 0)
    assert found.component == pytest.approx(
        {("qk", FIRST): 0.3, ("qk", SECOND): 0.1, ("qk", THIRD): 0.2}
        | {("ffn", FIRST): 0.5, ("ffn", SECOND): 0.9, ("ffn", THIRD): 0.8}
    )
    assert found.stage == pytest.approx((0.75, 1.25, 1.5))
    assert inverted(found, 0).component == pytest.approx(MEASURED.component)


def test_shuffled_is_a_permutation_that_its_seed_tells():
    every = [shuffled(MEASURED, seed) for seed in range(20)]
    for found in every:
        assert sorted(found.component.values()) == sorted(MEASURED.component.values())
        assert sorted(found.stage) == sorted(MEASURED.stage)
    assert every == [shuffled(MEASURED, seed) for seed in range(20)]
    assert len({tuple(found.component.values()) for found in every}) > 15  # of 720
    assert len({found.stage for found in every}) == 6  # of three stages there are no more


def test_the_least_asks_for_nothing_also_of_what_the_source_has_not():
    found = least(Target())
    assert {*found.component.values()} == {*found.whole.values()} == {0.0}
    assert {name for name, _ in found.component} == set(found.whole) == {"qk", "v", "ffn"}
    assert found.stage == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("rule", ["shuffled", "inverted"])
def test_reasons_name_the_rule(rule):
    target = Target(rule=rule)
    network = reallocate(source(papers), target)
    given = RULES[rule](retention(source(papers), target), 0)
    for (axis, place), share in given.component.items():
        assert network.widths[place.name(axis, False)].kept == pytest.approx(share, abs=1e-4)
    assert all(f"rule {rule} gives " in width.reason for width in network.widths.values())
    assert 0.99 * network.requested <= network.macs <= network.requested


def test_the_rule_unmeasured_gives_the_unmeasured_network():
    found, plain = reallocate(source(papers), Target(rule="unmeasured")), reallocate(source(papers), Target())
    assert found.args == found.unmeasured_args == plain.unmeasured_args != plain.args
    assert [width.unmeasured for width in plain.widths.values()] == [width.width for width in found.widths.values()]
    assert (found.macs, found.params) == (plain.unmeasured_macs, plain.unmeasured_params)


def test_the_unmeasured_network_has_the_least_that_rules_allow_and_where_channels_do_not_move_those_of_growth():
    rules = {
        "embed": TargetRule(move=False),
        "qk": TargetRule(floor=16),
        "v": TargetRule(ratio=1),
        "ffn": TargetRule(round_to=24),
    }
    network = reallocate(source(papers), Target(like="efficientvit_m4", growth=1.5, rules=rules))
    config = EfficientVitConfig(**network.unmeasured_args)
    assert 0.99 * network.requested <= network.unmeasured_macs <= network.requested
    assert {(block.qk, block.ffn) for block in config.blocks} == {(16, 24)}
    assert all(block.v == block.embed // block.heads for block in config.blocks)
    first, second, third = config.embed_dim
    assert second / first == pytest.approx(1.5, rel=0.1)
    assert third / second == pytest.approx(1.5, rel=0.1)


def test_where_ceilings_of_channels_leave_no_unmeasured_network_there_is_none():
    network = reallocate(source(papers), Target(rules={"embed": TargetRule(ceiling=64)}))
    assert (network.unmeasured_args, network.unmeasured_macs, network.unmeasured_params) == (None, None, None)
    assert {width.unmeasured for width in network.widths.values()} == {None}
