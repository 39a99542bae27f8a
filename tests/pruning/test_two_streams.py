"""Networks with a residual stream for each stage, whose branches run in windows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.moments import batches_of, curves_of, error, gradient_of_unit, halves, images_of, measured, refitted
from support.two_streams import STREAMS, branch_output, describe, head_output, stream_input

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.sites import find_sites, stream_sites, widths
from prune_realloc.runtime.networks import measured_macs

INNER = ("qk", "v", "ffn")


def case_of(model, images, size=8):
    return measured(model, batches_of(images, size))


def test_each_stage_has_a_stream_of_its_own(two_streams):
    sites = find_sites(two_streams)
    streams = stream_sites(sites)
    assert {name: (site.units, site.stage, site.multiple) for name, site in streams.items()} == {
        "stages.0.embed": (8, 0, 1),
        "stages.1.embed": (12, 1, 2),
    }
    assert [site.name for site in sites[:3]] == [*STREAMS, "blocks.0"]
    for name, other in zip(STREAMS, STREAMS[::-1], strict=True):
        own = {part.parameter for part in streams[name].slices}
        assert own & {part.parameter for part in streams[other].slices} == {"merge.weight"}
    cost = total_cost(describe(two_streams).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in two_streams.parameters())
    assert cost.macs == measured_macs(two_streams, images_of(1))


@pytest.mark.parametrize("name", [*STREAMS, "blocks.1.qk", "blocks.0.v", "blocks.3.ffn", "blocks.2"])
def test_gates_in_windows_and_outside_add_up_image_by_image(two_streams, name):
    """-mean(s) is the loss change per unit of gate, whatever the split into batches."""
    images, labels = images_of(6), torch.arange(6) % 5
    site = next(s for s in find_sites(two_streams) if s.name == name)
    split = [gate_moments(two_streams, [site], batches_of(images, size), objective=LABELS) for size in (6, 4, 1)]
    for found in split[1:]:
        np.testing.assert_allclose(found.second[name], split[0].second[name], rtol=1e-9)
    assert split[0].count.tolist() == [3, 3]
    unit = site.units // 2
    wanted = gradient_of_unit(two_streams, site, unit, images, labels)
    assert split[0].first[name].sum(0)[unit] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("size", [6, 4, 1])
def test_moments_count_images_and_not_windows(two_streams, size):
    """By plain einsum over the tokens of all windows of an image."""
    images = images_of(6)
    case = case_of(two_streams, images, size)
    seen = {}

    def keep(name, module, args, out):
        seen[name] = (args[0], out)
        for tensor in seen[name]:
            if tensor.requires_grad:
                tensor.retain_grad()

    layers = {b.site: b.writer for b in case.structure.branches} | {name: name for name in case.structure.readers()}
    handles = [
        two_streams.get_submodule(n).register_forward_hook(lambda m, a, o, n=n: keep(n, m, a, o))
        for n in layers.values()
    ]
    F.cross_entropy(two_streams(images), torch.arange(6) % 5, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    for key, read in (case.moments.writers | case.moments.readers).items():
        x, out = seen[layers[key]]
        grad = (x if key in case.moments.readers else out).grad
        x, g = (t.detach().reshape(6, -1, t.shape[-1]) for t in (x, grad))
        N = x.shape[1]
        assert read.tokens == N == {"head": 1, "merge": 4}.get(key, 16 if "0." in key[:9] or "blocks.1" in key else 4)
        power = torch.einsum("bnd,bnd->n", g, g)
        weight = 0.9 * power / power.sum() * N + 0.1
        torch.testing.assert_close(read.weight, weight, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(read.gradient, torch.einsum("bnd,bne->de", g, g) / (6 * N), rtol=1e-9, atol=1e-15)
        covariance = np.cov(x.flatten(0, 1).numpy().T, aweights=weight.repeat(6).numpy(), ddof=0)
        np.testing.assert_allclose(read.covariance, covariance, atol=1e-12)
    for name, read in case.moments.logits.items():
        assert read.tokens == (16 if name in ("blocks.0.qk", "blocks.1.qk") else 4)


def test_a_streams_damage_is_that_of_its_own_readers(two_streams):
    case = case_of(two_streams, images_of(48))
    curves = curves_of(case)
    assert {name: len(curves[name].damage) for name in STREAMS} == {STREAMS[0]: 9, STREAMS[1]: 13}
    for name, stage in ((STREAMS[0], "stages.0."), (STREAMS[1], "stages.1.")):
        exit_ = "merge" if name == STREAMS[0] else "head"
        own = [read for layer, read in case.moments.readers.items() if layer.startswith(stage) or layer == exit_]
        assert len(own) == 5
        exact = sum(float(read.tokens / 2 * (read.gradient * read.covariance).sum()) for read in own)
        assert exact <= curves[name].damage[0] <= 1.01 * exact


def test_rotation_leaves_the_function(two_streams):
    images = images_of(6, seed=7)
    case = case_of(two_streams, images_of(24))
    rotated = case.rotated()
    with torch.no_grad():
        torch.testing.assert_close(rotated.model(images), two_streams(images), rtol=1e-10, atol=1e-10)
    fresh = measured(rotated.model, batches_of(images_of(24)))
    for name, read in fresh.moments.logits.items():
        torch.testing.assert_close(rotated.moments.logits[name].gradient, read.gradient, rtol=1e-7, atol=1e-10)


def test_refit_of_a_network_that_keeps_everything_leaves_the_function(two_streams):
    case, images = case_of(two_streams, images_of(48)), images_of(6, seed=7)
    same = refitted(case, {site.name: np.arange(site.units) for site in case.sites}, images=64, size=16)
    with torch.no_grad():
        torch.testing.assert_close(same(images), two_streams(images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "narrow",
    [("qk", "v", "ffn"), STREAMS[:1], STREAMS[1:], STREAMS, ("v", "ffn", *STREAMS)],
    ids=["inside", "first stream", "second stream", "both streams", "streams and inside"],
)
def test_refit_brings_the_output_nearer_to_the_sources(two_streams, narrow):
    case = case_of(two_streams, images_of(64), 16).rotated()
    curves, images = curves_of(case), images_of(48, seed=7)
    keep = {
        site.name: halves(case, curves, site.axis)[site.name]
        for site in case.sites
        if site.name in narrow or site.axis in narrow
    }
    plain = error(cut(case.model, case.sites, keep), case.model, images)
    assert error(refitted(case, keep, images=64, size=16), case.model, images) < 0.8 * plain


@pytest.mark.parametrize("gone", [[0], [1], [2], [3], [1, 2], [0, 1]])
def test_blocks_that_go_from_either_stream_are_stood_in_for(two_streams, gone):
    case, images = case_of(two_streams, images_of(64), 16), images_of(48, seed=7)
    keep = {f"blocks.{i}": np.arange(0) for i in gone}
    for more in ({}, {STREAMS[0]: np.arange(0, 8, 2)}, {STREAMS[1]: np.arange(0, 12, 2)}):
        plain = error(cut(case.model, case.sites, keep | more), case.model, images)
        assert error(refitted(case, keep | more, images=64, size=16), case.model, images) < 0.8 * plain, more


def test_a_whole_stage_that_goes_has_no_writer_to_stand_in_for_it(two_streams):
    case, images = case_of(two_streams, images_of(64), 16), images_of(48, seed=7)
    keep = {"blocks.2": np.arange(0), "blocks.3": np.arange(0)}
    plain = error(cut(case.model, case.sites, keep), case.model, images)
    assert error(refitted(case, keep, images=64, size=16), case.model, images) == pytest.approx(plain)


def test_the_mean_of_each_stream_is_the_sources_behind_its_last_writer(two_streams):
    case = case_of(two_streams, images_of(24)).rotated()
    keep = {STREAMS[0]: np.arange(0, 8, 2), STREAMS[1]: np.arange(0, 12, 2), "blocks.2": np.arange(0)}
    pruned = refitted(case, keep, images=24, size=16, weights=False)
    ends = []
    with torch.no_grad():
        for model in (case.model, pruned):
            x = images_of(24)
            branches = list(describe(model).branches)
            for name in STREAMS:
                x = stream_input(model, name, x)
                for branch in branches:
                    if branch.stream == name:
                        x = x + branch_output(model, branch, x)
                ends.append(x.mean((0, 1)))
            torch.testing.assert_close(head_output(model, x), model(images_of(24)))
    for source, mine, name in zip(ends[:2], ends[2:], STREAMS, strict=True):
        assert (source[keep[name]] - mine).abs().max() < 1e-9, name


def test_cut_equals_mask_in_windows(two_streams):
    sites, images = find_sites(two_streams), images_of(3)
    for site in sites:
        if site.axis in INNER:
            units = np.concatenate([g * site.width + np.arange(1, site.width) for g in range(site.groups)])
            with torch.no_grad(), masked(two_streams, site, set(range(site.units)) - set(units.tolist())):
                expected = two_streams(images)
            torch.testing.assert_close(cut(two_streams, sites, {site.name: units})(images), expected)


def test_a_width_that_is_no_multiple_is_refused(two_streams):
    sites = find_sites(two_streams)
    with pytest.raises(InputError, match=r"stages\.1\.embed: 7 units are kept; the width must be a multiple of 2"):
        cut(two_streams, sites, {"stages.1.embed": np.arange(7)})
    cut(two_streams, sites, {"stages.0.embed": np.arange(7), "stages.1.embed": np.arange(6)})
