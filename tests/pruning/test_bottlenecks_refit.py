"""Networks of convolutions with batch norms: refit."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import bottlenecks as family
from support.bottlenecks import STREAMS, branch_output, network, stream_input
from support.moments import batches_of, curves_of, error, halves, images_of, measured, refitted
from torch import nn

from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.refit import refit_

INNER = ("v", "ffn")


pytestmark = pytest.mark.usefixtures("bottlenecks")


def case_of(model: Any = None, dtype: torch.dtype = torch.float64) -> Any:
    return measured(network(dtype) if model is None else model, batches_of(images_of(24, dtype=dtype)))


def test_refit_of_a_network_that_keeps_everything_leaves_the_function():
    case, images = case_of(dtype=torch.float32), images_of(6, seed=7, dtype=torch.float32)
    same = refitted(case, {site.name: np.arange(site.units) for site in case.sites})
    with torch.no_grad():
        torch.testing.assert_close(same(images), case.model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [("ffn",), ("v",), ("embed",), ("block",), (*INNER, "embed", "block")])
def test_refit_brings_the_output_nearer_to_the_sources(axes):
    """Of the images that it was fitted on."""
    case = case_of().rotated()
    keep, images = halves(case, curves_of(case), *axes), images_of(24)
    plain = error(cut(case.model, case.sites, keep), case.model, images)
    assert 0 < error(refitted(case, keep), case.model, images) < 0.5 * plain


def test_a_layer_between_two_streams_is_fitted(least_ridge):
    """As well as any weights and running means could be, but for the ridge."""
    case, images, seen = case_of(), images_of(24), []
    keep = {"stages.1.ffn": np.arange(0, 16, 2)}
    pruned, plain = refitted(case, keep, weights=False), cut(case.model, case.sites, keep)
    with torch.no_grad():
        x = case.model.stage(0, case.model.stem(images))
        source, mended = (stream_input(net, STREAMS[1], x) for net in (case.model, pruned))
        with hooked(plain, [("merge.project.conv", "input", seen.append)]):
            broken = stream_input(plain, STREAMS[1], x)
    rows = F.pad(seen[0].movedim(1, -1).flatten(0, 2), (0, 1), value=1.0)
    target = source.movedim(1, -1).flatten(0, 2)
    least = (rows @ torch.linalg.lstsq(rows, target).solution - target).square().mean()
    assert least < 0.5 * (broken - source).square().mean()
    assert least < (mended - source).square().mean() < 1.001 * least
    torch.testing.assert_close(mended.mean((0, 2, 3)), source.mean((0, 2, 3)))


@pytest.mark.parametrize("gone", [[0], [1], [2], [3], [4], [0, 1], [1, 2], [0, 1, 2], [0, 3], [2, 3]])
def test_blocks_that_go_anywhere_are_stood_in_for(gone):
    """But for the last, which lies behind a branch that cannot be fitted."""
    case, images = case_of(), images_of(24)
    for more in ({}, {name: np.arange(0, case.site(name).units, 2) for name in STREAMS}):
        keep = {f"blocks.{i}": np.arange(0) for i in gone} | more
        plain = error(cut(case.model, case.sites, keep), case.model, images)
        mended = error(refitted(case, keep), case.model, images)
        assert mended < 0.7 * plain or (gone == [4] and mended == pytest.approx(plain, rel=1e-4)), more


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_cut_and_refitted(dtype):
    exact = case_of()
    keep = halves(exact, curves_of(exact), *INNER, "embed")
    model, images = copy.deepcopy(exact.model).to(dtype), images_of(24)
    pruned = cut(model, exact.sites, keep)
    plain = error(pruned, model, images.to(dtype))
    refit_(pruned, model, exact.sites, keep, exact.token_weights, batches_of(images), ridge=True)
    assert {p.dtype for p in [*pruned.parameters(), *(b for b in pruned.buffers() if b.ndim)]} == {dtype}
    assert error(pruned, model, images.to(dtype)) < 0.5 * plain


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds():
    outcomes = []
    for device in ("cpu", "cuda"):
        case = case_of(network().to(device)).rotated()
        curves = curves_of(case)
        pruned = refitted(case, halves(case, curves, *INNER, "embed", "block"))
        outcomes.append(({name: curve.damage for name, curve in curves.items()}, pruned.cpu()(images_of(6))))
    for name, damage in outcomes[0][0].items():
        np.testing.assert_allclose(outcomes[1][0][name], damage, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(outcomes[1][1], outcomes[0][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ridge", [True, False])
@pytest.mark.parametrize("axis", ["ffn", "v", "embed", "block"])
def test_the_mean_of_the_stream_is_the_sources_behind_every_writer(axis, ridge):
    """What the writer has no bias for went to the running mean of the norm behind it."""
    case = case_of()
    keep = halves(case, curves_of(case), axis)
    pruned, images = refitted(case, keep, ridge=ridge, weights=False), images_of(24)
    sources, stream = list(case.structure.branches), None
    with torch.no_grad():
        x = y = images
        for branch in family.describe(pruned).branches:
            if branch.stream != stream:
                stream = branch.stream
                x, y = stream_input(case.model, stream, x), stream_input(pruned, stream, y)
                channels = torch.as_tensor(keep.get(stream, np.arange(x.shape[1])))
            x = x + branch_output(case.model, sources.pop(0), x)
            y = y + branch_output(pruned, branch, y)
            while axis == "block" and sources and sources[0].block == 1:  # it went, and the writer stands in for it
                x = x + branch_output(case.model, sources.pop(0), x)
            assert (x[:, channels] - y).mean((0, 2, 3)).abs().max() < 1e-9 or not branch.fitted, branch.name
    if not ridge:
        fresh = cut(case.model, case.sites, keep)
        assert all(torch.equal(p, fresh.get_parameter(n)) for n, p in pruned.named_parameters() if n[-4:] != "bias")
        moved = {n for n, p in pruned.named_buffers() if not torch.equal(p, fresh.get_buffer(n))}
        assert moved
        assert all(name.endswith("bn.running_mean") for name in moved)


def test_folded_norms_are_measured_and_refitted_alike():
    """The same function with the norms folded into the convolutions, which have biases then.

    The size of a gradient over all channels, by which tokens are weighed, differs in front of a norm and behind it.
    """
    plain, folded = (case_of(network(folded=each)) for each in (False, True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.model.modules())
    curves, others = curves_of(plain), curves_of(folded)
    for name, curve in curves.items():
        exact = name == STREAMS[1]  # all that reads it was measured behind norms in both
        np.testing.assert_allclose(others[name].damage, curve.damage, rtol=1e-6 if exact else 0.05, atol=1e-12)
    keep, images = halves(plain, curves, *INNER, "embed", "block"), images_of(6, seed=7)
    one, other = (refitted(case, keep, weights=False)(images) for case in (plain, folded))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_channels_that_the_norm_lets_nothing_through_of_stay_small():
    model = network()
    with torch.no_grad():
        model.blocks[0].halves[0].project.bn.weight[3] = 1e-9
        model.blocks[3].halves[0].project.bn.weight.zero_()
    case = case_of(model)
    keep, images = halves(case, curves_of(case), *INNER), images_of(24)
    pruned = refitted(case, keep)
    assert all(p.abs().max() < 20 for p in pruned.parameters())
    assert error(pruned, model, images) < 0.5 * error(cut(model, case.sites, keep), model, images)


def test_each_layer_at_a_narrower_stream_is_fitted_and_no_other(least_ridge):
    case = case_of()
    keep = halves(case, curves_of(case), "embed")
    pruned, plain = refitted(case, keep), cut(case.model, case.sites, keep)
    moved = {n for n, p in pruned.named_parameters() if not torch.equal(p, plain.get_parameter(n))}
    branches, exits = [branch for branch in case.structure.branches if branch.fitted], case.structure.exits
    layers = {name for b in branches for name in (*b.readers, b.writer)} | set(exits) | {"merge.project.conv"}
    assert {name.rpartition(".")[0] for name in moved} == layers
    assert {len(keep[name]) for name in STREAMS} == {4, 6}
