"""What a plan keeps, at the places of the target."""

import pytest
from support.pruned import EVEN, site, source

from prune_realloc.core.errors import InputError
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.retention import retention
from prune_realloc.recipe.target import Target


def test_blocks_belong_to_the_stages_of_their_depth():
    sites = source(lambda axis, depth: 1.0 if depth < 1 / 6 else 0.5 if depth < 0.5 else 0.25)
    kept = retention(sites, Target(like="efficientvit_m0"))  # 1, 2 and 3 blocks: sixths, thirds and a half
    by_stage = {place.stage: share for (axis, place), share in kept.component.items() if axis == "ffn"}
    assert by_stage == pytest.approx({0: 1.0, 1: 0.5, 2: 0.25})
    mean = (2 * 1 + 4 * 0.5 + 6 * 0.25) / 12
    assert kept.stage == pytest.approx((1 / mean, 0.5 / mean, 0.25 / mean))
    assert kept.whole["ffn"] == pytest.approx(mean)


def test_a_block_between_two_stages_counts_in_both():
    sites = source(lambda axis, depth: 1.0 if depth < 0.5 else 0.5, blocks=2)
    kept = retention(sites, Target(like="efficientvit_m0"))  # boundaries at 1/6 and 1/2
    assert [share for (axis, _), share in kept.component.items() if axis == "v"] == pytest.approx([1.0, 1.0, 0.5])
    shifted = retention(source(lambda axis, depth: 1.0 if depth < 0.4 else 0.5, blocks=3), Target())
    assert [share for (axis, _), share in shifted.component.items() if axis == "v"] == pytest.approx([1.0, 0.75, 0.5])


def test_lost_heads_and_blocks_count_as_lost_units():
    sites = EVEN | {f"blocks.{b}.heads": site(3, 6) for b in range(12)}
    kept = retention(sites, Target())
    assert kept.whole == pytest.approx({"qk": 0.25, "v": 0.25, "ffn": 0.5})
    gone = EVEN | {
        f"blocks.{b}.{axis}": site(0, EVEN[f"blocks.{b}.{axis}"].of)
        for b in range(6, 12)
        for axis in ("qk", "v", "ffn", "heads")
    }
    assert retention(gone, Target()).stage[2] == 0


def test_streams_of_stages_narrow_their_own_stage():
    sites = {name: s for name, s in EVEN.items() if name != "embed"}
    sites |= {"stages.0.embed": site(96, 96), "stages.1.embed": site(144, 192), "stages.2.embed": site(96, 384)}
    assert retention(sites, Target()).stage == pytest.approx((1.0, 0.75, 0.25))


@pytest.mark.parametrize("axis", ["qk", "v", "ffn"])
def test_a_source_without_an_axis_is_refused(axis):
    sites = {name: s for name, s in EVEN.items() if not name.endswith(f".{axis}")}
    with pytest.raises(InputError, match=f"has no {axis}; reallocation needs qk, v and ffn"):
        reallocate(sites, Target())


def test_a_source_of_which_nothing_is_kept_is_refused():
    gone = {name: site(0, s.of) if name != "embed" else s for name, s in EVEN.items()}
    with pytest.raises(InputError, match="pruning kept nothing of the source"):
        reallocate(gone, Target())
    holes = {name: s for name, s in EVEN.items() if name not in ("blocks.0.qk", "blocks.1.qk")}
    with pytest.raises(InputError, match="the source has no qk from 0% to 17% of its depth"):
        reallocate(holes, Target())
