import copy

import numpy as np
import pytest
import torch
from support.moments import (
    DEAD,
    LAYOUTS,
    batches_of,
    built,
    case_of,
    error,
    folded,
    halves,
    images_of,
    kill_,
    measured,
    refitted,
    rotated_case,
)
from support.networks import build

from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import damage_curves
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.refit import refit_

AXES = ("qk", "v", "ffn", "embed", "heads", "block")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_refit_of_a_network_that_keeps_everything_leaves_the_function(layout):
    case, images = case_of(layout, dtype=torch.float32), images_of(6, seed=7, dtype=torch.float32)
    same = refitted(case, {site.name: np.arange(site.units) for site in case.sites})
    with torch.no_grad():
        torch.testing.assert_close(same(images), case.model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", DEAD)
def test_refit_of_units_that_never_change_leaves_the_function(part):
    model = build()
    kill_(model.blocks[1], part)
    case = measured(model, batches_of(images_of(24, dtype=torch.float32))).rotated()
    pruned, images = refitted(case, {}), images_of(6, seed=7, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-4, atol=1e-4)
    for p, q in zip(pruned.parameters(), case.model.parameters(), strict=True):
        assert (p - q).abs().max() < 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_refit_brings_the_output_nearer_to_the_sources(layout):
    """For every axis by itself and for all of them at once; on images that nothing was fitted on.

    Behind narrower Q and K what a refit can find is little, and these are few images: there it must not do harm.
    """
    case, curves = rotated_case(layout, 96)
    for axes in (*((axis,) for axis in AXES), AXES):
        keep = halves(case, curves, *axes)
        images = images_of(48, seed=7)
        plain = error(cut(case.model, case.sites, keep), case.model, images)
        mended = error(refitted(case, keep, images=96, size=32), case.model, images)
        assert plain > 0
        if layout == "post_norm" and axes == ("block",):  # no writer can stand in from behind its norm
            assert mended == pytest.approx(plain, rel=1e-4)
        else:
            assert mended < (1.06 if axes == ("qk",) else 0.9) * plain, axes


@pytest.mark.parametrize("ridge", [True, False])
@pytest.mark.parametrize("axis", [*AXES, "first block"])
@pytest.mark.parametrize("layout", ["distilled", "inner_norms"])
def test_the_mean_of_the_stream_is_the_sources_behind_every_writer(layout, axis, ridge):
    case, curves = rotated_case(layout)
    keep = {"blocks.0": np.arange(0)} if axis == "first block" else halves(case, curves, axis)
    pruned = refitted(case, keep, ridge=ridge, weights=False)
    family, images = family_of(pruned), images_of(24)
    channels = keep.get("embed", np.arange(48))
    with torch.no_grad():
        x, y = family.stream_input(case.model, "embed", images), family.stream_input(pruned, "embed", images)
        sources = list(case.structure.branches)
        if axis == "first block":
            for branch in (sources.pop(0), sources.pop(0)):
                x = x + family.branch_output(case.model, branch, x)
        assert (x[..., channels] - y).mean((0, 1)).abs().max() < 1e-9 or axis == "first block"
        branches = family.describe(pruned).branches
        for i, branch in enumerate(branches):
            x = x + family.branch_output(case.model, sources[i], x)
            y = y + family.branch_output(pruned, branch, y)
            if axis == "block" and i == 1:  # the second block went: this writer stands in for it
                for gone in sources[2:]:
                    x = x + family.branch_output(case.model, gone, x)
            assert (x[..., channels] - y).mean((0, 1)).abs().max() < 1e-9, branch.name
    if not ridge:  # nothing but biases has moved
        fresh = cut(case.model, case.sites, keep)
        moved = {n for n, p in pruned.named_parameters() if not torch.equal(p, fresh.get_parameter(n))}
        assert moved
        assert all(name.endswith("bias") for name in moved)


@pytest.mark.parametrize("gone", [[0], [1], [3], [1, 2], [0, 3], [0, 1, 2]])
def test_blocks_that_go_anywhere_are_stood_in_for(gone):
    model = built("plain", depth=4).double()
    case = measured(model, batches_of(images_of(96), 32))
    keep = {f"blocks.{i}": np.arange(0) for i in gone}
    images = images_of(48, seed=7)
    for more in ({}, {"embed": np.arange(0, 48, 2)}):
        plain = error(cut(model, case.sites, keep | more), model, images)
        assert error(refitted(case, keep | more, images=96, size=32), model, images) < 0.5 * plain, more


@pytest.mark.parametrize("layout", ["distilled", "attention_pool", "swiglu", "gated"])
def test_all_layers_at_a_narrower_stream_are_fitted_and_no_others(layout):
    case, curves = rotated_case(layout)
    keep = halves(case, curves, "embed")
    pruned, plain = refitted(case, keep), cut(case.model, case.sites, keep)
    layers = {name for b in case.structure.branches for name in (*b.readers, b.writer)} | set(case.structure.exits)
    moved = {n.rpartition(".")[0] for n, p in pruned.named_parameters() if not torch.equal(p, plain.get_parameter(n))}
    assert moved == layers


def test_a_writer_is_asked_for_its_own_output_and_half_of_the_error_before_it(least_ridge):
    """Behind a block that went; the ridge regression solved anew, from streams computed here."""
    case, images = case_of("plain"), images_of(24)
    family, keep = family_of(case.model), {"blocks.0": np.arange(0)}
    pruned = refitted(case, keep, weights=False)
    given = []
    with torch.no_grad():
        x = y = family.stream_input(case.model, "embed", images)
        *gone, branch, _ = case.structure.branches
        for each in gone:
            x = x + family.branch_output(case.model, each, x)
        target = (family.branch_output(case.model, branch, x) + 0.5 * (x - y)).flatten(0, 1).numpy()
        with hooked(case.model, [(branch.writer, "input", given.append)]):
            family.branch_output(case.model, branch, y)  # its readers are the source's
    rows = given[0].flatten(0, 1).numpy()
    rows, target = rows - rows.mean(0), target - target.mean(0)
    start = case.model.blocks[1].attn.proj.weight.detach().numpy()
    punish = np.sqrt(1e-4 * np.mean(rows**2) * len(rows)) * np.eye(48)
    expected = np.linalg.lstsq(np.concatenate([rows, punish]), np.concatenate([target, punish @ start.T]), rcond=None)
    np.testing.assert_allclose(pruned.blocks[0].attn.proj.weight.detach(), expected[0].T, rtol=1e-6, atol=1e-9)


def test_readers_of_a_narrower_stream_weigh_tokens_by_their_own_weights():
    """Keys and values of all tokens are read where only the class token's sum is."""
    case, curves = rotated_case("plain")
    keep = halves(case, curves, "embed")
    pruned = cut(case.model, case.sites, keep)
    own = torch.linspace(0, 2, 17).double()
    weights = case.token_weights | {"blocks.0.attn.qkv": own}
    refit_(pruned, case.model, case.sites, keep, weights, batches_of(images_of(24)), ridge=True)
    means = []
    for model in (case.model, pruned):
        block = model.blocks[0]
        with torch.no_grad():
            read = block.attn.qkv(block.norm1(family_of(model).stream_input(model, "embed", images_of(24))))
        means.append(np.average(read.flatten(0, 1), axis=0, weights=own.repeat(24)))
    np.testing.assert_allclose(*means, atol=1e-9)


def test_layers_without_bias_stay_without():
    case, curves = rotated_case("no_bias")
    pruned = refitted(case, halves(case, curves, "qk", "v", "ffn", "embed"))
    attention, mlp = pruned.blocks[0].attn, pruned.blocks[0].mlp
    assert [layer.bias for layer in (attention.qkv, attention.proj, mlp.fc2)] == [None] * 3
    keep = halves(case, curves, "v")
    shifted, plain = refitted(case, keep, ridge=False), cut(case.model, case.sites, keep)
    assert all(torch.equal(p, plain.get_parameter(name)) for name, p in shifted.named_parameters())


def test_the_source_is_left_as_it_was():
    case, curves = rotated_case("distilled")
    before = {name: p.clone() for name, p in case.model.named_parameters()}
    refitted(case, halves(case, curves, *AXES))
    assert all(torch.equal(p, before[name]) for name, p in case.model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


@pytest.mark.parametrize("size", [1, 5, 24])
def test_another_batch_split_fits_the_same_weights(size):
    case, curves = rotated_case("distilled")
    keep = halves(case, curves, *AXES)
    one, other = (refitted(case, keep, size=s) for s in (8, size))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("layout", ["registers", "swiglu"])
def test_the_same_inputs_give_the_same_bits(layout):
    def pruned():
        case = measured(folded(built(layout)), batches_of(images_of(24, dtype=torch.float32))).rotated()
        scores = {site.name: np.arange(site.units) for site in case.sites}
        curves = damage_curves(case.model, case.sites, case.structure, case.moments, scores)
        return refitted(case, halves(case, curves, "qk", "v", "ffn", "embed"))

    assert all(torch.equal(p, q) for p, q in zip(pruned().parameters(), pruned().parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_cut_and_refitted(dtype):
    exact, curves = rotated_case("plain")
    keep = halves(exact, curves, "v", "ffn", "embed")
    model = copy.deepcopy(exact.model).to(dtype)
    pruned = cut(model, exact.sites, keep)
    images = images_of(24)
    plain = error(pruned, model, images.to(dtype))
    refit_(pruned, model, exact.sites, keep, exact.token_weights, batches_of(images), ridge=True)
    assert {p.dtype for p in pruned.parameters()} == {dtype}
    assert error(pruned, model, images.to(dtype)) < 0.5 * plain


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds():
    outcomes = []
    for device in ("cpu", "cuda"):
        case = measured(folded(built("distilled").double()).to(device), batches_of(images_of(24))).rotated()
        scores = {site.name: np.arange(site.units) for site in case.sites}
        curves = damage_curves(case.model, case.sites, case.structure, case.moments, scores)
        pruned = refitted(case, halves(case, curves, *AXES))
        outcomes.append(({name: curve.damage for name, curve in curves.items()}, pruned.cpu()(images_of(6))))
    for name, damage in outcomes[0][0].items():
        np.testing.assert_allclose(outcomes[1][0][name], damage, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(outcomes[1][1], outcomes[0][1], rtol=1e-5, atol=1e-5)
