"""A supported network inside one of the user's: cut equals mask, refits, and what is refused."""

import numpy as np
import pytest
import torch
from support.moments import batches_of, images_of
from support.networks import build
from support.wrapped import WHERE, mask_loss, pixels_of, scenes, segmenter
from torch import nn

from prune_realloc import cut_to_widths
from prune_realloc.core.errors import InputError
from prune_realloc.data.own_batches import OwnBatches
from prune_realloc.families.host import find_host
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import kept_units
from prune_realloc.pruning.examine import examine
from prune_realloc.pruning.handed_on import check_handed_on, handed_on
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.sites import find_sites, widths


def half_of(site):
    """Every second unit; of heads, the first two."""
    return np.arange(2) if site.axis == "heads" else np.arange(0, site.units, 2)


@pytest.mark.parametrize("axis", ["heads", "qk", "v", "ffn"])
def test_cut_equals_mask_in_a_wrapped_network(axis):
    net, images = segmenter(), images_of(3)
    sites = find_sites(net)
    site = next(s for s in sites if s.axis == axis and s.block == 0)
    keep = half_of(site)
    with torch.no_grad():
        smaller = cut(net, sites, {site.name: keep})
        with masked(net.backbone.model, site, set(range(site.units)) - set(keep.tolist())):
            torch.testing.assert_close(smaller(images), net(images), rtol=1e-10, atol=1e-10)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in net.parameters())
    assert find_host(smaller).at == WHERE


def test_what_is_around_is_copied_whole():
    net = segmenter()
    smaller = cut(net, find_sites(net), {"blocks.0.ffn": np.arange(8)})
    assert smaller is not net
    assert torch.equal(smaller.head.weight, net.head.weight)
    assert smaller.head.weight is not net.head.weight
    assert net.backbone.model.blocks[0].mlp.fc1.out_features == 192


@pytest.mark.parametrize("keep", [{"embed": np.arange(24)}, {"blocks.0": np.arange(0)}])
def test_what_the_network_around_reads_stays(keep):
    net = segmenter()
    with pytest.raises(InputError, match=r"Segmenter around backbone\.model .*reads it from outside"):
        cut(net, find_sites(net), keep)


def test_a_fresh_network_takes_the_shapes_of_a_pruned_one():
    net, images = segmenter(), images_of(2)
    sites = find_sites(net)
    smaller = cut(net, sites, {site.name: half_of(site) for site in sites if site.axis in ("qk", "v", "ffn")})
    fresh = cut_to_widths(segmenter(), widths(find_sites(smaller)))
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(fresh(images), smaller(images))


def examined(net):
    batches = OwnBatches(scenes(), inputs=pixels_of, dtype=torch.float64)
    return examine(net, batches, scorer="fisher", seed=0, loss=mask_loss), batches


def test_rotation_and_folding_leave_the_function_of_the_whole():
    net, images = segmenter(), images_of(3, seed=9)
    seen, _ = examined(net)
    with torch.no_grad():
        torch.testing.assert_close(seen.network(images), net(images), rtol=1e-9, atol=1e-9)
    assert seen.analysis.model["inside"] == WHERE
    assert set(seen.bases) == {f"blocks.{block}.{axis}" for block in (0, 1) for axis in ("qk", "v")}
    assert any("what is around it is run and left as it is" in note for note in seen.analysis.notes)


def test_a_refit_inside_brings_the_output_nearer_to_the_source():
    net = segmenter()
    seen, batches = examined(net)
    planned = {
        site.name: max(1, site.width // 2) if site.axis in ("qk", "v", "ffn") else site.width for site in seen.sites
    }
    keep = kept_units(seen.curves, planned, seen.sites)
    smaller = cut(seen.network, seen.sites, keep)
    fresh = torch.cat([pixels_of(batch) for batch in scenes(seed=3)])
    with torch.no_grad():
        expected = net(fresh)
        before = (smaller(fresh) - expected).square().mean()
        refit_(smaller, seen.network, seen.sites, keep, seen.weights, batches, ridge=True)
        after = (smaller(fresh) - expected).square().mean()
    assert after < 0.5 * before
    assert torch.equal(smaller.head.weight, net.head.weight)


class Around(nn.Module):
    """Runs a supported network in some way of its own."""

    def __init__(self, run, variant="plain"):
        super().__init__()
        self.vit, self.run = build(variant), run

    def forward(self, images):
        return self.run(self.vit, images)


def with_prompt(vit, images):
    tokens = vit._pos_embed(vit.patch_embed(images))
    return vit.blocks(torch.cat([tokens, tokens[:, -1:]], 1)).mean(1)


def test_the_images_that_are_handed_on_are_seen():
    images = images_of(4)
    net = Around(lambda vit, x: vit(2 * x)).double()
    assert torch.equal(handed_on(find_host(net), images), 2 * images)
    check_handed_on(find_host(net), images)
    check_handed_on(find_host(segmenter()), images)
    alone = build().double()
    assert handed_on(find_host(alone), images) is images


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda vit, x: vit(x) + vit(x.flip(-1)), r"hands on \(4, 3, 32, 32\), \(4, 3, 32, 32\) for images of shape"),
        (lambda vit, x: vit(torch.cat([x, x])), r"hands on \(8, 3, 32, 32\) for .* must hand on each image once"),
        (lambda vit, x: x.mean((1, 2, 3)), "hands on nothing"),
        (with_prompt, "does not run all blocks once, in order and on the images alone"),
        (lambda vit, x: vit.forward_intermediates(x, indices=[0], stop_early=True)[0], "does not run all blocks once"),
        (lambda vit, x: vit(x, attn_mask=torch.eye(17, dtype=torch.bool)), "tokens or masks of its own"),
    ],
)
def test_what_is_run_in_another_way_is_refused(run, complaint):
    net = Around(run).double()
    with pytest.raises(InputError, match=complaint) as caught:
        check_handed_on(find_host(net), images_of(4))
    assert "\n" not in str(caught.value)


def test_blocks_that_nothing_reads_are_refused():
    net = Around(lambda vit, x: vit.forward_intermediates(x, indices=[0], intermediates_only=True)[0].mean((2, 3)))
    with pytest.raises(InputError, match=r"no gradient of the loss reaches blocks\.1\.attn\.proj"):
        examine(
            net.double(),
            OwnBatches([b.images for b in batches_of(images_of(8))], dtype=torch.float64),
            scorer="fisher",
            seed=0,
        )
