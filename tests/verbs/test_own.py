"""analyze and apply with the caller's own network, batches, loss and measure."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.applying import QUICK
from support.networks import build
from support.wrapped import WHERE, mask_loss, pixels_of, scenes, segmenter
from torch import nn

from prune_realloc import (
    analyze,
    apply,
    build_recipe,
    cut_to_widths,
    load_pruned,
    load_recipe,
    plan,
    read_units,
    save_pruned,
)
from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.damage import damage_curves
from prune_realloc.pruning.elimination import Curve
from prune_realloc.recipe.document import Data
from prune_realloc.results.evaluate import evaluate
from prune_realloc.results.opening import Reading, open_stream

SCENES = {"batches": scenes(dtype=torch.float32), "loss": mask_loss, "inputs": pixels_of}


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch[1], reduction="none")


def small():
    """A classifier of the shipped images, of four blocks."""
    return build(in_chans=1, num_classes=10, depth=4)


def shipped_batches(net, samples=96):
    """The images that `data="demo"` means, as a loader of one's own would give them."""
    stream = open_stream(net, Data(name="demo"), Reading(batch_size=32), samples)
    return [(batch.images, batch.labels) for batch in stream]


def recipe(**more):
    return build_recipe({"budget": {"keep_macs": 0.6}} | more)


class Passing(nn.Module):
    """A wrapper that does nothing."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images)


@pytest.mark.parametrize("scorer", ["loss", "taylor"])
def test_own_batches_and_cross_entropy_are_the_built_in_path(scorer):
    net = small()
    batches = shipped_batches(net)
    built_in = analyze(net, data="demo", samples=96, scorer=scorer)
    ways = {
        "labels of the batches": analyze(net, batches=batches, scorer=scorer),
        "own loss": analyze(net, batches=batches, loss=cross_entropy, scorer=scorer),
        "own network": analyze(Passing(net), batches=batches, loss=cross_entropy, scorer=scorer),
    }
    for way, found in ways.items():
        assert (found.samples, found.unit) == (96, "nats")
        assert found.loss == pytest.approx(built_in.loss, rel=1e-6)
        for name, scores in built_in.scores.items():
            np.testing.assert_allclose(found.scores[name], scores, rtol=1e-5, atol=1e-12, err_msg=f"{way} {name}")
            np.testing.assert_allclose(found.damage[name], built_in.damage[name], rtol=1e-3, atol=1e-9)
    assert ways["labels of the batches"].top1 == built_in.top1
    taken = ways["own loss"].taken
    assert "mean" not in taken  # the batches come prepared, by whatever it was
    assert taken["images"] == {"value": 96, "origin": "the batches given", "guessed": False}
    assert taken["preprocessing"]["value"] == "as they come"


def test_labels_change_nothing_of_what_the_prediction_is_scored_by():
    net = small()
    by_labels, without = (analyze(net, data="demo", samples=64, labels=labels) for labels in (True, False))
    assert by_labels.top1 is not None
    assert without.top1 is None
    for name, scores in by_labels.scores.items():
        np.testing.assert_array_equal(scores, without.scores[name], err_msg=name)
        np.testing.assert_array_equal(by_labels.damage[name], without.damage[name], err_msg=name)


def test_drawn_labels_and_activations_are_the_built_in_path_too():
    net = small()
    batches = [images for images, _ in shipped_batches(net, 64)]
    for scorer in ("fisher", "activation"):
        built_in = analyze(net, data="demo", samples=64, labels=False, scorer=scorer)
        found = analyze(net, batches=batches, scorer=scorer)
        for name, scores in built_in.scores.items():
            np.testing.assert_allclose(found.scores[name], scores, rtol=1e-5, atol=1e-12, err_msg=name)
        assert found.data["labels"] == "the prediction"
        assert any("own prediction" in note for note in found.notes)


def test_the_same_widths_cut_the_same_network_through_a_wrapper():
    net = small()
    batches = shipped_batches(net)
    done = [
        apply(recipe(), model=model, batches=batches, loss=cross_entropy, timed=False) for model in (net, Passing(net))
    ]
    assert done[0].recipe.plan.sites == done[1].recipe.plan.sites
    expected = done[0].network.state_dict()
    for name, tensor in done[1].network.inner.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert done[0].evaluation.agreement > 0.95
    assert done[1].evaluation is None
    assert done[1].loss.achieved == pytest.approx(done[0].loss.achieved, rel=1e-4)


def test_a_segmenter_is_analysed_planned_and_cut(tmp_path):
    net = segmenter(torch.float32).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = analyze(net, **SCENES)
    found.save(tmp_path / "run")
    assert Analysis.load(tmp_path / "run") == found
    assert found.model["inside"] == WHERE
    wanted = build_recipe(found.as_recipe() | {"budget": {"keep_macs": 0.6}})
    wanted = wanted.model_copy(update={"plan": plan(found, wanted)})
    done = apply(wanted, model=net, **SCENES, out=tmp_path / "out", timed=False)
    assert done.cost.macs <= 0.6 * done.source_cost.macs
    assert done.loss.source == pytest.approx(found.loss, rel=1e-5)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert done.summary()["loss"] == {"source": done.loss.source, "achieved": done.loss.achieved}
    assert "score" not in done.summary()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model.safetensors", "recipe.yaml", "result.json", "units.json"]


def test_an_outer_network_is_rebuilt_from_its_folder(tmp_path):
    done = apply(recipe(), model=segmenter(torch.float32), **SCENES, out=tmp_path, timed=False)
    planned = load_recipe(tmp_path / "recipe.yaml").plan
    fresh = cut_to_widths(segmenter(torch.float32), {name: site.width for name, site in planned.sites.items()})
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = pixels_of(scenes(dtype=torch.float32)[0])
    assert torch.equal(fresh.eval()(images), done.network.eval()(images))


class Halves(nn.Module):
    """A block whose hidden channels go two ways, so that widths do not tell its forward pass."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        a, b = self.up(self.norm(x)).chunk(2, -1)
        return x + self.down(torch.cat([a.relu(), b.tanh()], -1))


