"""Why each site has its width."""

import dataclasses
import re

import numpy as np
from support.analyses import (
    DEIT_S,
    INNER,
    make_analysis,
)

from prune_realloc.planning.plan import plan
from prune_realloc.planning.site_reasons import allocation_note
from prune_realloc.recipe.document import Recipe


def test_every_site_says_why():
    curves = {
        "blocks.0": np.array([0.0125, 0.0]),
        "blocks.1.ffn": 1e-9 * np.linspace(1, 0, 1537),
        "blocks.2.ffn": 1e6 * np.linspace(1, 0, 1537),
    }
    analysis = make_analysis(**DEIT_S, curves=curves)
    rules = {
        "ffn": [{"blocks": 1, "floor": 256, "round_to": 64}, {"blocks": 3, "keep": 0.5}, {"blocks": 4, "width": 100}],
        "v": [{"blocks": 5, "freeze": True}, {"blocks": "6-8", "ceiling": 40}],
        "qk": {"round_to": 4},
        "block": [{"blocks": "1-11", "freeze": True}],
    }
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.6}, rules=rules, axes=(*INNER, "block")))
    reasons = {name: site.reason for name, site in planned.sites.items()}
    # what a block saves is all of it: 2 * 64 * 6 * (2 * 197 * 384 + 197^2) + 2 * 197 * 384 * 1536 = 378,391,296
    assert reasons["blocks.0"] == "gives up 0.013 nats, saves 378M macs"
    assert reasons["blocks.0.ffn"] == reasons["blocks.0.heads"] == "its block goes"
    assert reasons["blocks.1"] == reasons["blocks.5.v"] == "frozen"
    # 1280 units at 2 * 197 * 384
    assert reasons["blocks.1.ffn"] == "gives up 8.3e-10 nats, saves 194M macs; at its floor 256"
    assert re.fullmatch(r"kept; 1528 would give up 5\.2e\+03 nats for 1\.21M", reasons["blocks.2.ffn"])
    assert reasons["blocks.3.ffn"] == "rule: keep 0.5"
    assert reasons["blocks.4.ffn"] == "rule: width 100"
    assert reasons["embed"] == "embed is not among the axes to cut"
    for name, site in planned.sites.items():
        if name.endswith(".qk") and name != "blocks.0.qk" and 4 < site.width < 64:
            assert site.reason.endswith("multiple of 4")
    for i in (6, 7, 8):
        ceiling = reasons[f"blocks.{i}.v"].endswith("at its ceiling 40")
        assert ceiling == (planned.sites[f"blocks.{i}.v"].width == 40)


def test_a_block_that_stays_says_what_it_would_give():
    losses = {f"blocks.{i}": np.array([1e3, 0.0]) for i in range(12)}
    planned = plan(make_analysis(**DEIT_S, curves=losses), Recipe(budget={"keep_macs": 0.8}, axes=("ffn", "block")))
    left = 768 * (2 * 197 * 384 + 197 * 197) + 2 * 197 * 384 * planned.sites["blocks.0.ffn"].width
    assert planned.sites["blocks.0"].reason == f"kept; 0 would give up 1e+03 nats for {left / 1e6:.3g}M"


def test_reasons_of_rules_alone(deit_s):
    planned = plan(deit_s, Recipe(rules={"v": {"ceiling": 40}, "qk": {"width": 16}}))
    assert planned.sites["blocks.0.v"].reason == "rule: ceiling 40"
    assert planned.sites["blocks.0.ffn"].reason == "no rule asks for a cut"


def test_reasons_name_the_scorer_where_it_has_a_unit_of_its_own(deit_s):
    analysis = dataclasses.replace(deit_s, unit="magnitude", scorer="magnitude-l1")
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.5}, allocation="uniform"))
    assert planned.damage is planned.bound is None
    assert " magnitude-l1, saves " in planned.sites["blocks.0.ffn"].reason


def test_reasons_without_nats_say_what_share_of_the_score_stays():
    curves = {f"blocks.{i}.{axis}": 3 * np.linspace(1, 0, 65) for i in range(12) for axis in ("qk", "v")}
    curves |= {"blocks.1.qk": np.zeros(65), "blocks.3": np.array([5.0, 0.0])}
    analysis = make_analysis(**DEIT_S, curves=curves, unit="magnitude", scorer="magnitude")
    rules = {"qk": [{"floor": 48, "ceiling": 48}], "v": {"blocks": 0, "floor": 64}}
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.7}, allocation="uniform", rules=rules))
    reasons = {name: site.reason for name, site in planned.sites.items()}
    assert re.fullmatch(r"keeps 75 % of its magnitude, saves \S+ macs; at its floor 48", reasons["blocks.0.qk"])
    assert reasons["blocks.1.qk"].startswith("keeps 100 % of its magnitude, ")  # there is none to lose
    stays = planned.sites["blocks.2.v"].width
    assert reasons["blocks.2.v"].startswith(f"keeps {100 * stays / 64:.0f} % of its magnitude, saves ")
    kept = plan(analysis, Recipe(budget={"keep_macs": 0.99}, allocation="uniform", axes=("v", "block")))
    assert any(
        re.fullmatch(r"kept; 56 would keep 88 % of its magnitude for \S+", site.reason) for site in kept.sites.values()
    )
    assert kept.sites["blocks.3"].reason.startswith("kept; 0 would give up all of its magnitude for ")
    ten = analysis.cost().macs - 2 * 378_391_296
    gone = plan(analysis, Recipe(budget={"macs": ten + 1000}, allocation="uniform", axes=("block",)))
    assert gone.sites["blocks.0"].reason.startswith("gives up all of its magnitude, saves ")


def test_an_allocation_that_the_scorer_decided_on_is_said_aloud():
    budget = {"keep_macs": 0.5}
    note = allocation_note(Recipe(scorer="magnitude", budget=budget))
    assert note == (
        "allocation: per-axis, because scores of magnitude cannot be compared across axes: each axis gives up the "
        "same share"
    )
    assert allocation_note(Recipe(scorer="magnitude", budget=budget, allocation="per-axis")) is None
    assert allocation_note(Recipe(budget=budget)) is None
    assert allocation_note(Recipe(scorer="magnitude", rules={"qk": {"keep": 0.5}})) is None
