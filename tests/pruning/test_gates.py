import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import TINY, VARIANTS, build

from prune_realloc.core.intervals import rank_correlation
from prune_realloc.core.structure import Gate, Site
from prune_realloc.data.batches import Batch
from prune_realloc.pruning.gates import activation_variances, gate_moments
from prune_realloc.pruning.objectives import LABELS, objective_for
from prune_realloc.pruning.scorers import gradient_scores
from prune_realloc.pruning.sites import find_sites


def batches_of(images, labels, size):
    positions = torch.arange(len(images))
    return [
        Batch(*parts, checksums=())
        for parts in zip(positions.split(size), images.split(size), labels.split(size), strict=True)
    ]


def moments_of(model, images, size=6, labelled=True, amp=False):
    labels = torch.arange(len(images)) % TINY["num_classes"]
    draws = torch.linspace(0.05, 0.95, len(images), dtype=torch.float64)
    objective = objective_for(model, draws.__getitem__, labelled=labelled, loss=None, slopes=True)
    return gate_moments(model, find_sites(model), batches_of(images, labels, size), objective=objective, amp=amp)


def weight_gradients(model, image, label):
    """Gradient of one image's loss at every parameter, by plain autograd."""
    model.zero_grad()
    F.cross_entropy(model(image[None]), torch.tensor([label])).backward()
    products = {name: (p * p.grad).detach().double() for name, p in model.named_parameters()}
    model.zero_grad()
    return products


def test_gates_equal_gradient_times_weight(tiny_vit, images_BCHW):
    """Per image: summed over what leaves the unit, gradient x weight is gradient x activation at its gate."""
    sums = {site.name: np.zeros((2, site.units)) for site in find_sites(tiny_vit)}
    squares = {name: np.zeros_like(total) for name, total in sums.items()}
    for b, image in enumerate(images_BCHW):
        g = weight_gradients(tiny_vit, image, b % 5)
        per_image = {
            "embed": g["cls_token"].sum((0, 1))
            + g["pos_embed"].sum((0, 1))
            + g["patch_embed.proj.bias"]
            + g["patch_embed.proj.weight"].sum((1, 2, 3))
        }
        for i in (0, 1):
            block = f"blocks.{i}."
            q = g[block + "attn.qkv.weight"][:48].sum(1) + g[block + "attn.qkv.bias"][:48]
            v = g[block + "attn.proj.weight"].sum(0)
            per_image |= {
                block + "qk": q,
                block + "v": v,
                block + "heads": v.reshape(3, 16).sum(1),
                block + "ffn": g[block + "mlp.fc2.weight"].sum(0),
            }
            written = [
                g[f"{block}{writer}.weight"].sum(1) + g[f"{block}{writer}.bias"] for writer in ("attn.proj", "mlp.fc2")
            ]
            per_image["embed"] = per_image["embed"] + written[0] + written[1]
            per_image[block.rstrip(".")] = (written[0] + written[1]).sum()[None]
        # the position of the class token is added to it: both are written once
        for name, s in per_image.items():
            sums[name][b % 2] += s.numpy()
            squares[name][b % 2] += s.numpy() ** 2
    moments = moments_of(tiny_vit, images_BCHW)
    for name in sums:
        np.testing.assert_allclose(moments.first[name], sums[name], rtol=2e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(moments.second[name], squares[name], rtol=4e-3, atol=1e-6, err_msg=name)
    assert moments.count.tolist() == [3, 3]


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"attention_pool"}))
def test_gates_equal_the_slope_of_fading_a_unit_out(variant, images_BCHW):
    """-mean(s) is the loss change per unit of gate, measured by a small step of the mask itself."""
    model = build(variant).double()
    images, labels = images_BCHW.double(), torch.arange(6) % 5
    sites = find_sites(model)
    moments = gate_moments(model, sites, batches_of(images, labels, 6), objective=LABELS)
    for site in (s for s in sites if s.block in (None, 1)):
        unit = site.units // 2
        step = 1e-4

        def loss(scale, site=site, unit=unit):
            handles = []
            for gate in site.gates:
                factor = torch.ones(gate.index.max() + 4096, dtype=torch.float64)
                factor[torch.as_tensor(gate.index[unit])] = scale
                module = model.get_submodule(gate.module)
                if gate.side == "input":
                    handles.append(
                        module.register_forward_pre_hook(
                            lambda _, args, f=factor: (args[0] * f[: args[0].shape[-1]], *args[1:])
                        )
                    )
                else:
                    handles.append(module.register_forward_hook(lambda _, __, out, f=factor: out * f[: out.shape[-1]]))
            with torch.no_grad():
                value = F.cross_entropy(model(images), labels)
            for handle in handles:
                handle.remove()
            return float(value)

        slope = (loss(1 + step) - loss(1 - step)) / (2 * step)
        mean = moments.first[site.name].sum(0)[unit] / 6
        assert mean == pytest.approx(slope, rel=1e-5, abs=1e-6), (variant, site.name)


