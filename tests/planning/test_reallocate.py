"""Reallocation: laws of the widths, and the paper's pattern."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pruned import EVEN, papers, source

from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.shapes import stem_strides
from prune_realloc.recipe.reader import load_recipe
from prune_realloc.recipe.target import Target, TargetRule


def test_import_is_light():
    probe = "import prune_realloc.planning.reallocate, sys; print([m for m in ('torch', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("like", ["efficientvit_m0", "efficientvit_m2", "efficientvit_m5"])
def test_the_papers_pattern_gives_the_papers_choices(like):
    floors = {"qk": TargetRule(floor=16), "v": TargetRule(floor_ratio=1)}
    network = reallocate(source(papers), Target(like=like, rules=floors))
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
    """Half of everything: Q, K, V and FFN half of the uniform network's relation to embed."""
    network = reallocate(EVEN, Target(like="efficientvit_m2"))
    config = EfficientVitConfig(**network.args)
    assert all(share == 1 for share in (network.widths[f"stages.{s}.embed"].kept for s in range(3)))
    for block in config.blocks:
        assert block.ffn / block.embed == pytest.approx(2, abs=0.3)
        assert block.qk == block.v
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


def test_the_shipped_recipe_of_the_papers_rules_gives_m0():
    target = load_recipe("efficientvit_paper").target
    config = EfficientVitConfig(**reallocate(source(papers), target).args)
    paper = EfficientVitConfig(**SIZES["efficientvit_m0"])
    assert (config.embed_dim, config.cost) == (paper.embed_dim, paper.cost)
    for ours, theirs in zip(config.blocks, paper.blocks, strict=True):
        assert (ours.qk, ours.v, ours.ffn) == (theirs.qk, theirs.v, theirs.ffn)


def test_a_width_of_which_nothing_was_kept_gets_the_least_multiple():
    """No bound of taste holds it up: 8 in each head, and 8 hidden units; with other multiples, one of those."""
    nothing = source(lambda axis, depth: {"qk": 0.0, "v": 0.0, "ffn": 0.0 if depth < 0.5 else 0.6}[axis])
    network = reallocate(nothing, Target())
    for place in ("stages.0.qk", "stages.1.v", "stages.0.ffn"):
        assert (network.widths[place].width, network.widths[place].bound) == (8, "least")
        assert network.widths[place].reason.endswith("; the least multiple of 8")
    rules = {"qk": TargetRule(round_to=4), "v": TargetRule(round_to=16), "ffn": TargetRule(floor=3)}
    network = reallocate(nothing, Target(rules=rules))
    assert [network.widths[f"stages.0.{axis}"].width for axis in ("qk", "v", "ffn")] == [4, 16, 3]
    assert network.widths["stages.0.ffn"].bound == "floor"


def test_a_ceiling_below_the_first_multiple_holds():
    network = reallocate(source(papers), Target(rules={"qk": TargetRule(ceiling=5)}))
    assert {network.widths[f"stages.{stage}.qk"].width for stage in range(3)} == {5}
    assert {network.widths[f"stages.{stage}.qk"].bound for stage in range(3)} == {"ceiling"}


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
        assert min(block.qk, block.v, block.ffn) >= 8
        assert not any(width % 8 for width in (block.qk, block.v, block.ffn))
    least = EfficientVitConfig(**network.unmeasured_args)
    assert 0.99 * limit <= getattr(least.cost, kind) <= limit
    assert {(block.qk, block.v, block.ffn) for block in least.blocks} == {(8, 8, 8)}


def test_same_input_same_widths():
    assert reallocate(source(papers), Target()) == reallocate(source(papers), Target())
