"""Sites between convolutions: depthwise, grouped, behind batch norms; and several of one axis in a block."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from support.convs import HIDDEN, NORM, describe
from support.moments import batches_of, curves_of, gradient_of_unit, images_of, measured

from prune_realloc.checkpoints.save import weights_file
from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Gate, Site, Slice
from prune_realloc.pruning.cut import cut, cut_to_widths
from prune_realloc.pruning.gates import activation_variances, gate_moments
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.scorers import weight_scores
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.pruning.units import units_of
from prune_realloc.runtime.networks import measured_macs

INNER = ["blocks.0.hidden", "blocks.1.hidden", "blocks.1.hidden.1", "blocks.2.ffn", "blocks.2.ffn.1"]


def some_units(site):
    """Other ones in each group, two fewer than there are."""
    return np.concatenate(
        [g * site.width + np.delete(np.arange(site.width), [1 + g, 4 + 2 * g]) for g in range(site.groups)]
    )


def masked_output(model, site, keep, images):
    with torch.no_grad(), masked(model, site, set(range(site.units)) - set(keep.tolist())):
        return model(images)


def test_every_site_is_found_and_costs_what_is_counted(convs):
    sites = find_sites(convs)
    assert [site.name for site in sites if site.axis not in ("embed", "block")] == INNER
    cost = total_cost(describe(convs).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in convs.parameters())
    assert cost.macs == measured_macs(convs, images_of(1))


@pytest.mark.parametrize("name", INNER)
def test_cut_equals_mask(convs, name):
    sites, images = find_sites(convs), images_of(3)
    site = next(site for site in sites if site.name == name)
    keep = some_units(site)
    expected = masked_output(convs, site, keep, images)
    smaller = cut(convs, sites, {name: keep})
    with torch.no_grad():
        torch.testing.assert_close(smaller(images), expected)
        assert not torch.allclose(expected, convs(images))


def test_a_cut_of_everything_costs_what_the_formula_says_and_is_a_network_again(convs):
    sites = find_sites(convs)
    keep = {site.name: some_units(site) for site in sites if site.axis != "block"}
    smaller = cut(convs, sites, keep)
    left = {site.name: len(keep[site.name]) // site.groups if site.name in keep else 1 for site in sites}
    cost = total_cost(describe(convs).terms, left)
    assert cost.params == sum(p.numel() for p in smaller.parameters())
    assert cost.macs == measured_macs(smaller, images_of(1))
    assert widths(find_sites(smaller)) == left
    found = units_of(sites, keep, {})
    assert {name: found[name].source for name in INNER} == {name: name for name in INNER}
    assert found["blocks.1.hidden.1"].index.tolist() == keep["blocks.1.hidden.1"].tolist()


def test_layers_know_how_many_channels_are_left(convs):
    sites = {site.name: site for site in find_sites(convs)}
    keep = {name: some_units(sites[name]) for name in INNER}
    smaller = cut(convs, sites.values(), keep)
    depthwise, grouped = smaller.blocks[0].depthwise, smaller.blocks[1].grouped
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == HIDDEN - 2
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (2, HIDDEN - 4, HIDDEN - 4)
    assert smaller.blocks[0].bn1.num_features == HIDDEN - 2


def test_buffers_are_cut_with_the_weights_and_the_source_keeps_its_own(convs):
    before = {name: tensor.clone() for name, tensor in convs.state_dict().items()}
    keep = {"blocks.0.hidden": np.array([0, 3, 4, 9]), "embed": np.arange(0, 16, 3)}
    smaller = cut(convs, find_sites(convs), keep)
    for part in NORM:
        for norm, site in (("bn1", "blocks.0.hidden"), ("bn2", "blocks.0.hidden"), ("bn3", "embed")):
            name = f"blocks.0.{norm}.{part}"
            assert torch.equal(smaller.state_dict()[name], before[name][keep[site]]), name
    assert [name for name, _ in smaller.named_buffers()] == [name for name, _ in convs.named_buffers()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in convs.state_dict().items())


def test_a_cut_network_is_loaded_into_one_of_its_widths(convs):
    sites = find_sites(convs)
    smaller = cut(convs, sites, {site.name: some_units(site) for site in sites if site.axis != "block"})
    again = cut_to_widths(convs, widths(find_sites(smaller)))
    again.load_state_dict(safetensors.torch.load(weights_file(smaller)))
    assert torch.equal(again(images_of(2)), smaller(images_of(2)))


def test_what_a_batch_norm_keeps_is_no_weight(convs):
    sites = find_sites(convs)
    before = weight_scores("magnitude", convs, sites)
    convs.blocks[0].bn1.running_mean += 5
    convs.blocks[0].bn2.running_var += 5
    after = weight_scores("magnitude", convs, sites)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    unit, block = 7, convs.blocks[0]
    weights = [
        block.expand.weight[unit],
        block.depthwise.weight[unit],
        block.se.fc2.weight[unit],
        block.se.fc2.bias[unit],
    ]
    weights += [getattr(norm, part)[unit] for norm in (block.bn1, block.bn2) for part in ("weight", "bias")]
    weights += [layer.weight[:, unit] for layer in (block.se.fc1, block.project)]
    assert before["blocks.0.hidden"][unit] == pytest.approx(
        float(sum(p.detach().square().sum() for p in weights)) ** 0.5
    )


def test_a_slice_outside_its_buffer_is_our_own_mistake(convs):
    convs.blocks[0].bn1.running_mean = convs.blocks[0].bn1.running_mean[:-1]
    with pytest.raises(AssertionError, match=r"blocks\.0\.bn1\.running_mean"):
        find_sites(convs)


def test_groups_of_unequal_width_are_refused(convs):
    units = np.delete(np.arange(HIDDEN), [0, 1])
    with pytest.raises(InputError, match=r"blocks\.1\.hidden\.1: the kept groups differ in width \(\[14, 16\]\)"):
        cut(convs, find_sites(convs), {"blocks.1.hidden.1": units})


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_block_goes_whatever_its_sites(convs, gone):
    sites, images = find_sites(convs), images_of(2)
    smaller = cut(convs, sites, {f"blocks.{gone}": np.arange(0)})
    whole = next(site for site in sites if site.name == f"blocks.{gone}")
    torch.testing.assert_close(smaller(images), masked_output(convs, whole, np.arange(0), images))
    assert len({site.block for site in find_sites(smaller)} - {None}) == 2


def test_units_may_lie_in_some_slices_and_pass_some_gates_only(convs):
    """Both FFNs of a block as one site: its first 32 units lie in one, its last 48 in the other."""
    sites = {site.name: site for site in find_sites(convs)}
    first, second = sites["blocks.2.ffn"], sites["blocks.2.ffn.1"]
    numbers = {first.name: np.arange(32), second.name: 32 + np.arange(48)}
    parts = [dataclasses.replace(part, units=numbers[one.name]) for one in (first, second) for part in one.slices]
    gates = [dataclasses.replace(gate, units=numbers[one.name]) for one in (first, second) for gate in one.gates]
    both = Site("ffn", 2, 80, tuple(parts), tuple(gates))
    keep = np.delete(np.arange(80), [3, 31, 32, 50, 79])
    smaller = cut(convs, [both], {"blocks.2.ffn": keep})
    images = images_of(2)
    assert [len(ffn.fc1.weight) for ffn in smaller.blocks[2].ffns] == [30, 45]
    torch.testing.assert_close(smaller(images), masked_output(convs, both, keep, images))


@pytest.mark.parametrize("name", [*INNER, "blocks.0", "embed"])
def test_gates_of_feature_maps_are_scored_image_by_image(convs, name):
    """-mean(s) is the loss change per unit of gate."""
    images, labels = images_of(6), torch.arange(6) % 5
    site = next(site for site in find_sites(convs) if site.name == name)
    found = [gate_moments(convs, [site], batches_of(images, size), objective=LABELS) for size in (6, 4)]
    np.testing.assert_allclose(found[1].second[name], found[0].second[name], rtol=1e-9)
    unit = site.units // 2
    wanted = gradient_of_unit(convs, site, unit, images, labels)
    assert found[0].first[name].sum(0)[unit] == pytest.approx(wanted, rel=1e-9)


def test_a_gate_of_pooled_features_has_one_token(convs):
    """The classifier reads (B, C)."""
    site = Site("embed", None, 16, (Slice("head.weight", 1, np.arange(16)[:, None]),), (_head_gate(),))
    images, labels, seen = images_of(6), torch.arange(6) % 5, []
    handle = convs.head.register_forward_pre_hook(
        lambda _, x: seen.append(x[0].detach().requires_grad_()) or (seen[0],)
    )
    F.cross_entropy(convs(images), labels, reduction="sum").backward()
    handle.remove()
    expected = (seen[0].detach() * seen[0].grad).sum(0)
    found = gate_moments(convs, [site], batches_of(images, 4), objective=LABELS)
    np.testing.assert_allclose(found.first["embed"].sum(0), expected.numpy(), rtol=1e-9)
    variances = activation_variances(convs, [site], batches_of(images, 4))["embed"]
    np.testing.assert_allclose(variances[1], seen[0].detach()[1::2].var(0, correction=0).numpy(), rtol=1e-9)


def _head_gate():
    return Gate("head", "input", np.arange(16)[:, None])


def test_sites_that_no_branch_writes_are_known_by_their_scores(convs):
    case = measured(convs, batches_of(images_of(24)))
    curves = curves_of(case)
    assert list(curves) == [site.name for site in case.sites]
    by_score = curves["blocks.0.hidden"]  # scores rise from unit to unit
    assert by_score.order[0].tolist() == list(range(HIDDEN))[::-1]
    assert by_score.damage[:2].tolist() == [sum(range(HIDDEN)), sum(range(HIDDEN - 1))]
    for block, names in enumerate((INNER[:1], INNER[1:3], INNER[3:])):
        assert curves[f"blocks.{block}"].damage[0] == pytest.approx(sum(curves[name].damage[0] for name in names))
    assert curves["blocks.2.ffn"].damage[0] != curves["blocks.2.ffn.1"].damage[0]
