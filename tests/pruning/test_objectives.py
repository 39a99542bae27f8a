"""What gradients are taken of: labels, draws, or a loss of the caller's."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.moments import batches_of, images_of
from support.networks import build
from support.wrapped import mask_loss, pixels_of, scenes, segmenter
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import Batch
from prune_realloc.data.own_batches import OwnBatches
from prune_realloc.pruning import objectives
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.objectives import LABELS, Draws, objective_for, own_losses
from prune_realloc.pruning.sites import find_sites


def own(loss):
    return objective_for(build(), Draws(0), labelled=False, loss=loss, slopes=True)


def given(images, size=8):
    """The labels of `batches_of`, in the batch that a loader gave."""
    return [dataclasses.replace(batch, given=(batch.images, batch.labels)) for batch in batches_of(images, size)]


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch[1], reduction="none")


def test_ones_own_cross_entropy_gives_the_scores_of_labels():
    model, images = build().double(), images_of(12)
    sites = find_sites(model)
    found = [
        gate_moments(model, sites, given(images), objective=objective) for objective in (LABELS, own(cross_entropy))
    ]
    for site in sites:
        for moment in ("first", "second"):
            values = [getattr(each, moment)[site.name] for each in found]
            np.testing.assert_allclose(values[1], values[0], rtol=1e-12, atol=1e-18, err_msg=site.name)
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-12)
    assert (found[1].right, found[1].entropy) == (None, None)


def test_one_logit_is_scored_as_the_second_of_two_whose_first_is_zero():
    one, two = build(num_classes=1).double(), build(num_classes=2).double()
    two.load_state_dict(one.state_dict() | {"head.weight": torch.zeros(2, 48), "head.bias": torch.zeros(2)})
    with torch.no_grad():
        two.head.weight[1], two.head.bias[1] = one.head.weight[0], one.head.bias[0]
    batches = [dataclasses.replace(batch, labels=batch.labels % 2) for batch in batches_of(images_of(12), 8)]
    inside = [site for site in find_sites(one) if site.axis in ("qk", "v", "ffn")]
    drawn = [objective_for(one, Draws(0), labelled=False, loss=None, slopes=slopes) for slopes in (False, True)]
    for objective in (LABELS, *drawn):
        first, second = (gate_moments(net, inside, batches, objective=objective) for net in (one, two))
        assert (first.loss, first.entropy) == pytest.approx((second.loss, second.entropy), rel=1e-12)
        assert first.right == second.right
        for site in inside:
            np.testing.assert_allclose(first.second[site.name], second.second[site.name], rtol=1e-9, atol=1e-18)


def test_another_batch_split_changes_no_score_of_ones_own_loss():
    net = segmenter()
    sites = find_sites(net)
    found = []
    for size in (8, 2):
        batches = scenes(1)
        split = [
            {"pixels": x, "mask": m}
            for x, m in zip(*(batches[0][k].split(size) for k in ("pixels", "mask")), strict=True)
        ]
        found.append(
            gate_moments(net, sites, OwnBatches(split, inputs=pixels_of, dtype=torch.float64), objective=own(mask_loss))
        )
    for site in sites:
        np.testing.assert_allclose(found[1].second[site.name], found[0].second[site.name], rtol=1e-9, atol=1e-18)


def test_draws_do_not_depend_on_how_they_are_asked_for():
    whole = torch.rand(100, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for size in (1, 7, 64):
        draws = Draws(5)
        assert torch.equal(torch.cat([draws(part) for part in torch.arange(100).split(size)]), whole)
    assert torch.equal(Draws(5)(torch.tensor([99, 3])), whole[[99, 3]])


def test_over_all_signs_gradients_have_the_second_moment_of_the_predictions_labels(monkeypatch):
    logits = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64, requires_grad=True)
    batch = Batch(torch.arange(1), torch.zeros(1, 3, 8, 8), torch.tensor([1]), ())
    objective = objective_for(build(num_classes=3), Draws(0), labelled=True, loss=None, slopes=False)
    found = torch.zeros(3, 3, dtype=torch.float64)
    for signs in itertools.product((-1, 1), repeat=3):
        monkeypatch.setattr(objectives, "_signs", lambda draw, count, signs=signs: torch.tensor(signs))
        losses = objective.judge(logits, batch)
        [gradient] = torch.autograd.grad(losses.backed().sum(), logits)
        found += gradient.T @ gradient / 8
    p = logits.detach().softmax(1)[0]
    torch.testing.assert_close(found, p.diag() - torch.outer(p, p))
    assert (objective.kind, objective.slopes, losses.right) == ("given", False, 0)
    assert float(losses.each) == pytest.approx(-math.log(p[1]))


def test_signs_belong_to_the_image():
    draws, net = Draws(0), build(num_classes=3)
    objective = objective_for(net, draws, labelled=False, loss=None, slopes=False)
    batch = Batch(torch.arange(6), torch.zeros(6, 3, 8, 8), torch.zeros(6), ())
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    whole = objective.judge(logits, batch)
    last = objective.judge(
        logits[4:], dataclasses.replace(batch, positions=torch.arange(4, 6), images=batch.images[4:])
    )
    assert torch.equal(whole.backed()[4:], last.backed())
    torch.testing.assert_close(whole.each, torch.distributions.Categorical(logits=logits).entropy())


def test_parameters_of_a_loss_keep_their_gradients():
    head = nn.Linear(5, 5).double()
    model = build().double()
    objective = own(lambda output, batch: F.cross_entropy(head(output), batch[1], reduction="none"))
    found = gate_moments(model, find_sites(model), given(images_of(4)), objective=objective)
    assert all(p.grad is None and p.requires_grad for p in [*head.parameters(), *model.parameters()])
    assert found.second["blocks.0.ffn"].any()


def no_graph(output, batch):
    return cross_entropy(output, batch).detach()


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (
            lambda out, batch: F.cross_entropy(out, batch[1]),
            r"loss returned one number for a batch of 4 .*reduction='none'",
        ),
        (lambda out, batch: out, r"a float64 tensor of shape \(4, 5\) for a batch of 4 images"),
        (lambda out, batch: cross_entropy(out, batch)[:3], r"a float64 tensor of shape \(3,\)"),
        (lambda out, batch: batch[1], r"an? int64 tensor of shape \(4,\)"),
        (lambda out, batch: 0.5, "loss returned a float"),
        (lambda out, batch: None, "loss returned a NoneType"),
        (lambda out, batch: cross_entropy(out, batch) / 0, "loss is inf for image 0"),
        (no_graph, "loss has no gradient: it does not depend on the network's output, or"),
    ],
)
def test_a_loss_that_is_none_for_each_image_is_explained(loss, complaint):
    model = build().double()
    with pytest.raises(InputError, match=complaint) as caught:
        gate_moments(model, find_sites(model), given(images_of(4)), objective=own(loss))
    assert "\n" not in str(caught.value)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_output_reaches_the_loss_as_the_network_gives_it():
    """Nested outputs, and nested batches, tensors in single precision at least."""
    seen = []

    def loss(output, batch):
        seen.append((output, batch))
        return output["heads"][0].sum(1)

    halves = {"heads": (torch.ones(2, 3, dtype=torch.bfloat16), [torch.zeros(2)]), "count": 3}
    targets = {"boxes": [torch.ones(1, 4), torch.ones(3, 4)], "names": ["a", "b"]}
    batch = Batch(torch.arange(2), torch.zeros(2, 3, 8, 8), torch.zeros(2), (), targets)
    assert own_losses(loss, halves, batch).tolist() == [3.0, 3.0]
    [(output, given)] = seen
    assert output["heads"][0].dtype == torch.float32
    assert isinstance(output["heads"][1], list)
    assert output["count"] == 3
    assert [len(boxes) for boxes in given["boxes"]] == [1, 3]
    assert given["names"] == ["a", "b"]


class Frozen(nn.Module):
    """Runs what is pruned without a graph, as training of a head alone does."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = build(), nn.Linear(5, 3)

    def forward(self, images):
        with torch.no_grad():
            features = self.inner(images)
        return self.head(features)


def test_a_frozen_backbone_is_explained():
    net = Frozen().double()
    objective = own(lambda output, batch: output.sum(1))
    with pytest.raises(InputError, match=r"under torch\.no_grad"):
        gate_moments(net, find_sites(net), given(images_of(4)), objective=objective)


def test_outputs_without_a_loss_are_projected_or_refused():
    net = segmenter()
    objective = objective_for(net, Draws(0), labelled=False, loss=None, slopes=False)
    assert objective.kind == "random projections"
    batch = Batch(torch.arange(2), torch.zeros(2, 3, 32, 32), torch.zeros(2), ())
    outputs = torch.randn(2, 2, 4, 4)
    losses = objective.judge(outputs, batch).each
    assert torch.equal(losses, objective.judge([outputs[:, :1], outputs[:, 1:]], batch).each)
    with pytest.raises(InputError, match=r"loss is missing, and the output of the network \(a str\)"):
        objective.judge("boxes", batch)
