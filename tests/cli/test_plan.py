"""The verb `plan`, and `apply` of what it writes."""

import json

import pytest
from support.latency import make_table

from prune_realloc import analyze, load_recipe
from prune_realloc.core.analysis import Analysis


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    analyze(samples=64, batch_size=32).save(folder)
    return folder


def test_plan_takes_rules_from_a_recipe_and_the_rest_from_the_analysis(run_cli, run_folder, tmp_path):
    (tmp_path / "rules.yaml").write_text(
        "source: {model: deit_small_patch16_224}\ndata: {samples: 5}\nscorer: magnitude\n"
        "budget: {keep_macs: 0.6}\nrules: {v: {freeze: true}}\n"
    )
    code, out, err = run_cli("plan", run_folder, "--recipe", tmp_path / "rules.yaml", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["source"].get("model") is None
    assert (planned["data"]["samples"], planned["scorer"]) == (64, "fisher")
    assert planned["budget"] == {"keep_macs": 0.6}
    assert planned["plan"]["sites"]["blocks.3.v"]["reason"] == "frozen"


def test_plan_then_apply(run_cli, run_folder, tmp_path):
    recipe = tmp_path / "half.yaml"
    code, out, err = run_cli(
        "plan",
        run_folder,
        "--keep-macs",
        0.5,
        "--round-to",
        "ffn=32",
        "--freeze",
        "v=10-11",
        "--floor",
        "qk=8",
        "-o",
        recipe,
    )
    assert code == 0, err
    assert "What stays" in out
    assert run_cli("validate", recipe)[:2] == (0, f"{recipe}: ok\n")
    code, planned, _ = run_cli("plan", run_folder, "--recipe", recipe, "--json")
    sites = json.loads(planned)["plan"]["sites"]
    assert sites["blocks.11.v"] == {"width": 16, "of": 16, "reason": "frozen"}
    assert all(site["width"] % 32 == 0 for name, site in sites.items() if name.endswith("ffn"))
    assert all(site["width"] >= 8 for name, site in sites.items() if name.endswith("qk"))
    args = ("apply", recipe, "--no-bench", "--eval-samples", 100, "-o", tmp_path / "pruned")
    code, out, err = run_cli(*args, "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert numbers["macs"]["achieved"] <= numbers["requested"]["macs"]
    assert set(numbers["top1"]) == {"source", "achieved"}
    code, out, err = run_cli(*args)
    assert code == 0, err
    assert "Before and after" in out
    code, out, err = run_cli("eval", tmp_path / "pruned", "--data", "demo", "--samples", 50, "--source", "demo")
    assert code == 0, err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--keep-macs", 0), "budget.keep_macs"),
        (("--keep-macs", 2), "budget.keep_macs"),
        (("--keep-macs", 0.5, "--macs", "6M"), "excludes"),
        (("--macs", "many"), "600000000"),
        ((), "budget"),
        (("--keep-macs", 0.01, "--axes", "qk,v,ffn"), "raise the budget, or add some of embed, block, heads to axes"),
        (
            ("--keep-macs", 0.5, *(word for axis in ("qk", "v", "ffn", "embed") for word in ("--freeze", axis))),
            "may not",
        ),
        (("--keep-macs", 0.5, "--axes", "qk,width"), "width"),
        (("--keep-macs", 0.5, "--round-to", "ffn"), "round_to 'ffn' is not KEY=VALUE, such as ffn=32"),
        (("--keep-macs", 0.5, "--floor", "qk=["), "floor 'qk=['"),
        (("--keep-macs", 0.5, "--floor", "qk=4", "--floor", "qk=8"), "given twice"),
        (("--keep-macs", 0.5, "--floor", "ffn=lots"), "rules.ffn"),
        (("--keep-macs", 0.5, "-o", "/dev/null/half.yaml"), "cannot be written"),
        (("--latency-ms", 0), "budget.latency_ms: must be above 0, got 0"),
        (("--latency-ms", 5, "--keep-latency", 0.5), "excludes keep_latency 0.5"),
        (("--latency-ms", 5, "--runtime", "tensorrt"), "choose from eager, onnxruntime, compiled"),
        (("--latency-ms", 5, "--batch", 3, "--threads", 7, "--no-measure"), "there is none; leave --no-measure out"),
        (("--keep-macs", 0.5, "--batch", 4), "budget.batch: says nothing where neither time nor memory is limited"),
        (("--peak-mb", 0.001), "blocks.1.attn.proj"),
        (("--keep-macs", 0.5, "--latency-table", "table.json"), "latency_table: no budget limits time"),
        (("--latency-ms", 5, "--latency-table", "none.json"), "none.json cannot be read"),
    ],
)
def test_bad_plans_are_one_line_and_exit_code_2(run_cli, run_folder, args, complaint):
    code, out, err = run_cli("plan", run_folder, *args)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, len(lines), out) == (2, 1, ""), err
    assert complaint in lines[0]


def test_time_is_planned_by_a_table(run_cli, run_folder, tmp_path):
    table = make_table(Analysis.load(run_folder), macs=1e-6)
    table.save(tmp_path / "table.json")
    recipe = tmp_path / "half.yaml"
    args = ("--keep-latency", 0.6, "--keep-params", 0.9, "--latency-table", tmp_path / "table.json", "-o", recipe)
    code, out, err = run_cli("plan", run_folder, *args)
    assert code == 0, err
    planned = load_recipe(recipe).plan
    widths = {name: site.width for name, site in planned.sites.items()}
    assert table.predict(widths) == pytest.approx(planned.latency.achieved_ms, rel=1e-5)
    assert planned.latency.achieved_ms <= planned.latency.requested_ms
    assert planned.params <= planned.requested
    assert "asked for; eager, batch 1, 1 thread, made up; by a table whose median error is" in out


def test_memory_is_planned_by_the_formula_of_the_analysis(run_cli, run_folder, tmp_path):
    recipe, analysis = tmp_path / "half.yaml", Analysis.load(run_folder)
    code, out, err = run_cli("plan", run_folder, "--peak-mb", 2, "--batch", 8, "-o", recipe)
    assert code == 0, err
    planned = load_recipe(recipe).plan
    widths = {name: site.width for name, site in planned.sites.items()}
    assert (
        planned.peak.achieved == analysis.memory.peak(analysis.terms, widths, 8) <= 2_000_000 == planned.peak.requested
    )
    assert "MB (" in out
    assert "2 asked for; inference on a CPU, batch 8" in out