class HalvesNetwork(nn.Module):
    """A network of one's own, which timm does not know."""

    num_classes, input_size = 10, (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 16, 14, 14), nn.Sequential(Halves(), Halves())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.norm(self.blocks(self.stem(images).flatten(2).transpose(1, 2))).mean(1))


def test_a_network_that_no_file_can_describe_is_written_and_built_again(tmp_path):
    torch.manual_seed(0)
    net, images = HalvesNetwork().eval(), torch.randn(64, 1, 28, 28)
    wanted = recipe(budget={"keep_macs": 0.8}, rules={"ffn": {"round_to": 1}})
    done = apply(wanted, model=net, batches=[images], out=tmp_path, timed=False)
    assert not (tmp_path / "config.json").exists()
    planned, units = load_recipe(tmp_path / "recipe.yaml").plan, read_units((tmp_path / "units.json").read_text())
    widths = {name: site.width for name, site in planned.sites.items()}
    fresh = cut_to_widths(HalvesNetwork(), widths, kept={each.source: each.index for each in units.values()})
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh.eval()(images), done.network.eval()(images))
    with pytest.raises(InputError, match=r"HalvesNetwork is not built by timm.*docs/own-network.md"):
        save_pruned(done.network, tmp_path / "again")


def test_what_is_left_is_told_in_python_and_in_the_folder(tmp_path):
    net = small()
    recipe_ = recipe(
        axes=["qk", "v", "ffn", "embed"], compensate={"rotate": False, "refit": False, "mean_shift": False}
    )
    done = apply(recipe_, model=net, batches=shipped_batches(net), out=tmp_path, timed=False)
    written = read_units((tmp_path / "units.json").read_text())
    assert written.keys() == done.units.keys()
    rows, channels = done.units["blocks.3.ffn"].index, done.units["embed"].index
    assert written["blocks.3.ffn"].index.tolist() == rows.tolist()
    assert torch.equal(done.network.blocks[3].mlp.fc1.weight, net.blocks[3].mlp.fc1.weight[rows][:, channels])
    assert len(load_pruned(tmp_path).blocks[3].mlp.fc1.weight) == len(rows)
    turned = apply(recipe(), model=net, batches=shipped_batches(net), timed=False)
    assert turned.units["blocks.3.qk"].basis == "rotated"
    assert turned.units["blocks.3.qk"].rotation[0].shape == (3, 16, 16)
    assert turned.units["blocks.3.ffn"].basis == "source"


@pytest.mark.parametrize("prefers", ["damage", "uniform"])
def test_the_score_decides_between_the_candidates(prefers):
    """A measure that likes FFNs of one width, or dislikes them."""
    net, judged = small(), []

    def score(network):
        assert not network.training
        assert not torch.is_grad_enabled()
        widths = {block.mlp.fc1.out_features for block in network.blocks}
        judged.append(len(widths))
        return -float(len(widths)) if prefers == "uniform" else float(len(widths))

    done = apply(recipe(), model=net, batches=shipped_batches(net), score=score, timed=False)
    assert done.recipe.allocation == prefers
    assert len(judged) == 3  # source, planned and uniform, once each
    assert done.summary()["score"] == {"source": done.score.source, "achieved": done.score.achieved}
    assert any(note.startswith("score: ") for note in done.notes)
    json.dumps(done.summary())


