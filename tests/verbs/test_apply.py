"""From a recipe to a pruned network, on the shipped ViT and on tiny ones."""

import numpy as np
import pytest
import torch
from support.applying import FAST, QUICK, folder_of_images, half
from support.networks import build

from prune_realloc import apply, build_recipe, find_sites, load_model, load_pruned, load_recipe
from prune_realloc.core.cost import Cost, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.planning import forecast
from prune_realloc.pruning.sites import widths
from prune_realloc.runtime.networks import measured_macs


def test_the_built_network_costs_what_the_plan_says(applied):
    done, _ = applied
    plan, net = done.recipe.plan, done.network
    images = torch.randn(1, 1, 28, 28)
    assert plan.requested * 0.99 <= plan.achieved <= plan.requested
    assert plan.macs == measured_macs(net, images) == done.cost.macs
    assert plan.params == sum(p.numel() for p in net.parameters()) == done.cost.params
    assert total_cost(family_of(net).describe(net).terms, widths(find_sites(net))) == done.cost
    assert done.source_cost == Cost(params=604_938, macs=33_382_016)


def test_half_of_the_shipped_vit_agrees_with_the_whole(applied):
    done, _ = applied
    assert done.evaluation.agreement >= 0.98
    assert done.evaluation.kl < 0.001


def test_a_forecast_that_does_not_hold_is_noted(applied, monkeypatch):
    done, _ = applied
    assert not any("the forecast does not hold" in note for note in done.notes)
    monkeypatch.setattr(forecast, "SEEN", {True: (1e3, 2e3, 1e4)})
    again = apply(done.recipe, **QUICK)
    assert any(f"predicted damage {done.recipe.plan.damage:.2g} nats per image, measured" in n for n in again.notes)


