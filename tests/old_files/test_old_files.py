"""What an older version wrote (README.md) is read and used by this one."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from prune_realloc import Analysis, apply, build_recipe, load_model, load_pruned, load_recipe, plan, train
from prune_realloc.checkpoints.load import new_model
from prune_realloc.planning.plan import planned
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.training.config import train_config

DATA = Path(__file__).parent / "data"
LOGITS = json.loads((DATA / "logits.json").read_text())
ROUNDING = {"rtol": 1e-3, "atol": 1e-4}  # other processors round otherwise


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The old files in a folder of their own, in which the process stands: their paths are relative to it."""
    shutil.copytree(DATA, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def logits_of(net):
    images = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16).sin()
    with torch.no_grad():
        return net.eval()(images)


def assert_computes(net, name):
    torch.testing.assert_close(logits_of(net), torch.tensor(LOGITS[name]), **ROUNDING)


@pytest.mark.parametrize("name", LOGITS)
def test_networks_compute_what_they_did(name):
    assert_computes(load_model(ckpt=DATA / name), name)


def test_a_pruned_network_loads_in_every_way():
    assert_computes(load_pruned(DATA / "pruned"), "pruned")
    assert_computes(timm.create_model(f"local-dir:{DATA / 'pruned'}", pretrained=True), "pruned")


def test_eval_finds_the_numbers_of_the_result(old, run_cli):
    code, out, err = run_cli(
        *("eval", "pruned", "--source", "source", "--data", "images", "--split", "test", "--device", "cpu", "--json")
    )
    assert code == 0, err
    found, then = json.loads(out), json.loads(Path("pruned/result.json").read_text())
    assert (found["top1"], found["source_top1"]) == (then["top1"]["achieved"], then["top1"]["source"])
    assert (found["agreement"], found["samples"]) == (then["agreement"], then["samples"])


@pytest.mark.parametrize("name", ["planned.yaml", "uniform.yaml"])
def test_an_analysis_plans_what_it_did(name):
    analysis, recipe = Analysis.load(DATA / "analysis"), load_recipe(DATA / name)
    again = plan(analysis, recipe.model_copy(update={"plan": None}))
    assert {place: site.width for place, site in again.sites.items()} == {
        place: site.width for place, site in recipe.plan.sites.items()
    }
    assert (again.macs, again.params) == (recipe.plan.macs, recipe.plan.params)
    assert math.isclose(again.damage, recipe.plan.damage, rel_tol=1e-3)


def test_a_planned_recipe_applies(old):
    done = apply(load_recipe("planned.yaml"), device="cpu", eval_split="test", timed=False)
    assert_computes(done.network, "pruned")
    then = json.loads(Path("pruned/result.json").read_text())
    assert (done.cost.macs, done.cost.params) == (then["macs"]["achieved"], then["params"]["achieved"])


def test_the_recipe_beside_a_pruned_network_applies(old, run_cli):
    code, _, err = run_cli("apply", "pruned/recipe.yaml", "--device", "cpu", "--no-bench", "-o", "again")
    assert code == 0, err
    assert_computes(load_pruned("again"), "pruned")


def test_recipes_are_valid(run_cli):
    names = sorted(DATA.rglob("*.yaml"))
    assert len(names) == 5
    code, _, err = run_cli("validate", *names)
    assert code == 0, err


@pytest.mark.parametrize("name", ["realloc", "control"])
def test_an_emitted_network_is_built(name):
    network = load_recipe(DATA / "variants" / name / "recipe.yaml").target.network
    params = network.params if name == "realloc" else network.control_params
    assert sum(p.numel() for p in new_model(DATA / "variants" / name).parameters()) == params


FLOORS = (
    "qk: {floor: 8, ceiling_ratio: 1}, v: {floor_ratio: 1, ceiling_ratio: 2}, ffn: {floor_ratio: 1, ceiling_ratio: 4}"
)
"""What held then where a recipe had no rule."""


@pytest.mark.parametrize("source", ["analysis", "variants/realloc/recipe.yaml"])
def test_emit_finds_the_same_network(source, old, run_cli):
    Path("floors.yaml").write_text(
        f"target: {{img_size: 32, in_chans: 1, num_classes: 3, macs: 4M, rules: {{{FLOORS}}}}}\n"
    )
    code, _, err = run_cli("emit", source, "--recipe", "floors.yaml", "--no-bench", "-o", "again")
    assert code == 0, err
    for name in ("realloc", "control"):
        then, now = (json.loads((Path(place) / name / "config.json").read_text()) for place in ("variants", "again"))
        assert now["model_args"] == then["model_args"]


def trained(out):
    settings = train_config(epochs=2, batch_size=4, warmup_epochs=0, lr=2e-3)
    return train("pruned", settings, data="images", eval_split="test", device="cpu", out=out)


def test_a_run_that_died_goes_on(old):
    """From where it was, not anew; what is left of it draws other crops than the version did that began it."""
    assert not Path("interrupted/last").exists()
    done = trained("interrupted")
    now, then = (
        list(csv.DictReader(Path(name, "log.csv").read_text().splitlines())) for name in ("interrupted", "finished")
    )
    assert [(row["epoch"], row["lr"]) for row in now] == [(row["epoch"], row["lr"]) for row in then]
    assert done.loss != trained("anew").loss
    assert math.isclose(done.loss, json.loads(Path("finished/result.json").read_text())["loss"], rel_tol=0.05)
    weights, others = (load_file(f"{name}/last/model.safetensors") for name in ("interrupted", "finished"))
    assert {name: x.shape for name, x in weights.items()} == {name: x.shape for name, x in others.items()}


def test_a_finished_run_returns_its_result(old):
    state = Path("finished/state.safetensors").read_bytes()
    then = json.loads(Path("finished/result.json").read_text())
    done = trained("finished")
    assert (done.epochs, done.top1, done.loss) == (then["epochs"], then["top1"], then["loss"])
    assert Path("finished/state.safetensors").read_bytes() == state


def test_a_finished_run_is_compared(old, run_cli):
    code, out, err = run_cli("compare", "finished", "--json")
    assert code == 0, err
    assert "finished" in out


@pytest.mark.parametrize("name", ["planned.yaml", "uniform.yaml", "pruned/recipe.yaml"])
def test_a_recipe_is_written_as_it_was(name):
    text = (DATA / name).read_text()
    command = text.splitlines()[0].removeprefix("# ")
    assert dump_recipe(load_recipe(DATA / name), command) == text


def test_an_old_analysis_is_planned_on_the_axes_of_today():
    analysis = Analysis.load(DATA / "analysis")
    recipe = build_recipe(analysis.as_recipe() | {"budget": {"keep_macs": 0.6}})
    done = planned(analysis, recipe)
    assert (done.axes, done.plan) == (("qk", "v", "ffn", "embed"), plan(analysis, recipe))
    assert "axes: [qk, v, ffn, embed]" in dump_recipe(done, "x").splitlines()


def test_a_network_that_was_traced_and_cut_computes_what_it_did():
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()
    wanted = torch.tensor(json.loads((DATA / "traced" / "logits.json").read_text()))
    for net in (load_pruned(DATA / "traced"), timm.create_model(f"local-dir:{DATA / 'traced'}", pretrained=True)):
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(images), wanted, **ROUNDING)