def test_a_plan_that_cuts_streams_unasked_is_held_against_one_that_does_not(monkeypatch):
    """Cutting the stream is foretold to be free; a measure that likes channels, or dislikes them, says what it is."""
    honest = damage_curves

    def rigged(*args, **kwargs):
        curves = honest(*args, **kwargs)
        return curves | {"embed": Curve(curves["embed"].order, 1e-9 * curves["embed"].damage)}

    monkeypatch.setattr("prune_realloc.pruning.examine.damage_curves", rigged)
    net, images = small(), [torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))]
    wide = apply(recipe(), model=net, batches=images, score=channels, timed=False)
    narrow = apply(recipe(), model=net, batches=images, score=lambda net: -channels(net), timed=False)
    assert wide.recipe.axes == ("qk", "v", "ffn")
    assert narrow.recipe.axes == ("qk", "v", "ffn", "embed")
    assert channels(wide.network) == channels(net) > channels(narrow.network)
    assert any("what was carried out is that with the streams whole" in note for note in wide.notes)


def channels(net):
    return net.head.in_features


def test_without_a_score_the_mean_loss_decides():
    net = small()
    done = apply(recipe(), model=net, batches=shipped_batches(net), loss=cross_entropy, timed=False)
    [note] = [note for note in done.notes if note.startswith("mean loss: ")]
    numbers = [float(word) for word in note.split() if word[0].isdigit()]
    assert done.loss.achieved == pytest.approx(min(numbers), rel=1e-3)


def test_a_score_is_reported_on_images_of_files_too():
    done = apply(recipe(data={"samples": 64}), score=lambda net: sum(p.numel() for p in net.parameters()), **QUICK)
    assert done.score.achieved < done.score.source == 604_938
    assert done.evaluation.top1 is not None


def test_a_batch_of_everything_is_what_the_loss_gets():
    """Targets as detection has them: a list with one dict for each image."""
    net = build(num_classes=0)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = [{"boxes": torch.rand(1 + i, 4), "labels": torch.ones(1 + i).long()} for i in range(4)]

    def loss(output, batch):
        return torch.stack(
            [(out[:4] - t["boxes"].mean(0)).square().sum() for out, t in zip(output, batch[1], strict=True)]
        )

    found = analyze(net, batches=[(images, targets)], loss=loss)
    assert found.data["labels"] == "own loss"
    assert found.loss > 0


def distance_to(teacher):
    def loss(output, batch):
        with torch.no_grad():
            goal = teacher(batch[0]).log_softmax(1)
        return F.kl_div(output.log_softmax(1), goal, log_target=True, reduction="none").sum(1)

    return loss


def test_distillation_from_another_network_is_a_loss_and_from_itself_is_explained():
    net, teacher = small(), small()
    batches = shipped_batches(net, 32)
    with torch.no_grad():
        teacher.head.bias.add_(torch.arange(10.0))
    assert analyze(net, batches=batches, loss=distance_to(teacher)).loss > 0
    with pytest.raises(InputError, match="the loss given is at its least for every image"):
        analyze(net, batches=batches, loss=lambda out, batch: (out - out.detach()).square().sum(1))


