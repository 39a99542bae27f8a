"""Reallocation: laws of the widths, the paper's pattern, and the control."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.retention import retention
from prune_realloc.planning.shapes import stem_strides, window
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Target, TargetRule


def site(width, of):
    return SitePlan(width=width, of=of, reason="made up")


def source(kept, *, blocks=12, heads=6, embed=(384, 384)):
    """A pruned ViT; `kept(axis, depth in 0..1)` is the share that stays."""
    sites = {"embed": site(*embed)}
    for block in range(blocks):
        sites |= {f"blocks.{block}": site(1, 1), f"blocks.{block}.heads": site(heads, heads)}
        for axis, width in (("qk", 64), ("v", 64), ("ffn", 1536)):
            sites[f"blocks.{block}.{axis}"] = site(max(1, round(width * kept(axis, (block + 0.5) / blocks))), width)
    return sites


def papers(axis, depth):
    """Q/K and FFN trimmed most, V kept, all of it narrower in the last part."""
    return {"qk": 0.15, "v": 0.95, "ffn": 0.5}[axis] * (0.45 if depth > 0.75 else 1)


EVEN = source(lambda axis, depth: 0.5)


def test_import_is_light():
    probe = "import prune_realloc.planning.reallocate, sys; print([m for m in ('torch', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


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


@pytest.mark.parametrize("like", ["efficientvit_m0", "efficientvit_m2", "efficientvit_m5"])
def test_the_papers_pattern_gives_the_papers_choices(like):
    network = reallocate(source(papers), Target(like=like, rules={"qk": TargetRule(floor=16)}))
    config = EfficientVitConfig(**network.args)
    assert [block.qk for block in config.blocks][:1] == [16]
    assert all(block.qk <= 0.45 * block.embed / block.heads or block.qk == 16 for block in config.blocks)
    assert all(block.v >= block.embed / block.heads for block in config.blocks)
    ratios = [block.ffn / block.embed for block in config.blocks]
    assert 1.5 <= sum(ratios) / len(ratios) <= 2.3
    assert config.embed_dim[2] < 2 * config.embed_dim[1]


def test_with_the_smallest_width_allowed_qk_takes_it_everywhere():
    network = reallocate(source(papers), Target(like="efficientvit_m0", rules={"qk": TargetRule(floor=16)}))
    assert {block.qk for block in EfficientVitConfig(**network.args).blocks} == {16}


def test_an_even_source_changes_only_what_its_share_changes():
    """Half of everything: Q, K and FFN half of the uniform network's relation to embed, V at its floor."""
    network = reallocate(EVEN, Target(like="efficientvit_m2"))
    config = EfficientVitConfig(**network.args)
    assert all(share == 1 for share in (network.widths[f"stages.{s}.embed"].kept for s in range(3)))
    for block in config.blocks:
        assert 0 <= block.v - block.embed // block.heads <= 8
        assert block.ffn / block.embed == pytest.approx(2, abs=0.3)
        assert block.qk * block.heads / block.embed == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize("axis", ["qk", "ffn"])
def test_a_component_that_is_kept_more_gains(axis):
    """The direction of every change is that of the measurement."""
    less = reallocate(source(lambda a, d: 0.3 if a == axis else 0.5), Target(like="efficientvit_m2"))
    more = reallocate(source(lambda a, d: 0.7 if a == axis else 0.5), Target(like="efficientvit_m2"))
    for stage in range(3):
        place = f"stages.{stage}.{axis}"
        embeds = [n.widths[f"stages.{stage}.embed"].width for n in (less, more)]
        assert less.widths[place].width / embeds[0] < more.widths[place].width / embeds[1]


def test_a_part_that_is_kept_more_gets_more_channels():
    early = reallocate(source(lambda a, d: 0.8 if d < 0.5 else 0.4), Target(like="efficientvit_m4"))
    late = reallocate(source(lambda a, d: 0.4 if d < 0.5 else 0.8), Target(like="efficientvit_m4"))
    assert early.widths["stages.0.embed"].width > late.widths["stages.0.embed"].width
    assert early.widths["stages.2.embed"].width < late.widths["stages.2.embed"].width


PAPER_RULES = {
    "embed": TargetRule(move=False),
    "qk": TargetRule(width=16),
    "v": TargetRule(ratio=1.0),
    "ffn": TargetRule(ratio=2.0),
}


@pytest.mark.parametrize("like", SIZES)
def test_the_papers_rules_at_the_papers_budgets_are_the_papers_networks(like):
    network = reallocate(EVEN, Target(like=like, growth="like", rules=PAPER_RULES))
    stock = EfficientVitConfig(**SIZES[like])
    assert network.macs == pytest.approx(stock.cost.macs, rel=0.01)
    for width, paper in zip(EfficientVitConfig(**network.args).embed_dim, stock.embed_dim, strict=True):
        assert abs(width - paper) <= 24  # one multiple of 8 and 3 heads


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


