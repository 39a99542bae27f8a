import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.moments import (
    DEAD,
    LAYOUTS,
    batches_of,
    built,
    case_of,
    folded,
    images_of,
    kill_,
    measured,
)
from support.networks import build

from prune_realloc import load_model
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.data.batches import iterate
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import damage_curves, kept_units, score_curve
from prune_realloc.pruning.elimination import Curve
from prune_realloc.pruning.fit import fit_
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.moments import LogitMoments, Regression


def curves_of(case, refit=True, scores=None):
    scores = scores or {site.name: np.arange(site.units)[::-1].copy() for site in case.sites}
    return damage_curves(case.model, case.sites, case.structure, case.moments, scores, refit=refit)


@cache
def curves_with_refit(layout):
    return curves_of(case_of(layout))


class BruteForce:
    """Damage by solving the least squares problem anew for every set of units that is left."""

    def __init__(self, weight, read):
        covariance = read.covariance.numpy()
        covariance = covariance + 1e-4 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        self.root = np.linalg.cholesky(covariance).T  # rows stand for samples: root' root = covariance
        self.weight, self.gradient = weight.numpy(), read.gradient.numpy()
        self.half_tokens = read.tokens / 2

    def damage(self, kept):
        target = self.root @ self.weight.T
        given = self.root[:, kept]
        error = target - given @ np.linalg.lstsq(given, target, rcond=None)[0]
        return self.half_tokens * np.einsum("sd,de,se->", error, self.gradient, error)


def brute_force(case, name):
    """One for each layer that a unit of the site goes from."""
    if name == "embed":
        eye = torch.eye(case.sites[0].units, dtype=torch.float64)
        return [BruteForce(eye, read) for read in case.moments.readers.values()]
    branch = next(b for b in case.structure.branches if b.site == name)
    weight = case.model.get_parameter(f"{branch.writer}.weight").detach()
    return [BruteForce(weight, case.moments.writers[name])]


def left_of(site, order, width):
    return np.sort((np.arange(site.groups)[:, None] * site.width + order[:, :width]).ravel())


@pytest.mark.parametrize("name", ["embed", "blocks.1.v", "blocks.1.ffn"])
def test_curve_equals_a_refit_by_least_squares_at_every_width(name):
    """The FFN's 192 units go three at a time, and the damage in between is still that of one-by-one removal."""
    case = case_of("distilled")
    curve, exact, site = curves_with_refit("distilled")[name], brute_force(case, name), case.site(name)
    assert curve.damage[-1] == 0
    for width in range(site.width) if name != "blocks.1.ffn" else (*range(0, 180, 7), *range(180, 192)):
        kept = left_of(site, curve.order, width)
        assert curve.damage[width] == pytest.approx(sum(b.damage(kept) for b in exact), rel=1e-6, abs=1e-12), width