def batches_of(shape, count=4):
    return [torch.zeros(count, *shape)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"loss": cross_entropy}, "loss is for batches of your own; give batches= too"),
        ({"inputs": pixels_of}, "inputs is for batches of your own"),
        ({"batches": [], "data": "demo"}, "data.name is for images of files, and batches are given"),
        ({"batches": [], "split": "validation"}, "data.split is for images of files"),
        ({"batches": [], "class_order": "timm"}, "data.class_order is for images of files"),
        ({"batches": []}, "batches: there are none"),
        ({"batches": SCENES["batches"]}, "say where its images are: inputs="),
        ({"batches": batches_of((1, 32, 32)), "loss": 3}, "loss must be a function, got a int"),
        (
            {"batches": batches_of((3, 32, 32))},
            r"images of shape \(3, 32, 32\) do not go through the model .*takes \(1, 32",
        ),
        ({"batches": batches_of((1, 64, 64))}, "do not go through the model"),
        ({"batches": batches_of((1, 32, 32)), "scorer": "magnitude"}, "looks at no images; leave batches= out"),
        ({"batches": batches_of((1, 32, 32)), "loss": cross_entropy, "scorer": "activation"}, "looks at no loss"),
        ({"batches": [(torch.zeros(2, 1, 32, 32), torch.tensor([1, 10]))]}, "has the label 10, the model 10 classes"),
        ({"batches": batches_of((1, 32, 32)), "loss": lambda out, batch: out.mean()}, "one number for a batch of 4"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        analyze(small(), **arguments)
    assert "\n" not in str(caught.value)


class Named(HalvesNetwork):
    """Its logits lie in a dict, beside something else."""

    def forward(self, images):
        return {"logits": super().forward(images), "mean": images.mean((2, 3))}


def test_outputs_that_are_no_logits_are_refused_at_once_or_scored_as_they_are():
    torch.manual_seed(0)
    net, batches = Named().eval(), [(torch.randn(16, 1, 28, 28), torch.randint(10, (16,)))]

    def loss(out, batch):
        return cross_entropy(out["logits"], batch)

    for refused in (
        lambda: analyze(net, batches=batches),
        lambda: apply(recipe(), model=net, batches=batches, loss=loss, timed=False),
        lambda: evaluate(net, data="demo", samples=32),
    ):
        with pytest.raises(
            InputError, match=r"says num_classes, and its output is a dict, not one tensor \(B, num"
        ) as e:
            refused()
        assert "\n" not in str(e.value)
    assert analyze(net, batches=batches, loss=loss).data["labels"] == "own loss"
    net.num_classes = 0
    assert any("random projections" in note for note in analyze(net, batches=batches).notes)


def test_a_network_that_runs_its_blocks_in_another_way_is_refused_before_the_work():
    class Prompted(Passing):
        def forward(self, images):
            tokens = self.inner._pos_embed(self.inner.patch_embed(images))
            return self.inner.blocks(torch.cat([tokens, tokens[:, -1:]], 1)).mean(1)

    for scorer in ("fisher", "magnitude"):
        values = {"scorer": scorer} | ({"allocation": "per-axis"} if scorer == "magnitude" else {})
        with pytest.raises(InputError, match="does not run all blocks once"):
            apply(recipe(**values), model=Prompted(small()), batches=batches_of((1, 32, 32)), timed=False)


@pytest.mark.parametrize("scorer", ["activation", "magnitude"])
def test_scorers_that_look_at_no_loss_leave_it_for_the_measure(scorer):
    done = apply(recipe(scorer=scorer), model=segmenter(torch.float32), **SCENES, timed=False)
    assert done.loss.achieved > 0
    assert done.recipe.allocation == "per-axis"


def test_a_pruned_outer_network_is_pruned_again_and_timed():
    done = apply(recipe(), model=segmenter(torch.float32), **SCENES, timed=False)
    again = apply(recipe(budget={"keep_macs": 0.7}), model=done.network, **SCENES)
    assert again.source_cost == done.cost
    assert again.timing.input_shape == (3, 32, 32)
    assert again.units["blocks.0.ffn"].of == len(done.units["blocks.0.ffn"].index)


@pytest.mark.parametrize("axis", ["embed", "block"])
def test_what_a_network_around_reads_is_not_on_offer(axis, tmp_path):
    net = segmenter(torch.float32)
    for wanted in (
        {"axes": [axis, "ffn"]},
        {"rules": {"embed": {"keep": 0.5}}} if axis == "embed" else {"axes": [axis]},
    ):
        with pytest.raises(InputError, match=rf"{axis} cannot be cut in backbone\.model: the network around it reads"):
            apply(recipe(**wanted), model=net, **SCENES, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, r"Segmenter around backbone\.model .*give batches= of your own"),
        ({**SCENES, "score": lambda net: torch.zeros(2)}, "score returned a Tensor; it must return one number"),
        ({**SCENES, "score": lambda net: float("nan")}, "score returned nan; it must return a finite number"),
        ({**SCENES, "score": 0.5}, "score must be a function"),
    ],
)
def test_an_outer_network_needs_batches_and_a_score_that_is_a_number(arguments, complaint):
    data = {} if arguments else {"data": {"name": "demo"}}
    with pytest.raises(InputError, match=complaint):
        apply(recipe(**data), model=segmenter(torch.float32), **arguments, timed=False)


def test_of_batches_of_ones_own_every_fourth_is_held_back_from_fit_and_tuning():
    net, asked = small(), recipe(axes=["ffn"], compensate={"tune": 10})
    done = apply(asked, model=net, batches=shipped_batches(net, 128), timed=False)
    assert any(note.startswith("tuned in 10 steps each") for note in done.notes)
    with pytest.raises(InputError, match="of 3 batches none can be held back, which takes 4; give smaller batches"):
        apply(asked, model=net, batches=shipped_batches(net, 96), timed=False)
