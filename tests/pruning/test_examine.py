import numpy as np
import pytest
import torch
from support.networks import build
from torch import nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.examine import examine
from prune_realloc.pruning.scorers import SCORERS
from prune_realloc.pruning.sites import find_sites
from prune_realloc.verbs.analyze import analyze


@pytest.mark.parametrize("scorer", SCORERS)
def test_analyze_scores_every_site_and_is_reproducible(scorer):
    first, again = (analyze(data="demo", scorer=scorer, samples=16, batch_size=8, seed=3) for _ in range(2))
    assert first == again
    sites = find_sites(__import__("prune_realloc").load_model())
    assert {name: len(s) for name, s in first.scores.items()} == {s.name: s.units for s in sites}
    assert first.samples == (0 if scorer in ("magnitude", "magnitude-l1", "random") else 16)


def test_another_seed_takes_other_images():
    a, b = (analyze(samples=8, seed=seed) for seed in (0, 1))
    assert a.data["checksum"] != b.data["checksum"]
    assert a.model["weights_sha256"] == b.model["weights_sha256"]


def test_gradient_scorer_without_data_names_the_flag(tiny_vit):
    with pytest.raises(InputError, match="--data"):
        analyze(tiny_vit, scorer="fisher")
    assert analyze(tiny_vit, scorer="magnitude").data is None


def test_untrained_and_dead_networks_are_said_aloud(tiny_vit):
    fresh = build(in_chans=1, num_classes=10)
    assert any("near chance" in n or "untrained" in n for n in analyze(fresh, data="demo", samples=64).notes)
    with torch.no_grad():
        fresh.blocks[0].mlp.fc2.weight.zero_()
    assert any("blocks.0.ffn" in n for n in analyze(fresh, data="demo", samples=8).notes)
    with torch.no_grad():
        fresh.head.weight.zero_()
    with pytest.raises(InputError, match="every score is zero"):
        analyze(fresh, data="demo", samples=8)


def test_non_finite_scores_are_refused():
    broken = build(in_chans=1, num_classes=10)
    with torch.no_grad():
        broken.blocks[1].mlp.fc2.weight[0, 0] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        analyze(broken, data="demo", samples=8)


def test_missing_labels_are_noted(tiny_vit):
    notes = analyze(samples=8, scorer="taylor", labels=False).notes
    assert any("sampling noise" in note for note in notes)


def test_one_image_is_enough_for_activations():
    found = analyze(samples=1, scorer="activation")
    assert all(np.isfinite(scores).all() for scores in found.scores.values())
    assert found.stability == {}  # there is no second half to compare with


def test_multiples_are_noted_where_there_are_some(two_streams, tmp_path):
    found = analyze(two_streams, scorer="magnitude")
    assert found.multiples == {"stages.1.embed": 2}
    found.save(tmp_path)
    assert Analysis.load(tmp_path) == found
    assert analyze(build(), scorer="magnitude").multiples == {}


def test_a_network_of_which_nothing_can_be_cut_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    net.input_size = (3, 8, 8)
    with pytest.raises(InputError, match="model Sequential: nothing of it can be cut: "):
        analyze(model=net.eval(), scorer="magnitude")


@pytest.mark.parametrize("variant", ["plain", "layer_scale_no_embed_class"])
def test_the_source_stays_and_what_is_equal_is_kept_once(variant):
    net = build(variant)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = dict(examine(net, None, scorer="magnitude", seed=0).network.named_parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    apart = {name for name, p in net.named_parameters() if kept[name].data_ptr() != p.data_ptr()}
    scaled = {name.split(".")[-2] for name in before if ".ls" in name}
    writers = {"proj", "fc2"} if scaled else set()
    assert apart == {name for name in before if "blocks" in name and name.split(".")[-2] in scaled | writers}
