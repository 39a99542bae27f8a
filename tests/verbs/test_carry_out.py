"""Whether a plan fits a network, and which of two plans is carried out."""

import dataclasses

import pytest
import timm
import torch
from support.applying import QUICK, half
from support.networks import build

from prune_realloc import apply, build_recipe, load_model
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.ridge import Explained
from prune_realloc.verbs.carry_out import Result
from prune_realloc.verbs.few_images import few_images_notes
from prune_realloc.verbs.judge import Judge


def test_the_uniform_plan_is_taken_where_it_has_the_lower_loss(monkeypatch):
    from prune_realloc.verbs import judge as verb

    losses = iter([2.0, 1.0])
    measure = verb.measure

    def rigged(*args, **kwargs):
        found = measure(*args, **kwargs)
        value = next(losses, None)
        return found if value is None else dataclasses.replace(found, kl=value)

    monkeypatch.setattr(verb, "measure", rigged)
    done = apply(half(), **QUICK)
    assert any("carried out is that with uniform widths" in note for note in done.notes)
    ffn = {site.width for name, site in done.recipe.plan.sites.items() if name.endswith("ffn")}
    assert len(ffn) <= 2


def test_a_plan_for_another_input_size_is_refused(applied):
    done, _ = applied
    with pytest.raises(InputError, match="another input size"):
        apply(done.recipe, model=load_model(img_size=32), **QUICK)


def test_a_plan_for_another_network_is_refused(applied, tmp_path):
    done, _ = applied
    other = timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=4, in_chans=1, num_classes=10)
    with pytest.raises(InputError, match="the plan is for deit_tiny_patch16_224"):
        apply(done.recipe, model=other, out=tmp_path, **QUICK)
    shallow = build(depth=2, num_classes=10, in_chans=1)
    with pytest.raises(InputError, match=r"plan\.sites"):
        apply(done.recipe, model=shallow, **QUICK)


def test_other_weights_than_planned_for_are_said(applied):
    done, _ = applied
    other = load_model()
    with torch.no_grad():
        other.head.bias.add_(0.01)
    again = apply(done.recipe, model=other, **QUICK)
    assert any("weights are not those" in note for note in again.notes)


@pytest.mark.parametrize(
    ("samples", "compensate", "warned"),
    [(48, {}, True), (128, {}, False), (48, {"refit": False, "mean_shift": False}, False)],
)
def test_numbers_of_the_images_that_were_fitted_say_so_and_few_of_them_are_warned_of(samples, compensate, warned):
    done = apply(half(data={"samples": samples}, compensate=compensate), **QUICK)
    assert any(f"were refitted on {samples} images" in note for note in done.notes) == warned
    [judged] = [note for note in done.notes if note.startswith("KL to the source")]
    assert ("on images that no layer was fitted on" in judged) == (compensate == {})
    halves = [note for note in done.notes if note.startswith("fitted to one half of the images, layers put out")]
    assert len(halves) == (compensate == {} and not warned)
    assert (done.summary()["explained"] is None) == (compensate != {})


@pytest.mark.parametrize(("unseen", "advice"), [(0.894, "would narrow that (samples)"), (0.896, "would add little")])
def test_more_images_are_advised_where_the_halves_are_apart(unseen, advice):
    result = Result(None, None, {}, Explained(fitted=0.9, unseen=unseen))
    [note] = few_images_notes(result, None, None, None)
    assert note.endswith(
        f"90.0% of the variance that they should there, and {unseen:.1%} on the other half: more images {advice}"
    )


def test_a_tuned_network_is_carried_out_where_it_is_judged_better_and_else_what_was_refitted(monkeypatch):
    recipe = half(budget={"keep_macs": 0.2}, compensate={"tune": 12})
    plain = apply(recipe.model_copy(update={"compensate": type(recipe.compensate)()}), **QUICK)
    done = apply(recipe, **QUICK)
    [note] = [note for note in done.notes if note.startswith("tuned in 12 steps each")]
    assert "carried out" not in note
    assert done.evaluation.kl < plain.evaluation.kl
    monkeypatch.setattr(Judge, "better", lambda *_: False)
    again = apply(recipe, **QUICK)
    assert any(note.endswith("what was carried out is that without") for note in again.notes)
    pairs = zip(again.network.parameters(), plain.network.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(("axes", "share", "said"), [(["embed", "ffn"], 0.8, True), (["ffn"], 0.791, False)])
def test_features_that_are_fewer_are_said(axes, share, said):
    net = build(num_classes=0)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recipe = build_recipe({"budget": {"keep_params": share}, "axes": axes})
    done = apply(recipe, model=net, batches=[images], timed=False)
    width = done.recipe.plan.sites["embed"].width
    notes = [note for note in done.notes if "channels are left: what reads its features" in note]
    assert len(notes) == said
    assert all(f"{width} of 48 channels" in note for note in notes)
    assert (width < 48) == said


def test_features_stay_whole_unless_their_stream_is_named():
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recipe = build_recipe({"budget": {"keep_params": 0.8}})
    done = apply(recipe, model=build(num_classes=0), batches=[images], timed=False)
    assert done.recipe.plan.sites["embed"].width == 48
    assert any("its streams are cut only if --axes names embed" in note for note in done.notes)