@pytest.mark.parametrize("name", ["embed", "blocks.0.v", "blocks.0.ffn"])
def test_units_go_cheapest_first(name):
    model = built("plain", embed_dim=12, depth=1, mlp_ratio=1).double()
    case = measured(model, batches_of(images_of(12)))
    curve, exact, site = curves_of(case)[name], brute_force(case, name), case.site(name)
    left = list(range(site.units))
    for width in range(site.width, 1, -1):
        alone = {unit: sum(b.damage([u for u in left if u != unit]) for b in exact) for unit in left}
        expected = [
            min((u for u in left if u // site.width == group), key=alone.__getitem__) for group in range(site.groups)
        ]
        assert (curve.order[:, width - 1] + np.arange(site.groups) * site.width).tolist() == expected
        left = [u for u in left if u not in expected]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_curves_fall_to_zero_and_every_group_loses_every_unit(layout):
    case, curves = case_of(layout), curves_with_refit(layout)
    assert list(curves) == [site.name for site in case.sites]
    for site in case.sites:
        curve = curves[site.name]
        assert np.array_equal(np.sort(curve.order), np.tile(np.arange(site.width), (site.groups, 1))), site.name
        assert curve.damage.shape == (site.width + 1,)
        assert curve.damage[-1] == 0
        assert curve.damage[0] > 0
        assert (np.diff(curve.damage) <= 0).all(), site.name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_units_the_damage_is_that_of_the_output_going(layout):
    """N / 2 tr(G Cov(W x)), the covariance measured at the writer's output; more by what the ridge adds."""
    case, curves = case_of(layout), curves_with_refit(layout)
    outputs = {}
    places = [(b.writer, "output", lambda y, b=b: outputs.update({b.site: y})) for b in case.structure.branches]
    with torch.no_grad(), hooked(case.model, places):
        case.model(images_of(24))
    whole = {0: 0.0, 1: 0.0}
    for branch in case.structure.branches:
        read, y = case.moments.writers[branch.site], outputs[branch.site]
        covariance = np.cov(y.flatten(0, 1).numpy().T, aweights=read.weight.repeat(len(y)).numpy(), ddof=0)
        expected = read.tokens / 2 * np.trace(read.gradient.numpy() @ covariance)
        curve = curves[branch.site]
        assert expected <= curve.damage[0] <= 1.01 * expected
        whole[branch.block] += curve.damage[0]
        if branch.site.endswith("v"):
            assert curves[f"blocks.{branch.block}.heads"].damage[0] == pytest.approx(curve.damage[0], rel=1e-6)
    assert {b: curves[f"blocks.{b}"].damage.tolist() for b in whole} == {b: [total, 0] for b, total in whole.items()}


def test_heads_go_by_score_and_cost_what_their_joint_removal_costs():
    case = case_of("plain")
    scores = {site.name: np.arange(site.units) for site in case.sites} | {"blocks.0.heads": np.array([2.0, 9.0, 5.0])}
    curve = curves_of(case, scores=scores)["blocks.0.heads"]
    assert curve.order.tolist() == [[1, 2, 0]]
    [exact] = brute_force(case, "blocks.0.v")
    for width, heads in enumerate([(), (1,), (1, 2)]):
        kept = np.concatenate([np.arange(0), *(16 * h + np.arange(16) for h in heads)]).astype(int)
        assert curve.damage[width] == pytest.approx(exact.damage(kept), rel=1e-7)


@pytest.mark.parametrize("name", ["embed", "blocks.0.v", "blocks.0.ffn", "blocks.0.heads"])
def test_without_refit_units_add_up(name):
    case = case_of("plain")
    curve = curves_of(case, refit=False)[name]
    layers = brute_force(case, name.replace("heads", "v"))
    reads = (
        list(case.moments.readers.values()) if name == "embed" else [case.moments.writers[name.replace("heads", "v")]]
    )
    own = sum(
        b.half_tokens * np.array([w @ b.gradient @ w for w in b.weight.T]) * read.covariance.diagonal().numpy()
        for b, read in zip(layers, reads, strict=True)
    )
    if name.endswith("heads"):
        own = own.reshape(3, 16).sum(1)
        assert curve.order.tolist() == [[0, 1, 2]]  # by the scores
    by_group = own.reshape(len(curve.order), -1)
    for width in range(len(curve.damage)):
        gone = [by_group[g, unit] for g, order in enumerate(curve.order) for unit in order[width:]]
        assert curve.damage[width] == pytest.approx(sum(gone), rel=1e-12)
    if not name.endswith("heads"):
        assert (np.diff(np.take_along_axis(by_group, curve.order, 1)) <= 0).all()


def test_logit_curve_by_hand():
    model = build(embed_dim=6, num_heads=3, depth=1).double()
    case = measured(model, batches_of(images_of(6)))
    activation = torch.tensor([[[1.0, 7], [7, 2]], [[3, 7], [7, 4]], [[5, 7], [7, 6]]])
    gradient = torch.tensor([[[1.0, 9], [9, 1]], [[2, 9], [9, 0.5]], [[0, 9], [9, 1]]])
    moments = dataclasses.replace(case.moments, logits={"blocks.0.qk": LogitMoments(10, activation, gradient)})
    curve = curves_of(dataclasses.replace(case, moments=moments))["blocks.0.qk"]
    # 10 / 2 times 1, 2 | 6, 2 | 0, 6
    assert curve.order.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert curve.damage.tolist() == [85, 5 + 10 + 0, 0]


def test_score_curve_and_kept_units_by_hand():
    sites = {s.name: s for s in case_of("plain").sites}
    site = dataclasses.replace(sites["blocks.0.v"], units=6, groups=2)
    curve = score_curve(site, np.array([1.0, 3, 2, 0.5, -4, 9]))
    assert curve.order.tolist() == [[1, 2, 0], [2, 0, 1]]
    assert curve.damage.tolist() == [3 + 9 + 2 + 0.5 + 1, 2 + 0.5 + 1, 1, 0]  # a score below zero costs nothing
    block = dataclasses.replace(sites["blocks.0"])
    curves = {site.name: curve, block.name: Curve(np.array([[0]]), np.array([1.0, 0]))}
    kept = kept_units(curves, {site.name: 2, block.name: 1}, [block, site])
    assert {name: units.tolist() for name, units in kept.items()} == {"blocks.0.v": [1, 2, 3, 5], "blocks.0": [0]}
    kept = kept_units(curves, {site.name: 0, block.name: 0}, [block, site])
    assert {name: units.tolist() for name, units in kept.items()} == {"blocks.0": []}


@pytest.mark.parametrize("part", DEAD)
def test_units_that_never_change_do_no_damage(part):
    """They are constant but not zero, so rounding is all that there is of their covariance."""
    model = build()
    kill_(model.blocks[1], part)
    case = measured(model, batches_of(images_of(24, dtype=torch.float32))).rotated()
    curves = curves_of(case)
    for site in case.sites:
        damage = curves[site.name].damage
        assert np.isfinite(damage).all()
        assert (damage.max() < 1e-9) == (site.block == 1 and site.axis in DEAD[part]), site.name


@pytest.mark.slow
def test_predicted_damage_has_the_size_and_the_order_of_the_measured():
    """FFN and V of the shipped network at a quarter of their width, each by itself, its writer refitted."""
    model = folded(load_model().eval())
    prepare = preprocessing(model, family_of(model).example_input(model)[1:], {})
    batches = list(iterate(open_images("demo", split="train"), prepare, samples=256, batch_size=64, seed=0))
    images = torch.cat([batch.images for batch in batches])
    case = measured(model, batches, labelled=False).rotated()
    curves = curves_of(case)
    branches = [b for b in case.structure.branches if b.block in (0, 4, 8, 11)]
    targets = {}
    places = [(b.writer, "output", lambda y, b=b: targets.update({b.site: y})) for b in branches]
    with torch.no_grad(), hooked(case.model, places):
        before = F.log_softmax(case.model(images).double(), dim=1)
    predicted, kl = [], []
    for branch in branches:
        site, curve = case.site(branch.site), curves[branch.site]
        smaller = cut(case.model, case.sites, {site.name: left_of(site, curve.order, site.width // 4)})
        given = []
        with torch.no_grad(), hooked(smaller, [(branch.writer, "input", given.append)]):
            smaller(images)
            regression = Regression()
            regression.add(given[0], targets[site.name], case.moments.writers[site.name].weight)
            fit_(smaller.get_submodule(branch.writer), regression, 1e-4)
            after = F.log_softmax(smaller(images).double(), dim=1)
        predicted.append(curve.damage[site.width // 4])
        kl.append(float((before.exp() * (before - after)).sum(1).mean()))
    predicted, kl = np.array(predicted), np.array(kl)
    assert kl.max() > 1e4 * kl.min()  # from 3e-8 nats to 6e-3: the order is worth asking for
    ratio = predicted / kl
    assert 0.25 < ratio.min() <= ratio.max() < 2, ratio  # tokens count as independent, they are not quite
    assert rank_correlation(predicted, kl) > 0.9