def test_per_block_follows_the_source_inside_a_stage():
    network = reallocate(source(lambda a, d: 1 - 0.8 * d), Target(like="efficientvit_m5", per="block"))
    widths = [network.widths[f"blocks.{b}.ffn"].width for b in range(4, 8)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]


shares = st.floats(0.05, 1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.tuples(shares, shares, shares),
    shares,
    st.sampled_from(list(SIZES)),
    st.sampled_from(["stage", "block"]),
    st.sampled_from(["macs", "params"]),
    st.floats(0.6, 3),
    st.sampled_from([224, 64, 28]),
)
def test_budget_and_control_are_met_for_any_source(kept, tail, like, per, kind, scale, size):
    target = Target(like=like, per=per, img_size=size)
    base = EfficientVitConfig(**(SIZES[like] | {"img_size": size, "stem_strides": stem_strides(size)}))
    limit = int(scale * getattr(base.cost, kind))
    target = target.model_copy(update={kind: limit})
    sites = source(lambda axis, depth: kept[("qk", "v", "ffn").index(axis)] * (tail if depth > 0.5 else 1))
    network = reallocate(sites, target)
    config, control = (EfficientVitConfig(**args) for args in (network.args, network.control_args))
    assert 0.99 * limit <= getattr(config.cost, kind) <= limit
    assert getattr(control.cost, kind) == pytest.approx(getattr(config.cost, kind), rel=0.01)
    assert (network.macs, network.params) == (config.cost.macs, config.cost.params)
    assert (network.control_macs, network.control_params) == (control.cost.macs, control.cost.params)
    for block in config.blocks:
        assert block.v >= block.embed // block.heads
        assert block.embed <= block.ffn <= 4 * block.embed
        assert block.qk >= 8


def test_same_input_same_widths():
    assert reallocate(source(papers), Target()) == reallocate(source(papers), Target())


@pytest.mark.parametrize("like", SIZES)
def test_the_control_is_uniform(like):
    control = EfficientVitConfig(**reallocate(source(papers), Target(like=like)).control_args)
    ratios = [block.ffn / block.embed for block in control.blocks]
    assert max(ratios) - min(ratios) < 0.1  # one ratio, but for multiples of 8
    assert 3 < ratios[0] < 5
    for block in control.blocks:
        assert block.qk == block.v == block.embed // block.heads
    for before, after in zip(control.embed_dim[:-1], control.embed_dim[1:], strict=True):
        assert after == pytest.approx(2 * before, abs=24)


def test_a_budget_below_what_the_rules_allow_is_refused():
    with pytest.raises(InputError, match="macs: the budget of 100,000 is below the least that the rules allow, "):
        reallocate(EVEN, Target(macs=100_000))


def test_a_budget_above_what_the_rules_allow_is_refused():
    rules = {"embed": TargetRule(ceiling=64)}
    with pytest.raises(InputError, match=r"macs: the rules leave at most .*, below the budget of 500,000,000"):
        reallocate(EVEN, Target(macs=500_000_000, rules=rules))


def test_a_source_of_which_nothing_is_kept_is_refused():
    gone = {name: site(0, s.of) if name != "embed" else s for name, s in EVEN.items()}
    with pytest.raises(InputError, match="pruning kept nothing of the source"):
        reallocate(gone, Target())
    holes = {name: s for name, s in EVEN.items() if name not in ("blocks.0.qk", "blocks.1.qk")}
    with pytest.raises(InputError, match="the source has no qk from 0% to 17% of its depth"):
        reallocate(holes, Target())


@pytest.mark.parametrize("rule", [{"width": 16, "floor": 8}, {"move": False, "ceiling": 8}, {"ratio": 1.0, "floor": 8}])
def test_bounds_beside_an_exact_width_are_refused(rule):
    with pytest.raises(ValidationError, match="does not apply beside"):
        TargetRule(**rule)


def test_reasons_name_the_bound_of_the_channels():
    rules = {"embed": TargetRule(ceiling=100)}
    network = reallocate(EVEN, Target(like="efficientvit_m0", rules=rules))
    assert "at its ceiling 100, as a multiple of 8" in network.widths["stages.2.embed"].reason


def test_stem_strides_suit_the_image():
    assert stem_strides(224) == (2, 2, 2, 2)
    assert stem_strides(64) == (2, 2)
    assert stem_strides(28) == (2, 1)
    assert stem_strides(14) == (1, 1)


def test_windows_fill_the_feature_map():
    assert [window(side) for side in (14, 7, 4, 1, 28)] == [7, 7, 4, 1, 7]  # as in the paper
    assert [window(side) for side in (16, 8, 10, 20)] == [8, 8, 10, 7]
