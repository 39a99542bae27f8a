"""Widths that follow from those that a trained network keeps."""

import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_place
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.grown import grown, unmeasured
from prune_realloc.recipe.target import Target, TargetRule

M1 = EfficientVitConfig(**SIZES["efficientvit_m1"])
FREE = Target(rules={name: TargetRule() for name in ("embed", "qk", "v", "ffn")})


def shares(config, **of):
    """The same share of a component everywhere; of what is not named, all. V and channels are not measured."""
    return {name: of.get(site_place(name)[0], 1.0) for name in config.widths if name.endswith((".qk", ".ffn"))}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_what_keeps_one_share_everywhere_stays_as_it_is(share):
    """The multiplier makes up for it: a fixed point."""
    found = grown(M1, shares(M1, qk=share, ffn=share), Target(), "macs", M1.cost.macs)
    assert (found.widths, found.cost) == (M1.widths, M1.cost)


def test_widths_are_those_that_are_kept_times_one_multiplier():
    kept = shares(M1, qk=0.5) | {"blocks.0.ffn": 0.25}
    found = grown(M1, kept, FREE, "macs", M1.cost.macs)
    assert 0.99 * M1.cost.macs <= found.cost.macs <= M1.cost.macs
    multipliers, (first, *_) = [], M1.blocks
    units = {"qk": first.heads * first.qk, "ffn": 2 * first.ffn}
    channels = (0.5 * units["qk"] + 0.25 * units["ffn"]) / sum(units.values())  # what all units of the stage kept
    for name, share in (kept | {"stages.0.embed": channels}).items():
        step = 24 if name.endswith("embed") else 8  # of three heads, too
        multipliers.append([(found.widths[name] + by) / (M1.widths[name] * share) for by in (-step, step)])
    least, most = max(low for low, _ in multipliers), min(high for _, high in multipliers)
    assert 1.05 < least < most


def test_what_is_not_measured_keeps_its_relation_to_the_channels():
    wide = EfficientVitConfig(**SIZES["efficientvit_m0"], v_dim=[32, 48, 72])
    kept = shares(wide) | {"blocks.0.ffn": 0.5, "blocks.0.qk": 0.5}
    found = grown(wide, kept, Target(), "params", wide.cost.params)
    assert unmeasured(kept) == ("v",)
    assert [block.v * block.heads / block.embed for block in found.blocks] == [2.0, 1.5, 1.5, 1.5, 1.5, 1.5]
    assert found.embed_dim[0] < wide.embed_dim[0]
    assert 0.99 * wide.cost.params <= found.cost.params <= wide.cost.params


def test_blocks_that_differ_stay_apart():
    uneven = EfficientVitConfig(**SIZES["efficientvit_m0"], ffn_dim=[128, [256, 512], 384])
    found = grown(uneven, shares(uneven), Target(), "macs", uneven.cost.macs)
    assert found.blocks[1].ffn < found.blocks[2].ffn
    half = shares(uneven) | {"blocks.2.ffn": 0.5}
    assert len({block.ffn for block in grown(uneven, half, Target(), "macs", uneven.cost.macs).blocks[1:3]}) == 1


def test_rules_bound_the_widths():
    target = Target(rules={"qk": TargetRule(width=16), "ffn": TargetRule(floor_ratio=1.5, ceiling_ratio=2)})
    found = grown(M1, shares(M1, ffn=0.1, qk=0.1), target, "macs", M1.cost.macs)
    assert {(block.qk, block.ffn >= 1.5 * block.embed) for block in found.blocks} == {(16, True)}
    with pytest.raises(InputError, match="below the least that the rules allow"):
        grown(M1, shares(M1), Target(rules={"embed": TargetRule(floor=512)}), "macs", M1.cost.macs)