def test_the_recipe_is_written_with_its_plan_and_gives_the_same_bytes(applied, tmp_path):
    _, folder = applied
    again = load_recipe(folder / "recipe.yaml")
    assert again.plan is not None
    assert (again.source.input_size, again.source.num_classes) == ((1, 28, 28), 10)
    apply(again, out=tmp_path, **QUICK)
    for name in ("model.safetensors", "config.json", "recipe.yaml"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_preprocessing_that_was_given_stays_with_the_pruned_network(tmp_path):
    given = {"crop_pct": 0.8, "mean": [0.5], "std": [0.25]}
    recipe = half(data={"samples": 64, "preprocess": given})
    apply(recipe, out=tmp_path, **QUICK)
    kept = load_pruned(tmp_path).pretrained_cfg
    assert {name: kept[name] for name in given} == given


def test_the_source_is_untouched():
    source = load_model()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    source.train()
    apply(half(data=FAST | {"name": "demo"}), model=source, **QUICK)
    assert source.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


def test_a_pruned_network_is_pruned_again(applied, tmp_path):
    _, folder = applied
    recipe = half(budget={"keep_params": 0.6}, source={"ckpt": str(folder)}, data=FAST | {"name": "demo"})
    again = apply(recipe, out=tmp_path, **QUICK)
    first = load_pruned(folder)
    assert again.source_cost.params == sum(p.numel() for p in first.parameters())
    assert again.cost.params <= 0.6 * again.source_cost.params
    assert load_pruned(tmp_path).origin["source"] == "deit_tiny_patch16_224"


def test_without_data_units_go_by_their_weights(tmp_path):
    recipe = build_recipe(
        {
            "budget": {"keep_macs": 0.5},
            "scorer": "magnitude",
            "allocation": "per-axis",
            "axes": ["qk", "v", "ffn", "heads"],
        }
    )
    model = load_model()
    done = apply(recipe, model=model, out=tmp_path, timed=False)
    assert done.evaluation is None
    assert any("without --data" in note for note in done.notes)
    assert done.cost.macs <= 0.5 * done.source_cost.macs


def test_labels_are_not_needed():
    done = apply(half(data=FAST | {"labels": False}), **QUICK)
    assert done.evaluation.top1 is None
    assert done.summary()["top1"] is None
    assert done.evaluation.agreement >= 0.98


@pytest.mark.parametrize(
    "switches",
    [
        {"rotate": False},
        {"refit": False},
        {"rotate": False, "refit": False},
        {"rotate": False, "refit": False, "mean_shift": False},
    ],
    ids=str,
)
def test_each_part_of_the_compensation_is_a_switch(switches):
    done = apply(half(compensate=switches), **QUICK)
    assert done.evaluation.agreement > 0.8


def test_every_axis_at_once():
    done = apply(half(axes=["qk", "v", "ffn", "heads", "embed", "block"], budget={"keep_macs": 0.15}), **QUICK)
    assert done.evaluation.agreement > 0.8
    assert done.recipe.plan.achieved <= done.recipe.plan.requested


def test_a_rule_can_drop_width_everywhere_even_the_stream():
    done = apply(build_recipe({"rules": {"embed": {"keep": 0.75}, "ffn": {"keep": 0.5}}, "data": FAST}), **QUICK)
    assert done.network.embed_dim == 48
    assert {block.mlp.fc1.out_features for block in done.network.blocks} == {128}
    assert done.evaluation.agreement > 0.9


def test_more_budget_never_agrees_less_by_much():
    kl = [apply(half(budget={"keep_macs": share}), **QUICK).evaluation.kl for share in (0.15, 0.3, 0.6)]
    assert kl[0] > kl[1] > kl[2]


def test_a_network_without_a_classifier_is_cut_too(tmp_path):
    data = {"name": folder_of_images(tmp_path / "images", {"train": 2}), "samples": 16}
    model = build("registers", in_chans=1, img_size=28, patch_size=7, num_classes=0)
    done = apply(half(data=data, axes=["embed", "ffn"]), model=model, out=tmp_path / "out", **QUICK)
    assert done.evaluation is None
    assert any("no classifier" in note for note in done.notes)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(load_pruned(tmp_path / "out")(images), done.network.eval()(images))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"budget": {"keep_macs": 1.0}}, "nothing would be removed"),
        ({"budget": {"keep_macs": 0.001}}, "below the least"),
        ({"budget": {"macs": "900M"}}, "nothing would be removed"),
        ({"rules": {axis: {"freeze": True} for axis in ("qk", "v", "ffn", "embed")}}, "may not change"),
        ({"rules": {"ffn": {"width": 512}}}, "more than the 256"),
        ({"rules": {"ffn": {"freeze": True, "blocks": "12-15"}}}, "0-11"),
        ({"scorer": "magnitude", "allocation": "damage"}, "uniform or per-axis"),
        ({"source": {"model": "deit_small_patch16_224"}}, "--ckpt"),
        ({"data": FAST | {"name": "/no/such/folder"}}, "does not exist"),
    ],
)
def test_recipes_that_cannot_be_carried_out(values, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint) as caught:
        apply(half(**values), out=tmp_path / "out", **QUICK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_interrupt_in_the_middle_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("prune_realloc.verbs.carry_out.refit_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(half(), out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_units_of_a_planned_recipe_depend_on_the_seed_only():
    plans = [apply(half(data=FAST | {"seed": seed}), **QUICK).recipe.plan for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert np.isfinite(plans[2].damage)


@pytest.mark.parametrize(("part", "left"), [("train", 40), ("validation", 0)])
def test_images_that_layers_were_fitted_on_are_not_measured(tmp_path, part, left):
    data = {"name": folder_of_images(tmp_path, {"train": 6, "val": 2}), "samples": 40, "class_order": "timm"}
    done = apply(half(data=data, axes=["ffn"]), **QUICK | {"batch_size": 16}, eval_split=part)
    assert done.evaluation.samples == 20
    assert any(f"{left} of the images" in note for note in done.notes) == bool(left)


def test_where_all_images_were_fitted_on_it_is_said(tmp_path):
    data = {"name": folder_of_images(tmp_path, {"train": 2}), "samples": 64, "class_order": "timm"}
    done = apply(half(data=data), **QUICK, eval_split="train")
    assert done.evaluation.samples == 20
    assert any("measured on the calibration images" in note for note in done.notes)


def test_the_source_of_a_recipe_that_was_carried_out_is_of_the_declared_types(applied, recwarn):
    done, _ = applied
    done.recipe.model_dump_json()
    assert not [warning for warning in recwarn if "serializer" in str(warning.message)]
    assert done.recipe.source.input_size == (1, 28, 28)
