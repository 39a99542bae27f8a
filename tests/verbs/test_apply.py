"""From a recipe to a saved network, on the shipped ViT and on tiny ones."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.networks import VARIANTS, build
from timm.utils import ModelEmaV3

from prune_realloc import apply, build_recipe, find_sites, load_model, load_pruned, load_recipe, save_pruned
from prune_realloc.core.cost import Cost, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.pruning.sites import widths
from prune_realloc.runtime.networks import measured_macs

FAST = {"samples": 128}
QUICK = {"timed": False, "eval_samples": 128, "batch_size": 64}


def half(**more):
    return build_recipe({"budget": {"keep_macs": 0.5}, "data": FAST} | more)


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    return apply(half(), out=folder, **QUICK), folder


def narrow(model):
    """Every site a little narrower, the last block gone."""
    last = len(model.blocks) - 1
    return {s.name: 0 if s.block == last else max(1, s.width - (s.axis != "block")) for s in find_sites(model)}


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


def test_summary_has_source_and_achieved_of_each(applied):
    done, folder = applied
    numbers = json.loads((folder / "result.json").read_text())
    assert numbers == done.summary()
    assert numbers["requested"] == {"macs": 16_691_008}
    for key in ("params", "macs", "top1", "bytes"):
        assert set(numbers[key]) == {"source", "achieved"}
    assert numbers["macs"]["achieved"] == done.cost.macs


def test_the_recipe_is_written_with_its_plan_and_gives_the_same_bytes(applied, tmp_path):
    _, folder = applied
    again = load_recipe(folder / "recipe.yaml")
    assert again.plan is not None
    apply(again, out=tmp_path, **QUICK)
    for name in ("model.safetensors", "config.json", "recipe.yaml"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_source_is_untouched():
    source = load_model()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    source.train()
    apply(half(data=FAST | {"name": "demo"}), model=source, **QUICK)
    assert source.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


def test_keeping_everything_returns_the_same_function(images_BCHW):
    model = build()
    same = cut_to_widths(model, widths(find_sites(model)))
    assert torch.equal(same(images_BCHW), model(images_BCHW))


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


def test_the_uniform_plan_is_taken_where_it_has_the_lower_loss(monkeypatch):
    from prune_realloc.verbs import apply as verb

    losses = iter([2.0, 1.0])
    measure = verb.measure

    def rigged(*args, **kwargs):
        found = measure(*args, **kwargs)
        value = next(losses, None)
        return found if value is None else verb.dataclasses.replace(found, kl=value)

    monkeypatch.setattr(verb, "measure", rigged)
    done = apply(half(), **QUICK)
    assert any("uniform plan was carried out" in note for note in done.notes)
    ffn = {site.width for name, site in done.recipe.plan.sites.items() if name.endswith("ffn")}
    assert len(ffn) <= 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_comes_back_equal(variant, tmp_path, images_BCHW):
    model = build(variant, depth=3)
    smaller = cut_to_widths(model, narrow(model))
    save_pruned(smaller, tmp_path)
    for loaded in (load_pruned(tmp_path), timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()):
        assert torch.equal(loaded(images_BCHW), smaller(images_BCHW))
        assert loaded.state_dict().keys() == smaller.state_dict().keys()


def test_a_fresh_process_needs_only_the_folder(applied):
    done, folder = applied
    images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
    probe = f"""
import torch, timm, prune_realloc
net = timm.create_model("local-dir:{folder}", pretrained=True).eval()
images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
print(net(images).tolist())
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    assert torch.allclose(torch.tensor(json.loads(out.stdout)), done.network(images), atol=1e-5)


def test_what_timm_does_with_networks_works(applied, tmp_path):
    _, folder = applied
    images = torch.randn(2, 1, 28, 28)
    net = load_pruned(folder)
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert [tuple(f.shape) for f in features(images)] == [(2, 64, 7, 7)] * 3
    final, intermediates = net.forward_intermediates(images, indices=[0, 11])
    assert len(intermediates) == 2
    torch.testing.assert_close(net.forward_head(final), net(images))
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(images).shape == (2, 3)
    twin = copy.deepcopy(net)
    ema = ModelEmaV3(twin)
    ema.update(twin)
    net.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    program = torch.export.export(net.eval(), (images,))
    torch.testing.assert_close(program.module()(images), net(images), atol=1e-5, rtol=1e-4)
    net.reset_classifier(7)
    save_pruned(net, tmp_path)
    assert load_pruned(tmp_path)(images).shape == (2, 7)


