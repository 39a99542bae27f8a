"""The network: timm's and the paper's where the configuration is theirs, its own formulas everywhere."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.efficientvit import SMALL, images, small, stock_and_ours
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys, to_flex_weights
from prune_realloc.runtime.networks import measured_macs


@pytest.mark.parametrize("name", SIZES)
def test_stock_sizes_compute_what_timm_computes(name):
    stock, ours = stock_and_ours(name)
    x = images(size=224)
    with torch.no_grad():
        expected = stock(x)
        found, fused = ours(x), ours.fuse()(x)
    largest = expected.abs().max()
    assert (found - expected).abs().max() / largest < 1e-5
    assert (fused - expected).abs().max() / largest < 1e-4


@pytest.mark.parametrize("name", SIZES)
def test_stock_sizes_train_as_timm_trains(name):
    # in double precision: batch statistics of four images make single precision's rounding errors large
    stock, ours = (net.train().double() for net in stock_and_ours(name))
    x, labels = images(4, 224).double(), torch.tensor([3, 1, 4, 1])
    losses = [F.cross_entropy(net(x), labels) for net in (stock, ours)]
    for loss in losses:
        loss.backward()
    expected = to_flex_keys({name: p.grad for name, p in stock.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    assert expected.keys() == found.keys()
    difference = torch.cat([(expected[name] - found[name]).flatten() for name in expected]).norm()
    assert difference / torch.cat([g.flatten() for g in expected.values()]).norm() < 1e-4
    statistics = to_flex_keys({n: b for n, b in stock.named_buffers() if "running" in n})
    for name, buffer in ours.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, statistics[name], rtol=1e-4, atol=1e-5)


def test_with_distillation_evaluation_is_the_mean_of_both():
    net, x = small(distillation=True), images()
    pooled = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(net(x), (net.head(pooled) + net.head_dist(pooled)) / 2)
    torch.testing.assert_close(net.fuse()(x), net(x), rtol=1e-4, atol=1e-4)


widths = st.integers(1, 6)


@st.composite
def configurations(draw):
    stages = draw(st.integers(1, 3))
    depth = [draw(st.integers(1, 2)) for _ in range(stages)]

    def per_block(strategy):
        each = st.one_of(strategy, st.just(None))
        entries = []
        for blocks in depth:
            one = draw(each)
            entries.append(one if one is not None else [draw(strategy) for _ in range(blocks)])
        return entries

    heads = per_block(st.integers(1, 3))
    embed = [6 * draw(widths) for _ in range(stages)]  # so that 1, 2 and 3 heads divide it
    size = draw(st.one_of(st.integers(8, 40), st.tuples(st.integers(8, 40), st.integers(8, 40))))
    return {
        "img_size": size,
        "in_chans": draw(st.integers(1, 3)),
        "num_classes": draw(st.integers(1, 4)),
        "stem_strides": draw(st.lists(st.integers(1, 2), min_size=1, max_size=3)),
        "embed_dim": embed,
        "depth": depth,
        "num_heads": heads,
        "qk_dim": per_block(widths),
        "v_dim": draw(st.one_of(st.none(), st.just(per_block(widths)))),
        "ffn_dim": draw(st.one_of(st.none(), st.just(per_block(st.integers(1, 30))))),
        "num_ffns": per_block(st.integers(0, 2)),
        "window_size": per_block(st.integers(1, 8)),
        "kernels": [draw(st.sampled_from((1, 3, 5))) for _ in range(3)],
        "merge_dim": draw(st.one_of(st.none(), st.just([draw(st.integers(1, 40)) for _ in range(stages - 1)]))),
        "merge_ffn_dim": draw(st.one_of(st.none(), st.just([[draw(widths), draw(widths)] for _ in range(stages - 1)]))),
        "distillation": draw(st.booleans()),
    }


@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(configurations())
def test_random_networks_run_and_meet_their_formulas(args):
    config = EfficientVitConfig(**args)
    net = EfficientVit(config)
    x = torch.randn(2, config.in_chans, *config.img_size)
    out = net.train()(x)
    logits = sum(out) if config.distillation else out
    assert logits.shape == (2, config.num_classes)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) == config.cost.params
    with torch.no_grad():
        assert measured_macs(net.eval(), x[:1]) == config.cost.macs
    assert EfficientVitConfig(**config.args()) == config


@pytest.mark.parametrize("args", [{}, {"v_dim": [3, 20, 16], "num_ffns": 2}, {"img_size": (56, 40)}])
def test_deploy_form_computes_the_same_and_leaves_the_network_alone(args):
    net = small(**args)
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(2, 3, *net.config.img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, fused = net(x), net.fuse()
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in fused.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_deploy_form_is_its_own_deploy_form():
    fused, x = small(num_ffns=[0, 1, 1]).fuse(), images()
    torch.testing.assert_close(fused.fuse()(x), fused(x))
    with pytest.raises(InputError, match="the deploy form has one input size"):
        fused.set_input_size(56)


@pytest.mark.parametrize("fused", [False, True])
def test_export_has_no_graph_break_and_a_free_batch(fused):
    net = small(img_size=56)
    net = net.fuse() if fused else net
    program = torch.export.export(net, (images(2, 56),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images(5, 56)), net(images(5, 56)))
    assert torch._dynamo.explain(net)(images(2, 56)).graph_break_count == 0


def test_features_and_intermediates():
    net, x = small(), images()
    last, found = net.forward_intermediates(x)
    torch.testing.assert_close(last, net.forward_features(x))
    assert [f.shape[1] for f in found] == [16, 24, 32]
    only = net.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(only[0], found[0])
    net.prune_intermediate_layers([0])
    torch.testing.assert_close(net(x), found[0])


def test_reset_classifier():
    net = small(distillation=True)
    net.reset_classifier(7)
    assert net(images()).shape == (2, 7)
    net.reset_classifier(0, "")
    assert net(images()).shape == (2, 32, 2, 2)
    with pytest.raises(InputError, match="num_classes 5 needs pooled"):
        net.reset_classifier(5)
    with pytest.raises(InputError, match="'catavgmax' doubles the features"):
        net.reset_classifier(5, "catavgmax")


def test_configuration_follows_classifier_and_stages():
    net = small()
    net.reset_classifier(9)
    assert net.config.cost.params == sum(p.numel() for p in net.parameters())
    net.prune_intermediate_layers([1])
    assert net.config.cost.params == sum(p.numel() for p in net.parameters())
    assert len(net.config.embed_dim) == 2
    net.set_input_size(56)
    assert net(images(1, 56)).shape == (1, 24, 7, 7)


def test_weight_decay_spares_the_attention_biases():
    net = small()
    spared = net.no_weight_decay()
    assert len(spared) == 4
    assert all(name.endswith("attention_biases") for name in spared)


def test_checkpointing_gives_the_same_gradients():
    plain, saving = small(), small()
    saving.set_grad_checkpointing()
    for net in (plain, saving):
        net.train()(images(4)).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_another_input_size_resizes_the_attention_biases():
    net = small()
    net.set_input_size(16)  # 4 x 4 in the first stage instead of 7 x 7
    assert net.stages[0].blocks[0].mixer.m.attn.attention_biases.shape == (2, 16)
    assert net(images(2, 16)).shape == (2, 5)
    assert net.config.cost.params == sum(p.numel() for p in net.parameters())
    narrow = EfficientVit(EfficientVitConfig(**(SMALL | {"img_size": 16})))
    narrow.load_state_dict(to_flex_weights(small().state_dict(), narrow))
    torch.testing.assert_close(narrow.eval()(images(2, 16)), net(images(2, 16)))


def test_nothing_is_stale_after_a_step_a_copy_or_a_change_of_mode():
    """timm's class keeps the expanded biases of evaluation mode: a second backward raises, a changed bias is missed."""
    net, x = small(), images()
    with torch.no_grad():
        net(x)  # timm: from here on the biases get no gradient
    for _ in range(2):
        net(x).sum().backward()
    biases = net.stages[0].blocks[0].mixer.m.attn.attention_biases
    assert biases.grad.abs().sum() > 0
    before = net(x)
    with torch.no_grad():
        biases.add_(torch.randn(biases.shape, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(net(x), before)
    torch.testing.assert_close(copy.deepcopy(net)(x), net(x))
    torch.testing.assert_close(net.train().eval()(x), net(x))
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    torch.testing.assert_close(averaged.eval()(x), net(x))


def test_meta_device_and_double_precision():
    with torch.device("meta"):
        net = EfficientVit(EfficientVitConfig(**SMALL))
    assert net(torch.empty(2, 3, 28, 28, device="meta")).shape == (2, 5)
    assert small().double()(images().double()).dtype == torch.float64
