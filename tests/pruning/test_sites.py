import pytest
import torch
from support.networks import VARIANTS, build
from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs


@pytest.mark.parametrize("variant", VARIANTS)
def test_formula_equals_parameters_and_flop_counter(variant, images_BCHW):
    model = build(variant)
    sites = find_sites(model)
    cost = total_cost(family_of(model).describe(model).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.macs == measured_macs(model, images_BCHW[:1])


def test_sites_of_another_class_count_and_input_shape(images_BCHW):
    model = build(in_chans=1, img_size=(16, 32), patch_size=8, num_classes=2)
    cost = total_cost(family_of(model).describe(model).terms, widths(find_sites(model)))
    assert cost.macs == measured_macs(model, images_BCHW[:1, :1, :16])


def test_undeclared_parameter_is_an_error_with_its_name(tiny_vit):
    tiny_vit.surprise = nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match="surprise"):
        find_sites(tiny_vit)
