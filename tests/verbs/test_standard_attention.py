"""Networks around PyTorch's attention, from their analysis to a smaller one that is loaded again."""

import pytest
import torch
from support.standard_attention import encoder, torchvisions

from prune_realloc import analyze, apply, build_recipe, cut_to_widths, plan


@pytest.fixture(params=[torchvisions, encoder], ids=["torchvision", "encoder"])
def make(request):
    return request.param


def test_a_network_in_memory_is_cut_to_half_and_loads_into_a_fresh_one(make, tmp_path):
    net, numbers = make(), torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 32, 32, generator=numbers), torch.randint(10, (64,), generator=numbers)
    batches = list(zip(images.split(16), labels.split(16), strict=True))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = analyze(net, batches=batches)
    assert not any("left whole" in note or "not refitted" in note for note in found.notes)
    recipe = build_recipe(
        {"budget": {"keep_macs": 0.5}, "rules": {axis: {"round_to": 1} for axis in ("qk", "v", "ffn")}}
    )
    recipe = recipe.model_copy(update={"plan": plan(found, recipe)})
    done = apply(recipe, model=net, batches=batches, timed=False)
    assert done.cost.macs / done.source_cost.macs == pytest.approx(0.5, rel=0.01)
    assert isinstance(done.network, type(net))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    torch.save(done.network.state_dict(), tmp_path / "smaller.pth")
    widths = {name: site.width for name, site in done.recipe.plan.sites.items()}
    fresh = cut_to_widths(make(), widths)
    fresh.load_state_dict(torch.load(tmp_path / "smaller.pth"))
    with torch.no_grad():
        torch.testing.assert_close(fresh(images), done.network(images))