class Direct(torch.nn.Module):
    """Two layers that read their stream without a norm before them: x + a(x) + b(x), summed."""

    input_size, num_classes = (3, 1, 1), 2

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 2, 1), torch.nn.Conv2d(2, 2, 1)

    def forward(self, images):
        x = self.stem(images)
        return (x + self.a(x) + self.b(x)).flatten(1)


def test_a_layer_that_reads_the_stream_itself_counts_only_what_goes_through_it():
    """By hand: where the loss is the sum of all outputs, weight column sums times the activation."""
    torch.manual_seed(0)
    net, image = Direct(), torch.randn(1, 3, 1, 1)
    gates = tuple(Gate(name, "input", np.arange(2)[:, None], 1) for name in "ab")
    objective = objective_for(net, lambda _: None, labelled=False, loss=lambda out, batch: out.sum(1), slopes=True)
    batch = Batch(torch.arange(1), image, None, ())
    first = gate_moments(net, [Site("embed", None, 2, (), gates)], [batch], objective=objective).first["embed"].sum(0)
    columns = sum(layer.weight[:, :, 0, 0].sum(0) for layer in (net.a, net.b))
    np.testing.assert_allclose(first, (columns * net.stem(image).flatten()).detach(), rtol=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("size", [1, 4])
def test_another_batch_split_changes_no_score(tiny_vit, images_BCHW, size, labelled):
    whole, split = (moments_of(tiny_vit, images_BCHW, s, labelled) for s in (6, size))
    for name in whole.first:
        np.testing.assert_allclose(split.first[name], whole.first[name], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(split.second[name], whole.second[name], rtol=1e-3, atol=1e-6)
    sites, labels = find_sites(tiny_vit), torch.zeros(6)
    variances = [activation_variances(tiny_vit, sites, batches_of(images_BCHW, labels, s)) for s in (6, size)]
    for name in variances[0]:
        np.testing.assert_allclose(variances[1][name], variances[0][name], rtol=1e-5)


def test_activation_variance_by_other_arithmetic(tiny_vit, images_BCHW):
    seen = []
    with torch.no_grad():
        handle = tiny_vit.blocks[1].mlp.fc2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        tiny_vit(images_BCHW)
        handle.remove()
    variance = activation_variances(tiny_vit, find_sites(tiny_vit), batches_of(images_BCHW, torch.zeros(6), 6))
    expected = [seen[0][half::2].double().flatten(0, 1).var(0, correction=0).numpy() for half in (0, 1)]
    np.testing.assert_allclose(variance["blocks.1.ffn"], expected, rtol=1e-9)


def test_the_model_is_left_as_it_was(tiny_vit, images_BCHW):
    tiny_vit.blocks[0].requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad) for name, p in tiny_vit.named_parameters()}
    scores = moments_of(tiny_vit, images_BCHW)
    for name, p in tiny_vit.named_parameters():
        assert torch.equal(p, before[name][0])
        assert p.requires_grad == before[name][1]
        assert p.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_vit.modules())
    # a frozen network is scored like any other
    assert np.array_equal(scores.first["blocks.0.ffn"], moments_of(build(), images_BCHW).first["blocks.0.ffn"])


def test_a_failure_leaves_no_hooks(tiny_vit):
    with pytest.raises(RuntimeError):
        moments_of(tiny_vit, torch.zeros(2, 5, 32, 32))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_vit.modules())
    assert all(p.requires_grad for p in tiny_vit.parameters())


def test_amp_stays_close(tiny_vit, images_BCHW):
    full, half = moments_of(tiny_vit, images_BCHW), moments_of(tiny_vit, images_BCHW, amp=True)
    for name in full.second:
        if full.second[name].shape[1] == 1:  # a whole block has no rank
            np.testing.assert_allclose(half.second[name], full.second[name], rtol=0.1)
            continue
        assert rank_correlation(full.second[name].sum(0), half.second[name].sum(0)) > 0.8, name


def test_drawn_labels_follow_the_models_prediction(tiny_vit, images_BCHW):
    """The mean loss over drawn labels is the entropy of the prediction, up to sampling noise."""
    images = images_BCHW[:1].expand(4096, -1, -1, -1)
    draws = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    batches = batches_of(images, torch.full((4096,), -1), 1024)
    objective = objective_for(tiny_vit, draws.__getitem__, labelled=False, loss=None, slopes=True)
    moments = gate_moments(tiny_vit, find_sites(tiny_vit)[-1:], batches, objective=objective)
    assert moments.loss == pytest.approx(moments.entropy, abs=5e-3)


def test_features_are_scored_without_a_classifier(images_BCHW):
    model = build(num_classes=0)
    moments = moments_of(model, images_BCHW, labelled=False)
    scores = gradient_scores("fisher", moments, labelled=False)
    assert all((s > 0).all() for s in scores.values())
    assert moments.entropy is None