@pytest.mark.slow
def test_a_pruned_network_compiles(applied):
    _, folder = applied
    net, images = load_pruned(folder), torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(torch.compile(net)(images), net(images), atol=1e-5, rtol=1e-4)


def test_a_pruned_network_exports_to_onnx(applied, tmp_path):
    from prune_realloc.results.export import export_onnx

    _, folder = applied
    found = export_onnx(load_pruned(folder), tmp_path / "m.onnx", input_shape=(1, 28, 28))
    assert found.difference < 1e-4


def test_networks_of_timm_itself_are_saved_too(tmp_path):
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    save_pruned(net, tmp_path)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_pruned(tmp_path)(images), net(images))


def test_damaged_folders_are_refused(applied, tmp_path):
    _, folder = applied
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["widths"]["blocks.0.ffn"] -= 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"mlp\.fc1"):
        load_pruned(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"none of model\.safetensors"):
        load_pruned(tmp_path)
    with pytest.raises(InputError, match="no pruned network"):
        load_pruned(load_model.__globals__["DEMO"])


def folder_of_images(folder, parts):
    for part, count in parts.items():
        for label in range(10):
            (folder / part / str(label)).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([label, i, len(part)]).integers(0, 255, (28, 28), np.uint8)
                Image.fromarray(pixels).save(folder / part / str(label) / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize(("part", "left"), [("train", 40), ("validation", 0)])
def test_images_that_layers_were_fitted_on_are_not_measured(tmp_path, part, left):
    data = {"name": folder_of_images(tmp_path, {"train": 6, "val": 2}), "samples": 40}
    done = apply(half(data=data, axes=["ffn"]), **QUICK | {"batch_size": 16}, eval_split=part)
    assert done.evaluation.samples == 20
    assert any(f"{left} of the images" in note for note in done.notes) == bool(left)


def test_where_all_images_were_fitted_on_it_is_said(tmp_path):
    data = {"name": folder_of_images(tmp_path, {"train": 2}), "samples": 64}
    done = apply(half(data=data), **QUICK, eval_split="train")
    assert done.evaluation.samples == 20
    assert any("measured on the calibration images" in note for note in done.notes)


def test_a_network_without_a_classifier_is_cut_too(tmp_path):
    data = {"name": folder_of_images(tmp_path / "images", {"train": 2}), "samples": 16}
    model = build("registers", in_chans=1, img_size=28, patch_size=7, num_classes=0)
    done = apply(half(data=data, axes=["embed", "ffn"]), model=model, out=tmp_path / "out", **QUICK)
    assert done.evaluation is None
    assert any("no classifier" in note for note in done.notes)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(load_pruned(tmp_path / "out")(images), done.network.eval()(images))


def test_a_plan_for_another_input_size_is_refused(applied):
    done, _ = applied
    with pytest.raises(InputError, match="another input size"):
        apply(done.recipe, model=load_model(img_size=32), **QUICK)


def test_timm_knows_pruned_networks_even_after_others_looked_for_it(applied):
    _, folder = applied
    probe = f"""
import importlib.util, prune_realloc
importlib.util.find_spec("timm")
import timm
print(type(timm.create_model("local-dir:{folder}", pretrained=True)).__name__)
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "VisionTransformer"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"budget": {"keep_macs": 1.0}}, "nothing would be removed"),
        ({"budget": {"keep_macs": 0.001}}, "embed"),
        ({"budget": {"macs": "900M"}}, "nothing would be removed"),
        ({"rules": {axis: {"freeze": True} for axis in ("qk", "v", "ffn")}}, "may not change"),
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


def test_an_interrupt_in_the_middle_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("prune_realloc.verbs.apply.refit_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(half(), out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_network_whole(applied, tmp_path, monkeypatch):
    done, folder = applied
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = __import__("os").fdopen, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_pruned(done.network, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_units_of_a_planned_recipe_depend_on_the_seed_only():
    plans = [apply(half(data=FAST | {"seed": seed}), **QUICK).recipe.plan for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert np.isfinite(plans[2].damage)
