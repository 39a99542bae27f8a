"""What a plan keeps, at the places of the target."""

import pytest
from support.pruned import EVEN, site, source

from prune_realloc.core.errors import InputError
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.retention import retention
from prune_realloc.planning.shapes import places_of
from prune_realloc.recipe.target import Target, TargetRule


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


def without(*axes):
    return {name: s for name, s in EVEN.items() if not name.endswith(axes)}


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ((".ffn",), r"no FFN \(ffn or hidden\) that could be cut, only embed, block, heads, qk, v;"),
        ((".qk", ".v"), r"no attention \(qk or v\) that could be cut, only embed, block, heads, ffn;"),
        ((".qk", ".v", ".ffn"), r"no attention \(qk or v\) and no FFN"),
    ],
)
def test_a_source_without_attention_or_ffn_is_refused(axes, words):
    with pytest.raises(InputError, match=words):
        reallocate(without(*axes), Target())


def test_hidden_channels_of_convolutions_are_an_ffn():
    """Also where the numbers of a block's sites begin at 1; those of a stem beside FFNs are not."""
    hidden = {f"blocks.{b}.hidden.1": site(300, 400) for b in range(12)}
    assert retention(without(".ffn") | hidden, Target()).whole["ffn"] == pytest.approx(0.75)
    assert retention(EVEN | hidden, Target()) == retention(EVEN, Target())
    early = {name: s for name, s in EVEN.items() if name not in ("blocks.0.ffn", "blocks.1.ffn")} | hidden
    shares = {
        place.stage: share for (name, place), share in retention(early, Target()).component.items() if name == "ffn"
    }
    assert shares == pytest.approx({0: 0.75, 1: 0.5, 2: 0.5})


@pytest.mark.parametrize(("axis", "other"), [("v", "qk"), ("qk", "v")])
def test_what_the_source_does_not_have_goes_with_the_channels_and_says_so(axis, other):
    target = Target(macs=40_000_000)
    network = reallocate(without(f".{axis}"), target)
    assert axis not in retention(without(f".{axis}"), target).whole
    for stage, heads in enumerate((4, 4, 4)):
        embed, width = network.widths[f"stages.{stage}.embed"].width, network.widths[f"stages.{stage}.{axis}"]
        assert (width.width, width.kept) == (embed // heads, None)
        assert width.reason == f"not measured, the source has no {axis} that can be cut: 1 x embed / 4 heads"
        assert network.widths[f"stages.{stage}.{other}"].kept == 0.5
    assert 0.99 * 40e6 <= network.macs <= 40e6


def test_bounds_of_rules_hold_for_what_was_not_measured():
    rules = {"qk": TargetRule(ceiling=16), "v": TargetRule(width=40)}
    network = reallocate(without(".qk"), Target(macs=40_000_000, rules=rules))
    for stage in range(3):
        wanted = network.widths[f"stages.{stage}.embed"].width // 4
        assert network.widths[f"stages.{stage}.qk"].width == min(wanted, 16)
    assert "no qk that can be cut: 1 x embed / 4 heads; at its ceiling 16" in network.widths["stages.1.qk"].reason


def test_where_a_depth_has_no_site_the_share_of_everywhere_counts():
    holes = {name: s for name, s in EVEN.items() if name not in ("blocks.0.qk", "blocks.1.qk")}
    holes["blocks.5.qk"] = site(0, holes["blocks.5.qk"].of)
    kept = retention(holes, Target())
    first = places_of(Target())[0]
    assert kept.elsewhere == {("qk", first)}
    assert kept.component["qk", first] == kept.whole["qk"] == pytest.approx(0.45)
    reason = reallocate(holes, Target()).widths["stages.0.qk"].reason
    assert reason.startswith("not measured there; pruning kept 45% everywhere: ")


def test_a_source_of_which_nothing_is_kept_or_shown_is_refused():
    gone = {name: site(0, s.of) if name != "embed" else s for name, s in EVEN.items()}
    with pytest.raises(InputError, match="pruning kept nothing of the source"):
        reallocate(gone, Target())
    late = {name: s for name, s in EVEN.items() if not name.startswith(("blocks.0", "blocks.1."))}
    with pytest.raises(InputError, match="the source has no qk, v, ffn, hidden from 0% to 17% of its depth"):
        reallocate(late, Target())
