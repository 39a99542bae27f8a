"""Networks of convolutions with batch norms: sites, moments, damage and rotation."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.bottlenecks import STREAMS, network
from support.moments import batches_of, curves_of, images_of, measured

from prune_realloc.core.structure import Branch
from prune_realloc.families.host import find_host
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import damage_curves
from prune_realloc.pruning.elimination import ridged
from prune_realloc.pruning.handed_on import check_handed_on
from prune_realloc.pruning.hooks import hooked, masked
from prune_realloc.pruning.linear import matrix
from prune_realloc.pruning.sites import find_sites, widths

INNER = ("v", "ffn")


pytestmark = pytest.mark.usefixtures("bottlenecks")


def case_of(model: Any = None, dtype: torch.dtype = torch.float64) -> Any:
    return measured(network(dtype) if model is None else model, batches_of(images_of(24, dtype=dtype)))


def test_the_toy_is_what_its_family_says():
    model, images = network(), images_of(4)
    sites = find_sites(model)
    assert widths(sites) == {
        "stages.0.embed": 8,
        "stages.1.embed": 12,
        **{f"blocks.{i}": 1 for i in range(5)},
        **{"blocks.0.ffn": 16, "blocks.1.ffn": 16, "stages.1.ffn": 16, "blocks.3.ffn": 24, "blocks.4.v": 12},
    }
    check_handed_on(find_host(model), images)
    for site in sites:
        if site.axis in INNER:
            with torch.no_grad(), masked(model, site, range(0, site.units, 2)):
                expected = model(images)
            smaller = cut(model, sites, {site.name: np.arange(1, site.units, 2)})
            torch.testing.assert_close(smaller(images), expected)


def test_moments_equal_plain_einsum():
    """Of a writer by patches, of a reader by positions; gradients by plain autograd."""
    model, images = network(), images_of(6)
    found = measured(model, batches_of(images, 4)).moments
    seen = {}

    def keep(module, args, out):
        seen[module] = (args[0], out)
        args[0].retain_grad()
        out.retain_grad()

    writer, reader = model.blocks[1].halves[0].project.conv, model.merge.expand.conv
    handles = [layer.register_forward_hook(keep) for layer in (writer, reader)]
    F.cross_entropy(model(images), torch.arange(6) % 5, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    patches = F.unfold(seen[writer][0], 3, padding=1).mT
    channels = seen[reader][0].flatten(2).mT
    cases = [
        (found.writers["blocks.1.ffn"], patches, seen[writer][1].grad.flatten(2).mT),
        (found.readers["merge.expand.conv"], channels, seen[reader][0].grad.flatten(2).mT),
    ]
    for read, x, g in cases:
        x, N = x.detach(), x.shape[1]
        power = torch.einsum("bnd,bnd->n", g, g)
        weight = 0.9 * power / power.sum() * N + 0.1
        assert read.tokens == N == 64
        torch.testing.assert_close(read.weight, weight)
        torch.testing.assert_close(read.gradient, torch.einsum("bnd,bne->de", g, g) / (6 * N))
        rows, each = x.flatten(0, 1).numpy(), weight.repeat(6).numpy()
        np.testing.assert_allclose(read.mean, np.average(rows, axis=0, weights=each), atol=1e-12)
        np.testing.assert_allclose(read.covariance, np.cov(rows.T, aweights=each, ddof=0), atol=1e-12)


def test_curves_fall_to_zero_and_end_at_the_damage_of_the_whole_output():
    case = case_of()
    curves, outputs = curves_of(case), []
    for site in case.sites:
        curve = curves[site.name]
        assert np.array_equal(np.sort(curve.order), np.tile(np.arange(site.width), (site.groups, 1))), site.name
        assert curve.damage[-1] == 0
        assert (np.diff(curve.damage) <= 0).all(), site.name
    whole = dict.fromkeys(curves, 0.0)
    for key, each in case.structure.writers().items():
        layer = case.model.get_submodule(each.writer)
        handle = layer.register_forward_hook(lambda m, a, out: outputs.append(out))
        with torch.no_grad():
            case.model(images_of(24))
        handle.remove()
        read, y = case.moments.writers[key], outputs.pop().flatten(2).mT
        covariance = np.cov(y.flatten(0, 1).numpy().T, aweights=read.weight.repeat(24).numpy(), ddof=0)
        damage = read.tokens / 2 * np.trace(read.gradient.numpy() @ covariance)
        whole[each.site] += damage
        if isinstance(each, Branch):
            whole[f"blocks.{each.block}"] += damage
    for name in set(whole) - set(STREAMS):  # the ridge adds to it
        assert whole[name] <= (1 + 1e-9) * curves[name].damage[0] <= 1.01 * whole[name], name
    assert all(curves[name].damage[0] > whole[name] for name in STREAMS)  # what other layers read of it comes on top


def test_units_of_two_writers_go_in_step():
    """Block 3 has two branches of one site: one group for each, whose damage adds up at equal widths."""
    case = case_of()
    curve, site = curves_of(case)["blocks.3.ffn"], case.site("blocks.3.ffn")
    assert (curve.order.shape, site.groups) == ((2, 24), 2)
    reads = [case.moments.writers[f"blocks.3.halves.{j}.project.conv"] for j in (0, 1)]
    for width in (0, 5, 23):
        expected = 0.0
        for read, order, half in zip(reads, curve.order, list(case.model.blocks[3].halves)[:2], strict=True):
            C, W = ridged(read.covariance, read.mean), matrix(half.project.conv)
            kept = torch.as_tensor(order[:width].copy())
            off = W.clone()
            off[:, kept] -= torch.linalg.solve(C[kept][:, kept], C[kept] @ W.T).T
            expected += float(read.tokens / 2 * (read.gradient @ off @ C * off).sum())
        assert curve.damage[width] == pytest.approx(expected, rel=1e-9)


def test_without_refit_units_cost_what_their_part_of_the_output_costs():
    """N / 2 tr(G Cov(W_u x_u)), x_u being the nine inputs of a unit in a patch."""
    case = case_of()
    scores = {site.name: np.ones(site.units) for site in case.sites}
    curves = damage_curves(case.model, case.sites, case.structure, case.moments, scores, refit=False)
    read, seen = case.moments.writers["blocks.1.ffn"], []
    with torch.no_grad(), hooked(case.model, [("blocks.1.halves.0.project.conv", "input", seen.append)]):
        case.model(images_of(24))
    weight, own = case.model.blocks[1].halves[0].project.conv.weight.detach(), []
    for unit in range(16):
        part = F.conv2d(seen[0][:, [unit]], weight[:, [unit]], padding=1).flatten(2).mT.flatten(0, 1)
        covariance = np.cov(part.numpy().T, aweights=read.weight.repeat(24).numpy(), ddof=0)
        own.append(read.tokens / 2 * np.trace(read.gradient.numpy() @ covariance))
    curve = curves["blocks.1.ffn"]
    assert curve.order.tolist() == [np.argsort(-np.array(own)).tolist()]
    np.testing.assert_allclose(curve.damage, np.append(np.cumsum(np.sort(own))[::-1], 0.0), rtol=1e-9)


def test_what_no_fitted_layer_reads_goes_by_its_scores():
    case = case_of()
    branches = tuple(branch for branch in case.structure.branches if branch.block != 0)
    structure = dataclasses.replace(case.structure, branches=branches)
    scores = {site.name: np.arange(site.units) + 1.0 for site in case.sites}
    curves = damage_curves(case.model, case.sites, structure, case.moments, scores)
    assert curves["blocks.0.ffn"].damage.tolist() == [sum(range(17 - width)) for width in range(17)]
    assert curves["blocks.0"].damage[0] > 0
    assert curves["blocks.1"].damage[0] == curves_of(case)["blocks.1"].damage[0]


def test_rotation_of_pointwise_convolutions_leaves_the_function():
    case = case_of()
    turned, images = case.rotated(), images_of(6, seed=7)
    torch.testing.assert_close(turned.model(images), case.model(images))
    assert not torch.allclose(*(m.blocks[4].halves[0].project.conv.weight for m in (turned.model, case.model)))
    fresh, said = (c.moments.writers["blocks.4.v"] for c in (case_of(turned.model), turned))
    torch.testing.assert_close(said.covariance, fresh.covariance)
    torch.testing.assert_close(said.mean, fresh.mean)
