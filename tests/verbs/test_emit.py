"""The verb `emit`: folders that timm loads, tables, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from support.networks import build
from support.variants import old_variant

from prune_realloc import InputError, emit, load_model, load_recipe
from prune_realloc.core.analysis import Analysis
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_stock import stock_args
from prune_realloc.recipe.reader import build_recipe, check_recipe
from prune_realloc.verbs import emit as verb
from prune_realloc.verbs.analyze import analyze

SMALL = {"macs": 8_000_000, "img_size": 32, "num_classes": 5, "in_chans": 3}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    found = analyze(build(depth=4), scorer="magnitude")
    found = Analysis(**(vars(found) | {"unit": "nats"}))  # as if comparable, so that damage can allocate
    found.save(folder)
    return folder


@pytest.fixture(scope="module")
def emitted(analysis, tmp_path_factory):
    out = tmp_path_factory.mktemp("variants")
    return out, emit(analysis, target={"macs": 8_000_000}, out=out, timed=False)[0]


def test_folders_hold_networks_that_timm_loads(emitted):
    out, variant = emitted
    assert sorted(p.name for p in out.iterdir()) == ["control", "realloc", "unmeasured"]
    network = variant.network
    all_args = {"realloc": network.args, "control": network.control_args, "unmeasured": network.unmeasured_args}
    for name, args in all_args.items():
        assert sorted(p.name for p in (out / name).iterdir()) == ["config.json", "model_card.md", "recipe.yaml"]
        net = timm.create_model(f"local-dir:{out / name}", pretrained=False).eval()
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
        cost = EfficientVitConfig(**args).cost
        assert sum(p.numel() for p in net.parameters()) == cost.params
    assert 0.99 * 8e6 <= variant.network.macs <= 8e6


def test_latency_lies_beside_the_network_as_long_as_it_is_of_it(analysis, tmp_path, monkeypatch):
    measured = old_variant(timed=True).latency

    def of_all(variant):
        return replace(measured, timings=tuple(replace(measured.timings[0], model=name) for name in variant.configs()))

    monkeypatch.setattr(verb, "_latency", of_all)
    emit(analysis, target=SMALL, out=tmp_path)
    assert json.loads((tmp_path / "realloc" / "latency.json").read_text())["reference"] == "control"
    emit(analysis, target=SMALL, out=tmp_path, timed=False)
    assert not (tmp_path / "realloc" / "latency.json").exists()


def test_recipe_explains_every_width_and_emits_the_same_again(emitted, tmp_path):
    out, variant = emitted
    path = out / "realloc" / "recipe.yaml"
    assert check_recipe(path.read_text()) == []
    recipe = load_recipe(path)
    assert recipe.target.network == variant.network
    assert all(width.reason for width in recipe.target.network.widths.values())
    emit(path, out=tmp_path, timed=False)
    for name in ("realloc", "control", "unmeasured"):
        for file in ("config.json", "recipe.yaml"):
            assert (tmp_path / name / file).read_bytes() == (out / name / file).read_bytes()


def test_an_analysis_is_read_where_the_cut_begins_to_be_felt(analysis):
    """At half where that already hurts; else so deep that it does: what is kept before shows nothing."""
    found = Analysis.load(analysis)
    own = sum(found.damage[name][0] for name in found.damage)  # of everything that can go

    def read(scale):
        damage = {name: curve * scale / own for name, curve in found.damage.items()}
        scaled = Analysis(**(vars(found) | {"damage": damage}))
        return emit(scaled, target=SMALL, timed=False)[0].recipe

    hurt, felt, light = (read(scale) for scale in (1e3, 0.022, 0.015))
    assert hurt.budget.keep_macs > felt.budget.keep_macs > light.budget.keep_macs
    assert hurt.plan.damage > 0.01
    assert 0.005 < felt.plan.damage <= 0.01
    assert 0.005 < light.plan.damage <= 0.01
    half = build_recipe(found.as_recipe() | {"budget": {"keep_macs": hurt.budget.keep_macs}})
    assert emit(found, recipe=half, target=SMALL, timed=False)[0].recipe.budget == hurt.budget


def test_card_has_cost_components_reasons_and_a_way_to_retrain(emitted):
    out, variant = emitted
    text = (out / "realloc" / "model_card.md").read_text()
    assert f"{variant.network.params:,}" in text
    assert f"{variant.network.control_macs:,}" in text
    assert "| FFN |" in text
    assert all(width.reason in text for width in variant.network.widths.values())
    assert "prune_realloc train " in text
    assert "## What the stock class cannot express" in text


def test_latency_of_both_is_measured(analysis):
    variant = emit(analysis, target=SMALL)[0]
    assert {(t.model, t.batch_size) for t in variant.latency.timings} == {
        (name, size) for name in ("control", "realloc", "unmeasured") for size in (1, 32)
    }


def test_grid_emits_every_size(analysis, tmp_path):
    found = emit(analysis, grid=True, out=tmp_path, timed=False)
    assert [variant.name for variant in found] == list(SIZES)
    assert [v.network.macs for v in found] == sorted(v.network.macs for v in found)
    assert (tmp_path / "efficientvit_m5" / "control" / "config.json").exists()


def test_a_swap_of_a_grid_is_that_of_each_size_alone(analysis):
    found = Analysis.load(analysis)
    blocks = [name for name in found.damage if name.startswith("blocks.")]
    unlike = {name: 1000 * (1 + 3 * place) * found.damage[name] for place, name in enumerate(blocks)}
    felt = Analysis(**vars(found) | {"damage": {**found.damage, **unlike}})  # so that a stage's depth shows
    swapped = {"rule": "swapped", "seed": 2}
    together = {variant.name: variant for variant in emit(felt, grid=True, target=swapped, timed=False)}
    alone = emit(felt, target=swapped | {"like": "efficientvit_m5"}, timed=False)[0]
    assert together["efficientvit_m5"].recipe.target.curves == alone.recipe.target.curves


def test_an_older_unmeasured_network_goes_with_what_it_was_beside(analysis, tmp_path):
    """Where the rules leave none, that of an earlier emission must not lie beside the new ones."""
    emit(analysis, target={"macs": 8_000_000}, out=tmp_path, timed=False)
    assert (tmp_path / "unmeasured" / "config.json").exists()
    narrow = {"macs": 8_000_000, "rule": "kept", "rules": {"embed": {"ceiling": 24}}}
    variant = emit(analysis, target=narrow, out=tmp_path, timed=False)[0]
    assert variant.network.unmeasured_args is None
    assert [*(tmp_path / "unmeasured").iterdir()] == []


def test_the_rule_and_its_seed_stand_in_the_recipe_and_give_the_same_again(analysis, tmp_path, run_cli):
    flags = ("--macs", "8M", "--rule", "shuffled", "--seed", "3", "--no-bench", "-o", tmp_path / "v")
    code, out, err = run_cli("emit", analysis, *flags)
    assert code == 0, err
    assert "rule shuffled gives " in out
    target = load_recipe(tmp_path / "v" / "realloc" / "recipe.yaml").target
    assert (target.rule, target.seed) == ("shuffled", 3)
    again = emit(tmp_path / "v" / "realloc" / "recipe.yaml", timed=False)[0]
    assert again.network == target.network
    kept = emit(analysis, target={"macs": 8_000_000, "rule": "kept"}, timed=False)[0]
    read, shuffled = ([w.kept for w in network.widths.values()] for network in (kept.network, target.network))
    assert read != shuffled
    assert sorted(read) == sorted(shuffled)


def test_stock_sizes_lose_nothing_in_the_stock_class():
    for name, args in SIZES.items():
        stock, lost = stock_args(EfficientVitConfig(**args))
        assert lost == ()
        theirs = timm.create_model(name)
        again = type(theirs)(**stock)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }


def test_what_the_stock_class_cannot_express_is_named():
    config = EfficientVitConfig(
        embed_dim=[240, 240, 240],
        num_heads=2,
        qk_dim=[44, [16, 24], 16],
        v_dim=[120, 120, 80],
        ffn_dim=[480, 480, 410],
        stem_strides=[2, 2],
        num_ffns=[1, 1, 2],
        merge_dim=[960, 900],
        kernels=[[5, 5], [5, 5], [3, 3]],
        distillation=True,
    )
    _, lost = stock_args(config)
    text = "\n".join(lost)
    for words in (
        "stem: strides [2, 2] wanted",
        "stage 0: with qk_dim 44 the stock class computes value widths of 119 instead of 120",
        "stage 1: qk_dim [16, 24] wanted",
        "block 3: v_dim 80 wanted, the stock class fixes 240 / 2 heads = 120",
        "block 3: ffn_dim 410 wanted, the stock class fixes 2 x 240 = 480",
        "num_ffns 2 wanted",
        "merging to stage 2: merge_dim 900 wanted, fixed at 960",
        "kernels: the stock class has one list",
        "distillation",
    ):
        assert words in text


def test_sources_that_show_nothing_are_refused(tmp_path, analysis):
    with pytest.raises(InputError, match="does not exist"):
        emit(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has neither analysis\.json nor recipe\.yaml"):
        emit(tmp_path)
    unplanned = tmp_path / "half.yaml"
    unplanned.write_text("budget: {keep_macs: 0.5}\n")
    with pytest.raises(InputError, match="has no plan, so it does not show what pruning keeps"):
        emit(unplanned)
    with pytest.raises(InputError, match="grid: excludes macs"):
        emit(analysis, grid=True, target={"macs": 10**7})


def test_a_recipe_that_would_not_count_is_refused(analysis, emitted):
    out, _ = emitted
    planned = load_recipe(out / "realloc" / "recipe.yaml")
    with pytest.raises(InputError, match=r"recipe: its .*plan.* would not count, because the source is an analysis"):
        emit(analysis, recipe=planned, timed=False)
    half = planned.model_copy(update={"plan": None})
    with pytest.raises(InputError, match="would not count, because the source is planned already"):
        emit(out / "realloc" / "recipe.yaml", recipe=half, timed=False)


def test_a_given_budget_replaces_the_recipes(analysis):
    recipe = build_recipe({"target": {"params": 500_000}})
    assert emit(analysis, recipe=recipe, target={"macs": 8_000_000}, timed=False)[0].network.kind == "macs"


def test_a_source_that_does_not_tell_images_and_classes_is_asked_for_them(emitted, tmp_path):
    out, _ = emitted
    recipe = load_recipe(out / "realloc" / "recipe.yaml").model_copy(update={"target": None})
    assert emit(recipe, target={"macs": SMALL["macs"]}, timed=False)[0].network.args["num_classes"] == 5
    older = recipe.source.model_copy(update={"input_size": None, "num_classes": None})
    recipe = recipe.model_copy(update={"source": older})
    with pytest.raises(InputError, match="does not tell img_size, in_chans, num_classes; give --img-size"):
        emit(recipe)
    assert emit(recipe, target=SMALL, timed=False)[0].network.macs <= 8e6


def without(found, *axes):
    """The analysis of a network that has no sites of these axes."""
    names = [name for name in found.widths if not name.endswith(axes)]
    by_site = {
        field: {name: getattr(found, field)[name] for name in names}
        for field in ("scores", "damage", "widths", "groups")
    }
    terms = tuple(term for term in found.terms if not any(site.endswith(axes) for site in term.sites))
    return Analysis(**(vars(found) | by_site | {"terms": terms, "memory": None}))


def test_by_rule_kept_no_attention_is_refused_and_no_values_are_read_aloud(analysis, tmp_path, run_cli):
    found = Analysis.load(analysis)
    with pytest.raises(InputError, match=r"source: it has no attention \(qk or v\) that could be cut"):
        emit(without(found, ".qk", ".v"), target=SMALL | {"rule": "kept"})
    without(found, ".v").save(tmp_path / "run")
    code, out, err = run_cli(
        "emit", tmp_path / "run", "--macs", "8M", "--rule", "kept", "--no-bench", "-o", tmp_path / "v"
    )
    assert code == 0, err
    assert "not measured: v, which the source has not" in out
    again = load_recipe(tmp_path / "v" / "realloc" / "recipe.yaml")
    assert again.target.network.widths["stages.0.v"].kept is None


def test_by_rule_stream_a_source_without_attention_says_as_much_as_one_with_it(analysis):
    found = Analysis.load(analysis)
    bare, whole = (emit(one, target=SMALL)[0].configs() for one in (without(found, ".qk", ".v"), found))
    assert bare["realloc"] == whole["realloc"]


def test_command_line(run_cli, analysis, tmp_path):
    code, out, err = run_cli("emit", analysis, "--macs", "8M", "--no-bench", "-o", tmp_path)
    assert code == 0, err
    assert "Q/K" in out
    assert "share of the MACs against the control" in out
    assert (tmp_path / "realloc" / "config.json").exists()
    code, out, _ = run_cli("emit", analysis, "--macs", "8M", "--no-bench", "--json")
    assert code == 0
    assert json.loads(out)[0]["network"]["requested"] == 8_000_000


def test_statistics_of_other_channels_are_said(analysis, monkeypatch):
    known = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    monkeypatch.setattr("prune_realloc.verbs.emit.preprocessing_facts", lambda facts: known)
    for channels in (3, 1):
        said: list[str] = []
        emit(Analysis.load(analysis), target=SMALL | {"in_chans": channels}, timed=False, progress=said.append)
        assert any("are the source's; put those of your data" in line for line in said) == (channels != 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--like", "efficientvit_m"),
            "target.like: unknown value 'efficientvit_m'; did you mean",
        ),
        (("--macs", "10k"), "macs: the budget of 10,000 is below the least"),
        (("--macs", "8M", "--params", "1M"), "target.params: excludes macs 8000000"),
        (("--macs", "8M", "--stem-strides", "2,4"), "stem_strides [2, 4] must be a list of 1 and 2"),
        (("--macs", "8M", "--stem-strides", "2,x"), "target.stem_strides[1]: must be a whole number"),
        (("--macs", "8M", "--per", "head"), "target.per: unknown value 'head'"),
        (("--macs", "8M", "--rule", "shufled"), "target.rule: unknown value 'shufled'; did you mean 'shuffled'?"),
    ],
)
def test_bad_flags_are_one_line(run_cli, analysis, flags, words):
    code, out, err = run_cli("emit", analysis, "--no-bench", *flags)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_configuration_of_another_version_is_refused(emitted, tmp_path):
    out, _ = emitted
    content = json.loads((out / "realloc" / "config.json").read_text()) | {"format_version": 7}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="format_version 7, this program reads 1"):
        load_model(ckpt=tmp_path)


@pytest.mark.parametrize(
    "first",
    ["verbs.emit", "models.efficientvit", "checkpoints.pruned", "checkpoints.load", "families", "checkpoints.register"],
)
def test_timm_knows_our_architectures_whatever_is_imported_first(first):
    probe = f"import prune_realloc.{first}, timm; print(*map(timm.is_model, ('efficientvit_flex', 'prune_realloc')))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout == "True True\n"
