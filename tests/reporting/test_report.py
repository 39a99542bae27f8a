import json
import re
import shutil

import numpy as np
import pytest
import yaml
from support.run_folder import make_run_folder
from support.toy_analysis import make_toy_analysis

from prune_realloc.core.cost import Term
from prune_realloc.core.errors import InputError
from prune_realloc.pages.writers import as_html, as_json, as_markdown
from prune_realloc.reporting.asked import flags_of, network_argument
from prune_realloc.reporting.report import report, write_report
from prune_realloc.reporting.runs import read_runs
from prune_realloc.results.figures import retention_figure

EVERYTHING = [
    "What was asked",
    "What was found",
    "Can the ranking be trusted?",
    "What was cut, and why",
    "Before and after",
    "Measured",
    "What other budgets give",
    "Where the time goes",
    "How much attention?",
    "Heads",
    "The next network",
    "Widths by round",
    "Training",
    "How to make it again",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make_run_folder(tmp_path_factory.mktemp("run") / "all")


@pytest.fixture
def broken(run_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(run_folder, tmp_path / "broken")


def test_a_folder_of_everything_has_every_panel(run_folder):
    page = report([run_folder])
    assert [panel.title for panel in page.panels] == EVERYTHING
    assert page.missing == ()
    gone = [missing.what for panel in page.panels for missing in panel.missing]
    shown = as_markdown(page).decode()
    assert f"the result of {run_folder}/interrupted" in gone  # a training that was killed in its first epoch
    for words in ("better than random", "planned", "only a few images", "gives up 2.3e-12 nats", "prune-realloc sweep"):
        assert words in shown, words
    numbers = json.loads(as_json(page))
    assert [panel["title"] for panel in numbers["panels"]] == EVERYTHING
    html = as_html(page).decode()
    assert all(f">{title}</h2>" in html for title in EVERYTHING)


def test_the_cut_lies_on_the_curve_that_it_is_a_point_of(run_folder):
    [figure] = report([run_folder]).panels[EVERYTHING.index("What other budgets give")].parts
    lines = {series.name: series.points for series in figure.drawings[0].series}
    assert lines["chosen"] == lines["pruned, without training"] == ((pytest.approx(100 * 20804 / 26224), 0.0),)


def test_commands_of_every_verb_make_it_again(run_folder):
    code = report([run_folder]).panels[-1].code
    assert [line.split()[1] for line in code] == [
        *("analyze", "plan", "apply", "sweep", "profile", "profile", "heads", "emit", "grow", "train")
    ]
    assert f"plan {run_folder}/analysis --recipe {run_folder}/pruned/recipe.yaml" in code[1]
    assert "profile nets/demo --batch 1 --threads 2" in code[4]
    assert "profile demo --sweep-mhsa 0.2,0.5 --train IMAGES" in code[5]
    assert "heads --ckpt net.pth --data images --samples 8" in code[6]


def test_a_cut_is_planned_with_no_analysis_where_neither_says_of_which_weights(broken):
    recipe, meta = broken / "pruned" / "recipe.yaml", broken / "analysis" / "analysis.json"
    recipe.write_text(re.sub(r"\n  weights_sha256: \w+", "", recipe.read_text()))
    content = json.loads(meta.read_text())
    del content["model"]["weights_sha256"]
    meta.write_text(json.dumps(content))
    verbs = [line.split()[1] for line in report([broken]).panels[-1].code]
    assert "plan" not in verbs
    assert "apply" in verbs


def test_a_cut_is_planned_once_with_the_analysis_that_is_most_like_its_recipe(broken):
    other = shutil.copytree(broken / "analysis", broken / "a-first-one")
    meta = json.loads((other / "analysis.json").read_text())
    (other / "analysis.json").write_text(json.dumps(meta | {"seed": meta["seed"] + 1}))
    planned = [line for line in report([broken]).panels[-1].code if line.split()[1] == "plan"]
    assert [line.split()[2] for line in planned] == [str(broken / "analysis")]


def test_without_an_analysis_commands_name_the_network_of_the_cut_and_a_folder_of_their_own(broken):
    folder = broken / "pruned"
    page = report([folder])
    commands = {missing.what: missing.command for missing in page.missing}
    assert commands["What was found"] == (
        f"prune-realloc analyze --ckpt source --data images --split train --samples 48 -o {folder}/analysis"
    )
    assert commands["The next network"].startswith(f"prune-realloc emit {folder}/analysis ")


@pytest.mark.parametrize(
    ("source", "images", "argument"),
    [
        ({}, "demo", ["demo"]),
        ({}, "images", ["CHECKPOINT"]),
        ({"model": "deit", "model_args": {"depth": 2}}, "images", ["deit", "--model-arg=depth=2"]),
        ({"ckpt": "a.pth", "model": "deit"}, "images", ["a.pth", "--model", "deit"]),
    ],
)
def test_a_network_is_named_as_profile_takes_it(source, images, argument):
    assert network_argument(source, {"name": images}) == argument
    assert ("CHECKPOINT" in argument) == ("CHECKPOINT" in flags_of(source, {"name": images}))


def test_a_run_without_labels_leaves_the_others_compared(broken):
    """Its folder tells another seed than it had, which is of no weight where it is not compared."""
    alone = shutil.copytree(broken / "finished", broken / "alone-seed3")
    result = json.loads((alone / "result.json").read_text())
    (alone / "result.json").write_text(json.dumps(result | {"top1": None}))
    (alone / "log.csv").write_text((alone / "log.csv").read_text().replace("top1", "agreement"))
    panel = next(panel for panel in report([broken]).panels if panel.title == "Training")
    comparison = panel.parts[1].table
    assert [row[0] for row in comparison.rows] == ["finished"]
    [missing] = [each for each in panel.missing if each.what == f"{alone} in the comparison"]
    assert "read no labels, so it has no top-1" in missing.why
    assert any(str(alone) in str(drawing) for drawing in panel.parts[0].drawings)


def test_times_and_accuracies_over_the_share_of_attention(run_folder):
    panel = next(panel for panel in report([run_folder]).panels if panel.title == "How much attention?")
    times, accuracy = panel.parts[0].drawings
    assert times.series[0].points == ((20.0, 2.0), (50.0, 3.0))
    assert accuracy.series[0].points == ((20.0, 75.0), (50.0, 75.0))
    assert panel.notes == ("one seed each: a try-out, no evidence",)


def test_the_measured_time_stands_beside_the_predicted_one(broken):
    """Of 2 ms predicted 3 are measured; where nothing was measured like that, the command is named."""
    recipe = yaml.safe_load((broken / "pruned" / "recipe.yaml").read_text())
    time = {"requested_ms": 2.0, "achieved_ms": 2.0, "source_ms": 4.0, "batch": 1, "runtime": "eager", "threads": 1}
    recipe["plan"]["latency"] = time | {"device": "Abacus", "error": 0.01}
    recipe["budget"] = {**recipe["budget"], "latency_ms": 2.0, "batch": 1}
    (broken / "pruned" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    numbers = json.loads((broken / "pruned" / "result.json").read_text())
    timings = [{"model": name, "backend": "eager", "batch_size": 1} for name in ("source", "pruned")]
    numbers["latency"] = [
        timings[0] | {"median_ms": 4.0, "speedup": 1},
        timings[1] | {"median_ms": 3.0, "speedup": 1.6},
    ]
    numbers["faster"] = []
    (broken / "pruned" / "result.json").write_text(json.dumps(numbers))
    panel = next(panel for panel in report([broken]).panels if panel.title == "Before and after")
    assert any("pruned: predicted 2 ms for 1 thread, measured 3 ms, 1.50 of it" in line for line in panel.lines)
    assert any(line.endswith("of the time, measured 0.62") for line in panel.lines)  # over rounds, not of medians
    for timing in numbers["latency"]:
        timing["backend"] = "onnxruntime"
    (broken / "pruned" / "result.json").write_text(json.dumps(numbers))
    panel = next(panel for panel in report([broken]).panels if panel.title == "Before and after")
    assert "--backend eager --batch-size 1 --threads 1" in panel.missing[0].command


def test_heads_of_another_network_are_not_mixed_with_an_analysis(broken):
    heads = json.loads((broken / "heads.json").read_text())
    weights = json.loads((broken / "analysis" / "analysis.json").read_text())["model"]["weights_sha256"]
    for found, shown in ((weights, True), ("another", False)):
        heads["recipe"]["source"]["weights_sha256"] = found
        (broken / "analysis" / "heads.json").write_text(json.dumps(heads))
        page = report([broken / "analysis"])
        assert ("Heads" in [panel.title for panel in page.panels]) == shown
        assert any("heads.json is of another network" in missing.why for missing in page.missing) != shown


def test_a_sweep_draws_its_control_and_without_one_says_so(broken):
    def control(panel):
        return [each.points for each in panel.parts[0].drawings[0].series if each.name == "uniform control"]

    content = json.loads((broken / "sweep.json").read_text())
    [point] = content["points"]
    point["control"]["macs"] |= {"achieved": point["macs"]["source"] // 2}
    (broken / "sweep.json").write_text(json.dumps(content))
    panel = report([broken]).panels[EVERYTHING.index("What other budgets give")]
    assert (control(panel), panel.missing) == ([((50.0, 0.0),)], ())
    del point["control"]
    (broken / "sweep.json").write_text(json.dumps(content))
    panel = report([broken]).panels[EVERYTHING.index("What other budgets give")]
    assert (control(panel), panel.missing[0].what) == ([], f"the uniform control beside {broken}")


def test_widths_and_accuracies_by_round_are_lines(run_folder):
    panel = next(panel for panel in report([run_folder]).panels if panel.title == "Widths by round")
    *widths, accuracy = panel.parts[0].drawings
    lines = {(chart.title, series.name): series.points for chart in widths for series in chart.series}
    assert lines["ffn", "stage 1"] == ((0.0, 64.0), (1.0, 56.0))  # twice the channels; 48 and 64 have the mean 56
    assert lines["embed", "stage 0"] == ((0.0, 16.0), (1.0, 16.0))
    assert accuracy.series[0].points == ((0.0, 50.0), (1.0, 75.0))
    assert panel.notes == ("only two rounds",)


def test_a_latency_of_other_networks_is_damaged(broken):
    place = broken / "variants" / "realloc" / "latency.json"
    place.write_text(place.read_text().replace('"model": "control"', '"model": "other"'))
    assert any("latency.json is of other networks" in missing.why for missing in report([broken]).missing)


def test_a_round_that_cannot_be_built_is_a_damaged_trail(broken):
    trail = json.loads((broken / "trail.json").read_text())
    trail["rounds"][1]["args"] = {"breadth": 3}
    (broken / "trail.json").write_text(json.dumps(trail))
    assert any("trail.json is damaged" in missing.why for missing in report([broken]).missing)


def test_the_latency_of_an_emitted_network_is_on_the_page(run_folder):
    panel = next(panel for panel in report([run_folder]).panels if panel.title == "The next network")
    costs = next(part for part in panel.parts if part.title.endswith("What each costs"))
    assert dict((row[0], row[1:]) for row in costs.rows)["ms at batch 1"] == ("4.00", "2.00")
    assert any("realloc is faster than control" in line for line in panel.lines)


def test_what_is_not_there_is_named_with_the_command_that_makes_it(tmp_path):
    write_report(make_toy_analysis(), tmp_path)
    make_toy_analysis().save(tmp_path)
    page = report([tmp_path])
    assert [panel.title for panel in page.panels] == [EVERYTHING[0], EVERYTHING[1], EVERYTHING[-1]]
    commands = {missing.what: missing.command for missing in page.missing}
    assert commands["What other budgets give"] == f"prune-realloc sweep {tmp_path} -o {tmp_path}/curve"
    assert "--check" in commands["Can the ranking be trusted?"]
    assert all(missing.why for missing in page.missing)


def test_a_ranking_that_is_no_better_than_random_comes_first(broken):
    check = json.loads((broken / "analysis" / "check.json").read_text())
    for each in check["tried"]:
        each["ranking"] = each["reverse"]
    (broken / "analysis" / "check.json").write_text(json.dumps(check))
    assert "NO better than random" in report([broken]).lines[0]


def test_without_labels_agreement_stands_in(broken):
    for name in ("pruned/result.json", "sweep.json"):
        content = json.loads((broken / name).read_text())
        for numbers in content.get("points", [content]):
            numbers["top1"] = None
        (broken / name).write_text(json.dumps(content))
    panels = {panel.title: panel for panel in report([broken]).panels}
    for title in ("Before and after", "What other budgets give"):
        assert "no labels" in panels[title].missing[0].why
    assert panels["What other budgets give"].parts[0].drawings[0].title == "agreement against cost"


def test_what_was_not_measured_is_not_said_to_be_agreement(broken):
    path = broken / "pruned" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": None, "agreement": None, "kl": None}))
    assert "neither top-1 nor agreement" in report([broken]).panels[4].missing[0].why


def test_what_bench_and_eval_found_is_shown(run_folder):
    panel = report([run_folder]).panels[EVERYTHING.index("Measured")]
    accuracy, times = panel.parts
    assert (accuracy.title, accuracy.rows) == ("accuracy, 100 images of images, test", (("top-1", "75.00%"),))
    assert times.title == "times on Abacus, 2 threads (realloc: pruned)"
    assert times.rows[1] == ("eager", "1", "realloc", "2.00", "0.00", "2.00", "500.0", "2.00", "2.00-2.00")
    assert "realloc is faster than control" in panel.lines[0]
    assert panel.notes == ("a busy machine",)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_time_that_was_foretold_is_measured_by_the_command_that_the_page_names(broken, runtime):
    recipe, result = broken / "pruned" / "recipe.yaml", broken / "pruned" / "result.json"
    foretold = {"runtime": runtime, "batch": 1, "threads": 2, "device": "cpu", "requested_ms": 3.0, "error": 0.01}
    foretold |= {"achieved_ms": 2.5, "source_ms": 4.0}
    content = yaml.safe_load(recipe.read_text())
    content["plan"]["latency"] = foretold
    content["budget"] |= {"latency_ms": 3.0, "batch": 1, "threads": 2, "runtime": runtime}
    recipe.write_text(yaml.safe_dump(content))
    result.write_text(json.dumps(json.loads(result.read_text()) | {"latency": None}))
    (panel,) = (panel for panel in report([broken]).panels if panel.title == "Before and after")
    (command,) = (missing.command for missing in panel.missing if "time" in missing.what)
    assert command.endswith(f"-o {broken}/pruned --backend {runtime} --batch-size 1 --threads 2")
    bench = json.loads((broken / "pruned" / "bench.json").read_text())
    named = {"realloc": "model", "control": "source"}
    timings = [t | {"model": named[t["model"]], "backend": runtime} for t in bench["timings"]]
    bench |= {"timings": timings, "reference": "source"}
    (broken / "pruned" / "bench.json").write_text(json.dumps(bench))
    (panel,) = (panel for panel in report([broken]).panels if panel.title == "Before and after")
    assert not [missing for missing in panel.missing if "time" in missing.what]
    line = f"{runtime}, batch 1, pruned: predicted 2.5 ms for 2 threads, measured 2 ms, 0.80 of it"
    assert line in panel.lines


def test_trainings_inside_a_trail_are_not_compared(broken):
    inner = shutil.copytree(broken / "finished", broken / "grown" / "round-0" / "run")
    assert any(str(inner) in name for name in read_runs([broken]).trainings)
    shutil.copy(broken / "trail.json", broken / "grown")
    found = read_runs([broken / "grown"])
    assert (*found.trails,) == (str(broken / "grown"),)
    assert not found.trainings


def test_notes_are_announced_on_top(broken):
    path = broken / "pruned" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": ["mind the gap", "and the step"]}))
    page = report([broken])
    place = next(number for number, panel in enumerate(page.panels, 1) if panel.title == "Before and after")
    assert f'<a href="#s{place}">2 in "Before and after"</a>' in as_html(page).decode()
    assert 'Notes to read beside the numbers: 2 in "Before and after"' in as_markdown(page).decode()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("heads.json", "{", "heads.json is damaged"),
        ("pruned/bench.json", "{}", "bench.json is damaged"),
        ("pruned/eval.json", '{"samples": "x"}', "eval.json is damaged"),
        ("heads.json", '{"blocks": 3}', "heads.json is damaged (blocks"),
        ("profile.json", "[]", "profile.json is damaged"),
        ("sweep.json", "null", "sweep.json is damaged"),
        ("trail.json", '{"settings": {}, "rounds": 3}', "trail.json is damaged (rounds"),
        ("variants/realloc/latency.json", "{", "latency.json is damaged"),
        ("pruned/result.json", '{"macs": {"source": "many"}}', "result.json is damaged"),
        ("pruned/recipe.yaml", "budget: {keep_macs: 2}", "keep_macs"),
        ("finished/log.csv", "epoch,loss\n1,x\n", "log.csv is damaged"),
        ("analysis/analysis.safetensors", "", "damaged"),
    ],
)
def test_a_half_written_file_is_named_and_the_rest_is_shown(broken, name, content, complaint):
    (broken / name).write_text(content)
    page = report([broken])
    assert len(page.panels) >= len(EVERYTHING) - 2
    assert complaint in next(missing.why for missing in page.missing if missing.what == "a file")
    as_html(page)


def test_an_analysis_without_its_last_file_was_interrupted(broken):
    (broken / "analysis" / "analysis.json").unlink()
    assert "writing it was interrupted" in report([broken]).missing[0].why


def test_folders_of_different_networks_say_so(run_folder, tmp_path):
    other = make_toy_analysis(model={"architecture": "toy", "weights_sha256": "another"})
    other.save(tmp_path / "b")
    page = report([run_folder / "analysis", tmp_path / "b"])
    assert "2 different networks" in "\n".join(page.lines)
    titles = [part.title for part in page.panels[1].parts]
    assert sum(title.startswith(f"{tmp_path}/b: ") for title in titles) == 3


def test_bad_folders_are_refused(tmp_path, run_folder):
    for folders, complaint in (
        ([tmp_path / "none"], "is no folder"),
        ([tmp_path], "holds nothing to report"),
        ([run_folder, run_folder], "given twice"),
    ):
        with pytest.raises(InputError, match=complaint):
            report(folders)


def test_thousands_of_blocks_stay_readable(tmp_path):
    names = [f"blocks.{block}.ffn" for block in range(600)]
    many = make_toy_analysis(
        scores={name: np.array([1.0, 2.0]) for name in names},
        damage={name: np.array([2.0, 1.0, 0.0]) for name in names},
        widths=dict.fromkeys(names, 2),
        groups=dict.fromkeys(names, 1),
        terms=tuple(Term(component="ffn", sites=(name,), params=2, macs=20) for name in names),
    )
    page = write_report(many, tmp_path).read_text()
    assert len(page) < 300_000
    assert "400 more rows" in page


def test_same_analysis_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    pages = [write_report(make_toy_analysis(), tmp_path / name).read_text() for name in ("a", "b")]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["report.html", "retention.png"]
    assert pages[0].replace(f"{tmp_path}/a", "") == pages[1].replace(f"{tmp_path}/b", "")
    assert (tmp_path / "a" / "retention.png").read_bytes() == retention_figure(make_toy_analysis())


def test_the_page_is_self_contained_and_escaped(tmp_path):
    analysis = make_toy_analysis(model={"architecture": "<script>alert(1)</script>"}, notes=("a < b",))
    page = write_report(analysis, tmp_path).read_text()
    assert "<script>alert" not in page
    assert "a &lt; b" in page
    assert "http" not in page
    assert not re.search(r'(src|href)="(?!#|data:,)', page)


def test_the_page_says_what_was_taken_and_what_is_guessed(tmp_path):
    taken = {"architecture": {"value": "<deit>", "origin": "the file's name", "guessed": True}}
    page = write_report(make_toy_analysis(taken=taken), tmp_path).read_text()
    assert "<td>architecture</td><td>&lt;deit&gt;</td><td>a guess from the file&#39;s name</td>" in page
    assert "What was taken" not in write_report(make_toy_analysis(), tmp_path).read_text()


def test_a_name_that_is_no_text_is_spelled_out(tmp_path):
    analysis = make_toy_analysis(model={"architecture": "vit"}, notes=("pictures\udcff cannot be read",))
    assert r"pictures\udcff cannot be read" in write_report(analysis, tmp_path).read_text()
