"""Which units of the source the units of a result are, and what follows them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.moments import case_of
from support.networks import VARIANTS, build
from support.standard_attention import encoder
from support.wrapped import segmenter

from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.follow import follow, follow_parameters
from prune_realloc.pruning.rotate import rotated
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.pruning.units import Units, read_units, units_file, units_of


def some_of(sites, axes, seed=0):
    """Drawn units of every site of these axes: as many in each head, all heads but one, the first block away."""
    draw = np.random.default_rng(seed)
    keep = {}
    for site in sites:
        if site.axis == "block":
            if "block" in axes and site.block == 0:
                keep[site.name] = np.arange(0)
        elif site.axis in axes:
            width = site.width - (1 if site.axis == "heads" else site.width // 3)
            picked = [g * site.width + draw.permutation(site.width)[:width] for g in range(site.groups)]
            keep[site.name] = np.sort(np.concatenate(picked))
    return keep


def slices_of(result, source):
    """Slices of two sites that belong together: of a stream those outside the blocks, of a whole block none."""
    if source.axis == "block":
        return []
    parts = [
        sorted((p for p in site.slices if site.block is not None or not p.parameter.startswith("blocks.")), key=place)
        for site in (result, source)
    ]
    return list(zip(*parts, strict=True))


def place(part):
    return part.parameter, part.dim


@pytest.mark.parametrize("axes", [("ffn",), ("qk", "v", "heads"), ("embed", "qk", "v", "ffn", "heads", "block")])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_units_of_the_result_are_slices_of_the_sources_weights(variant, axes):
    model = build(variant)
    sites = {site.name: site for site in find_sites(model)}
    keep = some_of(sites.values(), axes)
    smaller = cut(model, list(sites.values()), keep)
    units = units_of(list(sites.values()), keep, {})
    results = {site.name: site for site in find_sites(smaller)}
    assert {name: len(each.index) // results[name].groups for name, each in units.items()} == widths(results.values())
    for name, each in units.items():
        assert each.basis == "source"
        assert each.of == sites[each.source].units
        for after, before in slices_of(results[name], sites[each.source]):
            assert after.dim == before.dim
            new = smaller.get_parameter(after.parameter).movedim(after.dim, 0)
            old = model.get_parameter(before.parameter).movedim(before.dim, 0)
            mine, theirs = new[after.index.ravel()], old[before.index[each.index].ravel()]
            if mine.shape == theirs.shape:  # nothing else went from these rows
                assert torch.equal(mine, theirs), (name, after.parameter)
            else:
                assert set(mine.flatten().tolist()) <= set(theirs.flatten().tolist()), (name, after.parameter)


def test_blocks_behind_one_that_went_say_where_they_were():
    model = build()
    sites = find_sites(model)
    units = units_of(sites, {"blocks.0": np.arange(0)}, {})
    assert units["blocks.0.ffn"].source == "blocks.1.ffn"
    assert "blocks.1.ffn" not in units
    assert units["embed"].source == "embed"


def test_units_of_heads_that_went_are_gone():
    sites = find_sites(build())
    units = units_of(sites, {"blocks.0.heads": np.array([0, 2])}, {})
    assert units["blocks.0.v"].index.tolist() == [*range(16), *range(32, 48)]
    assert units["blocks.0.heads"].index.tolist() == [0, 2]
    assert len(units["blocks.1.v"].index) == 48


def test_rotated_units_come_with_the_mixture_of_each_head():
    """Rows of the result = mixture @ rows of the source, of the units that stayed."""
    case = case_of("plain")
    turned = rotated(case.model, case.structure, case.moments)
    keep = some_of(case.sites, ("qk", "v", "ffn"))
    units = units_of(case.sites, keep, turned.bases)
    smaller = cut(turned.network, case.sites, keep)
    assert {name for name, each in units.items() if each.basis == "rotated"} == set(turned.bases)
    each = units["blocks.0.qk"]
    rows = case.model.blocks[0].attn.qkv.weight[:96].detach().double()
    found = smaller.blocks[0].attn.qkv.weight[: 2 * len(each.index)].detach().double()
    for side, matrices in enumerate(each.rotation):
        source = rows[48 * side : 48 * side + 48].reshape(3, 16, -1)
        mixed = (torch.as_tensor(matrices) @ source).reshape(48, -1)[each.index]
        torch.testing.assert_close(found[side * len(each.index) :][: len(each.index)], mixed)


def test_the_file_reads_back():
    case = case_of("plain")
    turned = rotated(case.model, case.structure, case.moments)
    units = units_of(case.sites, some_of(case.sites, ("qk", "ffn")), turned.bases)
    again = read_units(units_file(units))
    assert again.keys() == units.keys()
    for name, each in units.items():
        assert (again[name].source, again[name].of, again[name].basis) == (each.source, each.of, each.basis)
        assert again[name].index.tolist() == each.index.tolist()
        assert again[name].rotation is None
    for broken in ("{", '{"format_version": 1}', "[]", '{"format_version": 1, "sites": {"blocks": {}}}', b"\xff"):
        with pytest.raises(InputError, match="not the content of a units"):
            read_units(broken)
    with pytest.raises(InputError, match="format_version 2"):
        read_units('{"format_version": 2}')


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"units": ["a", 2]}, r"embed\.units\.0: .*integer"),
        ({"units": [[0], [1, 2]]}, r"embed\.units\.0: .*integer"),
        ({"units": [0, 1.5]}, r"embed\.units\.1: .*integer"),
        ({"units": [0, 48]}, "from 0 to below 48; 48 is out of place"),
        ({"units": [-1, 3]}, "-1 is out of place"),
        ({"units": [3, 1]}, "3 is out of place"),
        ({"units": [1, 1]}, "1 is out of place"),
        ({"units": 3}, r"embed\.units"),
        ({"of": 2**64, "units": [2**63]}, r"embed\.of"),
        ({"of": "many"}, r"embed\.of"),
        ({"basis": "another"}, r"embed\.basis"),
        ({"source": "blocks.x.ffn"}, "'blocks.x.ffn' is no name of a site"),
    ],
    ids=str,
)
def test_a_damaged_file_is_one_line_with_the_field(damage, complaint):
    content = json.loads(units_file({"embed": Units("embed", 48, np.array([0, 47]))}))
    assert read_units(json.dumps(content))["embed"].index.tolist() == [0, 47]
    content["sites"]["embed"] |= damage
    told = rf"not the content of a units\.json \(.*{complaint}.*\); run `apply -o` again"
    with pytest.raises(InputError, match=told) as raised:
        read_units(json.dumps(content))
    assert "\n" not in str(raised.value)


def test_a_tensor_follows_the_units():
    units = Units("embed", 4, np.array([0, 2]))
    assert follow(torch.tensor([1, 2, 3, 4]), units).tolist() == [1, 3]
    assert follow(torch.arange(8).reshape(2, 4), units, dim=1).tolist() == [[0, 2], [4, 6]]
    for tensor, dim in ((torch.zeros(3), 0), (torch.zeros(2, 4), 0), (torch.zeros(4), 1)):
        with pytest.raises(InputError, match="name the dimension"):
            follow(tensor, units, dim)
    with pytest.raises(InputError, match="rotate: false"):
        follow(torch.zeros(4), Units("blocks.0.qk", 4, np.array([0, 2]), "rotated"))


@pytest.mark.parametrize("make", [build, segmenter], ids=["alone", "inside"])
def test_an_optimizers_state_follows_as_the_parameters_do(make):
    """What follows the weights themselves is the weights of what was cut."""
    net = make()
    sites = find_sites(net)
    keep = some_of(sites, ("qk", "v", "ffn", "heads") + (("embed", "block") if make is build else ()))
    smaller, units = cut(net, sites, keep), units_of(sites, keep, {})
    state = {name: 2 * p.detach() for name, p in net.named_parameters()}
    found = follow_parameters(state, net, units)
    expected = dict(smaller.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], 2 * p) for name, p in expected.items())
    some = follow_parameters({name: state[name] for name in [*state][-2:]}, net, units)
    assert [*some] == [*expected][-2:]


def test_what_belongs_to_packed_attention_follows_its_parts():
    """The names are those of the source here and of the result there; of rotated units nothing follows."""
    net = encoder()
    sites = find_sites(net)
    keep = some_of(sites, ("qk", "v", "ffn", "heads", "embed"))
    smaller, units = cut(net, sites, keep), units_of(sites, keep, {})
    state = {name: 2 * p.detach() for name, p in net.named_parameters()}
    found, expected = follow_parameters(state, net, units), dict(smaller.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], 2 * p) for name, p in expected.items())
    rotated_units = units | {"blocks.1.v": replace(units["blocks.1.v"], basis="rotated")}
    with pytest.raises(InputError, match=r"inner\.layers\.1\.self_attn\.in_proj_weight: the units of blocks\.1\.v"):
        follow_parameters(state, net, rotated_units)


def test_what_cannot_follow_is_named():
    case = case_of("plain")
    turned = rotated(case.model, case.structure, case.moments)
    units = units_of(case.sites, some_of(case.sites, ("ffn",)), turned.bases)
    state = {name: p.detach() for name, p in case.model.named_parameters()}
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.qkv\.weight: the units of blocks\.0\.v were rotated"):
        follow_parameters({"blocks.0.attn.qkv.weight": state["blocks.0.attn.qkv.weight"]}, case.model, units)
    name = "blocks.0.mlp.fc1.weight"
    assert follow_parameters({name: state[name]}, case.model, units)[name].shape == (128, 48)
    with pytest.raises(InputError, match=r"is \(192, 48\) there; give those of the source"):
        follow_parameters({name: state[name][:7]}, case.model, units)
    with pytest.raises(InputError, match="no parameter of the source"):
        follow_parameters({"nothing": state[name]}, case.model, units)
